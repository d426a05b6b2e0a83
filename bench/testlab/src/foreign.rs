//! XDP programs of somebody else's.

use std::fs;

use crate::lab::Lab;

/// Puts a program that passes all on an interface of the server's, as somebody else would.
pub fn put_foreign_program(lab: &Lab, interface: &str, mode: &str) -> u64 {
    let object = lab.file("foreign.o", "");
    fs::write(&object, bench_ebpf::BASELINE).unwrap();
    lab.ip("server", &format!("link set dev {interface} {mode} obj {} program pass", object.display()));
    xdp(lab, interface).unwrap()
}

/// The number of the XDP program on an interface of the server's.
pub fn xdp(lab: &Lab, interface: &str) -> Option<u64> {
    let listed = lab.exec("server", &["ip", "-json", "link", "show", "dev", interface]).expect_success();
    let links: serde_json::Value = serde_json::from_str(&listed).unwrap();
    links[0]["xdp"]["prog"]["id"].as_u64()
}
