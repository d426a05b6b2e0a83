//! The drift file: what was learnt about the oscillator, for the next start.
//!
//! The frequency is that of the uncorrected oscillator, so that it stays true whatever correction the
//! kernel applies when the file is read again.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};
use serde::Deserialize;
use tracing::{info, warn};

use crate::discipline::Drift;
use crate::error::{Code, Error, Result};
use crate::instance::{not_writable, replace_file};

/// Largest size of a drift file, which has a few lines.
const MAX_BYTES: u64 = 4096;
/// Largest frequency error of an oscillator that a kernel can discipline.
const MOST_PPM: f64 = 500.0;
/// Plausible wanders, in ppm per square root of a second.
const WANDERS_PPM: std::ops::RangeInclusive<f64> = 1e-6..=10.0;

/// The file's values.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "keys of a file have their unit in their name")]
struct Values {
    frequency_ppm: f64,
    skew_ppm: f64,
    wander_ppm: Option<f64>,
}

/// Parses a drift file.
///
/// # Errors
///
/// The text is no drift file; the error names the line where possible.
pub fn parse(text: &str) -> Result<Drift> {
    let wrong = |what: &str| Error::new(Code::Data, what);
    let values: Values = toml::from_str(text).map_err(|error| wrong(error.message()))?;
    if !(-MOST_PPM..=MOST_PPM).contains(&values.frequency_ppm) {
        return Err(wrong("frequency_ppm is beyond what an oscillator can be off"));
    }
    if !(0.0..=MOST_PPM).contains(&values.skew_ppm) {
        return Err(wrong("skew_ppm is not 0 to 500"));
    }
    if values.wander_ppm.is_some_and(|wander| !WANDERS_PPM.contains(&wander)) {
        return Err(wrong("wander_ppm is not 0.000001 to 10"));
    }
    Ok(Drift {
        frequency: values.frequency_ppm * 1e-6,
        skew: values.skew_ppm * 1e-6,
        wander: values.wander_ppm.map(|wander| wander * 1e-6),
    })
}

fn text(drift: &Drift) -> String {
    let wander = drift.wander.map(|wander| format!("wander_ppm = {:?}\n", wander * 1e6));
    format!(
        "# What pooltime-xdp has learnt of this machine's oscillator: true seconds a second of it, less one,\n\
         # with its standard deviation, and how fast it wanders (a square root of a second).\n\
         frequency_ppm = {:?}\nskew_ppm = {:?}\n{}",
        drift.frequency * 1e6,
        drift.skew * 1e6,
        wander.unwrap_or_default()
    )
}

/// The place where the drift is kept.
#[derive(Clone, Debug)]
pub struct DriftFile {
    path: PathBuf,
}

impl DriftFile {
    /// Makes a drift file of this path. Its directory is created when the file is written.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Reads the drift. A file that makes no sense is renamed, logged and ignored. A file that cannot be
    /// written is logged, and the start goes on as well.
    #[must_use]
    pub fn load(&self) -> Option<Drift> {
        let path = self.path.display();
        if let Err(error) = self.make_directory() {
            warn!("what is learnt of the oscillator will be forgotten at the end: {error}");
        }
        match self.read() {
            Ok(None) => None,
            Ok(Some(text)) => match parse(&text) {
                Ok(drift) => {
                    info!(
                        "{path}: the oscillator is off by {:.3} ppm, known to {:.3} ppm",
                        drift.frequency * 1e6,
                        drift.skew * 1e6
                    );
                    Some(drift)
                }
                Err(error) => {
                    self.set_aside(&error);
                    None
                }
            },
            Err(error) => {
                self.set_aside(&error);
                None
            }
        }
    }

    fn make_directory(&self) -> Result<()> {
        let directory = self.path.parent().unwrap_or_else(|| Path::new("/"));
        fs::create_dir_all(directory)
            .and_then(|()| access(directory, AccessFlags::W_OK).map_err(Into::into))
            .map_err(|error| not_writable(directory, &error, "StateDirectory="))
    }

    fn read(&self) -> Result<Option<String>> {
        let metadata = match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            metadata => metadata.map_err(Error::because(Code::Io, "cannot be looked at"))?,
        };
        if !metadata.is_file() || metadata.len() > MAX_BYTES {
            return Err(Error::new(Code::Data, format_args!("not a file of at most {MAX_BYTES} bytes")));
        }
        fs::read_to_string(&self.path).map(Some).map_err(Error::because(Code::Io, "cannot be read"))
    }

    fn set_aside(&self, error: &Error) {
        let aside = self.path.with_extension("corrupt");
        let kept = match fs::rename(&self.path, &aside) {
            Ok(()) => format!("it is {} now", aside.display()),
            Err(failed) => format!("it cannot be set aside ({failed})"),
        };
        warn!("{}: {error}; {kept}, and the frequency is learnt anew", self.path.display());
    }

    /// Writes the drift, so that a crash at any moment leaves either the old file or the new one.
    ///
    /// # Errors
    ///
    /// The file system reports an error.
    pub fn store(&self, drift: &Drift) -> Result<()> {
        replace_file(&self.path, text(drift).as_bytes())
            .map_err(Error::because(Code::Io, format_args!("cannot write {}", self.path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("pooltime-drift-{name}-{}", std::process::id()));
            Self(path)
        }

        fn file(&self) -> DriftFile {
            DriftFile::new(self.0.join("state/drift"))
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _not_there = fs::remove_dir_all(&self.0);
        }
    }

    const DRIFT: Drift = Drift { frequency: -12.5e-6, skew: 2e-6, wander: Some(3e-9) };

    #[test]
    fn what_was_stored_is_loaded() {
        let directory = Directory::new("stored");
        let file = directory.file();
        assert_eq!(file.load(), None);
        file.store(&DRIFT).unwrap();
        let loaded = file.load().unwrap();
        assert!((loaded.frequency - DRIFT.frequency).abs() < 1e-15);
        assert!((loaded.skew - DRIFT.skew).abs() < 1e-15);
        assert!((loaded.wander.unwrap() - 3e-9).abs() < 1e-18);
        file.store(&Drift { wander: None, ..DRIFT }).unwrap();
        assert_eq!(file.load().unwrap().wander, None);
        assert_eq!(fs::read_dir(directory.0.join("state")).unwrap().count(), 1, "nothing else is left there");
    }

    #[test]
    fn a_corrupt_file_is_set_aside_and_survived() {
        let directory = Directory::new("corrupt");
        let file = directory.file();
        for corrupt in [&b"frequency_ppm = \xff"[..], b"", b"1.0 2.0", &[b'#'; 5000]] {
            file.store(&DRIFT).unwrap();
            fs::write(&file.path, corrupt).unwrap();
            assert_eq!(file.load(), None);
            assert!(!file.path.exists());
            assert_eq!(fs::read(file.path.with_extension("corrupt")).unwrap(), corrupt);
        }
        file.store(&DRIFT).unwrap();
        assert!(file.load().is_some());
    }

    #[test]
    fn values_that_no_oscillator_has_are_refused() {
        for text in [
            "frequency_ppm = nan\nskew_ppm = 1.0",
            "frequency_ppm = inf\nskew_ppm = 1.0",
            "frequency_ppm = 501.0\nskew_ppm = 1.0",
            "frequency_ppm = 1.0\nskew_ppm = -1.0",
            "frequency_ppm = 1.0\nskew_ppm = nan",
            "frequency_ppm = 1.0\nskew_ppm = 1.0\nwander_ppm = 0.0",
            "frequency_ppm = 1.0",
            "frequency_ppm = 1.0\nskew_ppm = 1.0\nphase = 2",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
