//! Whatever is wrong with the listener or its clients, NTP is served.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use testlab::{Lab, Server, wait_for};

use crate::web::{get, try_request};
use crate::{CONFIG, LISTEN, LOCAL, ask};

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_port_in_use_is_named_and_ntp_is_served_all_the_same_unless_it_is_required() {
    let lab = Lab::up(&[]);
    let holder = lab.inside("server", || TcpListener::bind(LISTEN).unwrap());
    let config = format!("{CONFIG}{LOCAL}");
    {
        let server = lab.server(&config, &[]);
        ask(&lab, "10.77.0.1", 4, 3);
        let failure = server.status().http[0].failure.clone().unwrap();
        let named = format!("process {}", std::process::id());
        assert!(failure.contains(LISTEN) && failure.contains(&named), "{failure}");
        assert!(server.log().contains(&failure), "{}", server.log());
        let shown = server.command(&["status"]).expect_success();
        assert!(shown.contains(&failure), "{shown}");
        drop(holder);
        wait_for("another try", || server.status().http[0].failure.is_none().then_some(()));
        assert_eq!(get(&lab, "server", LISTEN, "/healthz", "").code, 200);
    }
    let _holder = lab.inside("server", || TcpListener::bind(LISTEN).unwrap());
    let required = lab.file("required.toml", &format!("{config}[metrics]\nrequired = true\n"));
    let refused = lab.pooltime("server", &["run", "--config", required.to_str().unwrap()]).expect_code(69);
    assert!(refused.contains(LISTEN) && refused.contains("listen = ["), "{refused}");
    assert!(!lab.exec("server", &["ip", "link", "show", "lan0"]).expect_success().contains("xdp"));
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn an_empty_list_listens_nowhere_and_others_are_listened_on() {
    let lab = Lab::up(&[]);
    {
        let server = lab.server(&format!("{CONFIG}{LOCAL}[metrics]\nlisten = []\n"), &[]);
        assert!(server.status().http.is_empty());
        let sockets = lab.exec("server", &["cat", "/proc/self/net/tcp"]).expect_success();
        assert_eq!(sockets.lines().count(), 1, "{sockets}");
    }
    let config = format!("{CONFIG}{LOCAL}[metrics]\nlisten = [\"10.77.0.1:80\", \"[fd77::1]:9200\"]\n");
    let server = lab.server(&config, &[]);
    for address in ["10.77.0.1:80", "[fd77::1]:9200"] {
        assert_eq!(get(&lab, "client", address, "/healthz", "").code, 200);
        assert_eq!(get(&lab, "client", address, "/nothing", "").code, 404);
    }
    lab.file("server.toml", &format!("{CONFIG}{LOCAL}"));
    server.signal(Signal::SIGHUP);
    wait_for("the reload", || server.log().contains("metrics.listen: the addresses stay").then_some(()));
    assert_eq!(get(&lab, "client", "10.77.0.1:80", "/healthz", "").code, 200);
    ask(&lab, "10.77.0.1", 4, 1);
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_name_that_is_not_the_server_s_reads_nothing() {
    let lab = Lab::up(&[]);
    let _server = lab.server(&format!("{CONFIG}{LOCAL}[metrics]\nhosts = [\"ntp1.example.net\"]\n"), &[]);
    let ask = |host: &str, path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        try_request(&lab, "server", LISTEN, &request).unwrap()
    };
    for path in ["/", "/metrics", "/status.json", "/history.json", "/healthz", "/nothing"] {
        let refused = ask("rebound.example:9200", path);
        assert_eq!(refused.code, 421, "{path}");
        assert!(
            refused.body.contains("`[metrics] hosts`") && !refused.body.contains("rebound"),
            "{refused:?}"
        );
    }
    for host in [LISTEN, "localhost:9200", "ntp1.example.net"] {
        assert_eq!(ask(host, "/healthz").code, 200, "{host}");
    }
    let old = try_request(&lab, "server", LISTEN, "GET /healthz HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(old.code, 200, "a check that names no host");
}

/// Far more than the listener takes at a time.
const CLIENTS: u64 = 1000;
const OUTSIDE: &str = "10.77.0.1:9200";

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn slow_half_open_and_oversized_clients_cost_little_and_hold_up_nothing() {
    let (limit, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, limit.max(2 * CLIENTS).min(most), most).unwrap();
    let lab = Lab::up(&[]);
    let server = lab.server(&format!("{CONFIG}{LOCAL}[metrics]\nlisten = [{OUTSIDE:?}]\n"), &[]);
    let before = server.status().daemon.unwrap();
    let mut worst = Worst::default();

    let mut slow = lab.inside("client", || {
        let connect = |number: u64| {
            let mut stream = TcpStream::connect(OUTSIDE).unwrap();
            // Every third says nothing at all. Who is closed already is not to be helped.
            if !number.is_multiple_of(3) {
                let _closed = stream.write_all(b"GET /metrics HTTP/1.1\r\nX-Slow: ");
            }
            stream
        };
        (0..CLIENTS).map(connect).collect::<Vec<_>>()
    });
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(7) {
        for stream in &mut slow {
            let _closed = stream.write(b"x");
        }
        worst.look(&server);
        ask(&lab, "10.77.0.1", 4, 50);
        assert_eq!(get(&lab, "client", OUTSIDE, "/healthz", "").code, 200);
    }
    let open = slow.iter().filter(|stream| is_open(stream)).count();
    println!(
        "after 7 s {open} of {CLIENTS} slow clients are still connected; at worst {worst:?}, before {before:?}"
    );
    assert_eq!(open, 0, "whoever takes longer than 5 s for a head is sent away");
    assert!(worst.descriptors <= before.descriptors + 80, "{worst:?}");
    assert!(worst.resident_bytes < before.resident_bytes + (16 << 20), "{worst:?}");
    // It is published four times a second.
    assert!(worst.age_s < 1.0, "{worst:?}");

    let too_large = [
        format!("X-Long: {}\r\n", "x".repeat(100_000)),
        "X: y\r\n".repeat(1000),
        "Content-Length: 9e99\r\n".into(),
    ];
    for fields in too_large {
        let request = format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        // What is not read to its end may be answered by a reset.
        if let Ok(answer) = try_request(&lab, "client", OUTSIDE, &request) {
            assert!([400, 431].contains(&answer.code), "{}", answer.head);
        }
    }
    for (request, code) in
        [("POST /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", 405), ("nonsense\r\n\r\n", 400)]
    {
        assert_eq!(try_request(&lab, "client", OUTSIDE, request).unwrap().code, code);
    }
    assert_eq!(get(&lab, "client", OUTSIDE, "/healthz", "").code, 200);
}

/// The worst that was seen.
#[derive(Debug, Default)]
struct Worst {
    descriptors: u64,
    resident_bytes: u64,
    age_s: f64,
}

impl Worst {
    fn look(&mut self, server: &Server<'_>) {
        let status = server.status();
        let daemon = status.daemon.unwrap();
        self.descriptors = self.descriptors.max(daemon.descriptors);
        self.resident_bytes = self.resident_bytes.max(daemon.resident_bytes);
        self.age_s = self.age_s.max(status.clock.age_s);
    }
}

fn is_open(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    // An answer to a request that came too slowly may be there before the end.
    match stream.read_to_end(&mut Vec::new()) {
        Ok(_) => false,
        Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
    }
}
