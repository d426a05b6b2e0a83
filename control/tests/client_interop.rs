//! Clients as they are installed everywhere get the right time, and get it from the NIC path.
//!
//! Their frames come over a veth, so with checksums that the sender left to a network card to finish: the
//! answers must have whole ones all the same.

use std::net::IpAddr;

use control::net::xdp_mode::Mode;
use responder::verdict::{Family, Verdict};
use testlab::wire::{Datagram, Wire, is_answer, request};
use testlab::{CONFIG, Lab, Output, PATIENCE, Tally, not_run, pooltime_xdp, tool};

/// Clients and server share the kernel's clock, so all that is left is the noise of a busy machine.
const LARGEST_OFFSET_S: f64 = 0.05;
const SERVERS: [(&str, Family); 2] = [("10.77.0.1", Family::Ipv4), ("fd77::1", Family::Ipv6)];

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn ntpdig_gets_the_time() {
    gets_the_time("ntpdig", |lab, program, server| {
        let said = lab.exec("client", &[program, "-j", server]).expect_success();
        let answer: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!((&answer["stratum"], &answer["leap"]), (&4.into(), &"no-leap".into()), "{said}");
        answer["offset"].as_f64().expect(&said)
    });
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn ntpdate_gets_the_time() {
    gets_the_time("ntpdate", |lab, program, server| {
        // 2026-01-31 12:00:00.123456 (+0000) +0.000014 +/- 0.000078 10.77.0.1 s4 no-leap
        let said = lab.exec("client", &[program, "-q", server]).expect_success();
        assert!(said.ends_with(&format!("{server} s4 no-leap\n")), "{said}");
        said.split_whitespace().nth(3).and_then(|word| word.parse().ok()).expect(&said)
    });
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn chronyd_gets_the_time() {
    gets_the_time("chronyd", |lab, program, server| {
        let pid_file = format!("pidfile {}", lab.file("chronyd.pid", "").display());
        // -Q asks and sets nothing; one sample is enough for that.
        let source = format!("server {server} iburst maxsamples 1");
        let settings = ["cmdport 0", "bindcmdaddress /", &pid_file, &source];
        let said =
            lab.exec("client", &[&[program, "-Q", "-u", "root", "-f", "/dev/null"], &settings[..]].concat());
        assert!(said.status.success(), "{said:#?}");
        // System clock wrong by 0.000003 seconds (ignored)
        let offset =
            said.stderr.split_once("wrong by ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        offset.expect(&said.stderr)
    });
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn our_own_query_gets_the_time() {
    gets_the_time(pooltime_xdp(), |lab, program, server| {
        let said = lab.exec("client", &[program, "query", "--json", server]).expect_success();
        let answer: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(answer["answers"][0]["synchronised"], true, "{said}");
        assert_eq!(answer["answers"][0]["stratum"], 4, "{said}");
        answer["answers"][0]["offset_s"].as_f64().expect(&said)
    });
}

/// Lets a client ask over both families in both modes; `ask` gives the offset that it says.
fn gets_the_time(client: &str, ask: impl Fn(&Lab, &str, &str) -> f64) {
    let Some(client) = tool(client) else {
        return not_run(&format!("{client} is not there"));
    };
    let client = client.to_str().unwrap();
    for mode in [Mode::Native, Mode::Generic] {
        let lab = Lab::up(&[]);
        let server = lab.server(CONFIG, &["--mode", mode.label()]);
        assert_eq!(server.status().interfaces[0].mode, Some(mode));
        for (address, family) in SERVERS {
            let wire = Wire::tap(&lab, "client", "lan0");
            let before = Tally::of_program(&server.status());
            let offset_s = ask(&lab, client, address);
            assert!(offset_s.abs() < LARGEST_OFFSET_S, "{offset_s} s off, over {address}, {mode:?}");

            let answers = wire.answers();
            assert!(!answers.is_empty() && answers.iter().all(|answer| answer.checksums), "{answers:#?}");
            let after = server.status();
            let all_by_the_program = Tally::of([(Verdict::Answered, family, 4, answers.len() as u64)]);
            assert_eq!(Tally::of_program(&after) - before, all_by_the_program);
            assert_eq!(Tally::of_sockets(&after), Tally::default());
        }
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn all_versions_are_answered_as_they_ask_whatever_their_vlan_tags() {
    const TAGS: [&[(u16, u16)]; 6] = [
        &[],
        &[(0x8100, 0)],
        &[(0x8100, 77)],
        &[(0x88a8, 4000)],
        &[(0x88a8, 4000), (0x8100, 77)],
        &[(0x8100, 5), (0x8100, 0)],
    ];
    for mode in [Mode::Native, Mode::Generic] {
        let lab = Lab::up(&[]);
        let mut ours = TAGS.to_vec();
        if let Err(refused) = add_vlans(&lab) {
            not_run(&format!("VLANs: {refused}"));
            ours.retain(|tags| tags.iter().all(|(_, id)| *id == 0));
        }
        let server = lab.server(CONFIG, &["--mode", mode.label()]);
        let wire = Wire::tap(&lab, "client", "lan0");
        let mut cookie = 0x0123_4567_89ab_cdef;
        for (source, destination) in [("10.77.0.2", "10.77.0.1"), ("fd77::2", "fd77::1")] {
            let [source, destination]: [IpAddr; 2] = [source.parse().unwrap(), destination.parse().unwrap()];
            for tags in ours.iter().copied() {
                for version in 1..=4 {
                    cookie += 1;
                    let payload = request(version, cookie);
                    let request =
                        Datagram { tags: tags.into(), ..Datagram::request(source, destination, &payload) };
                    let answer = wire.ask(&request, PATIENCE);
                    let answer = answer.unwrap_or_else(|| panic!("no answer, {mode:?}: {request:#?}"));
                    assert!(answer.checksums && is_answer(&answer.payload, version, cookie), "{answer:#?}");
                }
            }
        }
        let number = ours.len() as u64;
        let each =
            |version| Family::ALL.iter().map(move |family| (Verdict::Answered, *family, version, number));
        assert_eq!(Tally::of_program(&server.status()), Tally::of((1..=4).flat_map(each)));
    }
}

/// Puts the server into the VLANs of the test.
fn add_vlans(lab: &Lab) -> Result<(), String> {
    for (lower, name, tag) in [
        ("lan0", "lan0.77", "802.1Q id 77"),
        ("lan0", "lan0.5", "802.1Q id 5"),
        ("lan0", "outer", "802.1ad id 4000"),
        ("outer", "outer.77", "802.1Q id 77"),
    ] {
        let add = format!("ip link add link {lower} name {name} type vlan protocol {tag}");
        let added = lab.exec("server", &add.split(' ').collect::<Vec<_>>());
        if !added.status.success() {
            return Err("this kernel has no VLAN devices".into());
        }
        lab.ip("server", &format!("link set {name} up"));
    }
    Ok(())
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_client_behind_a_router_gets_the_time() {
    let lab = Lab::up(&["--router"]);
    let config = CONFIG.replace("\"lan0\"", "\"lan0\", \"lan2\"");
    let server = lab.server(&config, &[]);
    let query = ["query", "10.77.0.1", "10.79.0.1", "fd77::1", "fd79::1"];
    let Output { stdout, .. } = lab.pooltime("client2", &query);
    assert_eq!(stdout.matches("stratum 4").count(), 4, "{stdout}");
    let both = [(Verdict::Answered, Family::Ipv4, 4, 2), (Verdict::Answered, Family::Ipv6, 4, 2)];
    assert_eq!(Tally::of_program(&server.status()), Tally::of(both));
}
