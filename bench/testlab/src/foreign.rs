//! XDP programs on the server's interfaces that are not the server's.

use std::fs;

use crate::lab::Lab;

/// Attaches a program that passes every frame to an interface of the host `server`, as another product would. `mode`
/// is one that `ip link set` takes, such as `xdpdrv`. Returns the program's ID.
pub fn put_foreign_program(lab: &Lab, interface: &str, mode: &str) -> u64 {
    let object = lab.file("foreign.o", "");
    fs::write(&object, bench_ebpf::BASELINE).unwrap();
    lab.ip("server", &format!("link set dev {interface} {mode} obj {} program pass", object.display()));
    xdp(lab, interface).unwrap()
}

/// The ID of the XDP program on an interface of the host `server`.
pub fn xdp(lab: &Lab, interface: &str) -> Option<u64> {
    let listed = lab.exec("server", &["ip", "-json", "link", "show", "dev", interface]).expect_success();
    let links: serde_json::Value = serde_json::from_str(&listed).unwrap();
    links[0]["xdp"]["prog"]["id"].as_u64()
}
