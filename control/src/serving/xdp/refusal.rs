//! Why a driver refused the program, in its own words, and what can be done about it.
//!
//! Attaching by a BPF link tells a number only. The same attempt over netlink tells the driver's reason, in the
//! extended acknowledgement.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use aya::programs::{ProgramError, Xdp};
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NlasIterator};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};
use rtnetlink::sys::{Socket, protocols::NETLINK_ROUTE};
use tracing::debug;

use crate::error::chain;
use crate::net::interfaces::Interface;
use crate::net::xdp_mode::Mode;
use crate::safe_text::shell_word;
use crate::sys::ethtool::{Feature, Nic};

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// What the driver or the kernel said.
    pub(super) reason: String,
    /// Which setting to change, and how.
    pub(super) advice: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)?;
        match &self.advice {
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
        }
    }
}

impl Refusal {
    /// Of a program that is loaded and was not taken.
    pub(super) fn of(program: &Xdp, interface: &Interface, mode: Mode, error: &ProgramError) -> Self {
        let number = match error {
            ProgramError::SyscallError(call) => call.io_error.raw_os_error(),
            _ => None,
        };
        let words = program.fd().ok().and_then(|program| {
            let asked = ask(interface.index, mode, std::os::fd::AsFd::as_fd(program));
            asked.unwrap_or_else(|error| {
                debug!("netlink does not report the reason: {error}");
                None
            })
        });
        let reason = match (&words, number) {
            (Some(words), Some(number)) => {
                format!("\"{words}\" ({})", io::Error::from_raw_os_error(number))
            }
            (Some(words), None) => format!("\"{words}\""),
            (None, _) => format!("{}{}", chain(error), meaning(number)),
        };
        let advice = match &words {
            Some(words) => known_remedy(words, &interface.name),
            None => by_the_settings(interface, number),
        };
        Self { reason, advice }
    }
}

/// What an error number stands for where nothing else is said.
fn meaning(number: Option<i32>) -> &'static str {
    match number {
        Some(libc::EOPNOTSUPP) => " (the driver has no native XDP, or not with the current settings)",
        Some(libc::EBUSY | libc::EEXIST) => " (another XDP program is already attached)",
        Some(libc::EPERM) => " (not allowed; is the kernel locked down?)",
        Some(libc::EINVAL | libc::ERANGE | libc::E2BIG) => {
            " (the driver requires a smaller MTU or other settings)"
        }
        _ => "",
    }
}

/// What helps against the words that drivers are known to say.
fn known_remedy(words: &str, name: &str) -> Option<String> {
    let (lower, word) = (words.to_lowercase(), shell_word(name));
    let says = |any: &[&str]| any.iter().any(|part| lower.contains(part));
    let remedy = if says(&["while host is implementing"]) {
        hypervisor_offloads(name)
    } else if says(&["too few free tx rings", "channel count", "queues"]) {
        format!(
            "native XDP needs queues of its own: `ethtool -l {word}` shows how many there are, `ethtool -L {word} \
             combined N` with at most half of them leaves the others to it; a virtual machine can be given more"
        )
    } else if says(&["lro", "hw-gro", "hw_gro", "gro_hw"]) {
        format!("`ethtool -K {word} lro off` and `ethtool -K {word} rx-gro-hw off`, then attach again")
    } else if says(&["mtu", "frame size", "buffer size", "jumbo", "single page", "linear"]) {
        format!("`{}`, then attach again", smaller_mtu(name))
    } else {
        return None;
    };
    Some(remedy)
}

/// What is known to keep drivers from XDP, where they do not say what does.
fn by_the_settings(interface: &Interface, number: Option<i32>) -> Option<String> {
    if number == Some(libc::EPERM) {
        return None;
    }
    let conditions: Vec<_> = conditions(interface).iter().map(ToString::to_string).collect();
    (!conditions.is_empty()).then(|| format!("the cause may be {}", conditions.join(" or ")))
}

/// A setting of an interface that keeps some drivers from native XDP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    /// The setting.
    pub(crate) what: String,
    /// What changes it.
    pub(crate) command: String,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (`{}`)", self.what, self.command)
    }
}

/// Those that the interface has.
pub(crate) fn conditions(interface: &Interface) -> Vec<Condition> {
    let Interface { name, mtu, .. } = interface;
    let mut conditions = Vec::new();
    if *mtu > 1500 {
        conditions.push(Condition {
            what: format!("the MTU of {mtu}, which is too large for some drivers"),
            command: smaller_mtu(name),
        });
    }
    if Nic(name).has(Feature::LargeReceive).unwrap_or(false) {
        conditions.push(Condition {
            what: "LRO".into(),
            command: format!("ethtool -K {} lro off", shell_word(name)),
        });
    }
    conditions
}

fn smaller_mtu(name: &str) -> String {
    format!("ip link set dev {} mtu 1500", shell_word(name))
}

/// What helps where the host hands over frames with unfinished checksums or joined segments, and offers no way
/// to stop it.
pub(crate) fn hypervisor_offloads(name: &str) -> String {
    format!(
        "the hypervisor has to change {name}: it must let the guest control its offloads (QEMU: \
         ctrl_guest_offloads=on) or not use them (libvirt, in the interface's <driver>: <guest csum='off' \
         tso4='off' tso6='off' ecn='off' ufo='off'/>; QEMU: guest_csum=off,guest_tso4=off,guest_tso6=off,\
         guest_ecn=off,guest_ufo=off). No setting inside this machine does; ask the hoster"
    )
}

/// Repeats the attempt over netlink. `None` if nothing is said, or if it is not refused there; then the
/// program is taken off again.
fn ask(interface: u32, mode: Mode, program: BorrowedFd<'_>) -> io::Result<Option<String>> {
    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.set_ext_ack(true)?;
    // The kernel answers within the call that sends, or not at all.
    socket.set_non_blocking(true)?;
    let flags = XDP_FLAGS_UPDATE_IF_NOEXIST | mode_flag(mode);
    let attempt = vec![LinkXdp::Fd(program.as_raw_fd()), LinkXdp::Flags(flags)];
    match set(&socket, interface, attempt)? {
        Answer::Refused(words) => Ok(words),
        Answer::Taken => {
            let expected = program.as_raw_fd().cast_unsigned();
            let flags = XDP_FLAGS_REPLACE | mode_flag(mode);
            set(
                &socket,
                interface,
                vec![LinkXdp::Fd(-1), LinkXdp::ExpectedFd(expected), LinkXdp::Flags(flags)],
            )?;
            Ok(None)
        }
    }
}

const XDP_FLAGS_UPDATE_IF_NOEXIST: u32 = 1 << 0;
const XDP_FLAGS_REPLACE: u32 = 1 << 4;

fn mode_flag(mode: Mode) -> u32 {
    match mode {
        Mode::Generic => 1 << 1,
        Mode::Native => 1 << 2,
    }
}

enum Answer {
    Taken,
    Refused(Option<String>),
}

fn set(socket: &Socket, interface: u32, xdp: Vec<LinkXdp>) -> io::Result<Answer> {
    let mut link = LinkMessage::default();
    link.header.index = interface;
    link.attributes.push(LinkAttribute::Xdp(xdp));
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::SetLink(link));
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer: NetlinkMessage<RouteNetlinkMessage> =
        NetlinkMessage::deserialize(&answer).map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::Error(error) if error.code.is_none() => Ok(Answer::Taken),
        NetlinkPayload::Error(error) => Ok(Answer::Refused(words(&error.header))),
        _ => Err(io::Error::other("an unexpected netlink message")),
    }
}

/// The text in what follows the error number: the whole request, then attributes (`struct nlmsgerr`).
fn words(after_the_number: &[u8]) -> Option<String> {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let length = u32::from_ne_bytes(*after_the_number.first_chunk()?) as usize;
    let attributes = after_the_number.get(length.checked_next_multiple_of(4)?..)?;
    let text = NlasIterator::new(attributes)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)?;
    let text = String::from_utf8_lossy(text.value()).trim_end_matches('\0').trim_end().to_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_stand_after_the_request_that_is_sent_back() {
        let mut answer = vec![0; 18];
        answer[0] = 18;
        answer.extend([0, 0]); // padding
        answer.extend(12_u16.to_ne_bytes()); // an attribute of another kind
        answer.extend(2_u16.to_ne_bytes());
        answer.extend([0; 8]);
        answer.extend(9_u16.to_ne_bytes());
        answer.extend(1_u16.to_ne_bytes());
        answer.extend(b"igb.\0\0\0\0");
        assert_eq!(words(&answer).as_deref(), Some("igb."));
        for cut in 0..30 {
            assert_eq!(words(&answer[..cut]), None, "{cut} bytes");
        }
        answer[0] = 255;
        assert_eq!(words(&answer), None);
    }

    #[test]
    fn what_drivers_say_leads_to_the_setting_that_helps() {
        for (says, helps) in [
            (
                "virtio_net: Can't set XDP while host is implementing GRO_HW/CSUM, disable GRO_HW/CSUM first",
                "ctrl_guest_offloads=on",
            ),
            (
                "virtio_net: Can't set XDP while host is implementing LRO/CSUM, disable LRO/CSUM first",
                "hoster",
            ),
            ("virtio_net: Too few free TX rings available", "ethtool -L ens3 combined"),
            ("igb: The RX buffer size is too small for the frame size.", "ip link set dev ens3 mtu 1500"),
            ("virtio_net: MTU too large to enable XDP", "ip link set dev ens3 mtu 1500"),
            (
                "mlx5_core: can't set XDP while HW-GRO/LRO is on, disable them first",
                "ethtool -K ens3 lro off",
            ),
            (
                "Failed to set xdp program, the Rx/Tx channel count should be at most half of the maximum \
                 allowed channel count.",
                "ethtool -L ens3 combined",
            ),
        ] {
            let remedy = known_remedy(says, "ens3").unwrap();
            assert!(remedy.contains(helps), "{says}: {remedy}");
        }
        assert_eq!(known_remedy("Underlying driver does not support XDP in native mode", "ens3"), None);
    }
}
