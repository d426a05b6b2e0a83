//! How two programs under measurement take turns, and when each turn was.
//!
//! This module is pure and is built twice: for the bench, and for its programs that run in the kernel.

/// The largest number of turns in a measurement.
pub const MOST_TURNS: u32 = 32;
/// Moments that are noted: the start of each turn, the end of its warm-up, and the end of the last turn.
const MOMENTS: usize = 2 * MOST_TURNS as usize + 1;

/// The turns on one CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Turns {
    /// Number of runs so far, over all measurements.
    pub runs: u64,
    /// The run before which the next moment is noted.
    next: u64,
    /// Whether it is the second program's turn: 0 or 1.
    pub second: u64,
    /// Number of turns to take; half of them belong to each program.
    number: u64,
    /// Runs at the beginning of each turn that only warm up, because caches and branch predictors still hold
    /// what the other program needs.
    warm_up: u64,
    /// Runs of each turn that are measured, after the warm-up.
    measured: u64,
    /// Number of moments noted so far.
    noted: u64,
    /// The noted moments on `CLOCK_MONOTONIC`.
    moments_ns: [u64; MOMENTS],
}

/// The turns of both programs that stood next to each other, in nanoseconds per run without the warm-up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pair {
    /// Time per run in the first program's turn.
    pub first_ns: f64,
    /// Time per run in the second program's turn, right before or after the first one's.
    pub second_ns: f64,
}

impl Turns {
    /// No turns: only the first program runs.
    pub const NONE: Self = Self {
        runs: 0,
        next: u64::MAX,
        second: 0,
        number: 0,
        warm_up: 0,
        measured: 0,
        noted: 0,
        moments_ns: [0; MOMENTS],
    };

    /// Plans `turns` turns of `runs` runs each, of which the first `warm_up` are not measured. `turns` is a
    /// multiple of four and at most [`MOST_TURNS`]. At least one run warms up and at least one is measured.
    #[must_use]
    pub const fn of(turns: u32, runs: u32, warm_up: u32) -> Self {
        let measured = runs.saturating_sub(warm_up) as u64;
        Self { next: 0, number: turns as u64, warm_up: warm_up as u64, measured, ..Self::NONE }
    }

    /// Plans the same turns for a CPU that has already had this number of runs.
    #[must_use]
    pub const fn after(&self, runs: u64) -> Self {
        Self { runs, next: self.next.saturating_add(runs), ..*self }
    }

    /// Runs of the first and of the second program. The first program has one run more, before which the last
    /// moment is noted.
    #[must_use]
    pub const fn shares(&self) -> [u64; 2] {
        let half = (self.warm_up + self.measured) * (self.number / 2);
        [half + 1, half]
    }

    /// Runs of both programs together.
    #[must_use]
    pub const fn all_runs(&self) -> u32 {
        let [first, second] = self.shares();
        (first + second) as u32
    }

    /// Whether a moment is to be noted before this run.
    #[inline(always)]
    #[must_use]
    pub const fn is_due(&self, run: u64) -> bool {
        run == self.next
    }

    /// Notes the moment and whose turn it is from then on. The order of turns is first, second, second, first
    /// and so on, so that a machine that becomes slower all the time slows both programs alike.
    #[inline(always)]
    pub fn note(&mut self, now_ns: u64) {
        let Some(moment) = self.moments_ns.get_mut(self.noted as usize) else {
            return;
        };
        *moment = now_ns;
        let turn = self.noted >> 1;
        self.second = (turn ^ turn >> 1) & 1;
        self.next = self.next.wrapping_add(if self.noted & 1 == 0 { self.warm_up } else { self.measured });
        self.noted = self.noted.wrapping_add(1);
    }

    /// Returns the turns in pairs of neighbours, or `None` if some turns are missing.
    #[cfg(not(target_arch = "bpf"))]
    #[must_use]
    pub fn pairs(&self) -> Option<Vec<Pair>> {
        if self.noted != 2 * self.number + 1 || self.measured == 0 {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "milliseconds in nanoseconds")]
        let turn_ns = |turn: usize| {
            let spent = self.moments_ns[2 * turn + 2].saturating_sub(self.moments_ns[2 * turn + 1]);
            spent as f64 / self.measured as f64
        };
        let pair = |index: usize| {
            let (before, after) = (turn_ns(2 * index), turn_ns(2 * index + 1));
            // Every other pair begins with the second program.
            let (first_ns, second_ns) =
                if index.is_multiple_of(2) { (before, after) } else { (after, before) };
            Pair { first_ns, second_ns }
        };
        Some((0..self.number as usize / 2).map(pair).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Simulates runs of these lengths in turns, as the gauge does it.
    fn run(turns: &Turns, first_ns: u64, second_ns: u64) -> (Turns, [u64; 2]) {
        let mut turns = turns.after(1 << 40);
        let (mut now_ns, mut ran) = (1_000, [0; 2]);
        for run in turns.runs..turns.runs + u64::from(turns.all_runs()) {
            if turns.is_due(run) {
                turns.note(now_ns);
            }
            ran[turns.second as usize] += 1;
            now_ns += if turns.second == 0 { first_ns } else { second_ns };
        }
        (turns, ran)
    }

    #[test]
    fn each_program_has_the_runs_and_the_time_that_it_took() {
        for (number, each, warm_up) in
            [(MOST_TURNS, 15, 1), (MOST_TURNS, 2_000, 250), (8, 250, 125), (4, 2, 1)]
        {
            let (turns, ran) = run(&Turns::of(number, each, warm_up), 100, 103);
            assert_eq!(ran, turns.shares());
            assert_eq!(ran, [u64::from(number / 2 * each) + 1, u64::from(number / 2 * each)]);
            let pairs = turns.pairs().unwrap();
            assert_eq!(pairs, vec![Pair { first_ns: 100.0, second_ns: 103.0 }; number as usize / 2]);
        }
    }

    #[test]
    fn turns_that_were_not_all_taken_are_no_pairs() {
        let mut turns = Turns::of(4, 3, 1);
        assert_eq!(turns.pairs(), None);
        turns.note(1);
        assert_eq!(turns.pairs(), None);
        assert_eq!(Turns::of(4, 0, 0).pairs(), None);
        assert_eq!(Turns::of(4, 1, 1).pairs(), None);
        assert_eq!(Turns::NONE.pairs(), None);
    }

    #[test]
    fn moments_beyond_the_last_change_nothing() {
        let (mut turns, _) = run(&Turns::of(MOST_TURNS, 100, 10), 1, 1);
        let before = turns;
        turns.note(1);
        assert_eq!(turns, before);
    }

    #[test]
    fn without_turns_no_moment_is_ever_due() {
        assert!((0..1_000_000).all(|run| !Turns::NONE.is_due(run)));
    }
}
