//! The packages, built once for all tests: a version, and the next one.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use testlab::Output;

/// What builds them, as the document has it.
pub(crate) const COMMAND: &str = "scripts/package";

/// Where they are.
pub(crate) struct Packages {
    pub(crate) deb: PathBuf,
    pub(crate) tarball: PathBuf,
    pub(crate) next_deb: PathBuf,
}

impl Packages {
    /// Builds them if that is not done yet.
    pub(crate) fn get() -> &'static Self {
        static PACKAGES: OnceLock<Packages> = OnceLock::new();
        PACKAGES.get_or_init(|| {
            let [deb, tarball] = package(&[]);
            let version = version_of(&deb);
            let directory = deb.with_file_name("next");
            let [next_deb, _] =
                package(&["--version", &format!("{version}+next"), directory.to_str().unwrap()]);
            Self { deb, tarball, next_deb }
        })
    }

    /// The same packages once more, somewhere else.
    pub(crate) fn again() -> Self {
        let directory = Self::get().deb.with_file_name("again");
        let [deb, tarball] = package(&[directory.to_str().unwrap()]);
        Self { deb, tarball, next_deb: PathBuf::new() }
    }
}

/// What Debian's checker has to say; errors fail.
pub(crate) fn lintian(deb: &Path) {
    let mut command = Command::new("lintian");
    command.args(["--fail-on", "error", "--allow-root"]).arg(deb).stdin(Stdio::null());
    println!("{}", Output::of(&mut command).expect_success());
}

fn package(arguments: &[&str]) -> [PathBuf; 2] {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut command = Command::new(root.join(COMMAND));
    command.args(arguments).current_dir(root).stdin(Stdio::null());
    let said = Output::of(&mut command).expect_success();
    let paths: Vec<_> = said.lines().map(PathBuf::from).collect();
    paths.try_into().expect("two paths")
}

fn version_of(deb: &Path) -> String {
    let name = deb.file_name().unwrap().to_str().unwrap();
    let version = name.split('_').nth(1).and_then(|version| version.split_once('-'));
    version.expect(name).0.into()
}
