//! Another build of the server, for upgrades.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use responder::layout;

use crate::lab::Lab;
use crate::machine::pooltime_xdp;

/// The name of its program: as long as the program's own name, so that it can stand in its place, and with the same end, which in the
/// object is the name of its section.
pub const REBUILT: &str = "upgraded_xdp";

/// Another build whose maps have another layout: cargo's feature `other-layout`. It takes minutes to build, so
/// whoever runs the tests may build it and name it in `$POOLTIME_OTHER_LAYOUT`, as `scripts/faults` does.
///
/// # Errors
///
/// Says that there is none.
pub fn other_layout() -> Result<PathBuf, String> {
    let path = std::env::var_os("POOLTIME_OTHER_LAYOUT").filter(|path| !path.is_empty());
    path.map(PathBuf::from).ok_or_else(|| {
        "POOLTIME_OTHER_LAYOUT names no build with another layout of the maps; scripts/faults makes one"
            .into()
    })
}

/// Another build: this one with another name for its program, which the kernel will show.
pub fn rebuild(lab: &Lab) -> PathBuf {
    let mut bytes = fs::read(pooltime_xdp()).unwrap();
    let (old, new) = (layout::PROGRAM.as_bytes(), REBUILT.as_bytes());
    assert_eq!(old.len(), new.len());
    let places: Vec<_> = (0..bytes.len() - old.len()).filter(|at| bytes[*at..].starts_with(old)).collect();
    assert!(!places.is_empty());
    for place in places {
        bytes[place..place + new.len()].copy_from_slice(new);
    }
    let path = lab.file("pooltime-xdp", "");
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}
