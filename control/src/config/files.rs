//! The files of a configuration: the one that is named or the default one, and those of the directory beside it.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::origin::{Origin, TextFile};
use super::{ConfigError, DEFAULT_PATH, MAX_BYTES, read_text};

/// How the name of a file ends that is read.
const ENDING: &[u8] = b".toml";

/// Returns the directory whose files are read after a file: `/etc/pooltime-xdp.toml.d` beside `/etc/pooltime-xdp.toml`.
#[must_use]
pub fn directory_beside(file: &Path) -> PathBuf {
    let mut directory = file.as_os_str().to_owned();
    directory.push(".d");
    directory.into()
}

/// Reads a file, which has to exist, or without a name the default one, which may be missing, and then the files of the
/// directory beside it in the order of their names.
///
/// # Errors
///
/// One of them cannot be read, is too large, or is not text.
pub(super) fn read(path: Option<&Path>) -> Result<Origin, ConfigError> {
    let file = path.unwrap_or(DEFAULT_PATH.as_ref());
    let mut files = Vec::new();
    if path.is_some() || !is_missing(file) {
        files.push(TextFile::new(file.to_owned(), read_text(file, file.display(), MAX_BYTES)?));
    }
    for path in those_beside(file)? {
        let text = read_text(&path, path.display(), MAX_BYTES).map_err(|error| {
            error.remedy("a file of this directory is not read if its name ends in something else than .toml")
        })?;
        files.push(TextFile::new(path, text));
    }
    Ok(Origin::of_files(files))
}

/// Whether there is nothing of this name, not even a link that leads nowhere.
fn is_missing(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

/// Returns the files of the directory beside a file that are to be read.
fn those_beside(file: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let directory = directory_beside(file);
    if is_missing(&directory) {
        return Ok(Vec::new());
    }
    let unreadable = |error| ConfigError::unreadable(directory.display())(error);
    let entries = fs::read_dir(&directory).map_err(unreadable)?;
    let names: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.file_name())).collect();
    let mut names = names.map_err(unreadable)?;
    names.retain(|name| is_read(name));
    names.sort();
    Ok(names.iter().map(|name| directory.join(name)).collect())
}

fn is_read(name: &OsStr) -> bool {
    let name = name.as_bytes();
    !name.starts_with(b".") && name.ends_with(ENDING)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::config::{Config, Fault};
    use crate::error::Code;

    /// A directory of its own for each test.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("pooltime-files-{name}-{}", std::process::id()));
            fs::create_dir_all(path.join("server.toml.d")).unwrap();
            Self(path)
        }

        fn main(&self) -> PathBuf {
            self.0.join("server.toml")
        }

        fn beside(&self, name: &str) -> PathBuf {
            self.0.join("server.toml.d").join(name)
        }

        fn load(&self) -> Result<Config, ConfigError> {
            Config::load(Some(&self.main()))
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn files_of_the_directory_are_read_in_the_order_of_their_names_and_others_are_ignored() {
        let directory = Directory::new("order");
        fs::write(directory.main(), "[clock]\nstratum = 2\nhorizon_ms = 2000\n").unwrap();
        for (name, stratum) in [("9.toml", 9), ("10.toml", 10), ("b.toml", 3), ("B.toml", 4)] {
            fs::write(directory.beside(name), format!("clock.stratum = {stratum}\n")).unwrap();
        }
        for name in [".hidden.toml", "b.toml~", "c.toml.bak", "d.TOML", "toml", "README"] {
            fs::write(directory.beside(name), "this is = no = toml\n").unwrap();
        }
        let config = directory.load().unwrap();
        assert_eq!((config.clock.stratum, config.clock.horizon_ms), (3, 2000));
        let read: Vec<_> = config.origin.files().map(|path| path.file_name().unwrap().to_owned()).collect();
        assert_eq!(read, ["server.toml", "10.toml", "9.toml", "B.toml", "b.toml"]);
    }

    #[test]
    fn a_file_that_is_named_must_exist_and_the_directory_need_not() {
        let directory = Directory::new("missing");
        fs::write(directory.beside("1.toml"), "clock.stratum = 3\n").unwrap();
        let error = directory.load().unwrap_err();
        assert_eq!((error.fault, error.error.code), (Fault::Unreadable(ErrorKind::NotFound), Code::NoInput));
        fs::write(directory.main(), "").unwrap();
        fs::remove_dir_all(directory.0.join("server.toml.d")).unwrap();
        assert_eq!(directory.load().unwrap(), Config::default());
    }

    #[test]
    fn what_cannot_be_read_is_named_with_the_way_out() {
        let directory = Directory::new("unreadable");
        fs::write(directory.main(), "").unwrap();
        symlink("/nowhere/else.toml", directory.beside("5-link.toml")).unwrap();
        let error = directory.load().unwrap_err().error;
        assert!(error.what.contains("server.toml.d/5-link.toml: No such file"), "{error}");
        assert!(error.remedy.is_some_and(|remedy| remedy.contains("something else than .toml")));
        fs::remove_file(directory.beside("5-link.toml")).unwrap();
        fs::create_dir(directory.beside("6.toml")).unwrap();
        let error = directory.load().unwrap_err().error;
        assert!(error.what.contains("server.toml.d/6.toml cannot be read: not a regular file"), "{error}");
        fs::remove_dir_all(directory.0.join("server.toml.d")).unwrap();
        fs::write(directory.0.join("server.toml.d"), "").unwrap();
        let error = directory.load().unwrap_err().error;
        assert!(error.what.ends_with("server.toml.d: Not a directory"), "{error}");
    }

    #[test]
    fn mistakes_are_named_with_the_file_that_they_are_in() {
        let directory = Directory::new("mistakes");
        fs::write(directory.main(), "[[upstream]]\naddress = \"192.0.2.1\"\n").unwrap();
        let second = directory.beside("20-site.toml");
        for (text, line) in [
            ("\nclock.stratum = 16\n", 2),
            ("[clock]\nstratun = 3\n", 2),
            ("\n\n[[upstream]]\naddress = \"192.0.2.1\"\n", 4),
            ("[access]\nfiles = [\n\"/nowhere/list\"]\n", 3),
            ("clock.source = \"upstream\"\nclock.leap_seconds_list = \"/nowhere/leap\"\n", 2),
        ] {
            fs::write(&second, text).unwrap();
            let error = directory.load().and_then(|config| config.entries()).unwrap_err().error;
            assert!(error.what.starts_with(&format!("{}: line {line}: ", second.display())), "{text}{error}");
        }
        fs::write(&second, "[[upstream]]\naddress = \"192.0.2.1\"\n").unwrap();
        let error = directory.load().unwrap_err().error;
        let first = format!("(the other one: {}: line 2)", directory.main().display());
        assert!(error.what.ends_with(&first), "{error}");
    }
}
