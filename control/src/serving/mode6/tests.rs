//! What `ntpq` is told, byte by byte.

use super::*;
use crate::status::sources::{System, Tally};

const HOST_TIME: NtpTimestamp = NtpTimestamp(0xee00_0000_8000_0000);

fn peers() -> Peers {
    let selected = Peer {
        association: 7,
        tally: Tally::SystemPeer,
        name: "ntp1.example.net".into(),
        address: Some("192.0.2.1".into()),
        port: 123,
        reference: "GPS".into(),
        stratum: 1,
        when_s: Some(16.0),
        poll_log2: 6,
        its_poll_log2: 6,
        reach: 0o377,
        delay_s: Some(0.012_345_678),
        offset_s: Some(-0.000_25),
        jitter_s: Some(0.000_1),
        answers: 9,
        ..Peer::default()
    };
    let silent = Peer { association: 8, name: "192.0.2.2".into(), stratum: 16, ..Peer::default() };
    let system = System {
        synchronised: true,
        leap: 1,
        stratum: 2,
        precision: -24,
        root_delay_s: 0.002,
        reference: "192.0.2.1".into(),
        reference_id: 0xc000_0201,
        system_peer: Some(7),
        ..System::default()
    };
    Peers { system, peers: vec![selected, silent] }
}

fn request(opcode: u8, association: u16, data: &str) -> Vec<u8> {
    let count = u16::try_from(data.len()).unwrap();
    let mut message = vec![0x16, opcode, 0xab, 0xcd, 0, 0];
    for word in [association, 0, count] {
        message.extend(word.to_be_bytes());
    }
    message.extend(data.as_bytes());
    message.resize(message.len().next_multiple_of(4), 0);
    message
}

/// Puts an answer's fragments together, as a client does: the status word, and the data.
fn whole(fragments: &[Vec<u8>], opcode: u8, association: u16) -> (u16, Vec<u8>) {
    let word = |message: &[u8], at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    let (mut status, mut data) = (0, Vec::new());
    for (number, message) in fragments.iter().enumerate() {
        let last = number + 1 == fragments.len();
        assert_eq!(message[0], 0x16);
        assert_eq!(message[1], 0x80 | if last { 0 } else { 0x20 } | opcode, "{message:x?}");
        assert_eq!((word(message, 2), word(message, 6)), (0xabcd, association));
        assert_eq!(usize::from(word(message, 8)), data.len());
        let count = usize::from(word(message, 10));
        assert!(message.len() <= 480 && message.len() == 12 + count.next_multiple_of(4));
        assert!(last || count == 468);
        status = word(message, 4);
        data.extend(&message[12..12 + count]);
    }
    (status, data)
}

fn read_variables(association: u16, names: &str) -> (u16, String) {
    let fragments = answer(&request(2, association, names), &peers(), HOST_TIME);
    let (status, data) = whole(&fragments, 2, association);
    (status, String::from_utf8(data).unwrap())
}

fn refusal(datagram: &[u8]) -> u8 {
    let answers = answer(datagram, &peers(), HOST_TIME);
    let [message] = &answers[..] else { panic!("{answers:x?}") };
    assert_eq!((message.len(), message[1] & 0xe0), (12, 0xc0), "{message:x?}");
    assert_eq!(message[2..4], datagram[2..4]);
    message[4]
}

#[test]
fn the_associations_are_told_with_their_status_words() {
    let (status, data) = whole(&answer(&request(1, 0, ""), &peers(), HOST_TIME), 1, 0);
    // Leap 1, source NTP; configured, reachable, system peer; configured, rejected.
    assert_eq!(status, 0x4600);
    assert_eq!(data, [0, 7, 0x96, 0, 0, 8, 0x80, 0]);
}

#[test]
fn a_system_without_upstreams_has_no_associations() {
    let alone = Peers { peers: Vec::new(), ..peers() };
    assert_eq!(whole(&answer(&request(1, 0, ""), &alone, HOST_TIME), 1, 0), (0x4600, Vec::new()));
}

#[test]
fn tallies_are_the_selection_codes_that_ntpq_marks() {
    for (tally, mark) in [
        (Tally::Reject, ' '),
        (Tally::Falseticker, 'x'),
        (Tally::Candidate, '+'),
        (Tally::Backup, '#'),
        (Tally::SystemPeer, '*'),
    ] {
        let code = peer_status(&Peer { tally, ..Peer::default() }) >> 8 & 7;
        assert_eq!(" x.-+#*o".chars().nth(code.into()), Some(mark), "{tally:?}");
    }
}

#[test]
fn all_variables_are_told_if_none_is_named() {
    let (status, text) = read_variables(7, "");
    assert_eq!(status, 0x9600);
    for variable in [
        "srcadr=192.0.2.1",
        "srchost=\"ntp1.example.net\"",
        "refid=\"GPS\"",
        "stratum=1",
        "reach=0xff",
        "hpoll=6",
        "hmode=3",
        "rec=0xedfffff0.80000000",
        "delay=12.345678",
        "offset=-0.250000",
    ] {
        assert!(text.split(['\r', '\n', ' ', ',']).any(|item| item == variable), "{variable}: {text}");
    }
    assert!(text.lines().all(|line| line.len() <= 73) && text.ends_with("\r\n"), "{text}");
}

#[test]
fn variables_are_told_by_name_each_once() {
    assert_eq!(read_variables(0, "stratum, leap,stratum"), (0x4600, "stratum=2, leap=1\r\n".into()));
    assert_eq!(read_variables(7, "reach=9\0"), (0x9600, "reach=0xff\r\n".into()));
}

#[test]
fn an_unsynchronised_system_says_so() {
    let unsynchronised = Peers { system: System::default(), peers: Vec::new() };
    let fragments = answer(&request(2, 0, "leap,stratum,refid"), &unsynchronised, HOST_TIME);
    let (status, data) = whole(&fragments, 2, 0);
    assert_eq!((status, &data[..]), (0xc000, &b"leap=3, stratum=16, refid=\"INIT\"\r\n"[..]));
}

#[test]
fn long_answers_come_in_fragments() {
    let many = (1..=300).map(|association| Peer { association, ..Peer::default() });
    let many = Peers { peers: many.collect(), ..Peers::default() };
    let fragments = answer(&request(1, 0, ""), &many, HOST_TIME);
    assert_eq!(fragments.len(), 3);
    assert_eq!(whole(&fragments, 1, 0).1.len(), 1200);
}

#[test]
fn what_cannot_be_answered_is_refused_by_its_code() {
    assert_eq!(refusal(&request(1, 9, "")), 4, "association");
    assert_eq!(refusal(&request(2, 9, "")), 4, "association");
    assert_eq!(refusal(&request(2, 0, "stratum,qqq")), 5, "variable");
    // Writing, configuration, list of clients, nonces.
    for opcode in [0, 3, 4, 5, 8, 10, 12, 31] {
        assert_eq!(refusal(&request(opcode, 0, "")), 3, "opcode {opcode}");
    }
    let mut lies = request(2, 0, "leap");
    lies[11] = 5;
    assert_eq!(refusal(&lies), 2, "count");
    let mut later = request(2, 0, "leap");
    later[9] = 4;
    assert_eq!(refusal(&later), 2, "offset");
    assert_eq!(refusal(&[&request(2, 0, "")[..11], &[4, 0xff, 0xff, 0xff, 0xff]].concat()), 2, "text");
}

#[test]
fn answers_and_other_modes_are_never_answered() {
    let good = request(1, 0, "");
    let silent = |message: &[u8]| assert!(answer(message, &peers(), HOST_TIME).is_empty(), "{message:x?}");
    for length in 0..good.len() {
        silent(&good[..length]);
    }
    for flags in [0x80, 0x40, 0x20, 0xe0] {
        silent(&[&[good[0], flags | 1], &good[2..]].concat());
    }
    for first in [0x06, 0x2e, 0x13, 0x17, 0x24] {
        silent(&[&[first], &good[1..]].concat());
    }
    for message in answer(&good, &peers(), HOST_TIME) {
        silent(&message);
    }
}

#[test]
fn an_upstream_s_reference_cannot_make_up_variables() {
    let mut peers = peers();
    peers.peers[0].reference = "a\",\u{7}".into();
    let fragments = answer(&request(2, 7, "refid"), &peers, HOST_TIME);
    assert_eq!(whole(&fragments, 2, 7).1, b"refid=\"a?,?\"\r\n");
}
