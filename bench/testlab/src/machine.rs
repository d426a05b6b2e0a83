//! What this machine has: the program under test, tools, and tests that it cannot run.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::LazyLock;

/// The program under test, which cargo puts beside the directory of the test binaries: `pooltime-xdp` of the same
/// profile. It is of the same build if the tests of the package `control` are built too, or the whole workspace's.
///
/// # Panics
///
/// If it is not there.
pub fn pooltime_xdp() -> &'static str {
    static PATH: LazyLock<String> = LazyLock::new(|| {
        let test = std::env::current_exe().expect("a test has a path");
        // Test binaries are in `deps`, examples in `examples`.
        let directory = test.parent().and_then(|directory| directory.parent()).expect("a target directory");
        let path = directory.join("pooltime-xdp");
        assert!(
            path.exists(),
            "there is no {}: build it by `cargo test --workspace --no-run`, or by `cargo build -p control`",
            path.display()
        );
        path.into_os_string().into_string().expect("a path in UTF-8")
    });
    &PATH
}

/// The path of a program that is not installed but unpacked for the tests, or of one in the path.
pub fn tool(name: &str) -> Option<PathBuf> {
    let unpacked = std::env::var_os("POOLTIME_TOOLS").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = unpacked.into_iter().chain(std::env::split_paths(&path)).chain(["/usr/sbin".into()]);
    directories.map(|directory| directory.join(name)).find(|path| path.exists())
}

/// Says that this machine cannot run the test that calls it, which then returns. `scripts/test` lists and
/// counts that.
pub fn not_run(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    println!("not run: {test}: {reason}");
    if let Some(path) = std::env::var_os("POOLTIME_NOT_RUN") {
        let mut list = OpenOptions::new().append(true).create(true).open(path).unwrap();
        writeln!(list, "{test}: {reason}").unwrap();
    }
}
