//! Generators that put whole frames on a link: three senders, and one collector that takes the answers in the
//! kernel, where they come in, and checks every one.

mod circulation;
mod collector;
mod error;
mod live;
mod packet;
mod place;
mod route;
mod worker;
mod xdp;

use std::net::SocketAddr;
use std::ops::Add;
use std::time::Duration;

use core_affinity::CoreId;
use xdp_ebpf::probe::{self, Flaw, MAX_REQUESTS, Plan, Request};

use super::clock::{monotonic_ns, nanos, ntp_after};
use super::generator::Generator;
use super::plan::{SourcePorts, Spacing};
use super::profile::Profile;
use super::tally::Tally;
use super::template::{Sources, Template};
use super::{LATE_NS, Load};
use crate::failure::Failure;
use crate::frames::Path;
use crate::programs::require_privileges;
use collector::Collector;
pub(crate) use error::LinkError;
use place::{Mode, Place};
use route::Route;
pub(crate) use route::{Choices, Mac};

/// All is in place by then.
const LEAD: Duration = Duration::from_millis(20);

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

    /// Whether it can send by this link at all, before it has to.
    fn check(self, job: &Job, mode: Mode) -> Result<(), Failure> {
        match self {
            Self::Live => live::check(&job.route, mode),
            Self::Xdp => xdp::open(job, 0).map(drop),
            Self::Packet => packet::open(job).map(drop),
        }
    }
}

/// What a step's senders are told.
#[derive(Clone, Debug)]
struct Job {
    route: Route,
    template: Template,
    cores: Vec<CoreId>,
    rate: f64,
    duration: Duration,
    load: Load,
}

/// What senders have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sent {
    /// To be answered.
    right: u64,
    /// Not to be answered.
    malformed: u64,
    /// Due, and not sent.
    unsent: u64,
}

impl Sent {
    fn count(&mut self, request: Request) {
        if request.is_malformed() { self.malformed += 1 } else { self.right += 1 }
    }
}

impl Add for Sent {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            right: self.right + other.right,
            malformed: self.malformed + other.malformed,
            unsent: self.unsent + other.unsent,
        }
    }
}

/// See the module.
pub(super) struct LinkGenerator {
    target: SocketAddr,
    load: Load,
    route: Route,
    template: Template,
    cores: Vec<CoreId>,
    place: Place,
    sender: Sender,
    /// Why it was taken, if there was a choice.
    why: String,
}

impl LinkGenerator {
    /// With the first of these senders that works.
    pub(super) fn open(target: SocketAddr, load: Load, senders: &[Sender]) -> Result<Self, Failure> {
        require_privileges()?;
        if load.sources.is_some_and(|sources| sources.is_ipv4() != target.is_ipv4()) {
            return Err(LinkError::Families.into());
        }
        let mut cores = core_affinity::get_core_ids().unwrap_or_default();
        let workers = usize::try_from(load.workers.unwrap_or(1)).unwrap_or(1);
        if workers > cores.len() {
            return Err(LinkError::Cpus { workers, cpus: cores.len() }.into());
        }
        cores.truncate(workers);
        let ports = load.source_ports.unwrap_or_default();
        if load.profile.malformed() != 0 && ports.count() <= Flaw::COUNT {
            return Err(LinkError::Ports(ports).into());
        }
        let route = Route::find(target, &load.way)?;
        let place = Place::take(&route.interface)?;
        let path = Path {
            source_mac: route.source_mac,
            destination_mac: route.next_hop_mac,
            source: route.source,
            destination: target.ip(),
            source_port: 0,
            destination_port: target.port(),
        };
        let template = Template::new(&path, load.sources, &load.profile.extension());
        let mut generator =
            Self { target, load, route, template, cores, place, sender: Sender::Packet, why: String::new() };
        let job = generator.job(1.0, Duration::ZERO);
        let mut refused = None;
        for sender in senders {
            match sender.check(&job, generator.place.mode()) {
                Ok(()) => {
                    generator.sender = *sender;
                    generator.why = refused.map(|failure| format!(" ({failure})")).unwrap_or_default();
                    return Ok(generator);
                }
                Err(failure) => refused = Some(failure),
            }
        }
        Err(refused.unwrap_or_else(|| Failure::Usage("no sender was named".into())))
    }

    fn source_ports(&self) -> SourcePorts {
        self.load.source_ports.unwrap_or_default()
    }

    fn job(&self, rate: f64, duration: Duration) -> Job {
        let (route, cores, load) = (self.route.clone(), self.cores.clone(), self.load.clone());
        Job { route, template: self.template.clone(), cores, rate, duration, load }
    }

    /// The plan of a step that starts right away.
    fn plan(&self, rate: f64, duration: Duration) -> Plan {
        let (load, template) = (&self.load, &self.template);
        let (generators, ports) = (self.cores.len() as u64, self.source_ports());
        let flaws = if load.profile.malformed() == 0 { 0 } else { Flaw::COUNT };
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an interval of at most a second for each of a few generators"
        )]
        let interval = (1e9 * generators as f64 / rate * 65_536.0) as u64;
        Plan {
            key: fastrand::u64(..),
            start_ns: monotonic_ns() + nanos(LEAD),
            duration_ns: nanos(duration),
            interval,
            generators,
            timeout_ns: nanos(load.timeout),
            late_ns: LATE_NS,
            ntp_start: if load.shared_clock { ntp_after(LEAD).0 } else { 0 },
            tolerance: probe::ntp_units(nanos(load.tolerance)),
            interface: u64::from(self.route.index),
            frame: template.frame,
            sum: u64::from(template.sum),
            port: u64::from(self.target.port()),
            first_port: u64::from(ports.first()) + u64::from(flaws),
            ports: u64::from(ports.count() - flaws),
            client_at: template.client_at,
            first_client: u64::from(template.first_client),
            clients: u64::from(template.clients),
            header_sum: u64::from(template.header_sum),
            poisson: u64::from(load.spacing == Spacing::Poisson),
            echo: u64::from(load.echo),
            lenient: u64::from(load.lenient),
            hot: load.profile.hot(),
            scatter: if load.profile == Profile::Spoofed { fastrand::u64(..MAX_REQUESTS) } else { 0 },
            malformed: load.profile.malformed(),
            flaw_port: u64::from(ports.first()),
            extension: load.profile.extension().len() as u64,
            spike: load.profile.spike(duration),
        }
    }
}

impl Generator for LinkGenerator {
    fn name(&self) -> String {
        let addresses = self.load.sources.map_or(1, Sources::clients);
        format!(
            "{} on {}{}, {} {}, {} of {addresses} addresses; answers are checked in the kernel ({})",
            self.sender.name(),
            self.route.interface,
            self.why,
            self.cores.len(),
            if self.cores.len() == 1 { "worker" } else { "workers" },
            self.source_ports(),
            self.place.mode(),
        )
    }

    fn target(&self) -> SocketAddr {
        self.target
    }

    fn clients(&self) -> u32 {
        self.load.sources.map_or(self.source_ports().count(), Sources::clients)
    }

    fn step(&mut self, rate: f64, duration: Duration) -> Result<Tally, Failure> {
        // Independent requests may be more than their mean: ten standard deviations. A spike's slope is rounded.
        let due = rate * self.load.profile.mean() * duration.as_secs_f64();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "capped")]
        let requests = ((1.01 * due + 10.0 * due.sqrt()).ceil() as u64).saturating_add(64).min(MAX_REQUESTS);
        let mut collector = Collector::load(requests, &self.load)?;
        if self.sender == Sender::Live {
            live::prepare(&mut collector, &self.cores)?;
        }
        self.place.give_to(&mut collector)?;
        let job = self.job(rate, duration);
        let mut begin = || {
            let plan = self.plan(rate, duration);
            collector.begin(&plan).map(|()| plan)
        };
        let sent = match self.sender {
            Sender::Live => {
                let plan = begin()?;
                live::send(&collector, &job, &plan)?
            }
            Sender::Xdp => worker::send(&job, |index| xdp::open(&job, index), begin)?,
            Sender::Packet => worker::send(&job, |_| packet::open(&job), begin)?,
        };
        collector.wait(sent, self.load.timeout)?;
        collector.tally(sent, &self.load)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{NetHeaders, PacketHeaders, TransportHeader};
    use xdp_ebpf::probe::Token;

    /// A malformed request as a frame, and its flaw.
    fn frame(source: &str, destination: &str, sequence: u64) -> Option<(Flaw, Vec<u8>)> {
        let path = Path {
            source_mac: [2; 6],
            destination_mac: [4; 6],
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            source_port: 0,
            destination_port: 123,
        };
        let template = Template::new(&path, None, &[]);
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
