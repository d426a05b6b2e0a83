//! The files that results are written to. They are opened before the load, for a path that cannot be written is better known
//! then than after it.

use std::fs::{self, File};
use std::io::{self, Seek as _, Write as _};
use std::path::PathBuf;

use super::super::Output;
use crate::failure::Failure;

/// The files; none until they are opened.
#[derive(Debug, Default)]
pub(super) struct Files {
    html: Option<Opened>,
    json: Option<Opened>,
}

/// A file that is open for writing and has its old contents until it is written.
#[derive(Debug)]
struct Opened {
    path: PathBuf,
    file: File,
    /// Whether it is to go if nothing is written.
    is_new: bool,
}

impl Files {
    /// Opens the files that the command line names.
    pub(super) fn open(output: &Output) -> Result<Self, Failure> {
        let open = |path: &Option<PathBuf>| path.clone().map(Opened::new).transpose();
        Ok(Self { html: open(&output.html)?, json: open(&output.json_file)? })
    }

    /// Writes the files.
    pub(super) fn write(
        &mut self,
        html: impl FnOnce() -> String,
        json: impl FnOnce() -> io::Result<String>,
    ) -> Result<(), Failure> {
        if let Some(opened) = self.html.take() {
            opened.write(Ok(html()))?;
        }
        if let Some(opened) = self.json.take() {
            opened.write(json().map(|text| text + "\n"))?;
        }
        Ok(())
    }
}

impl Opened {
    fn new(path: PathBuf) -> Result<Self, Failure> {
        let is_new = !path.exists();
        match File::options().write(true).create(true).truncate(false).open(&path) {
            Ok(file) => Ok(Self { path, file, is_new }),
            Err(reason) => Err(Failure::File { path, reason }),
        }
    }

    fn write(mut self, text: io::Result<String>) -> Result<(), Failure> {
        self.is_new = false;
        let written = text.and_then(|text| {
            // What is no regular file, such as /dev/stdout, has no length.
            if self.file.metadata()?.is_file() {
                self.file.set_len(0)?;
                self.file.rewind()?;
            }
            self.file.write_all(text.as_bytes())
        });
        written.map_err(|reason| Failure::File { path: self.path.clone(), reason })
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if self.is_new {
            let _gone_already = fs::remove_file(&self.path);
        }
    }
}
