//! `pool why` through the real binary: probes as the pool's monitors send them, scores as the pool publishes them, and
//! what is said of both.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, SystemTime};

use serde_json::Value;
use testlab::wire::PORT;
use testlab::{Lab, Server, wait_for};

/// Denied by the configuration.
const DENIED: &str = "10.77.0.66";
const CONFIG: &str = "interfaces = [\"lan0\"]\n[clock]\nstratum = 4\nlocal_stratum = 4\n\
                      [access]\ndeny = [\"10.77.0.64/29\"]\n[metrics]\nlisten = [\"127.0.0.1:9200\"]\n";

/// A request as the pool's monitor sends it.
fn probe(number: u8) -> [u8; 48] {
    let mut request = [0; 48];
    (request[0], request[3]) = (4 << 3 | 3, 0x20);
    request[40..].copy_from_slice(&[0xa7, 1, 2, 3, 4, 5, 6, number]);
    request
}

/// Sends a round from an address of the host. Returns how many of its requests were answered.
fn send_round(lab: &Lab, host: &str, from: &str, to: &str) -> usize {
    let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
    lab.inside(host, || {
        let socket = UdpSocket::bind(SocketAddr::new(from, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let ask = |number: u8| {
            socket.send_to(&probe(number), SocketAddr::new(to, PORT)).unwrap();
            socket.recv(&mut [0; 256]).is_ok()
        };
        (1..=3).filter(|number| ask(*number)).count()
    })
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// A page on which one monitor has seen nothing, just now.
fn page_of_a_lost_check(address: &str) -> String {
    let now_s = unix_s() + 2;
    format!(
        r#"{{"history": [
            {{"ts": {now_s}, "offset": null, "step": -5, "score": 12.1, "monitor_id": 7}},
            {{"ts": {now_s}, "offset": null, "step": -5, "score": 12.1, "monitor_id": 24}}],
          "monitors": [
            {{"id": 7, "name": "amsterdam1", "type": "monitor", "score": 12.1, "status": "active"}},
            {{"id": 24, "name": "recentmedian", "type": "score", "score": 12.1, "status": "active"}}],
          "server": {{"ip": "{address}"}}}}"#
    )
}

/// The rounds that the server knows, by their sources.
fn rounds(server: &Server<'_>, arguments: &[&str]) -> Vec<(String, Vec<String>)> {
    let command = [&["pool", "why", "--json"], arguments].concat();
    let said: Value = serde_json::from_str(&server.command(&command).expect_success()).unwrap();
    let sources = said["rounds"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    sources
        .map(|source| {
            let rounds = source["rounds"].as_array().unwrap().iter().map(text).collect();
            (text(&source["source"]), rounds)
        })
        .collect()
}

/// Waits until the server knows of a round of three from a source.
fn wait_for_round(server: &Server<'_>, source: &str, fate: &str, page: &[&str]) {
    wait_for(&format!("a round of {source}"), || {
        let known = rounds(server, page);
        let (_, rounds) = known.iter().find(|(known, _)| known == source)?;
        (rounds.last()?.matches(&format!(" {fate}+")).count() == 3).then_some(())
    });
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn the_fate_of_probes_is_told_beside_the_published_scores() {
    let lab = Lab::up(&[]);
    lab.ip("client", &format!("address add {DENIED}/24 dev lan0"));
    let server = lab.server(CONFIG, &[]);
    // Of what was before the start nothing is said.
    wait_for("the daemon to be up for a while", || (server.status().daemon?.uptime_s > 8.0).then_some(()));

    // A list denies one monitor.
    assert_eq!(send_round(&lab, "client", DENIED, "10.77.0.1"), 0);
    let page = lab.file("ipv4.json", &page_of_a_lost_check("10.77.0.1"));
    let page = ["--scores", page.to_str().unwrap()];
    wait_for_round(&server, DENIED, "denied", &page);
    let said = server.command(&[&["pool", "why"][..], &page].concat()).expect_success();
    assert!(said.starts_with("10.77.0.1: score 12.1, in the pool\n"), "{said}");
    assert!(said.contains("1 of the monitors' checks brought less than a point, -5.0 in all:"), "{said}");
    let denied = format!("amsterdam1 ({DENIED}) -5.0: a list denies {DENIED} (entry 10.77.0.64/29)");
    assert!(said.contains(&denied), "{said}");

    // The answers to another one are lost on their way.
    assert_eq!(send_round(&lab, "client", "fd77::2", "fd77::1"), 3);
    let page = lab.file("ipv6.json", &page_of_a_lost_check("fd77::1"));
    let page = ["--scores", page.to_str().unwrap()];
    wait_for_round(&server, "fd77::/64", "answered", &page);
    let said = server.command(&[&["pool", "why", "fd77::1"][..], &page].concat()).expect_success();
    assert!(
        said.contains("amsterdam1 (fd77::/64) -5.0: answers were lost on the way out: 3 requests"),
        "{said}"
    );

    // Without the scores there is what happened here.
    let nobody = ["pool", "why", "--base", "http://127.0.0.1:9", "10.77.0.1"];
    let said = server.command(&nobody).expect_success();
    assert!(said.contains("the scores are not known: http://127.0.0.1:9/scores/10.77.0.1/"), "{said}");
    assert!(said.contains(&format!("{DENIED}: a list denies {DENIED} (entry 10.77.0.64/29)")), "{said}");

    // The sockets report as well.
    assert_eq!(send_round(&lab, "server", "127.0.0.1", "127.0.0.1"), 3);
    wait_for_round(&server, "127.0.0.1", "answered", &page);

    let metrics = lab.inside("server", || {
        let mut stream = TcpStream::connect("127.0.0.1:9200").unwrap();
        stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    });
    for line in [
        "pooltime_pool_probes_total{family=\"ipv4\",outcome=\"denied\"} 3",
        "pooltime_pool_probes_total{family=\"ipv6\",outcome=\"answered\"} 3",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{metrics}");
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_link_that_was_down_and_a_restart_are_told() {
    let lab = Lab::up(&[]);
    let mut server = lab.server(CONFIG, &[]);
    let spans = |server: &Server<'_>| {
        let said = server.command(&["pool", "why", "--json", "--base", "http://127.0.0.1:9", "10.77.0.1"]);
        let said: Value = serde_json::from_str(&said.expect_success()).unwrap();
        (said["course"]["spans"].clone(), said["known_since_unix_s"].as_f64().unwrap())
    };
    // The other end of the wire.
    lab.ip("client", "link set dev lan0 down");
    let (_, since_s) = wait_for("the link to be seen down", || {
        let (spans, since_s) = spans(&server);
        let is_down = |span: &Value| span["what"] == "link_down" && span["interface"] == "lan0";
        spans.as_array()?.iter().any(is_down).then_some((spans.clone(), since_s))
    });
    lab.ip("client", "link set dev lan0 up");
    server.kill_9();
    server.restart();
    let (_, later_s) = spans(&server);
    assert!(later_s > since_s);
    let said = server.command(&["pool", "why", "--base", "http://127.0.0.1:9", "10.77.0.1"]).expect_success();
    assert!(said.contains("UTC, when the daemon started: 0 rounds of probes over IPv4"), "{said}");
}
