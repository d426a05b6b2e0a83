//! Real upstreams: `chronyd`s on the host `client`.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use crate::lab::Lab;

/// The number of upstreams that [`Upstreams::start`] starts.
pub const UPSTREAMS: u8 = 4;
/// The first three bytes of their IPv4 addresses, as text.
pub const NETWORK: &str = "10.77.0";

/// `chronyd`s on the host `client` that serve the kernel's clock as primary servers and do not set it. They end when
/// this is dropped.
pub struct Upstreams<'lab> {
    lab: &'lab Lab,
    chronyd: PathBuf,
    /// Their processes, in the order of their numbers.
    pub running: Vec<Child>,
}

impl<'lab> Upstreams<'lab> {
    /// Starts [`UPSTREAMS`] upstreams. [`give_addresses`] must have added their addresses.
    pub fn start(lab: &'lab Lab, chronyd: &Path) -> Self {
        let mut upstreams = Self { lab, chronyd: chronyd.into(), running: Vec::new() };
        for number in 0..UPSTREAMS {
            upstreams.add(number);
        }
        upstreams
    }

    /// Starts the upstream with this number.
    pub fn add(&mut self, number: u8) {
        let pid_file = format!("pidfile {}", self.lab.file(&format!("chronyd{number}.pid"), "").display());
        let bind = format!("bindaddress {}", address(number));
        let mut command = self.lab.command("client", self.chronyd.to_str().unwrap());
        command.args(["-x", "-d", "-u", "root", "cmdport 0", "bindcmdaddress /", "allow", "local stratum 1"]);
        command.args([&bind, &pid_file]).stdout(Stdio::null()).stderr(Stdio::null());
        self.running.push(command.spawn().unwrap());
    }

    /// Ends all upstreams.
    pub fn end(&mut self) {
        for mut upstream in self.running.drain(..) {
            let _ended_already = upstream.kill();
            let _ended = upstream.wait();
        }
    }
}

impl Drop for Upstreams<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

/// The address of an upstream. Number 3 has an IPv6 address, the others have IPv4 addresses.
pub fn address(number: u8) -> String {
    if number == 3 { "fd77::14".into() } else { format!("{NETWORK}.{}", 11 + number) }
}

/// Adds the addresses of the first `count` upstreams to the host `client`.
pub fn give_addresses(lab: &Lab, count: u8) {
    for number in 0..count {
        let address = address(number);
        let length = if address.contains(':') { "64 nodad" } else { "24" };
        lab.ip("client", &format!("address add {address}/{length} dev lan0"));
    }
}
