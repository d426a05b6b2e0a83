//! The program under test and the tools on this machine, and tests that it cannot run.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::LazyLock;

/// The path of the program under test: `pooltime-xdp` of the profile of the calling test, in the target directory.
/// Cargo builds it together with the integration tests of the package `control`, so it is up to date for these, and
/// for tests of other packages after `cargo test --workspace --no-run`.
///
/// # Panics
///
/// If it is not built.
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

/// The path of a program in `$POOLTIME_TOOLS`, in `$PATH` or in `/usr/sbin`.
pub fn tool(name: &str) -> Option<PathBuf> {
    let unpacked = std::env::var_os("POOLTIME_TOOLS").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = unpacked.into_iter().chain(std::env::split_paths(&path)).chain(["/usr/sbin".into()]);
    directories.map(|directory| directory.join(name)).find(|path| path.exists())
}

/// Reports that this machine cannot run the calling test, by a line in the file `$POOLTIME_NOT_RUN`; the test is to
/// return then. `scripts/test` lists these tests and counts them as skipped.
pub fn not_run(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    println!("not run: {test}: {reason}");
    if let Some(path) = std::env::var_os("POOLTIME_NOT_RUN") {
        let mut list = OpenOptions::new().append(true).create(true).open(path).unwrap();
        writeln!(list, "{test}: {reason}").unwrap();
    }
}
