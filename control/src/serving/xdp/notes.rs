//! What has to be remembered of an attachment for as long as its link is pinned, whatever becomes of the daemon.
//!
//! Symbolic links to the text, beside the pinned link: bpffs holds no files. They go when the pins go, and
//! with the kernel that they are about.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::error::{Code, Error, Result};

/// What is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// Why the program does not run natively.
    Fallback,
    /// What the operator should know of the attachment.
    Remark,
    /// Which features of the NIC were turned off.
    TurnedOff,
}

impl Note {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Fallback => "fallback-",
            Self::Remark => "remark-",
            Self::TurnedOff => "turned-off-",
        }
    }

    fn path(self, directory: &Path, interface: u32) -> PathBuf {
        directory.join(format!("{}{interface}", self.prefix()))
    }

    pub(super) fn read(self, directory: &Path, interface: u32) -> Option<String> {
        let text = fs::read_link(self.path(directory, interface)).ok()?;
        Some(text.to_string_lossy().into_owned())
    }

    /// Remembers the text, or forgets what was remembered where there is none.
    ///
    /// # Errors
    ///
    /// The file system's.
    pub(super) fn write(self, directory: &Path, interface: u32, text: Option<&str>) -> Result<()> {
        /// The kernel takes a page for a link's text.
        const LONGEST: usize = 2048;
        let path = self.path(directory, interface);
        let _not_there = fs::remove_file(&path);
        let Some(text) = text else {
            return Ok(());
        };
        let end = text.floor_char_boundary(LONGEST);
        symlink(&text[..end], &path)
            .map_err(Error::because(Code::Os, format_args!("cannot create {}", path.display())))
    }
}

/// Forgets how the program was attached to an interface. What was turned off on it is forgotten by who turns it on.
pub(super) fn forget(directory: &Path, interface: u32) {
    for note in [Note::Fallback, Note::Remark] {
        let _not_there = fs::remove_file(note.path(directory, interface));
    }
}

/// The interfaces of which there is such a note.
pub(super) fn interfaces_with(directory: &Path, note: Note) -> Vec<u32> {
    let names = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.filter_map(|name| name.to_str()?.strip_prefix(note.prefix())?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_again_replaced_and_forgotten_with_its_interface_alone() {
        let directory = std::env::temp_dir().join(format!("pooltime-notes-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        for (interface, text) in [(3, "first"), (3, "slow: \"why\" / not"), (33, "another")] {
            Note::Remark.write(&directory, interface, Some(text)).unwrap();
        }
        Note::Fallback.write(&directory, 3, Some(&"ä".repeat(3000))).unwrap();
        let read = |interface| Note::Remark.read(&directory, interface);
        assert_eq!(read(3).as_deref(), Some("slow: \"why\" / not"));
        assert_eq!(Note::Fallback.read(&directory, 3).unwrap().len(), 2048);
        let mut noted = interfaces_with(&directory, Note::Remark);
        noted.sort_unstable();
        assert_eq!(noted, [3, 33]);
        Note::TurnedOff.write(&directory, 3, Some("rxvlan")).unwrap();
        forget(&directory, 3);
        assert_eq!((read(3), read(33).as_deref()), (None, Some("another")));
        assert_eq!(Note::Fallback.read(&directory, 3), None);
        assert_eq!(Note::TurnedOff.read(&directory, 3).as_deref(), Some("rxvlan"));
        fs::remove_dir_all(directory).unwrap();
    }
}
