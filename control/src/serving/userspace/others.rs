//! Whether anybody else on this host may wait for what comes to port 123.
//!
//! Where nobody does, the program drops the modes and versions that this server does not answer. A time daemon that
//! asks its servers from port 123 waits for their answers there, and so does a client behind this host whose packets it
//! forwards.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::stat::fstat;
use responder::udp::NTP_PORT;
use responder::verdict::Family;

use super::{Ports, table};
use crate::net::forwarding;
use crate::sys::kernel_clock::monotonic_ns;
use crate::sys::port_owner;

/// How often it is looked.
const INTERVAL: Duration = Duration::from_secs(1);
/// For how long what was seen holds, if nobody looks again.
const VALIDITY_NS: u64 = 5_000_000_000;

/// When to look for others next.
pub(super) struct Others {
    due: Instant,
}

impl Others {
    /// To be looked for at once.
    pub(super) fn unknown() -> Self {
        Self { due: Instant::now() }
    }

    /// Returns when to look.
    pub(super) const fn due(&self) -> Instant {
        self.due
    }

    /// Looks, if it is due, and tells in `ports` of which families the port is this server's alone.
    pub(super) fn look(&mut self, sockets: &[(Family, OwnedFd)], ports: &Ports) {
        if Instant::now() < self.due {
            return;
        }
        self.due = Instant::now() + INTERVAL;
        // What cannot be found out counts as if there were others.
        let until_ns = monotonic_ns().map_or(0, |now_ns| now_ns.saturating_add(VALIDITY_NS));
        let ours: Vec<_> = sockets.iter().map(|(family, socket)| (*family, inode(socket))).collect();
        let open = |family| port_owner::sockets(table(family), NTP_PORT);
        let open = [open(Family::Ipv4), open(Family::Ipv6)];
        for family in Family::ALL.iter().copied() {
            let is_ours = is_alone(family, &ours, &open) && !forwarding::is_on(family);
            ports.set_ours_until_ns(family, if is_ours { until_ns } else { 0 });
        }
    }
}

/// The number that the tables of sockets give to a socket.
fn inode(socket: &OwnedFd) -> Option<String> {
    fstat(socket.as_fd()).ok().map(|status| status.st_ino.to_string())
}

/// Whether a family's port is held by our socket and by no other one. `open` has the sockets at the port in the tables
/// of IPv4 and of IPv6; a socket of IPv6 may be one of both families.
fn is_alone(
    family: Family,
    ours: &[(Family, Option<String>)],
    open: &[std::io::Result<Vec<String>>; 2],
) -> bool {
    let [Ok(ipv4), Ok(ipv6)] = open else { return false };
    let (own, others) = match family {
        Family::Ipv4 => (ipv4, ipv6),
        Family::Ipv6 => (ipv6, &Vec::new()),
    };
    let is_ours = |inode: &String| ours.iter().any(|(_, ours)| ours.as_ref() == Some(inode));
    let is_open = ours
        .iter()
        .any(|(of, inode)| *of == family && inode.as_ref().is_some_and(|inode| own.contains(inode)));
    is_open && own.iter().chain(others).all(is_ours)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_port_is_ours_alone_where_our_socket_is_the_only_one() {
        let inodes = |inodes: &[&str]| inodes.iter().map(|inode| (*inode).to_owned()).collect::<Vec<_>>();
        let both = [(Family::Ipv4, Some("4".into())), (Family::Ipv6, Some("6".into()))];
        let alone = |ours: &[_], ipv4: &[&str], ipv6: &[&str]| {
            let open = [Ok(inodes(ipv4)), Ok(inodes(ipv6))];
            [Family::Ipv4, Family::Ipv6].map(|family| is_alone(family, ours, &open))
        };
        assert_eq!(alone(&both, &["4"], &["6"]), [true, true]);
        assert_eq!(alone(&both, &["4", "7"], &["6"]), [false, true], "beside us");
        assert_eq!(alone(&both, &["4"], &["6", "7"]), [false, false], "maybe of both families");
        assert_eq!(alone(&both, &[], &[]), [false, false], "not there any more");
        assert_eq!(alone(&both[..1], &["4"], &[]), [true, false], "no IPv6");
        assert_eq!(alone(&[], &["4"], &["6"]), [false, false]);
        assert_eq!(alone(&[(Family::Ipv4, None)], &["4"], &[]), [false, false]);
        let unknown = || Err(io::Error::from(io::ErrorKind::PermissionDenied));
        assert!(!is_alone(Family::Ipv4, &both, &[Ok(inodes(&["4"])), unknown()]));
        assert!(!is_alone(Family::Ipv6, &both, &[unknown(), Ok(inodes(&["6"]))]));
    }

    #[test]
    fn a_socket_is_known_in_the_table_by_its_inode() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let at_port = port_owner::sockets("udp", port).unwrap();
        let socket = OwnedFd::from(socket);
        assert_eq!(at_port, [inode(&socket).unwrap()]);
        drop(socket);
        assert!(port_owner::sockets("udp", port).unwrap().is_empty());
    }
}
