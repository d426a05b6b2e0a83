//! Assertions that hold for every input to the daemon's parsers. Fuzz targets and tests over random inputs make them.

mod http;

use std::collections::BTreeSet;

use control::config::{self, ClockConfig, Config};
use control::daemon::protocol::Request;
use control::discipline::{Leap, LeapList};
use control::net::prefix::Prefix;
use control::serving::mode6;
use control::status::sources::{Peer, Peers, System, Tally};
use control::sys::Adjtimex;
use control::sys::kernel_clock::CrossTimestamp;
use control::timekeeping::drift;
use control::timekeeping::keeper::{Claim, chronyd, timesyncd};
use control::timekeeping::system_clock::SystemClock;
use control::tools::{import, pool};
use protocol::{Answer, Era, PendingRequest, Strictness, Times};
use responder::NtpTimestamp;

pub use http::http;

/// The longest fragment in bytes: a header and 468 bytes of data.
const FRAGMENT: usize = 480;
/// All variables of all associations of [`upstreams`] fit in this many fragments.
const MOST_FRAGMENTS: usize = 8;

/// Answers a control message and checks the answer: only requests of mode 6 are answered, each fragment belongs to
/// its request, and no fragment is a request itself that another server would answer.
pub fn control_message(datagram: &[u8]) {
    let peers = upstreams();
    let fragments = mode6::answer(datagram, &peers, NtpTimestamp(1 << 63));
    if fragments.is_empty() {
        return;
    }
    assert!(datagram.len() >= 12 && datagram[0] & 7 == 6 && datagram[1] & 0xe0 == 0, "{datagram:x?}");
    assert!(fragments.len() <= MOST_FRAGMENTS, "{datagram:x?}");
    let mut offset = 0;
    for (number, fragment) in fragments.iter().enumerate() {
        let word = |at: usize| usize::from(u16::from_be_bytes([fragment[at], fragment[at + 1]]));
        let last = number + 1 == fragments.len();
        assert!(fragment.len() <= FRAGMENT && fragment.len() == 12 + word(10).next_multiple_of(4));
        assert_eq!(fragment[1] & !0x40, 0x80 | if last { 0 } else { 0x20 } | datagram[1]);
        assert_eq!((&fragment[2..4], &fragment[6..8]), (&datagram[2..4], &datagram[6..8]));
        assert_eq!(word(8), offset);
        offset += word(10);
        assert!(mode6::answer(fragment, &peers, NtpTimestamp(1 << 63)).is_empty());
    }
}

/// Three upstreams: one that answers, a silent one, and one whose name and reference need every kind of escaping.
pub fn upstreams() -> Peers {
    let good = Peer {
        association: 1,
        tally: Tally::SystemPeer,
        name: "ntp1.example.net".into(),
        address: Some("2001:db8::1".into()),
        answers: 1,
        when_s: Some(1e300),
        offset_s: Some(f64::NAN),
        delay_s: Some(f64::INFINITY),
        ..Peer::default()
    };
    let bad = Peer { association: 0xffff, name: "\",\r\n=\u{1f4a3}".repeat(99), ..good.clone() };
    let silent = Peer { association: 2, name: "192.0.2.1".into(), ..Peer::default() };
    let system = System { synchronised: true, system_peer: Some(1), ..System::default() };
    Peers { system, peers: vec![good, silent, bad] }
}

/// Parses a drift file and checks that an accepted one describes an oscillator that can exist.
pub fn drift(text: &str) {
    match drift::parse(text) {
        Ok(drift) => {
            assert!(
                drift.frequency.abs() <= 0.000_501 && (0.0..=0.000_501).contains(&drift.skew),
                "{drift:?}"
            );
            assert!(drift.wander.is_none_or(|wander| wander > 0.0 && wander < 1e-4), "{drift:?}");
        }
        Err(error) => assert!(!error.what.is_empty()),
    }
}

/// Parses a configuration, in one file and cut into two, and checks that an error is a single line of bounded length,
/// and that what is shown of an accepted one means the same.
pub fn configuration(text: &str) {
    let (first, second) = text.split_once("\n# cut\n").unwrap_or((text, ""));
    for parsed in [Config::parse(text), Config::parse_all(&[first, second])] {
        match parsed {
            Ok(config) => {
                let shown = config::Shown::of(&config).unwrap().to_toml();
                assert_eq!(Config::parse(&shown), Ok(config), "{shown}");
            }
            Err(error) => {
                assert!(!error.what.is_empty() && error.what.len() < 1000 + 2 * text.len(), "{}", error.what);
                assert!(!error.what.contains('\n'), "{}", error.what);
            }
        }
    }
}

/// Converts a configuration of another daemon, whosever it is: what comes out is a configuration of this server.
pub fn import(text: &str) {
    let Some(both) = import::converted(text) else { return };
    for converted in both {
        let config = Config::parse(&converted).unwrap_or_else(|error| panic!("{}\n{converted}", error.what));
        config.entries().unwrap_or_else(|error| panic!("{}\n{converted}", error.error.what));
    }
}

/// Reads an access list: no more entries than lines, each of which is the same when it is read again, or an error in a
/// single line.
pub fn access_list(text: &str) {
    match config::parse_list(text) {
        Ok(entries) => {
            assert!(entries.len() <= text.lines().count());
            for prefix in entries.keys() {
                assert_eq!(prefix.to_string().parse::<Prefix>().ok(), Some(*prefix));
            }
        }
        Err(error) => {
            assert!(
                !error.error.what.is_empty() && !error.error.what.contains(['\n', '\u{1b}']),
                "{}",
                error.error.what
            );
        }
    }
}

/// Reads a list of leap seconds, and asks it of a time: what it says of TAI-UTC changes by one second at a leap second.
pub fn leap_list(text: &str, unix_s: i64) {
    match LeapList::parse(text) {
        Ok(list) => {
            for leap in [Leap::None, Leap::Insert, Leap::Delete] {
                let _known = list.denies(leap, unix_s);
            }
            let at = |unix_s: i64| list.tai_utc_s(unix_s);
            if let (Some(now), Some(next)) = (at(unix_s), at(unix_s.saturating_add(1))) {
                let changes = text.lines().count();
                assert!(now.abs_diff(next) <= changes as u64, "{now} {next}");
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Reads the page of scores that the pool publishes.
pub fn score_page(text: &str) {
    if let Err(error) = pool::published_score(text) {
        assert!(!error.what.is_empty());
    }
    if let Ok(words) = pool::why::explain(text) {
        assert!(words.contains("known here since"), "{words}");
    }
}

/// Reads a command for the daemon: one that is accepted is the same when it is written and read again.
pub fn command(line: &str) {
    if let Ok(request) = Request::parse(line) {
        let written = serde_json::to_string(&request).expect("it is data");
        assert_eq!(Request::parse(&written).ok(), Some(request));
    }
}

/// Parses an answer that arrives `elapsed_ns` after a request of `sent_ns`. It checks that an accepted answer repeats
/// the nonce of the request, and that delay, dispersion and root distance are finite and not negative.
pub fn upstream_answer(packet: &[u8], nonce: [u8; 8], sent_ns: i64, elapsed_ns: u32) {
    let Ok(answer) = PendingRequest::new(nonce).read(packet, Strictness::CLIENT) else {
        return;
    };
    assert!(packet.len() == 48 && packet[0] & 7 == 4 && packet[24..32] == nonce, "{packet:x?}");
    match answer {
        Answer::Kiss(kiss) => {
            assert_eq!(packet[1], 0);
            assert!((1..=4).contains(&kiss.code().len()), "{kiss:?}");
        }
        Answer::Time(time) => {
            let usable = time.usable(1.5, &BTreeSet::new()).is_ok();
            assert!(!usable || (packet[0] >> 6 != 3 && (1..=15).contains(&packet[1])), "{packet:x?}");
            let received_ns = sent_ns.saturating_add(elapsed_ns.into());
            let times = Times { sent_ns, received_ns, error_s: 1e-6 };
            for era in [Era::From2020, Era::NearOurs] {
                let Ok(measured) = time.measure(&times, era) else { continue };
                let parts = [measured.delay_s(), measured.dispersion_s, time.root_distance_s()];
                assert!(parts.iter().all(|part| part.is_finite() && *part >= 0.0), "{measured:?}");
            }
        }
    }
}

/// Reads a reply of chronyd to a request with this sequence number: what is believed belongs to the request, and what
/// it claims can be reckoned with.
pub fn chronyd_reply(packet: &[u8], sequence: u32) {
    let Ok(tracking) = chronyd::read(packet, sequence) else {
        return;
    };
    assert!(packet.len() >= chronyd::LENGTH && packet[..2] == [6, 2], "{packet:x?}");
    assert_eq!(packet[16..20], sequence.to_be_bytes());
    let claim = tracking.claim(&READING);
    assert!(claim.leap <= 3 && claim.growth_ppb >= 15_000, "{claim:?}");
    assert!(!claim.synchronised || (claim.leap < 3 && matches!(claim.stratum, Some(1..=15))), "{claim:?}");
    assert_serves(&claim);
}

/// Reads what busctl prints of systemd-timesyncd: what it claims can be reckoned with.
pub fn timesyncd_properties(text: &str) {
    let Some(properties) = timesyncd::parse(text) else {
        return;
    };
    if let Some(claim) = properties.claim(&KERNEL, &READING, None) {
        assert!((15_000..=500_000).contains(&claim.growth_ppb), "{claim:?}");
        assert!(claim.since_ns <= READING.monotonic_after_ns, "{claim:?}");
        assert_serves(&claim);
        properties.claim(&KERNEL, &READING, Some(&claim)).unwrap();
    }
}

const KERNEL: Adjtimex = Adjtimex {
    state: 0,
    status: 0,
    max_error_us: 1000,
    estimated_error_us: 100,
    offset_ns: i64::MIN,
    time_constant: 2,
    frequency_scaled_ppm: 0,
    tick_us: 10_000,
    tai_offset_s: 37,
};
const READING: CrossTimestamp = CrossTimestamp {
    monotonic_before_ns: 1 << 41,
    realtime_ns: 1_790_000_000_000_000_000,
    monotonic_after_ns: 1 << 41,
};

/// Whatever is claimed, an answer that is synchronised keeps to the limit of the error.
fn assert_serves(claim: &Claim) {
    let config = ClockConfig::default();
    let observed = SystemClock::new(-24).observe(&READING, &KERNEL, Some(claim), &config);
    let bound = u64::from(observed.state.root_delay.0 / 2) + u64::from(observed.state.root_dispersion.0);
    // Two units of 15 us for what is rounded up.
    assert!(
        observed.unsynchronised.is_some() || bound <= config.max_error_ms * 65_536 / 1000 + 2,
        "{claim:?}"
    );
}
