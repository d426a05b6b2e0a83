//! Generators that put whole frames on a link: three senders, and one collector that takes the answers in the
//! kernel, where they come in, and checks every one.

mod circulation;
mod collector;
mod error;
mod live;
mod packet;
mod place;
mod route;
mod setup;
mod worker;
mod xdp;

use std::net::SocketAddr;
use std::ops::Add;
use std::time::Duration;

use bench_ebpf::load_token::{MAX_REQUESTS, Request, Token};

use super::Load;
use super::course::Course;
use super::generator::Generator;
use super::tally::Tally;
use super::template::Sources;
use crate::failure::Failure;
use crate::programs::require_privileges;
use collector::Collector;
use error::LinkError;
use packet::PacketOutlet;
use place::{Mode, Place};
pub(crate) use route::{Choices, Mac};
use setup::{Setup, Step};
use xdp::XdpOutlet;

/// What puts frames on the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    /// An XDP program, of frames that `BPF_PROG_TEST_RUN` lets loose.
    Live,
    /// Threads with `AF_XDP` sockets.
    Xdp,
    /// Threads with `AF_PACKET` sockets.
    Packet,
}

impl Sender {
    /// The fastest first.
    pub(super) const ALL: [Self; 3] = [Self::Live, Self::Xdp, Self::Packet];

    const fn name(self) -> &'static str {
        match self {
            Self::Live => "live frames",
            Self::Xdp => "AF_XDP",
            Self::Packet => "AF_PACKET",
        }
    }

    /// Makes it ready, if it can send by this link at all.
    fn ready(self, setup: &Setup, mode: Mode) -> Result<Outlets, Failure> {
        let workers = 0..setup.workers();
        match self {
            Self::Live => live::check(&setup.route, mode).map(|()| Outlets::Live),
            Self::Xdp => {
                workers.map(|queue| xdp::open(setup, queue)).collect::<Result<_, _>>().map(Outlets::Xdp)
            }
            Self::Packet => {
                workers.map(|_| packet::open(setup)).collect::<Result<_, _>>().map(Outlets::Packet)
            }
        }
    }
}

/// What workers send by, open from the first step to the last.
enum Outlets {
    Live,
    Xdp(Vec<XdpOutlet>),
    Packet(Vec<PacketOutlet>),
}

/// What senders have done.
#[derive(Clone, Debug)]
struct Sent {
    /// To be answered.
    right: u64,
    /// Not to be answered.
    malformed: u64,
    /// Due, and not sent.
    unsent: u64,
    /// When those were sent that are to be answered.
    course: Course,
}

impl Sent {
    /// Nothing yet of a step.
    fn nothing(step: &Step) -> Self {
        Self { right: 0, malformed: 0, unsent: 0, course: Course::over(step.duration) }
    }

    fn count(&mut self, request: Request, token: Token) {
        if request.is_malformed() {
            self.malformed += 1;
        } else {
            self.right += 1;
            self.course.sent_at(token.sent_ns);
        }
    }

    /// What did not go out after all. Which of them is not known; there are few that are malformed.
    fn take_back(&mut self, requests: u64) {
        self.right = self.right.saturating_sub(requests);
        self.unsent += requests;
        self.course.unsend(requests);
    }
}

impl Add for Sent {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self.right += other.right;
        self.malformed += other.malformed;
        self.unsent += other.unsent;
        self.course.add(&other.course);
        self
    }
}

/// See the module.
pub(super) struct LinkGenerator {
    setup: Setup,
    sender: Sender,
    /// Why it was taken, if there was a choice.
    why: String,
    outlets: Outlets,
    place: Place,
}

impl LinkGenerator {
    /// With the first of these senders that works.
    pub(super) fn open(target: SocketAddr, load: Load, senders: &[Sender]) -> Result<Self, Failure> {
        require_privileges()?;
        let setup = Setup::new(target, load)?;
        let place = Place::take(&setup.route.interface)?;
        let mut refused = None;
        for sender in senders {
            match sender.ready(&setup, place.mode()) {
                Ok(outlets) => {
                    let why = refused.map(|failure| format!(" ({failure})")).unwrap_or_default();
                    return Ok(Self { setup, sender: *sender, why, outlets, place });
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
            self.place.mode(),
        )
    }

    fn target(&self) -> SocketAddr {
        self.setup.target
    }

    fn clients(&self) -> u32 {
        self.setup.load.sources.map_or(self.setup.source_ports().count(), Sources::clients)
    }

    fn step(&mut self, rate: f64, duration: Duration) -> Result<Tally, Failure> {
        let setup = &self.setup;
        // Independent requests may be more than their mean: ten standard deviations. A spike's slope is rounded.
        let due = setup.due(rate, duration);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "capped")]
        let requests = ((1.01 * due + 10.0 * due.sqrt()).ceil() as u64).saturating_add(64).min(MAX_REQUESTS);
        let mut collector = Collector::load(requests, &setup.load)?;
        if self.sender == Sender::Live {
            live::prepare(&mut collector, &setup.cores)?;
        }
        self.place.give_to(&mut collector)?;
        let step = setup.step(rate, duration);
        collector.begin(&step.plan)?;
        let sent = match &mut self.outlets {
            Outlets::Live => live::send(&collector, setup, &step)?,
            Outlets::Xdp(outlets) => worker::send(setup, &step, outlets)?,
            Outlets::Packet(outlets) => worker::send(setup, &step, outlets)?,
        };
        collector.wait(&sent, setup.load.timeout)?;
        collector.tally(sent, &step, &setup.load)
    }
}

#[cfg(test)]
mod tests {
    use super::super::template::Template;
    use crate::frames::Path;
    use bench_ebpf::load_token::{Flaw, Plan, Request, Token};
    use etherparse::{NetHeaders, PacketHeaders, TransportHeader};

    /// A malformed request as a frame, and its flaw.
    fn frame(source: &str, destination: &str, sequence: u64) -> Option<(Flaw, Vec<u8>)> {
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
            flaw_port: 5000,
            ..Plan::default()
        };
        let request = Request::new(&plan, Token { sequence, sent_ns: 1600 }, 4);
        let mut frame = template.bytes;
        request.write_to(frame.as_mut_slice(), &plan).unwrap();
        Flaw::of(sequence, plan.malformed, 4).map(|flaw| (flaw, frame))
    }

    #[test]
    fn a_flawed_request_has_its_flaw_and_no_other() {
        for (source, destination) in [("10.1.2.3", "10.1.2.4"), ("fd00::1:2", "fd00::2")] {
            for (flaw, frame) in (0..64).filter_map(|sequence| frame(source, destination, sequence)) {
                let headers = PacketHeaders::from_ethernet_slice(&frame).unwrap();
                let Some(TransportHeader::Udp(udp)) = headers.transport else { panic!("{flaw:?}") };
                let payload = headers.payload.slice();
                let (of_ip, checksum) = match headers.net.unwrap() {
                    NetHeaders::Ipv4(ip, _) => {
                        assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "{flaw:?}");
                        (ip.payload_len().unwrap(), udp.calc_checksum_ipv4(&ip, payload).unwrap())
                    }
                    NetHeaders::Ipv6(ip, _) => {
                        (ip.payload_length, udp.calc_checksum_ipv6(&ip, payload).unwrap())
                    }
                    NetHeaders::Arp(_) => panic!("{flaw:?}"),
                };
                assert_eq!(udp.source_port, 5000 + flaw as u16);
                assert_eq!(of_ip, if flaw == Flaw::Short { 52 } else { 56 }, "{flaw:?}");
                assert_eq!(udp.length, if flaw == Flaw::Length { 64 } else { of_ip }, "{flaw:?}");
                assert_eq!(payload[0] & 7, if flaw == Flaw::Mode { 4 } else { 3 }, "{flaw:?}");
                // Over a length that is not that of the data there is no right one.
                if flaw != Flaw::Length {
                    assert_eq!(udp.checksum == checksum, flaw != Flaw::Checksum, "{flaw:?}");
                }
            }
        }
    }
}
