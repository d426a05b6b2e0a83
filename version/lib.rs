//! The version of the programs, and what tells builds of it apart.
//!
//! It is a crate of its own because both programs need it, and because a new commit makes everything anew that is
//! compiled with the commit's name: here, that is this file.

use std::sync::LazyLock;

/// The version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit that was built, if `scripts/package` built it: it sets the variable.
pub const REVISION: Option<&str> = option_env!("POOLTIME_COMMIT");
/// Architecture and system for which it was built, and the C library where that is linked statically.
pub static TARGET: LazyLock<String> = LazyLock::new(|| {
    let libc = if cfg!(target_env = "musl") { "-musl" } else { "" };
    format!("{}-{}{libc}", std::env::consts::ARCH, std::env::consts::OS)
});
/// All of it in one text, as `--version` prints it.
pub static TEXT: LazyLock<String> = LazyLock::new(|| {
    let build = REVISION.map_or_else(|| "development build".into(), |commit| format!("commit {commit}"));
    format!("{VERSION} ({build}, {})", *TARGET)
});

#[test]
fn the_text_has_version_build_and_target() {
    let (version, rest) = TEXT.split_once(' ').unwrap();
    assert_eq!(version, VERSION);
    let (build, target) = rest.strip_prefix('(').unwrap().split_once(", ").unwrap();
    assert_eq!(build.strip_prefix("commit "), REVISION, "{build}");
    assert_eq!(target, format!("{})", *TARGET));
    assert!(target.starts_with(std::env::consts::ARCH), "{target}");
}
