//! Limits on clients, in the NIC path: what the program does under a policy, and what that is to real clients.

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use control::config::{Denied, LimitsConfig};
use control::net::prefix::Prefix;
use control::serving::limits::{InForce, Lists, Maps as _};
use control::status::traffic::{Kind, Top};
use control::sys::adjtimex;
use nix::sys::signal::Signal;
use responder::verdict::{Action, Verdict};
use responder::{Access, ClockState, Policy};
use testlab::test_run::{Program, message_in, publish_clock, request_frame};
use testlab::wire::{PORT, request};
use testlab::{CONFIG, Lab, Server, Tally, not_run, tool, wait_for};

/// Counts what becomes of as many requests from one source, and gives the last answer of each kind.
fn ask_often(program: &Program, often: u64) -> BTreeMap<String, (u64, Vec<u8>)> {
    let mut met = BTreeMap::new();
    let mut after = Vec::new();
    for number in 0..often {
        let action = program.run(&request_frame(number), &mut after);
        let kind = match action {
            Action::Transmit if message_in(&after).stratum != 0 => "answer".to_owned(),
            Action::Transmit => {
                String::from_utf8(message_in(&after).reference_id.to_be_bytes().to_vec()).unwrap()
            }
            other => format!("{other:?}"),
        };
        let (count, frame) = met.entry(kind).or_insert((0, Vec::new()));
        *count += 1;
        frame.clone_from(&after);
    }
    met
}

/// A clock that is right for as long as the test takes.
fn clock() -> ClockState {
    ClockState {
        horizon_ns: u64::MAX,
        leap: 0,
        stratum: 2,
        ..ClockState::from_words([1, 0xec00_0000_0000_0000, 18_446_744_074, 0, 0, 0, 0, 0xe9_0000])
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_source_over_its_rate_gets_its_burst_the_leak_and_few_kisses_from_the_program() {
    let (program, mut datapath) = Program::load("limits");
    publish_clock(&mut datapath, &clock());
    let config = LimitsConfig { rate: 1, burst: 100, ..LimitsConfig::default() };
    datapath.publish_policy(&config.policy(Denied::Drop, 1).unwrap()).unwrap();
    assert_ne!(datapath.policy().key, [0; 3]);
    let start = Instant::now();
    let met = ask_often(&program, 20_000);
    let tokens = 100 + start.elapsed().as_secs() + 1;
    let of = |kind: &str| met.get(kind).map_or(0, |(count, _)| *count);
    let leaked = (20_000 - tokens) / 16;
    assert!((100 + leaked * 8 / 10..tokens + leaked * 12 / 10).contains(&of("answer")), "{}", of("answer"));
    assert!((1..=8).contains(&of("RATE")), "{} kisses", of("RATE"));
    assert_eq!(of("answer") + of("RATE") + of("Drop"), 20_000);
    let kiss = message_in(&met["RATE"].1);
    assert_eq!((kiss.leap, kiss.version, kiss.mode, kiss.stratum), (3, 4, 4, 0));
    assert_eq!(kiss.poll, 6, "the poll interval to keep to");
    assert_eq!(kiss.reference_id, u32::from_be_bytes(*b"RATE"));
    assert!(datapath.occupancy().unwrap().in_use <= 64, "one source");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn the_longest_prefix_of_the_access_lists_decides_in_the_program() {
    let (program, mut datapath) = Program::load("access");
    publish_clock(&mut datapath, &clock());
    let limits =
        LimitsConfig { rate: 1, burst: 10, strict_burst: 3, leak: 16, kod: 0, ..LimitsConfig::default() };
    let list = |entries: &[(&str, Access)]| -> BTreeMap<Prefix, Access> {
        entries.iter().map(|(prefix, access)| (prefix.parse().unwrap(), *access)).collect()
    };
    let policy = |lists, denied, kod| {
        let config = LimitsConfig { kod, ..limits.clone() };
        Policy { lists, ..config.policy(denied, 1).unwrap() }
    };
    let answered = |met: &BTreeMap<String, (u64, Vec<u8>)>| met.get("answer").map_or(0, |(count, _)| *count);
    let lists = |entries| {
        let mut lists = Lists::default();
        lists.configure(entries);
        lists
    };
    let mut in_force = InForce::inheriting(datapath.access_maps().unwrap(), Arc::default()).unwrap();
    let three = list(&[
        ("0.0.0.0/0", Access::Denied),
        ("198.51.0.0/16", Access::Strict),
        ("198.51.100.7/32", Access::Unlimited),
    ]);
    // Of a list that says nothing of the client's /24 it is not asked.
    let elsewhere = list(&[("198.51.99.0/24", Access::Denied), ("198.51.101.0/24", Access::Denied)]);
    in_force.put(&lists(elsewhere)).unwrap();
    datapath.publish_policy(&policy(1, Denied::Drop, 0)).unwrap();
    assert!((10..13).contains(&answered(&ask_often(&program, 500))));
    // Entries of a list that is switched off mean nothing.
    datapath.publish_policy(&policy(0, Denied::Drop, 0)).unwrap();
    in_force.put(&lists(three)).unwrap();
    assert_eq!((in_force.number(), in_force.flags()), (3, 1));
    assert!(answered(&ask_often(&program, 500)) < 13);
    datapath.publish_policy(&policy(1, Denied::Drop, 0)).unwrap();
    assert_eq!(answered(&ask_often(&program, 500)), 500);
    drop(program);

    let (program, mut datapath) = Program::load("access-2");
    publish_clock(&mut datapath, &clock());
    let mut in_force = InForce::inheriting(datapath.access_maps().unwrap(), Arc::default()).unwrap();
    let two = list(&[("0.0.0.0/0", Access::Denied), ("198.51.0.0/16", Access::Strict)]);
    in_force.put(&lists(two)).unwrap();
    datapath.publish_policy(&policy(1, Denied::Drop, 0)).unwrap();
    assert!((3..6).contains(&answered(&ask_often(&program, 500))), "strict");
    in_force.put(&lists(list(&[("0.0.0.0/0", Access::Denied)]))).unwrap();
    let denied = ask_often(&program, 500);
    assert_eq!(denied["Drop"].0, 500);
    datapath.publish_policy(&policy(1, Denied::Kod, 10)).unwrap();
    let denied = ask_often(&program, 500);
    // Of ten in all, this CPU has half and the sockets the other half.
    assert!((5..7).contains(&denied["DENY"].0), "{} kisses", denied["DENY"].0);
    assert_eq!(datapath.access_maps().unwrap().entries().unwrap().len(), 1);
}

/// Sends at an even rate, and counts the answers with the time in them.
fn flood(lab: &Lab, server: &str, per_second: u32, seconds: u32) -> (u64, u64) {
    let any: IpAddr = if server.contains('.') { [0; 4].into() } else { [0_u16; 8].into() };
    flood_from(lab, any, server, per_second, seconds)
}

/// The same from an address; for no seconds a single request.
fn flood_from(lab: &Lab, source: IpAddr, server: &str, per_second: u32, seconds: u32) -> (u64, u64) {
    lab.inside("client", || {
        let server: IpAddr = server.parse().unwrap();
        let socket = UdpSocket::bind((source, 0)).unwrap();
        socket.connect((server, PORT)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let (mut sent, mut answered) = (0, 0);
        let take = |answered: &mut u64| {
            let mut buffer = [0; 100];
            while let Ok(48) = socket.recv(&mut buffer) {
                *answered += u64::from(buffer[1] != 0);
            }
        };
        let start = Instant::now();
        let interval = Duration::from_secs(1) / per_second;
        while sent == 0 || start.elapsed() < Duration::from_secs(seconds.into()) {
            if start.elapsed() >= interval * u32::try_from(sent).unwrap() {
                socket.send(&request(4, sent)).unwrap();
                sent += 1;
            } else {
                std::thread::sleep(Duration::from_micros(200));
            }
            take(&mut answered);
        }
        std::thread::sleep(Duration::from_millis(200));
        take(&mut answered);
        (sent, answered)
    })
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn an_abuser_is_limited_and_told_apart_in_the_counters() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    for address in ["10.77.0.1", "fd77::1"] {
        let before = Tally::of_program(&server.status());
        let (sent, answered) = flood(&lab, address, 1000, 4);
        let counted = Tally::of_program(&server.status()) - before;
        println!("{address}: {sent} requests, {answered} answered: {counted:?}");
        let most = 256 + 16 * 5 + sent / 16 * 3 / 2;
        assert!((256..=most).contains(&answered), "{answered} of {sent}");
        let [by_token, leaked, kisses, dropped] =
            [Verdict::Answered, Verdict::Leaked, Verdict::KissRate, Verdict::DropLimited]
                .map(|verdict| counted.packets(verdict));
        assert_eq!(by_token + leaked, answered);
        assert!((256..=256 + 16 * 5).contains(&by_token) && leaked > 0 && kisses <= 8, "{counted:?}");
        assert_eq!(answered + kisses + dropped, sent);
    }
    let limits = server.status().limits.unwrap();
    assert_eq!((limits.rate, limits.burst, limits.table_entries), (16, 256, 1 << 16));
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn every_request_of_chronyd_s_iburst_is_answered() {
    let Some(chronyd) = tool("chronyd") else {
        return not_run("chronyd is not there");
    };
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    let pid_file = format!("pidfile {}", lab.file("chronyd.pid", "").display());
    let before = Tally::of_program(&server.status());
    let settings =
        ["cmdport 0", "bindcmdaddress /", &pid_file, "server 10.77.0.1 iburst", "server fd77::1 iburst"];
    // With -x it leaves the clock alone; it is stopped when the burst is over.
    let command = ["timeout", "12", chronyd.to_str().unwrap(), "-x", "-d", "-u", "root", "-f", "/dev/null"];
    lab.exec("client", &[&command[..], &settings].concat());
    let counted = Tally::of_program(&server.status()) - before;
    println!("{counted:?}");
    assert!(counted.packets(Verdict::Answered) >= 8, "{counted:?}");
    let others = Verdict::ALL.iter().filter(|verdict| **verdict != Verdict::Answered);
    assert_eq!(others.map(|verdict| counted.packets(*verdict)).sum::<u64>(), 0, "{counted:?}");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn the_operator_s_entries_take_effect_at_once_and_end_in_time() {
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    let is_answered = || flood(&lab, "10.77.0.1", 10, 1).1 > 5;
    assert!(is_answered());
    server.command(&["deny", "10.77.0.0/24"]).expect_success();
    assert!(!is_answered());
    server.command(&["allow", "10.77.0.2"]).expect_success();
    assert!(is_answered());
    let listed = server.command(&["access", "list"]).expect_success();
    assert!(listed.contains("deny") && listed.contains("10.77.0.2/32"), "{listed}");
    assert!(server.status().limits.unwrap().access_entries == 2);
    server.command(&["access", "remove", "10.77.0.2/32"]).expect_success();
    assert!(!is_answered());
    server.command(&["deny", "10.77.0.0/24", "--for", "1s"]).expect_success();
    wait_for("the entry to end", || is_answered().then_some(()));
    let refused = server.command(&["deny", "10.77.0.1/24"]).expect_code(64);
    assert!(refused.contains("10.77.0.0/24"), "{refused}");
    server.command(&["access", "remove", "10.0.0.0/8"]).expect_code(66);
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_reload_applies_lists_and_rates_or_leaves_them_as_they_are() {
    let lab = Lab::up(&[]);
    let list = lab.file("list", "10.77.0.2\n");
    let with =
        |text: &str| format!("{CONFIG}[limits]\nrate = 2\nburst = 20\n[access]\nfiles = [{list:?}]\n{text}");
    let server = lab.server(CONFIG, &[]);
    lab.file("server.toml", &with(""));
    server.signal(Signal::SIGHUP);
    wait_for("the reload", || (server.status().limits?.access_entries == 1).then_some(()));
    assert_eq!(flood(&lab, "10.77.0.1", 10, 1).1, 0);

    // Of a file beside it, too, and without that file no more.
    let beside = lab.directory("server.toml.d").join("rate.toml");
    std::fs::write(&beside, "limits.rate = 7\n").unwrap();
    server.signal(Signal::SIGHUP);
    wait_for("the rate of the file beside it", || (server.status().limits?.rate == 7).then_some(()));
    std::fs::remove_file(&beside).unwrap();
    server.signal(Signal::SIGHUP);
    wait_for("the rate of the file itself", || (server.status().limits?.rate == 2).then_some(()));

    std::fs::remove_file(&list).unwrap();
    server.signal(Signal::SIGHUP);
    wait_for("the refusal", || server.log().contains("access.files").then_some(()));
    assert!(server.log().contains("not reloaded"), "{}", server.log());
    let limits = server.status().limits.unwrap();
    assert_eq!((limits.rate, limits.access_entries), (2, 1));
    assert_eq!(flood(&lab, "10.77.0.1", 10, 1).1, 0);

    // Lists that can be loaded, with more addresses than fit beside those of the interfaces: they go back, too.
    lab.file("list", "10.99.0.0/16\n10.98.0.0/16\n");
    let many: Vec<_> = (0..96).map(|host| format!("\"10.80.0.{host}\"")).collect();
    lab.file(
        "server.toml",
        &format!("serve = [{}]\n{}", many.join(", "), with("").replace("rate = 2", "rate = 3")),
    );
    server.signal(Signal::SIGHUP);
    wait_for("the refusal", || server.log().contains("too many to serve").then_some(()));
    wait_for("the lists to be as before", || (server.status().limits?.access_entries == 1).then_some(()));
    assert_eq!(server.status().limits.unwrap().rate, 2);
    let listed = server.command(&["access", "list"]).expect_success();
    assert!(listed.contains("10.77.0.2/32") && !listed.contains("10.99.0.0/16"), "{listed}");
    assert_eq!(flood(&lab, "10.77.0.1", 10, 1).1, 0, "the program and the sockets still deny it");
    lab.file("server.toml", &with(""));

    // A hundred thousand entries, and the client's not among them.
    let line = |number: u32| format!("11.{}.{}.{}", number >> 16, number >> 8 & 255, number & 255);
    let entries = (0..100_000).map(line).collect::<Vec<_>>().join("\n");
    lab.file("list", &entries);
    let start = Instant::now();
    server.signal(Signal::SIGHUP);
    wait_for("the reload", || (server.status().limits?.access_entries == 100_000).then_some(()));
    println!("100,000 entries loaded within {:?}", start.elapsed());
    assert_eq!(flood(&lab, "10.77.0.1", 10, 1).1, 10);
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn every_request_of_ntpd_s_iburst_is_answered() {
    let (Some(ntpd), Some(setpriv)) = (tool("ntpd"), tool("setpriv")) else {
        return not_run("ntpd or setpriv is not there");
    };
    let lab = Lab::up(&[]);
    let server = lab.server(CONFIG, &[]);
    let before = Tally::of_program(&server.status());
    let settings = lab.file(
        "ntp.conf",
        "disable ntp\ndisable kernel\nserver 10.77.0.1 iburst\nserver fd77::1 iburst\nrestrict default\n",
    );
    // It may not touch the clock, is told not to, and has not: nothing of it is written, its capability is away.
    let clock = adjtimex().unwrap();
    let command = [
        setpriv.to_str().unwrap(),
        "--bounding-set=-sys_time",
        "--inh-caps=-sys_time",
        "timeout",
        "18",
        ntpd.to_str().unwrap(),
        "-n",
        "-c",
        settings.to_str().unwrap(),
    ];
    let said = lab.exec("client", &command);
    let clock_after = adjtimex().unwrap();
    assert_eq!(clock.frequency_scaled_ppm, clock_after.frequency_scaled_ppm, "{said:?}");
    assert_eq!((clock.state, clock.status), (clock_after.state, clock_after.status), "{said:?}");
    let counted = Tally::of_program(&server.status()) - before;
    println!("{counted:?}");
    assert!(counted.packets(Verdict::Answered) >= 10, "{counted:?} {said:#?}");
    let others = Verdict::ALL.iter().filter(|verdict| **verdict != Verdict::Answered);
    assert_eq!(others.map(|verdict| counted.packets(*verdict)).sum::<u64>(), 0, "{counted:?}");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn the_budget_holds_and_a_client_beside_a_heavy_one_notices_nothing() {
    const BUDGET: u64 = 500;
    const SECONDS: u32 = 5;
    let lab = Lab::up(&[]);
    lab.ip("client", "address add 10.77.0.3/24 dev lan0");
    let config = format!("{CONFIG}[limits]\nrate = 2000\nburst = 8000\nbudget_answers_per_s = {BUDGET}\n");
    let server = lab.server(&config, &[]);
    let before = Tally::of_program(&server.status());
    let ((sent, heavy), (asked, light)) = std::thread::scope(|scope| {
        let heavy = scope.spawn(|| flood(&lab, "10.77.0.1", 1500, SECONDS));
        let light = scope.spawn(|| flood_from(&lab, "10.77.0.3".parse().unwrap(), "10.77.0.1", 4, SECONDS));
        (heavy.join().unwrap(), light.join().unwrap())
    });
    let counted = Tally::of_program(&server.status()) - before;
    println!("{heavy} of {sent} answered, and {light} of {asked} of the other: {counted:?}");
    assert_eq!(light, asked, "{counted:?}");
    let most = BUDGET * (u64::from(SECONDS) + 2) + BUDGET;
    assert!((BUDGET * u64::from(SECONDS) / 3..=most).contains(&(heavy + light)), "{counted:?}");
    assert!(counted.packets(Verdict::DropBudget) > 0);
    assert_eq!(sent + asked, heavy + light + counted.packets(Verdict::DropBudget));
    let status = server.command(&["status"]).expect_success();
    assert!(status.contains("budget of the whole server: 500 answers/s"), "{status}");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn top_shows_who_asks_most_and_how_many_there_are() {
    let lab = Lab::up(&[]);
    for number in 0..20 {
        lab.ip("client", &format!("address add 10.77.0.{}/24 dev lan0", 100 + number));
    }
    let server = lab.server(CONFIG, &[]);
    for number in 0..20 {
        flood_from(&lab, [10, 77, 0, 100 + number].into(), "10.77.0.1", 10, 0);
    }
    flood(&lab, "fd77::1", 1000, 3);
    let top = server.command(&["top", "--json"]).expect_success();
    let top: Top = serde_json::from_str(&top).unwrap();
    println!("{top:#?}");
    let [most, dropped] = [&top.by_requests[0], &top.by_drops[0]];
    assert_eq!((&*most.source, &*dropped.source), ("fd77::/64", "fd77::/64"));
    assert!((100.0..1000.0).contains(&most.requests_per_s), "{most:?}");
    assert!(most.dropped_per_s > most.requests_per_s * 0.5, "{most:?}");
    assert!(top.by_requests.iter().any(|talker| talker.source.starts_with("10.77.0.1")));
    let clients: Vec<_> = top.clients.iter().map(|clients| (&*clients.family, clients.last_hour)).collect();
    assert_eq!(clients, [("ipv4", 20), ("ipv6", 1)]);
    assert!(top.versions.iter().any(|mix| mix.version == 4 && mix.share > 0.99));
    // Not a terminal: once, and without anything that only a terminal understands.
    let text = server.command(&["top"]).expect_success();
    assert!(
        text.contains("fd77::/64") && text.contains("about 20 over ipv4") && !text.contains('\x1b'),
        "{text}"
    );
    assert_eq!(server.status().limits.unwrap().clients, top.clients);
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn top_names_what_an_abuser_does_and_not_what_an_honest_client_does() {
    let lab = Lab::up(&[]);
    lab.ip("client", "address add 10.77.0.3/24 dev lan0");
    let server = lab.server(CONFIG, &[]);
    lab.inside("client", || {
        let socket = |source: &str| {
            let socket = UdpSocket::bind((source, 0)).unwrap();
            socket.connect(("10.77.0.1", PORT)).unwrap();
            socket
        };
        let (abuser, honest) = (socket("10.77.0.2"), socket("10.77.0.3"));
        // The same packet twice a second, and the burst with which clients begin.
        let packet = request(4, 1);
        for number in 0..90_u64 {
            abuser.send(&packet).unwrap();
            if number % 4 == 0 && number < 32 {
                honest.send(&request(4, 100 + number)).unwrap();
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    });
    let top: Top = serde_json::from_str(&server.command(&["top", "--json"]).expect_success()).unwrap();
    let of = |source: &str| top.by_requests.iter().find(|talker| talker.source == source);
    let abuser = of("10.77.0.2").unwrap_or_else(|| panic!("{top:#?}"));
    assert!(abuser.kinds.contains(&Kind::RepeatedTimestamp), "{abuser:?}");
    assert!(abuser.kinds.contains(&Kind::ExactInterval), "{abuser:?}");
    assert!((abuser.interval_s.unwrap() - 0.5).abs() < 0.01, "{abuser:?}");
    assert!(of("10.77.0.3").is_none_or(|talker| talker.kinds.is_empty()), "{top:#?}");
    let text = server.command(&["top"]).expect_success();
    assert!(text.contains("      always the same timestamp\n"), "{text}");
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_table_of_another_size_is_made_at_the_next_start() {
    let lab = Lab::up(&[]);
    let mut server = lab.server(CONFIG, &[]);
    let bytes = |server: &Server<'_>| server.status().maps.by_name["PT_BUCKETS"];
    let before = bytes(&server);
    lab.file("server.toml", &format!("{CONFIG}[limits]\ntable_entries = 131072\n"));
    server.signal(Signal::SIGHUP);
    wait_for("the warning", || server.log().contains("until the daemon is restarted").then_some(()));
    assert_eq!(server.status().limits.unwrap().table_entries, 1 << 16);
    assert!(server.stop().success());
    server.restart();
    assert_eq!(server.status().limits.unwrap().table_entries, 1 << 17);
    assert!(bytes(&server) > before * 3 / 2);
    // The program is on the new table.
    let (sent, answered) = flood(&lab, "10.77.0.1", 500, 2);
    assert!((256..=256 + 16 * 3 + sent / 10).contains(&answered), "{answered} of {sent}");
    // One that memory cannot hold does not start, and says so by its key.
    assert!(server.stop().success());
    let refused = lab.file("absurd.toml", &format!("{CONFIG}[limits]\ntable_entries = 33554432\n"));
    let said = server.command(&["run", "--config", refused.to_str().unwrap()]).expect_code(78);
    assert!(said.contains("limits.table_entries"), "{said}");
    server.restart();
}
