//! What holds for whatever a client sends to the HTTP listener.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::time::Duration;

use control::error::{Code, Error};
use control::http::{Look, Site, converse};
use control::status::probes::LatestRound;
use control::status::traffic::Talker;
use control::status::{Clock, Maps, Status};
use responder::ClockState;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// The name that the configuration has.
const NAME: &str = "ntp.example.net";
/// The codes of this server's answers, and of those that the HTTP library gives to what is no request.
const CODES: [u16; 8] = [200, 400, 404, 405, 414, 421, 431, 503];
/// Longer than a connection may take with a client that does not wait.
const PATIENCE: Duration = Duration::from_secs(5);

/// A server that is well, or whose state cannot be read.
struct Server {
    is_well: bool,
}

impl Look for Server {
    fn status(&self) -> Pin<Box<dyn Future<Output = control::error::Result<Status>> + '_>> {
        let state =
            if self.is_well { Ok(status()) } else { Err(Error::new(Code::Os, "the maps cannot be read")) };
        Box::pin(std::future::ready(state))
    }

    fn sources(&self) -> Option<Vec<Talker>> {
        None
    }

    fn latest_rounds(&self) -> Vec<LatestRound> {
        Vec::new()
    }
}

/// Sends this on a connection and ends it: there is one answer at most, whole and of a known code, and status and metrics
/// go only to those who ask this server by a name of its own.
pub fn http(sent: &[u8]) {
    for is_well in [true, false] {
        let received = exchange(sent, Server { is_well });
        if !received.is_empty() {
            check(sent, &received);
        }
    }
}

fn exchange(sent: &[u8], server: Server) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let (mut client, stream) = tokio::io::duplex(1 << 20);
        let talk = async {
            // The server may have ended the connection already.
            let _ended = client.write_all(sent).await;
            let _ended = client.shutdown().await;
            let mut received = Vec::new();
            let _ended = client.read_to_end(&mut received).await;
            received
        };
        let site = Site::new(&[NAME.to_owned()], Box::new(server));
        let both = async { tokio::join!(talk, converse(stream, site)).0 };
        tokio::time::timeout(PATIENCE, both).await.expect("a connection that the client has ended ends")
    })
}

fn check(sent: &[u8], received: &[u8]) {
    let shown = || format!("{}\n{}", sent.escape_ascii(), received.escape_ascii());
    let end =
        received.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or_else(|| panic!("{}", shown()));
    let head = std::str::from_utf8(&received[..end]).unwrap_or_else(|_| panic!("{}", shown()));
    let body = &received[end + 4..];
    let code: u16 = head
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.get(2..5)?.parse().ok())
        .unwrap_or_else(|| panic!("{}", shown()));
    assert!(CODES.contains(&code), "{}", shown());
    let field = |name: &str| {
        let mut fields = head.split("\r\n").skip(1).filter_map(|line| line.split_once(": "));
        fields.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    };
    let length: usize = field("content-length")
        .and_then(|length| length.parse().ok())
        .unwrap_or_else(|| panic!("{}", shown()));
    // The answer to HEAD says how long the body would be.
    let is_head = body.is_empty() && sent.windows(4).any(|window| window == b"HEAD");
    assert!(body.len() == length || is_head, "{}", shown());
    if matches!(code, 200 | 404 | 405 | 421 | 503) {
        assert_eq!(field("cache-control"), Some("no-store"), "{}", shown());
        assert_eq!(field("x-content-type-options"), Some("nosniff"), "{}", shown());
    }
    if code == 200 {
        let known = named(sent).iter().all(|name| is_own(name));
        assert!(known, "status for a page of somebody else: {}", shown());
    }
}

/// The hosts that a request names, in its target and in its fields.
fn named(sent: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(sent);
    let mut lines = text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    let start = lines.by_ref().find(|line| !line.is_empty()).unwrap_or_default();
    let target = start.split(' ').nth(1).unwrap_or_default();
    let in_target =
        target.split_once("://").map(|(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or_default());
    let fields = lines.take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(':'));
    let hosts = fields.filter(|(name, _)| name.eq_ignore_ascii_case("host")).map(|(_, value)| value.trim());
    in_target.into_iter().chain(hosts).map(str::to_owned).collect()
}

/// Whether nobody but the operator can let the name lead here.
fn is_own(named: &str) -> bool {
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    if let Some((address, port)) = named.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address.parse::<Ipv6Addr>().is_ok()
            && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port));
    }
    let (host, port) = named.split_once(':').unwrap_or((named, ""));
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let is_name = [NAME, "localhost", &own.trim().to_ascii_lowercase()].contains(&host.as_str());
    is_port(port) && (is_name || host.parse::<Ipv4Addr>().is_ok())
}

fn status() -> Status {
    Status {
        version: "1.2.3".into(),
        revision: None,
        target: String::new(),
        daemon: None,
        clock: Clock::of(&ClockState::from_words([0; 8]), 0),
        upstreams: Vec::new(),
        interfaces: Vec::new(),
        addresses_without_room: Vec::new(),
        userspace_path: Vec::new(),
        userspace_counters: Vec::new(),
        limits: None,
        quota: None,
        http: Vec::new(),
        warnings: Vec::new(),
        probes: Vec::new(),
        maps: Maps::default(),
    }
}
