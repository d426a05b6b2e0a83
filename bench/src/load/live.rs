//! The generator in the kernel: frames are let loose by `BPF_PROG_TEST_RUN`, made into requests by one XDP
//! program, sent by a redirect, and the answers are taken and checked by another where they come in.
//!
//! The frames circulate as fast as they can and a program makes a request of one only when one is due, so that
//! the schedule is kept to the microsecond without a timer.

mod circulation;
mod counts;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use aya::maps::{Array, MapError, PerCpuArray, PerCpuValues};
use aya::programs::xdp::XdpMode;
use aya::programs::{ProgramError, Xdp};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader, Pod};
use core_affinity::CoreId;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use xdp_ebpf::probe::{self, FIRST_PORT, FRAME_WORDS, MAX_REQUESTS, PORTS, Plan, count, exponential};

use circulation::circulate;
use counts::{counts, tally};

use super::generator::Generator;
use super::plan::Spacing;
use super::socket::{connected, monotonic_ns, nanos, ntp_after};
use super::tally::Tally;
use super::template::{Sources, Template};
use super::{LATE_NS, Load, LoadError};
use crate::failure::Failure;
use crate::frames::{self, Path};
use crate::map_values::Value;
use crate::programs::{load_program, not_loaded, program, require_privileges, set_first};

const OBJECT: &str = "the built-in generator object";
const LEARN: &str = "learn";
const GENERATE: &str = "generate";
const COLLECT: &str = "collect";
const PLAN: &str = "GN_PLAN";
const MIX: &str = "GN_MIX";
const INTERVALS: &str = "GN_INTERVALS";
const WORKER: &str = "GN_WORKER";
const SEEN: &str = "GN_SEEN";
const LEARNT: &str = "GN_LEARNT";

/// Programs are in place and threads have started by then.
const LEAD: Duration = Duration::from_millis(20);
/// Requests by a socket, to see whom answers come from.
const ATTEMPTS: usize = 10;
const ATTEMPT_TIME: Duration = Duration::from_millis(200);

/// See the module.
pub(super) struct LiveGenerator {
    target: SocketAddr,
    load: Load,
    interface: String,
    template: Template,
    cores: Vec<CoreId>,
}

impl LiveGenerator {
    pub(super) fn open(target: SocketAddr, load: Load) -> Result<Self, Failure> {
        require_privileges()?;
        if load.sources.is_some_and(|sources| sources.is_ipv4() != target.is_ipv4()) {
            return Err(
                live("the clients' network and the server's address are of different families").into()
            );
        }
        let socket = connected(target)?;
        let source = socket.local_addr().map_err(|error| live(&error.to_string()))?.ip();
        let interface = interface_of(source)?;
        let mut cores = core_affinity::get_core_ids().unwrap_or_default();
        let workers = usize::try_from(load.workers.unwrap_or(1)).unwrap_or(1);
        if workers > cores.len() {
            return Err(
                live(&format!("{workers} workers need as many CPUs, and there are {}", cores.len())).into()
            );
        }
        cores.truncate(workers);
        let (source_mac, destination_mac) = learn(&socket, target, &interface)?;
        let path = Path {
            source_mac,
            destination_mac,
            source,
            destination: target.ip(),
            source_port: 0,
            destination_port: target.port(),
        };
        let template = Template::new(&path, load.sources);
        Ok(Self { target, load, interface, template, cores })
    }

    /// The plan of a step that starts when everything is in place.
    fn plan(&self, rate: f64, duration: Duration) -> Result<Plan, Failure> {
        let template = self.template;
        let interface = if_nametoindex(self.interface.as_str()).map_err(|error| live(&error.to_string()))?;
        let generators = self.cores.len() as u64;
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an interval of at most a second for each of a few generators"
        )]
        let interval = (1e9 * generators as f64 / rate * 65_536.0) as u64;
        Ok(Plan {
            key: fastrand::u64(..),
            start_ns: monotonic_ns() + nanos(LEAD),
            duration_ns: nanos(duration),
            interval,
            generators,
            timeout_ns: nanos(self.load.timeout),
            late_ns: LATE_NS,
            ntp_start: if self.load.shared_clock { ntp_after(LEAD).0 } else { 0 },
            tolerance: probe::ntp_units(nanos(self.load.tolerance)),
            interface: u64::from(interface),
            frame: template.frame,
            sum: u64::from(template.sum),
            port: u64::from(self.target.port()),
            client_at: template.client_at,
            first_client: u64::from(template.first_client),
            clients: u64::from(template.clients),
            header_sum: u64::from(template.header_sum),
            poisson: u64::from(self.load.spacing == Spacing::Poisson),
            echo: u64::from(self.load.echo),
            lenient: u64::from(self.load.lenient),
        })
    }
}

impl Generator for LiveGenerator {
    fn name(&self) -> String {
        let addresses = self.load.sources.map_or(1, Sources::clients);
        format!(
            "live frames on {}, {} in the kernel, {PORTS} ports of {addresses} addresses",
            self.interface,
            self.cores.len()
        )
    }

    fn target(&self) -> SocketAddr {
        self.target
    }

    fn clients(&self) -> u32 {
        self.load.sources.map_or(u32::from(PORTS), Sources::clients)
    }

    fn step(&mut self, rate: f64, duration: Duration) -> Result<Tally, Failure> {
        // Independent requests may be more than their mean: ten standard deviations.
        let due = rate * duration.as_secs_f64();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "capped")]
        let requests = ((due + 10.0 * due.sqrt()).ceil() as u64).saturating_add(64).min(MAX_REQUESTS);
        let mut ebpf = load_object(requests)?;
        for name in [GENERATE, COLLECT] {
            load_program(&mut ebpf, OBJECT, name)?;
        }
        set_all(&mut ebpf, MIX, self.load.mix.table().as_slice())?;
        set_all(&mut ebpf, INTERVALS, &exponential())?;
        let mut workers = vec![[0, 0, 0]; nr_cpus().map_err(|(_, error)| live(&error.to_string()))?];
        for (index, core) in self.cores.iter().enumerate() {
            if let Some(worker) = workers.get_mut(core.id) {
                worker[1] = index as u64;
            }
        }
        let access = |reason| Failure::MapAccess { map: WORKER, reason };
        let map = ebpf.map_mut(WORKER).ok_or(access(MapError::KeyNotFound))?;
        let workers = PerCpuValues::try_from(workers).map_err(|error| live(&error.to_string()))?;
        PerCpuArray::try_from(map).and_then(|mut map| map.set(0, workers, 0)).map_err(access)?;
        attach(&mut ebpf, COLLECT, &self.interface)?;
        let plan = self.plan(rate, duration)?;
        set_first(&mut ebpf, PLAN, Value(plan))?;

        let failure = |reason| Failure::Run { what: GENERATE.into(), reason };
        let generate = program(&ebpf, GENERATE).map_err(failure)?;
        let end_ns = plan.start_ns + plan.duration_ns;
        circulate(generate, &self.cores, self.template.length, end_ns).map_err(failure)?;
        let give_up_ns = monotonic_ns() + plan.timeout_ns;
        while monotonic_ns() < give_up_ns {
            let counts = counts(&ebpf)?;
            if counts[count::MATCHED] >= counts[count::SENT] {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        tally(&ebpf, rate, duration, &self.load)
    }
}

/// The MAC addresses between us and the server, as an answer to a plain request has them: whatever the
/// routing table says, this is where answers come from.
fn learn(socket: &UdpSocket, target: SocketAddr, interface: &str) -> Result<([u8; 6], [u8; 6]), Failure> {
    let mut ebpf = load_object(1)?;
    load_program(&mut ebpf, OBJECT, LEARN)?;
    let nothing = Plan {
        key: 0,
        start_ns: 0,
        duration_ns: 0,
        interval: 0,
        generators: 1,
        timeout_ns: 0,
        late_ns: 0,
        ntp_start: 0,
        tolerance: 0,
        interface: 0,
        frame: [0; FRAME_WORDS],
        sum: 0,
        port: u64::from(target.port()),
        client_at: 0,
        first_client: 0,
        clients: 1,
        header_sum: 0,
        poisson: 0,
        echo: 0,
        lenient: 0,
    };
    set_first(&mut ebpf, PLAN, Value(nothing))?;
    attach(&mut ebpf, LEARN, interface)?;
    let access = |reason| Failure::MapAccess { map: LEARNT, reason };
    let map = ebpf.map(LEARNT).ok_or(access(MapError::KeyNotFound))?;
    let learnt: Array<_, [u64; 2]> = map.try_into().map_err(access)?;
    for _ in 0..ATTEMPTS {
        // What goes wrong shows in that nothing is learnt.
        let _sent = socket.send(&frames::request(4, fastrand::u64(..)));
        thread::sleep(ATTEMPT_TIME);
        let [first, second] = learnt.get(&0, 0).map_err(access)?.map(u64::to_ne_bytes);
        if first != [0; 8] {
            let header = [first, second].concat();
            let (mut ours, mut theirs) = ([0; 6], [0; 6]);
            ours.copy_from_slice(&header[0..6]);
            theirs.copy_from_slice(&header[6..12]);
            return Ok((ours, theirs));
        }
    }
    Err(live(&format!("no answer to {ATTEMPTS} plain requests to {target} came in by {interface}")).into())
}

fn load_object(requests: u64) -> Result<Ebpf, Failure> {
    let words = u32::try_from(requests.div_ceil(64)).unwrap_or(u32::MAX).max(1);
    let mut loader = EbpfLoader::new();
    loader.map_max_entries(SEEN, words).load(xdp_ebpf::GENERATOR).map_err(|error| not_loaded(OBJECT, error))
}

/// Puts a program on the interface for as long as the object lives.
fn attach(ebpf: &mut Ebpf, name: &str, interface: &str) -> Result<(), Failure> {
    let refused = |error: ProgramError| {
        let busy = |error: &std::io::Error| error.raw_os_error() == Some(16);
        let text = match &error {
            ProgramError::SyscallError(error) if busy(&error.io_error) => format!(
                "{interface} has an XDP program already, and one more cannot be attached: send from another \
                 interface or host, or by --generator socket"
            ),
            error => format!(
                "{interface} takes no native XDP program: {:#}. --generator socket needs none",
                anyhow::Error::msg(error.to_string())
            ),
        };
        Failure::from(live(&text))
    };
    let missing = || refused(ProgramError::NotLoaded);
    let program: &mut Xdp = ebpf.program_mut(name).ok_or_else(missing)?.try_into().map_err(refused)?;
    program.attach(interface, XdpMode::Driver).map_err(refused)?;
    Ok(())
}

/// The interface that has this address.
fn interface_of(address: IpAddr) -> Result<String, LoadError> {
    let all = getifaddrs().map_err(|error| live(&error.to_string()))?;
    let has = |storage: &nix::sys::socket::SockaddrStorage| match address {
        IpAddr::V4(address) => storage.as_sockaddr_in().is_some_and(|found| found.ip() == address),
        IpAddr::V6(address) => storage.as_sockaddr_in6().is_some_and(|found| found.ip() == address),
    };
    let found = all.into_iter().find(|interface| interface.address.as_ref().is_some_and(has));
    found
        .map(|interface| interface.interface_name)
        .ok_or_else(|| live(&format!("no interface has {address}")))
}

fn live(text: &str) -> LoadError {
    LoadError::Live(text.into())
}

fn set_all<V: Pod>(ebpf: &mut Ebpf, name: &'static str, values: &[V]) -> Result<(), Failure> {
    let access = |reason| Failure::MapAccess { map: name, reason };
    let map = ebpf.map_mut(name).ok_or(access(MapError::KeyNotFound))?;
    let mut array = Array::try_from(map).map_err(access)?;
    for (index, value) in (0..).zip(values) {
        array.set(index, *value, 0).map_err(access)?;
    }
    Ok(())
}

const _: () = assert!(FIRST_PORT.checked_add(PORTS).is_some());
