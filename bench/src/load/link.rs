//! Generators that put whole frames on a link. There are three senders, and one collector that takes the
//! answers in the kernel where they come in and checks every one.

mod collector;
mod error;
mod live_frames;
mod packet;
mod route;
mod setup;
mod test_run_loop;
mod worker;
mod xdp;
mod xdp_attachment;

use std::net::SocketAddr;
use std::ops::Add;
use std::time::Duration;

use bench_ebpf::load_token::{MAX_REQUESTS, Request, Token};

use super::Load;
use super::generator::Generator;
use super::loss_windows::LossWindows;
use super::tally::Tally;
use super::template::Sources;
use super::watch::Watch;
use crate::failure::Failure;
use crate::programs::require_privileges;
use collector::Collector;
use error::LinkError;
use packet::PacketOutlet;
pub(crate) use route::{Choices, Mac};
use setup::{Setup, Step};
use xdp::XdpOutlet;
use xdp_attachment::{Mode, XdpAttachment};

/// What puts frames on the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    /// An XDP program, which turns frames that `BPF_PROG_TEST_RUN` sends around into requests.
    Live,
    /// Threads with `AF_XDP` sockets.
    Xdp,
    /// Threads with `AF_PACKET` sockets.
    Packet,
}

impl Sender {
    /// All senders, the fastest first.
    pub(super) const ALL: [Self; 3] = [Self::Live, Self::Xdp, Self::Packet];

    const fn name(self) -> &'static str {
        match self {
            Self::Live => "live frames",
            Self::Xdp => "AF_XDP",
            Self::Packet => "AF_PACKET",
        }
    }

    /// Prepares the sender, if it can use this link at all.
    fn ready(self, setup: &Setup, mode: Mode) -> Result<Outlets, Failure> {
        let workers = 0..setup.workers();
        match self {
            Self::Live => live_frames::check(&setup.route, mode).map(|()| Outlets::Live),
            Self::Xdp => {
                workers.map(|queue| xdp::open(setup, queue)).collect::<Result<_, _>>().map(Outlets::Xdp)
            }
            Self::Packet => {
                workers.map(|_| packet::open(setup)).collect::<Result<_, _>>().map(Outlets::Packet)
            }
        }
    }
}

/// What the workers send through, open from the first step to the last.
enum Outlets {
    Live,
    Xdp(Vec<XdpOutlet>),
    Packet(Vec<PacketOutlet>),
}

/// What the senders have done in a step.
#[derive(Clone, Debug)]
struct Sent {
    /// Requests that were sent and should be answered.
    right: u64,
    /// Requests that were sent and must not be answered.
    malformed: u64,
    /// Requests that were due and were not sent.
    unsent: u64,
    /// When the requests that should be answered were sent.
    loss_windows: LossWindows,
    /// See [`Tally::cut_after`].
    cut_after: Option<Duration>,
}

impl Sent {
    /// The state at the beginning of a step.
    fn nothing(step: &Step) -> Self {
        Self {
            right: 0,
            malformed: 0,
            unsent: 0,
            loss_windows: LossWindows::over(step.duration),
            cut_after: None,
        }
    }

    fn count(&mut self, request: Request, token: Token) {
        if request.is_malformed() {
            self.malformed += 1;
        } else {
            self.right += 1;
            self.loss_windows.sent_at(token.sent_ns);
        }
    }

    /// Takes back requests that did not go out. Which ones is not known, but only few requests are malformed.
    fn take_back(&mut self, requests: u64) {
        self.right = self.right.saturating_sub(requests);
        self.unsent += requests;
        self.loss_windows.unsend(requests);
    }
}

impl Add for Sent {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self.right += other.right;
        self.malformed += other.malformed;
        self.unsent += other.unsent;
        self.loss_windows.add(&other.loss_windows);
        self.cut_after = self.cut_after.max(other.cut_after);
        self
    }
}

/// The generator; see the module.
pub(super) struct LinkGenerator {
    setup: Setup,
    sender: Sender,
    /// Why this sender was selected, if there was a choice.
    why: String,
    outlets: Outlets,
    attachment: XdpAttachment,
}

impl LinkGenerator {
    /// Opens the first of these senders that works.
    pub(super) fn open(target: SocketAddr, load: Load, senders: &[Sender]) -> Result<Self, Failure> {
        require_privileges()?;
        let setup = Setup::new(target, load)?;
        let attachment = XdpAttachment::take(&setup.route.interface)?;
        let mut refused = None;
        for sender in senders {
            match sender.ready(&setup, attachment.mode()) {
                Ok(outlets) => {
                    let why = refused.map(|failure| format!(" ({failure})")).unwrap_or_default();
                    return Ok(Self { setup, sender: *sender, why, outlets, attachment });
                }
                Err(failure) => refused = Some(failure),
            }
        }
        Err(refused.unwrap_or_else(|| Failure::Usage("no sender was chosen".into())))
    }
}

impl Generator for LinkGenerator {
    fn name(&self) -> String {
        let addresses = self.setup.load.sources.map_or(1, Sources::clients);
        format!(
            "{} on {}{}, {} {}, {} of {addresses} addresses; answers are checked in the kernel ({})",
            self.sender.name(),
            self.setup.route.interface,
            self.why,
            self.setup.workers(),
            if self.setup.workers() == 1 { "worker" } else { "workers" },
            self.setup.source_ports(),
            self.attachment.mode(),
        )
    }

    fn target(&self) -> SocketAddr {
        self.setup.target
    }

    fn clients(&self) -> u32 {
        self.setup.load.sources.map_or(self.setup.source_ports().count(), Sources::clients)
    }

    fn step(&mut self, rate: f64, duration: Duration, watch: &Watch) -> Result<Tally, Failure> {
        let setup = &self.setup;
        // There may be more independent requests than on average: ten standard deviations leave room for
        // them. A spike's slope is rounded.
        let due = setup.due(rate, duration);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "capped")]
        let requests = ((1.01 * due + 10.0 * due.sqrt()).ceil() as u64).saturating_add(64).min(MAX_REQUESTS);
        let mut collector = Collector::load(requests, &setup.load)?;
        if self.sender == Sender::Live {
            live_frames::prepare(&mut collector, &setup.cores)?;
        }
        self.attachment.give_to(&mut collector)?;
        let step = setup.step(rate, duration);
        collector.begin(&step.plan)?;
        let outlets = &mut self.outlets;
        let sent = collector.while_telling(watch, || match outlets {
            Outlets::Live => live_frames::send(&collector, setup, &step, watch),
            Outlets::Xdp(outlets) => worker::send(setup, &step, outlets, watch),
            Outlets::Packet(outlets) => worker::send(setup, &step, outlets, watch),
        })?;
        collector.wait(&sent, setup.load.timeout)?;
        collector.tally(sent, &step, &setup.load)
    }
}

#[cfg(test)]
mod tests {
    use super::super::template::Template;
    use crate::frames::Path;
    use bench_ebpf::load_token::{Malformation, Plan, Request, Token};
    use etherparse::{NetHeaders, PacketHeaders, TransportHeader};

    /// Makes a malformed request as a frame, and says how it is malformed.
    fn frame(source: &str, destination: &str, sequence: u64) -> Option<(Malformation, Vec<u8>)> {
        let template = Template::new(&Path::between(source, destination), None, &[]);
        let plan = Plan {
            frame: template.frame,
            sum: template.sum.into(),
            header_sum: template.header_sum.into(),
            client_at: template.client_at,
            first_client: template.first_client.into(),
            clients: 1,
            first_port: 5004,
            ports: 100,
            malformed: 1 << 16,
            malformed_port: 5000,
            ..Plan::default()
        };
        let request = Request::new(&plan, Token { sequence, sent_ns: 1600 }, 4);
        let mut frame = template.bytes;
        request.write_to(frame.as_mut_slice(), &plan).unwrap();
        Malformation::of(sequence, plan.malformed, 4).map(|malformation| (malformation, frame))
    }

    #[test]
    fn a_malformed_request_is_wrong_in_one_way_only() {
        for (source, destination) in [("10.1.2.3", "10.1.2.4"), ("fd00::1:2", "fd00::2")] {
            for (malformation, frame) in (0..64).filter_map(|sequence| frame(source, destination, sequence)) {
                let headers = PacketHeaders::from_ethernet_slice(&frame).unwrap();
                let Some(TransportHeader::Udp(udp)) = headers.transport else { panic!("{malformation:?}") };
                let payload = headers.payload.slice();
                let (of_ip, checksum) = match headers.net.unwrap() {
                    NetHeaders::Ipv4(ip, _) => {
                        assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "{malformation:?}");
                        (ip.payload_len().unwrap(), udp.calc_checksum_ipv4(&ip, payload).unwrap())
                    }
                    NetHeaders::Ipv6(ip, _) => {
                        (ip.payload_length, udp.calc_checksum_ipv6(&ip, payload).unwrap())
                    }
                    NetHeaders::Arp(_) => panic!("{malformation:?}"),
                };
                assert_eq!(udp.source_port, 5000 + malformation as u16);
                assert_eq!(
                    of_ip,
                    if malformation == Malformation::Short { 52 } else { 56 },
                    "{malformation:?}"
                );
                assert_eq!(
                    udp.length,
                    if malformation == Malformation::Length { 64 } else { of_ip },
                    "{malformation:?}"
                );
                assert_eq!(
                    payload[0] & 7,
                    if malformation == Malformation::Mode { 4 } else { 3 },
                    "{malformation:?}"
                );
                // If the UDP length is not that of the data, no checksum is right.
                if malformation != Malformation::Length {
                    assert_eq!(
                        udp.checksum == checksum,
                        malformation != Malformation::Checksum,
                        "{malformation:?}"
                    );
                }
            }
        }
    }
}
