//! Whether this host forwards packets for others.

use std::fs;
use std::path::Path;

use responder::Family;

/// Whether packets of a family may be forwarded from any interface: those of containers, of virtual machines, or of a
/// network behind this host. Behind network address translation, answers to them come to this host's own addresses
/// and ports. What cannot be read is taken for a yes.
pub(crate) fn is_on(family: Family) -> bool {
    // These are the files of this thread's network namespace.
    is_on_in(Path::new(match family {
        Family::Ipv4 => "/proc/sys/net/ipv4/conf",
        Family::Ipv6 => "/proc/sys/net/ipv6/conf",
    }))
}

fn is_on_in(directory: &Path) -> bool {
    let is_off = |interface: &Path| {
        fs::read_to_string(interface.join("forwarding")).is_ok_and(|text| text.trim_end() == "0")
    };
    // Where it is on for all, the answer is there at once.
    if !is_off(&directory.join("all")) {
        return true;
    }
    match fs::read_dir(directory) {
        Ok(mut interfaces) => {
            interfaces.any(|interface| !interface.is_ok_and(|interface| is_off(&interface.path())))
        }
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarding_from_one_interface_is_forwarding() {
        let directory = std::env::temp_dir().join(format!("pooltime-forwarding-{}", std::process::id()));
        let set = |interface: &str, value: &str| {
            fs::create_dir_all(directory.join(interface)).unwrap();
            fs::write(directory.join(interface).join("forwarding"), value).unwrap();
        };
        assert!(is_on_in(&directory), "nothing can be read");
        set("all", "0\n");
        set("default", "0\n");
        set("eth0", "0\n");
        assert!(!is_on_in(&directory));
        set("eth1", "1\n");
        assert!(is_on_in(&directory));
        set("eth1", "0\n");
        set("all", "1\n");
        assert!(is_on_in(&directory));
        fs::remove_dir_all(&directory).unwrap();
    }
}
