//! The process that holds a port which this server wants.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// A process, as shown to the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    /// Name of the process.
    pub(crate) name: String,
    /// Process ID.
    pub(crate) pid: u32,
    /// The systemd unit of the process.
    pub(crate) unit: Option<String>,
}

impl Holder {
    /// Returns the command that ends the process and keeps it from coming back.
    pub(crate) fn command_to_end_it(&self) -> String {
        match &self.unit {
            Some(unit) => format!("systemctl disable --now {unit}"),
            None => format!("kill {}", self.pid),
        }
    }

    /// Reads the process from its directory in /proc.
    pub(crate) fn of(process: &Path, pid: u32) -> Self {
        let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
        let groups = std::fs::read_to_string(process.join("cgroup")).unwrap_or_default();
        Self { name: name.trim().to_owned(), pid, unit: unit(&groups) }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.pid)
    }
}

/// Returns the service in which the process was started, from /proc/PID/cgroup.
fn unit(groups: &str) -> Option<String> {
    let services = groups.lines().filter_map(|line| line.rsplit('/').find(|part| part.ends_with(".service")));
    // A user's service manager is a service as well, but not the one that holds the port.
    services.filter(|unit| !unit.starts_with("user@")).map(ToOwned::to_owned).next()
}

/// Returns the process that holds a local port. `table` is a file of /proc/net: udp, udp6, tcp or tcp6.
pub(crate) fn of_port(table: &str, port: u16) -> Option<Holder> {
    // This is the file of this thread's network namespace.
    let text = std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).ok()?;
    let inode = socket_of(&text, port)?;
    let wanted = format!("socket:[{inode}]");
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Ok(pid) = process.file_name().to_string_lossy().parse() else { continue };
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else { continue };
        let holds = |descriptor: std::fs::DirEntry| {
            std::fs::read_link(descriptor.path()).is_ok_and(|target| target.to_string_lossy() == wanted)
        };
        if descriptors.flatten().any(holds) {
            return Some(Holder::of(&process.path(), pid));
        }
    }
    None
}

/// Whether a process holds a local port, even if it cannot be found out which one.
pub(crate) fn is_held(table: &str, port: u16) -> bool {
    std::fs::read_to_string(format!("/proc/thread-self/net/{table}"))
        .is_ok_and(|text| socket_of(&text, port).is_some())
}

/// Whether a socket is bound to exactly this loopback address and port, and not to all addresses of the host.
pub(crate) fn is_bound(address: SocketAddr) -> bool {
    let table = if address.is_ipv4() { "udp" } else { "udp6" };
    std::fs::read_to_string(format!("/proc/thread-self/net/{table}"))
        .is_ok_and(|text| has_socket_at(&text, address))
}

fn has_socket_at(table: &str, address: SocketAddr) -> bool {
    // The kernel prints the words of an address in the machine's order.
    let word = |bytes: &[u8]| format!("{:08X}", u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    let host: String = match address.ip() {
        IpAddr::V4(ipv4) => word(&ipv4.octets()),
        IpAddr::V6(ipv6) => ipv6.octets().chunks(4).map(word).collect(),
    };
    let local = format!("{host}:{:04X}", address.port());
    table.lines().skip(1).any(|line| line.split_whitespace().nth(1) == Some(&local))
}

/// Returns the inode of the socket that listens on this port, from a table of sockets.
fn socket_of(table: &str, port: u16) -> Option<&str> {
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let (address, remote, inode) = (columns.get(1)?, columns.get(2)?, columns.get(9)?);
        // Connections have the same local port.
        let listens = remote.ends_with(":0000");
        let held = u16::from_str_radix(address.rsplit(':').next()?, 16).ok()?;
        (held == port && listens).then_some(*inode)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_that_waits_at_a_port_is_told_from_connections_with_the_same_port() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            37: 0100007F:007B 0200007F:CAFE 01 00000000:00000000 00:00000000 00000000     0        0 11 2 0 0\n\
            38: 00000000:007B 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0 0\n";
        assert_eq!(socket_of(table, 123), Some("4711"));
        assert_eq!(socket_of(table, 124), None);
        assert_eq!(socket_of("no table\n1 2 3\n", 123), None);
    }

    #[test]
    fn a_socket_of_one_address_is_told_from_one_of_all() {
        let table = "  sl  local_address rem_address   st\n\
            37: 00000000:007B 00000000:0000 07\n  38: 0100007F:007B 00000000:0000 07\n\
            39: 00000000000000000000000001000000:007B 00000000000000000000000000000000:0000 07\n";
        let has = |address: &str| has_socket_at(table, address.parse().unwrap());
        // As a little-endian machine prints them.
        assert!(cfg!(target_endian = "big") || (has("127.0.0.1:123") && has("[::1]:123")));
        assert!(!has("127.0.0.1:124") && !has("127.0.0.2:123") && !has("[::2]:123"));
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(is_bound(socket.local_addr().unwrap()));
    }

    #[test]
    fn a_process_is_ended_by_its_unit_where_it_has_one() {
        let chrony = "12:cpu:/system.slice\n0::/system.slice/chrony.service\n";
        assert_eq!(unit(chrony).as_deref(), Some("chrony.service"));
        assert_eq!(unit("0::/user.slice/user-0.slice/user@0.service/init.scope\n"), None);
        let holder = |unit| Holder { name: "chronyd".into(), pid: 7, unit };
        assert_eq!(holder(unit(chrony)).command_to_end_it(), "systemctl disable --now chrony.service");
        assert_eq!(holder(None).command_to_end_it(), "kill 7");
    }
}
