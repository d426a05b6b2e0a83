//! Whether a driver reports native XDP, over the kernel's generic netlink family `netdev`.
//!
//! The rtnetlink crate speaks routing netlink only, and this needs just two requests.

use std::io;

use rtnetlink::packet_core::NlasIterator;
use rtnetlink::sys::Socket;
use rtnetlink::sys::protocols::NETLINK_GENERIC;

/// From `include/uapi/linux/genetlink.h`: the family that knows the numbers of the others.
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// From `include/uapi/linux/netdev.h`.
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const NETDEV_XDP_ACT_BASIC: u64 = 1;

const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
/// Length of `struct nlmsghdr` and `struct genlmsghdr`.
const HEADERS: usize = 16 + 4;

/// Whether the driver of an interface has native XDP with its present settings. `None` if the kernel does not
/// say; it does from Linux 6.3 on.
pub(super) fn says_native(interface: u32) -> Option<bool> {
    let ask = || -> io::Result<bool> {
        let socket = Socket::new(NETLINK_GENERIC)?;
        // The kernel answers within the call that sends, or not at all.
        socket.set_non_blocking(true)?;
        let name = attribute(CTRL_ATTR_FAMILY_NAME, b"netdev\0");
        let family = exchange(&socket, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, &name)?;
        let family = find(&family, CTRL_ATTR_FAMILY_ID).and_then(|value| Some(*value.first_chunk()?));
        let family = u16::from_ne_bytes(family.ok_or_else(no_answer)?);
        let index = attribute(NETDEV_A_DEV_IFINDEX, &interface.to_ne_bytes());
        let device = exchange(&socket, family, NETDEV_CMD_DEV_GET, &index)?;
        let features = find(&device, NETDEV_A_DEV_XDP_FEATURES).and_then(|value| Some(*value.first_chunk()?));
        Ok(u64::from_ne_bytes(features.ok_or_else(no_answer)?) & NETDEV_XDP_ACT_BASIC != 0)
    };
    ask().ok()
}

/// Sends a request with one attribute and returns the answer.
fn exchange(socket: &Socket, family: u16, command: u8, attribute: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(HEADERS + attribute.len()).map_err(io::Error::other)?;
    let mut request = length.to_ne_bytes().to_vec();
    request.extend(family.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence and port number are zero: a socket with one request at a time does not need them.
    request.extend([0; 8]);
    request.extend([command, 1, 0, 0]);
    request.extend(attribute);
    socket.send(&request, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let kind = answer.get(4..6).and_then(|bytes| Some(u16::from_ne_bytes(*bytes.first_chunk()?)));
    if kind.is_none_or(|kind| kind == NLMSG_ERROR) { Err(no_answer()) } else { Ok(answer) }
}

fn no_answer() -> io::Error {
    io::Error::other("the kernel does not report it")
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn find(answer: &[u8], kind: u16) -> Option<Vec<u8>> {
    let attributes = NlasIterator::new(answer.get(HEADERS..)?);
    attributes.map_while(Result::ok).find(|found| found.kind() == kind).map(|found| found.value().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_no_native_mode_and_an_interface_that_is_not_there_none_that_is_known() {
        // A kernel before 6.3 does not say.
        assert_ne!(says_native(1), Some(true));
        assert_eq!(says_native(u32::MAX), None);
    }

    #[test]
    fn attributes_are_found_behind_the_headers_and_cut_ones_are_not() {
        let mut answer = vec![0; HEADERS];
        answer.extend(attribute(NETDEV_A_DEV_IFINDEX, &7_u32.to_ne_bytes()));
        answer.extend(attribute(NETDEV_A_DEV_XDP_FEATURES, &3_u64.to_ne_bytes()));
        assert_eq!(find(&answer, NETDEV_A_DEV_XDP_FEATURES), Some(3_u64.to_ne_bytes().to_vec()));
        assert_eq!(find(&answer, 9), None);
        for length in 0..answer.len() {
            assert_eq!(find(&answer[..length], NETDEV_A_DEV_XDP_FEATURES), None, "{length} bytes");
        }
    }
}
