//! How long a jump of the local clock may go unseen.

use crate::cases::Case;
use crate::world::Second;

/// Until when a jump may not be seen yet.
#[derive(Default)]
pub(crate) struct Exempt {
    /// Samples of each server when the clock jumped, when it did and by how much, s, while the window is open.
    since: Option<(Vec<u32>, f64, f64)>,
}

impl Exempt {
    /// Whether the window is open at this second.
    pub(crate) fn open(&mut self, case: &Case, second: &Second) -> bool {
        let begin_s = second.at_s - 1.0;
        let jumps = &case.oscillator.jumps;
        let jump = jumps.iter().find(|jump| (jump.at_s..jump.ends_s() + 1.0).contains(&begin_s));
        if let Some(jump) = jump {
            // A sample that arrives within the very second may be from before.
            self.since = Some((second.samples.to_vec(), begin_s, jump.step_s.abs()));
        }
        let Some((since, jumped_s, step_s)) = &self.since else {
            return false;
        };
        let (mut alive, mut truthful, mut heard, mut plain) = (0, 0, 0, 0);
        for (index, member) in case.members.iter().enumerate() {
            // One that fell silent after the jump still bears witness by what it said before.
            if !member.server.path.passes(second.at_s) && !member.server.path.passes(*jumped_s) {
                continue;
            }
            alive += 1;
            truthful += usize::from(member.truthful);
            if member.truthful && second.samples[index] >= since[index] + 2 {
                heard += 1;
                plain += usize::from(*step_s > 2.2 * member.width_s());
            }
        }
        if plain * 2 > alive || (heard > 0 && heard == truthful) {
            self.since = None;
        }
        self.since.is_some()
    }
}
