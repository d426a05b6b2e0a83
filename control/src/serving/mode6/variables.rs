//! Status words and variables of the system and of the upstreams: RFC 9327, sections 3 and 4, under the names and
//! in the units that ntpd gives them.

use protocol::reference;
use responder::NtpTimestamp;
use responder::message::{LEAP_UNSYNCHRONISED, MAX_STRATUM};

use crate::status::sources::{Peer, Peers, System};

/// The stratum of what is not synchronised (RFC 5905).
const STRATUM_UNSYNCHRONISED: u8 = MAX_STRATUM + 1;
/// Clock sources in the system status word.
const SOURCE_UNSPECIFIED: u16 = 0;
const SOURCE_LOCAL: u16 = 5;
const SOURCE_NTP: u16 = 6;
/// Bits of the peer status word.
const CONFIGURED: u16 = 0x80;
const REACHABLE: u16 = 0x10;
/// ntpd's `flash` bit of a peer that does not answer.
const UNREACHABLE: u16 = 0x1000;

/// A variable as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Variable {
    pub(super) name: &'static str,
    pub(super) value: String,
}

/// Leap indicator, clock source, and no events: none are kept.
pub(super) fn system_status(system: &System) -> u16 {
    let source = match (system.synchronised, system.reference_id) {
        (false, _) => SOURCE_UNSPECIFIED,
        (true, reference::LOCAL) => SOURCE_LOCAL,
        (true, _) => SOURCE_NTP,
    };
    u16::from(leap(system)) << 14 | source << 8
}

/// Configured, reachable, selection, and no events.
pub(super) fn peer_status(peer: &Peer) -> u16 {
    let reachable = if peer.reach == 0 { 0 } else { REACHABLE };
    (CONFIGURED | reachable | u16::from(peer.tally.code() & 7)) << 8
}

pub(super) fn system_variables(peers: &Peers) -> Vec<Variable> {
    let system = &peers.system;
    let root_distance_s = system.root_delay_s / 2.0 + system.root_dispersion_s;
    let system_peer = peers.peers.iter().find(|peer| Some(peer.association) == system.system_peer);
    let mut list = List::default();
    list.put("version", &quoted(concat!("pooltime-xdp ", env!("CARGO_PKG_VERSION"))));
    list.put("processor", &quoted(std::env::consts::ARCH));
    list.put("system", &quoted(std::env::consts::OS));
    list.put("leap", &leap(system));
    list.put("stratum", &if system.synchronised { system.stratum } else { STRATUM_UNSYNCHRONISED });
    list.put("precision", &system.precision);
    list.put("rootdelay", &milliseconds(system.root_delay_s));
    list.put("rootdisp", &milliseconds(system.root_dispersion_s));
    list.put("rootdist", &milliseconds(root_distance_s));
    list.put("refid", &quoted(if system.synchronised { &system.reference } else { "INIT" }));
    list.put("reftime", &timestamp(system.reference_time));
    list.put("clock", &timestamp(system.clock));
    list.put("peer", &system.system_peer.unwrap_or(0));
    if let Some(address) = system_peer.and_then(|peer| peer.address.as_ref()) {
        list.put("peeradr", address);
        list.put("peermode", &3);
    }
    list.put_some("tc", system.poll_log2);
    list.put_some("offset", system.offset_s.map(milliseconds));
    list.put_some("frequency", system.frequency_ppm.map(three_digits));
    list.put_some("sys_jitter", system.jitter_s.map(milliseconds));
    list.put_some("clk_wander", system.wander_ppm.map(three_digits));
    list.0
}

pub(super) fn peer_variables(peer: &Peer, host_time: NtpTimestamp) -> Vec<Variable> {
    let mut list = List::default();
    list.put("associd", &peer.association);
    list.put("srcadr", &peer.address.as_deref().unwrap_or("0.0.0.0"));
    list.put("srcport", &peer.port);
    list.put("srchost", &quoted(&peer.name));
    list.put_some("dstadr", peer.local_address.as_ref());
    list.put("leap", &peer.leap);
    list.put("stratum", &peer.stratum);
    list.put("precision", &peer.precision);
    list.put("rootdelay", &milliseconds(peer.root_delay_s));
    list.put("rootdisp", &milliseconds(peer.root_dispersion_s));
    list.put("refid", &quoted(if peer.answers == 0 { "INIT" } else { &peer.reference }));
    list.put("reftime", &timestamp(peer.reference_time));
    // ntpq subtracts it from the host's clock, which need not be the one that is served.
    list.put_some("rec", peer.when_s.map(|when_s| timestamp(before(host_time, when_s))));
    list.put("reach", &format_args!("0x{:x}", peer.reach));
    list.put("unreach", &peer.unanswered);
    list.put("hmode", &3);
    list.put("pmode", &4);
    list.put("hpoll", &peer.poll_log2);
    // ntpq shows the smaller of the two. What a server names is not what it is asked by.
    list.put("ppoll", &peer.poll_log2.max(peer.its_poll_log2));
    list.put("flash", &format_args!("0x{:x}", if peer.reach == 0 { UNREACHABLE } else { 0 }));
    list.put("keyid", &0);
    list.put("offset", &milliseconds(peer.offset_s.unwrap_or(0.0)));
    list.put("delay", &milliseconds(peer.delay_s.unwrap_or(0.0)));
    list.put("dispersion", &milliseconds(peer.dispersion_s.unwrap_or(0.0)));
    list.put("jitter", &milliseconds(peer.jitter_s.unwrap_or(0.0)));
    list.0
}

#[derive(Default)]
struct List(Vec<Variable>);

impl List {
    fn put(&mut self, name: &'static str, value: &impl ToString) {
        self.0.push(Variable { name, value: value.to_string() });
    }

    /// What is not known is not told.
    fn put_some(&mut self, name: &'static str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.put(name, &value);
        }
    }
}

fn leap(system: &System) -> u8 {
    if system.synchronised { system.leap & 3 } else { LEAP_UNSYNCHRONISED }
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.6}", seconds * 1e3)
}

fn three_digits(value: f64) -> String {
    format!("{value:.3}")
}

fn timestamp(ntp: u64) -> String {
    format!("0x{:08x}.{:08x}", ntp >> 32, ntp & 0xffff_ffff)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float cast saturates")]
fn before(time: NtpTimestamp, seconds: f64) -> u64 {
    let units = (seconds.max(0.0) * 4_294_967_296.0) as u64;
    time.0.wrapping_sub(units)
}

/// Quoted, since ntpq would take some references for numbers. An upstream chooses its own: it must not
/// end the quotation.
fn quoted(text: &str) -> String {
    let harmless = |c: char| if (c.is_ascii_graphic() && c != '"') || c == ' ' { c } else { '?' };
    format!("\"{}\"", text.chars().map(harmless).collect::<String>())
}
