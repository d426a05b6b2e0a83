//! Floods at the highest rate the lab can make, from the kernel: what they cost others, and that the policy may be
//! changed while they last.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use aya::maps::{Array, Map, MapData};
use aya::programs::xdp::XdpMode;
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use nix::net::if_::if_nametoindex;
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::gettid;
use responder::layout;
use responder::limiter::WAYS;
use responder::verdict::Verdict;
use testinput::frames::older;
use testlab::wire::{PORT, request};
use testlab::{CONFIG, Lab, Server, Tally, not_run, wait_for};

/// Tried one after the other, while the link between the hosts loses so much that it says nothing of the server.
const RATES: [u64; 4] = [550_000, 250_000, 100_000, 30_000];
const FLOOD: Duration = Duration::from_secs(8);
/// The core on which it is sent and answered.
const CORE: usize = 0;
/// Real-time priorities.
const LINK_PRIORITY: u32 = 3;
const FLOOD_PRIORITY: u32 = 2;

/// A flood from the host `client` to the server's address.
#[derive(Clone, Copy)]
struct Flood {
    per_second: u64,
    duration: Duration,
    /// From random sources, or in the name of this one.
    victim: Option<[u8; 4]>,
    /// The TTL or hop limit; that of the hosts of the lab is [`HOPS`].
    hops: u8,
    ipv6: bool,
}

const HOPS: u8 = 64;

impl Flood {
    fn frame(&self) -> Vec<u8> {
        let mut message = [0; 48];
        message[0] = 0x23;
        let mut frame = Vec::new();
        let ethernet =
            etherparse::PacketBuilder::ethernet2([0x02, 0, 0, 0x77, 0, 0x02], [0x02, 0, 0, 0x77, 0, 0x01]);
        if self.ipv6 {
            let [mut source, mut server] = [[0; 16]; 2];
            source[..2].copy_from_slice(&[0x20, 0x01]);
            server[..2].copy_from_slice(&[0xfd, 0x77]);
            (source[15], server[15]) = (7, 1);
            ethernet.ipv6(source, server, self.hops).udp(40_123, PORT).write(&mut frame, &message).unwrap();
        } else {
            let source = self.victim.unwrap_or([11, 0, 0, 1]);
            ethernet
                .ipv4(source, [10, 77, 0, 1], self.hops)
                .udp(40_123, PORT)
                .write(&mut frame, &message)
                .unwrap();
        }
        frame
    }

    /// Sends it to its end; gives how many frames were sent.
    fn send(&self, lab: &Lab) -> u64 {
        let mut object = EbpfLoader::new().load(bench_ebpf::BASELINE).unwrap();
        let frame = self.frame();
        let mut words = [0_u64; 14];
        for (word, bytes) in words.iter_mut().zip(frame.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_ne_bytes(whole);
        }
        let mut frames: Array<_, [u64; 14]> = object.map_mut("BL_FRAME").unwrap().try_into().unwrap();
        frames.set(0, words, 0).unwrap();
        let program: &mut Xdp = object.program_mut("flood").unwrap().try_into().unwrap();
        program.load().unwrap();
        lab.inside("client", || {
            give_core(lab, &gettid().to_string(), FLOOD_PRIORITY);
            let interface = u64::from(if_nametoindex("lan0").unwrap());
            let now = || {
                u64::try_from(Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap()).as_nanos())
                    .unwrap()
            };
            let start_ns = now();
            let end_ns = start_ns + u64::try_from(self.duration.as_nanos()).unwrap();
            let interval = (1_000_000_000 << 16) / self.per_second;
            let plan = [interface, interval, start_ns, end_ns, u64::from(self.victim.is_none())];
            let mut plans: Array<_, [u64; 5]> = object.map_mut("BL_FLOOD").unwrap().try_into().unwrap();
            plans.set(0, plan, 0).unwrap();
            let program: &Xdp = object.program("flood").unwrap().try_into().unwrap();
            while now() < end_ns {
                let run = TestRunOptions {
                    data_in: Some(&frame),
                    repeat: 1 << 14,
                    attrs: TestRunAttrs::new().xdp_live_frames(64),
                    ..TestRunOptions::default()
                };
                program.test_run(run).unwrap();
            }
        });
        let runs: Array<_, u64> = object.map("BL_RUNS").unwrap().try_into().unwrap();
        runs.get(&0, 0).unwrap()
    }
}

/// Has the packets of either host looked after by a thread of its own, on the core of the flood and before it. Left to
/// itself, that is done by a thread that takes turns with the flood; on another core, it stands still while the flood
/// goes on whenever a hypervisor takes that core away. Either way the link would overflow, and tell nothing of the
/// server. What nobody waits for is dropped where it comes in: as long as the object lives that this gives.
fn make_way(lab: &Lab) -> Ebpf {
    let mut object = EbpfLoader::new().load(bench_ebpf::BASELINE).unwrap();
    let sink: &mut Xdp = object.program_mut("sink").unwrap().try_into().unwrap();
    sink.load().unwrap();
    // In the place of the lab's, without which nothing that the server sends back arrives.
    lab.ip("client", "link set dev lan0 xdp off");
    lab.inside("client", || sink.attach("lan0", XdpMode::Driver).map(drop).unwrap());
    for host in ["server", "client"] {
        let before = threads_of_links();
        lab.sysfs(host, "echo 1 > /sys/class/net/lan0/threaded");
        for thread in threads_of_links().difference(&before) {
            give_core(lab, thread, LINK_PRIORITY);
        }
    }
    object
}

/// Puts a thread on the core of the flood, before all that has no priority there.
fn give_core(lab: &Lab, thread: &str, priority: u32) {
    lab.exec("client", &["taskset", "-pc", &CORE.to_string(), thread]).expect_success();
    lab.exec("client", &["chrt", "--fifo", "-p", &priority.to_string(), thread]).expect_success();
}

/// The kernel's threads that poll links of this name.
fn threads_of_links() -> BTreeSet<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    processes
        .filter(|path| fs::read_to_string(path.join("comm")).is_ok_and(|name| name.starts_with("napi/lan0-")))
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect()
}

/// What the link between client and server has lost so far, in either direction.
fn lost_by_link(lab: &Lab) -> u64 {
    let of = |host: &str, directions: &[&str]| {
        let said =
            lab.exec(host, &["ip", "-json", "-statistics", "link", "show", "dev", "lan0"]).expect_success();
        let links: serde_json::Value = serde_json::from_str(&said).unwrap();
        directions
            .iter()
            .map(|direction| links[0]["stats64"][direction]["dropped"].as_u64().unwrap())
            .sum::<u64>()
    };
    of("client", &["tx", "rx"]) + of("server", &["rx"])
}

/// Good clients, each of them asking so often for so long over its own address: requests and answers.
fn ask(lab: &Lab, sources: &[IpAddr], interval: Duration, duration: Duration) -> (u64, u64) {
    lab.inside("client", || {
        let sockets: Vec<_> = sources
            .iter()
            .map(|source| {
                let socket = UdpSocket::bind((*source, 0)).unwrap();
                let server: IpAddr =
                    if source.is_ipv4() { [10, 77, 0, 1].into() } else { "fd77::1".parse().unwrap() };
                socket.connect(SocketAddr::from((server, PORT))).unwrap();
                socket.set_nonblocking(true).unwrap();
                socket
            })
            .collect();
        let (mut sent, mut answered) = (0_u64, 0);
        let mut take = || {
            for socket in &sockets {
                let mut buffer = [0; 100];
                while let Ok(48) = socket.recv(&mut buffer) {
                    answered += u64::from(buffer[1] != 0);
                }
            }
        };
        let start = Instant::now();
        let gap = interval / u32::try_from(sockets.len()).unwrap();
        while start.elapsed() < duration {
            if start.elapsed() >= gap * u32::try_from(sent).unwrap() {
                let socket = &sockets[usize::try_from(sent).unwrap() % sockets.len()];
                // What the link has no room for is lost, and counted as such.
                let _lost = socket.send(&request(4, sent));
                sent += 1;
            } else {
                std::thread::sleep(Duration::from_millis(1));
            }
            take();
        }
        std::thread::sleep(Duration::from_millis(300));
        take();
        (sent, answered)
    })
}

fn counted(server: &Server<'_>) -> Tally {
    Tally::of_program(&server.status())
}

/// Tries a thing at each of the rates until it is done. It may fail only where the link lost frames meanwhile.
fn at_the_highest_rate(lab: &Lab, attempt: impl Fn(u64) -> bool) {
    for per_second in RATES {
        let before = lost_by_link(lab);
        let done = attempt(per_second);
        let lost = lost_by_link(lab) - before;
        println!("  the link lost {lost} frames");
        if done {
            return;
        }
        assert!(lost > 0, "answers were lost, and not by the link");
    }
    not_run("this machine is too busy: the link between the hosts loses frames at any rate");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn good_clients_lose_nothing_under_a_flood_from_random_sources() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &["--mode", "native"]);
    let _way = make_way(&lab);
    let ipv4: Vec<IpAddr> = (0..20).map(|number| [10, 77, 0, 100 + number].into()).collect();
    for address in &ipv4 {
        lab.ip("client", &format!("address add {address}/24 dev lan0"));
    }
    for (ipv6, sources) in [(false, ipv4), (true, vec!["fd77::2".parse().unwrap()])] {
        at_the_highest_rate(&lab, |per_second| {
            let before = counted(&server);
            let flood = Flood { per_second, duration: FLOOD, victim: None, hops: HOPS, ipv6 };
            let (flooded, (sent, answered)) = std::thread::scope(|scope| {
                let flood = scope.spawn(|| flood.send(&lab));
                let asked = ask(&lab, &sources, Duration::from_millis(100), FLOOD);
                (flood.join().unwrap(), asked)
            });
            let met = counted(&server) - before;
            let limits = server.status().limits.unwrap();
            println!(
                "{}: {}/s from random sources, {}/s arrived and were answered; {answered} of {sent} requests of {} good \
                 clients answered; about {} sources forgotten early, clients by estimate {:?}",
                if ipv6 { "IPv6" } else { "IPv4" },
                flooded / FLOOD.as_secs(),
                met.packets(Verdict::Answered) / FLOOD.as_secs(),
                sources.len(),
                limits.evictions,
                limits.clients,
            );
            assert_eq!(met.packets(Verdict::DropLimited) + met.packets(Verdict::KissRate), 0, "{met:?}");
            answered * 1000 >= sent * 999
        });
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_client_in_whose_name_a_flood_comes_keeps_the_share_that_leaks() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &["--mode", "native"]);
    let _way = make_way(&lab);
    at_the_highest_rate(&lab, |per_second| {
        let before = counted(&server);
        let victim = Some([10, 77, 0, 2]);
        let flood = Flood { per_second: per_second / 10, duration: FLOOD, victim, hops: HOPS, ipv6: false };
        let (flooded, (sent, answered)) = std::thread::scope(|scope| {
            let flood = scope.spawn(|| flood.send(&lab));
            let asked = ask(&lab, &[[10, 77, 0, 2].into()], Duration::from_millis(20), FLOOD);
            (flood.join().unwrap(), asked)
        });
        let met = counted(&server) - before;
        let kisses = met.packets(Verdict::KissRate);
        println!(
            "{}/s in its name: {answered} of {sent} requests of the victim answered, one in {}; {kisses} kisses, {met:?}",
            flooded / FLOOD.as_secs(),
            sent.div_ceil(answered.max(1))
        );
        assert!(kisses <= 8 + 64, "{kisses} kisses");
        // A sixteenth, give or take what chance makes of four hundred.
        answered * 16 >= sent / 2
    });
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn no_answer_is_lost_while_lists_and_rates_are_changed() {
    let lab = Lab::up(&[]);
    // A hundred thousand, of no source of the flood.
    let line = |number: u32| format!("75.{}.{}.0/24\n2400:{number:x}::/32\n", number >> 8, number & 255);
    let list = lab.file("list", &(0..50_000).map(line).collect::<String>());
    let config = |rest: &str| format!("{CONFIG}[limits]\nkod = 0\n{rest}");
    let server = lab.server(&config(""), &["--mode", "native"]);
    let _way = make_way(&lab);
    at_the_highest_rate(&lab, |per_second| {
        let before = counted(&server);
        let flood = Flood { per_second, duration: FLOOD, victim: None, hops: HOPS, ipv6: false };
        let mut loads = Vec::new();
        let flooded = std::thread::scope(|scope| {
            let flood = scope.spawn(|| flood.send(&lab));
            for round in 0..2 {
                for (text, entries) in [
                    (config(&format!("rate = {}\n[access]\nfiles = [{list:?}]\n", 20 + round)), 100_000),
                    (config(&format!("rate = {}\n", 30 + round)), 0),
                ] {
                    lab.file("server.toml", &text);
                    let start = Instant::now();
                    server.signal(Signal::SIGHUP);
                    wait_for("the reload", || {
                        (server.status().limits?.access_entries == entries).then_some(())
                    });
                    loads.push((entries, start.elapsed()));
                }
                server.command(&["deny", "76.0.0.0/8"]).expect_success();
                server.command(&["access", "remove", "76.0.0.0/8"]).expect_success();
            }
            flood.join().unwrap()
        });
        let met = counted(&server) - before;
        println!(
            "{}/s while lists were loaded and taken away: {flooded} requests, {} answered; {loads:?}",
            flooded / FLOOD.as_secs(),
            met.packets(Verdict::Answered)
        );
        assert!(loads.iter().all(|(_, time)| *time < Duration::from_secs(10)), "{loads:?}");
        met.packets(Verdict::Answered) == flooded
    });
}

/// Has these clients ask in three periods of what the server learns of its sources, without the hour that these take:
/// what it has learnt is made a period older, twice, and it forgets that they have just been there.
fn get_known(lab: &Lab, server: &Server<'_>, sources: &[IpAddr]) {
    for period in 0..3 {
        let (sent, answered) = ask(lab, sources, Duration::from_millis(250), Duration::from_millis(300));
        assert_eq!(answered, sent, "in quiet times");
        if period < 2 {
            make_known_older(server);
        }
    }
}

fn make_known_older(server: &Server<'_>) {
    let open = |name| -> Array<MapData, [u64; WAYS]> {
        let path = server.paths().pin_directory().join(name);
        Map::from_map_data(MapData::from_pin(path).unwrap()).unwrap().try_into().unwrap()
    };
    let mut buckets = open(layout::BUCKETS);
    for number in 0..buckets.len() {
        buckets.set(number, [0; WAYS], 0).unwrap();
    }
    let mut map = open(layout::KNOWN);
    let sets: Vec<_> = map.iter().map(Result::unwrap).collect();
    for (number, set) in (0..).zip(sets).filter(|(_, set)| *set != [0; WAYS]) {
        map.set(number, set.map(older), 0).unwrap();
    }
}

/// How many clients, which ask three times at intervals of two seconds until they are answered, get an answer.
fn join(lab: &Lab, sources: &[IpAddr]) -> usize {
    lab.inside("client", || {
        let open = |source: &IpAddr| {
            let socket = UdpSocket::bind((*source, 0)).unwrap();
            socket.connect(("10.77.0.1", PORT)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
            socket
        };
        let mut waiting: Vec<_> = sources.iter().map(open).collect();
        for round in 0..3 {
            let start = Instant::now();
            for (number, socket) in (0..).zip(&waiting) {
                let _lost = socket.send(&request(4, round * 1000 + number));
                std::thread::sleep(Duration::from_millis(5));
            }
            waiting.retain(|socket| !matches!(socket.recv(&mut [0; 100]), Ok(48)));
            std::thread::sleep(Duration::from_secs(2).saturating_sub(start.elapsed()));
        }
        sources.len() - waiting.len()
    })
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn whoever_forges_a_known_client_s_address_takes_nothing_by_another_path_and_less_than_half_by_its_own() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &["--mode", "native"]);
    let _way = make_way(&lab);
    let client = [10, 77, 0, 2];
    get_known(&lab, &server, &[client.into()]);
    for (hops, per_second, interval_ms, least_percent) in
        [(HOPS - 3, 500, 1000, 99), (HOPS - 3, 50_000, 1000, 99), (HOPS, 500, 20, 50), (HOPS, 50_000, 20, 50)]
    {
        let before = counted(&server);
        let lost_before = lost_by_link(&lab);
        let flood = Flood { per_second, duration: FLOOD, victim: Some(client), hops, ipv6: false };
        let (flooded, (sent, answered)) = std::thread::scope(|scope| {
            let flood = scope.spawn(|| flood.send(&lab));
            wait_for("the flood to empty the bucket", || {
                let met = counted(&server) - before.clone();
                (met.packets(Verdict::DropLimited) + met.packets(Verdict::AnsweredKnown) > 0).then_some(())
            });
            let interval = Duration::from_millis(interval_ms);
            let asked = ask(&lab, &[client.into()], interval, FLOOD * 3 / 4);
            (flood.join().unwrap(), asked)
        });
        let met = counted(&server) - before;
        let lost = lost_by_link(&lab) - lost_before;
        println!(
            "{}/s in its name, TTL {hops}: {answered} of {sent} requests of the client answered; {} of all by its usual \
             path; the link lost {lost} frames",
            flooded / FLOOD.as_secs(),
            met.packets(Verdict::AnsweredKnown),
        );
        // A slow flood comes in batches, between which the client may find tokens.
        assert!(met.packets(Verdict::AnsweredKnown) > 0 || per_second < 1000, "{met:?}");
        let top = server.command(&["top", "--once"]).expect_success();
        let kind =
            if hops == HOPS { "by its usual path: runs wild" } else { "not by its usual path: forged" };
        assert!(top.contains(kind), "{top}");
        assert!(answered * 100 >= sent * least_percent || lost > 0, "answers were lost, and not by the link");
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn known_clients_and_those_who_try_again_are_answered_while_strangers_use_up_the_budget() {
    let lab = Lab::up(&[]);
    let config = format!("{CONFIG}[limits]\nbudget_answers_per_s = 20000\n");
    let server = lab.server(&config, &["--mode", "native"]);
    let _way = make_way(&lab);
    let addresses: Vec<IpAddr> = (0..60).map(|number| [10, 77, 0, 100 + number].into()).collect();
    for address in &addresses {
        lab.ip("client", &format!("address add {address}/24 dev lan0"));
    }
    let (known, newcomers) = addresses.split_at(20);
    get_known(&lab, &server, known);
    let attempts = std::cell::Cell::new(0);
    at_the_highest_rate(&lab, |per_second| {
        // Newcomers of an attempt before are none any more.
        let joining = &newcomers[attempts.get() * 10..][..10];
        attempts.set(attempts.get() + 1);
        let before = counted(&server);
        let flood = Flood { per_second, duration: FLOOD, victim: None, hops: HOPS, ipv6: false };
        let (flooded, (sent, answered), joined) = std::thread::scope(|scope| {
            let flood = scope.spawn(|| flood.send(&lab));
            // The first second's worth of answers is there for everybody.
            std::thread::sleep(Duration::from_millis(1500));
            let joined = scope.spawn(|| join(&lab, joining));
            let asked = ask(&lab, known, Duration::from_millis(500), FLOOD * 3 / 4);
            (flood.join().unwrap(), asked, joined.join().unwrap())
        });
        let met = counted(&server) - before;
        println!(
            "{}/s from random sources, {} of all answered, {} over budget: {answered} of {sent} requests of known clients \
             answered, {joined} of {} newcomers by their third try",
            flooded / FLOOD.as_secs(),
            met.packets(Verdict::Answered),
            met.packets(Verdict::DropBudget),
            joining.len(),
        );
        assert!(met.packets(Verdict::DropBudget) > 0 || per_second < 100_000, "{met:?}");
        answered * 1000 >= sent * 999 && joined == joining.len()
    });
}
