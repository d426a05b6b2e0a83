//! Slews of the kernel's clock that were left behind, and the note by which a daemon knows its predecessor's.
//!
//! A slew is a rate of the kernel's clock that somebody has to take back. A daemon that ends does so. One that is killed
//! cannot, and the next one would take the slewed rate for the clock's own and put its slew on top of it. The note says
//! which rate was settled and which one was set, and holds only for the boot in which it was written.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::rate_watch::{correction, for_adjtimex};
use crate::error::{Code, Error, Result};
use crate::sys::ClockChange;
use crate::sys::kernel_clock::KernelClock;
use crate::sys::process::boot_id;

/// What the kernel makes of a rate differs by less than this, in s/s.
const ROUNDED: f64 = 1e-9;
/// No oscillator needs a correction that is further from what is known of it, in s/s: it is a slew.
const MOST_CORRECTION: f64 = 600e-6;

/// Rates of the kernel's clock, as corrections of the bare oscillator in s/s.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Slew {
    /// The rate without the slew.
    pub(super) settled: f64,
    /// The rate with the slew.
    pub(super) slewing: f64,
    /// The rate from which it was set: the one in force if the daemon was killed before it changed the clock.
    pub(super) before: f64,
}

impl Slew {
    /// Whether this is a rate that the daemon of the note may have left behind.
    fn may_have_left(&self, found: f64) -> bool {
        [self.slewing, self.before].iter().any(|rate| (rate - found).abs() < ROUNDED)
    }
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Note {
    boot_id: String,
    settled_ppm: f64,
    slewing_ppm: f64,
    before_ppm: f64,
}

/// Where the note is kept.
#[derive(Clone, Debug)]
pub(super) struct SlewFile {
    path: PathBuf,
}

impl SlewFile {
    /// The file with this path.
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Returns the note of this boot. One that makes no sense or is of another boot says nothing.
    pub(super) fn load(&self) -> Option<Slew> {
        let note: Note = toml::from_str(&fs::read_to_string(&self.path).ok()?).ok()?;
        let [settled, slewing, before] =
            [note.settled_ppm, note.slewing_ppm, note.before_ppm].map(|ppm| ppm * 1e-6);
        let is_sound = [settled, slewing, before].iter().all(|rate| rate.is_finite());
        (note.boot_id == boot_id() && is_sound).then_some(Slew { settled, slewing, before })
    }

    /// Writes the note, so that a kill at any moment leaves the old one or the new one. It need not survive a crash of
    /// the machine, after which the kernel's clock is not slewed any more.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(super) fn store(&self, slew: &Slew) -> Result<()> {
        let note = Note {
            boot_id: boot_id(),
            settled_ppm: slew.settled * 1e6,
            slewing_ppm: slew.slewing * 1e6,
            before_ppm: slew.before * 1e6,
        };
        let text = toml::to_string(&note).map_err(Error::because(Code::Software, "the note of a slew"))?;
        let temporary = self.path.with_extension("new");
        fs::write(&temporary, text)
            .and_then(|()| fs::rename(&temporary, &self.path))
            .map_err(Error::because(Code::Io, format_args!("cannot write {}", self.path.display())))
    }

    /// Removes the note.
    pub(super) fn clear(&self) {
        let _not_there = fs::remove_file(&self.path);
    }
}

/// A slew that was found at the start, and is to be taken back.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct LeftBehind {
    /// The rate that was found, as a correction of the bare oscillator in s/s.
    found: f64,
    /// The rate to go back to.
    settled: f64,
    whose: Whose,
}

/// Who has set a slew that is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// A daemon that was killed: its note tells.
    Predecessor,
    /// Another program.
    Foreigner,
    /// This daemon, which steers no more.
    ThisDaemon,
}

impl LeftBehind {
    /// Looks for a slew that was left behind. `note` knows a predecessor's. Somebody else's is recognised only by a daemon
    /// that owns the kernel's clock: as a rate that the oscillator cannot need, given what is `expected` of it.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub(super) fn find<K: KernelClock>(
        kernel: &K,
        note: Option<&SlewFile>,
        expected: Option<f64>,
        owns_clock: bool,
    ) -> Result<Option<Self>> {
        let found = correction(&kernel.discipline()?);
        let noted = note.and_then(SlewFile::load).filter(|slew| slew.may_have_left(found));
        if let Some(Slew { settled, .. }) = noted {
            return Ok(Some(Self { found, settled, whose: Whose::Predecessor }));
        }
        let settled = expected.unwrap_or(0.0);
        let is_foreign = owns_clock && (found - settled).abs() > MOST_CORRECTION;
        Ok(is_foreign.then_some(Self { found, settled, whose: Whose::Foreigner }))
    }

    /// Makes it of a slew of this daemon, which is told to steer no more.
    pub(super) const fn of_this_daemon(found: f64, settled: f64) -> Self {
        Self { found, settled, whose: Whose::ThisDaemon }
    }

    /// Returns by how much the rate of the clock changes when the slew is taken back, in s/s.
    pub(super) fn change(&self) -> f64 {
        (1.0 + self.settled) / (1.0 + self.found) - 1.0
    }

    /// Takes the slew back.
    ///
    /// # Errors
    ///
    /// Without the privilege, or the kernel's.
    pub(super) fn unwind<K: KernelClock>(self, kernel: &K, note: Option<&SlewFile>) -> Result<()> {
        kernel.change(&ClockChange { rate: Some(for_adjtimex(self.settled)), ..ClockChange::default() })?;
        let (found_ppm, settled_ppm) = (self.found * 1e6, self.settled * 1e6);
        let by = match self.whose {
            Whose::ThisDaemon => {
                info!("the kernel's clock is left alone from now on: it runs at {settled_ppm:+.3} ppm");
                None
            }
            Whose::Predecessor => Some("a killed daemon"),
            Whose::Foreigner => Some("another program"),
        };
        if let Some(by) = by {
            warn!(
                "the kernel's clock ran at {found_ppm:+.1} ppm, a slew that {by} has left behind: it runs at {settled_ppm:+.3} ppm now"
            );
        }
        if let Some(note) = note {
            note.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_of_one_boot_and_goes_when_it_is_cleared() {
        let path = std::env::temp_dir().join(format!("pooltime-slew-{}", std::process::id()));
        let file = SlewFile::new(path.clone());
        assert_eq!(file.load(), None);
        let slew = Slew { settled: -12.5e-6, slewing: 83_000e-6, before: -20e-6 };
        file.store(&slew).unwrap();
        let loaded = file.load().unwrap();
        assert!((loaded.settled - slew.settled).abs() < 1e-15, "{loaded:?}");
        assert!((loaded.slewing - slew.slewing).abs() < 1e-12, "{loaded:?}");
        // The daemon may have been killed before the change or after it.
        for (found, is_left) in [(83_000e-6, true), (-20e-6, true), (-12.5e-6, false), (500e-6, false)] {
            assert_eq!(loaded.may_have_left(found), is_left, "{found}");
        }
        let text = fs::read_to_string(&path).unwrap();
        for other in [text.replace(&boot_id(), "another"), text.replace("83", "nan"), String::new()] {
            fs::write(&path, other).unwrap();
            assert_eq!(file.load(), None);
        }
        file.clear();
        assert!(!path.exists());
    }
}
