//! The frame of an answer: whom it goes to, and that every layer of it is right.
#![allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "a test that panics says what it has to say"
)]

use etherparse::{IpNumber, PacketBuilder};
use responder::{ClockState, Family, Verdict};
use testinput::frames::{
    Answer, CLIENT_IPV4, CLIENT_MAC, CLIENT_PORT, FIRST_VLAN, Host, NTP_PORT, ORIGIN, Request, SERVER_IPV4,
    SERVER_MAC, TAGS, clock, message,
};

#[test]
fn versions_1_to_4_are_answered_in_both_families_with_up_to_two_tags() {
    for request in Request::of_both_families() {
        for tags in TAGS {
            for version in 1..=4 {
                let payload = message(version, 3, ORIGIN).to_vec();
                let request = Request { tags: tags.to_vec(), payload, ..request.clone() };
                let answer = Host::new().answer(&request).message;
                assert_eq!((answer.version, answer.mode), (version, 4));
            }
        }
    }
}

#[test]
fn a_request_of_version_1_with_mode_0_is_answered() {
    for request in Request::of_both_families() {
        let request = Request { payload: message(1, 0, ORIGIN).to_vec(), ..request };
        let answer = Host::new().answer(&request).message;
        assert_eq!((answer.version, answer.mode), (1, 4));
    }
}

#[test]
fn a_client_may_send_from_port_123() {
    for request in Request::of_both_families() {
        let answer = Host::new().answer(&Request { source_port: NTP_PORT, ..request });
        assert_eq!((answer.source_port, answer.destination_port), (NTP_PORT, NTP_PORT));
    }
}

#[test]
fn the_answer_goes_back_to_where_the_request_came_from() {
    for request in Request::of_both_families() {
        let answer = Host::new().answer(&request);
        assert_eq!((answer.destination_mac, answer.source_mac), (CLIENT_MAC, SERVER_MAC));
        assert_eq!((answer.destination, answer.source), (request.source, request.destination));
        assert_eq!((answer.destination_port, answer.source_port), (CLIENT_PORT, NTP_PORT));
    }
}

#[test]
fn an_answer_stays_in_its_vlan() {
    for request in Request::of_both_families() {
        for tags in TAGS {
            let request = Request { tags: tags.to_vec(), ..request.clone() };
            let mut frame = request.build();
            let sent = frame.clone();
            Host::new().respond(&mut frame);
            // Identifiers, priorities and ethertypes, all as they were.
            assert_eq!(frame[12..request.ip_offset()], sent[12..request.ip_offset()]);
            let vlans: Vec<u16> = (FIRST_VLAN..).take(tags.len()).collect();
            assert_eq!(Answer::take_apart(&frame).vlans, vlans);
        }
    }
}

#[test]
fn the_answer_has_a_fresh_hop_limit() {
    for request in Request::of_both_families() {
        for hop_limit in [0, 1, 255] {
            assert_eq!(Host::new().answer(&Request { hop_limit, ..request.clone() }).hop_limit, 64);
        }
    }
}

#[test]
fn an_answer_is_counted_by_family_and_version() {
    for (request, family) in Request::of_both_families().into_iter().zip([Family::Ipv4, Family::Ipv6]) {
        for version in 1..=4 {
            let request = Request { payload: message(version, 3, ORIGIN).to_vec(), ..request.clone() };
            let outcome = Host::new().respond(&mut request.build());
            assert_eq!(
                (outcome.verdict, outcome.family, outcome.version),
                (Verdict::Answered, family, version)
            );
        }
    }
}

#[test]
fn whatever_checksum_the_request_has_the_answers_is_right() {
    for request in Request::of_both_families() {
        // A request of a socket on the same machine has one that the hardware was to finish, or none.
        let none = if request.source.is_ipv4() { &[0][..] } else { &[] };
        for checksum in [none, &[1, 0x1234, 0x8000, 0xfffe, 0xffff]].concat() {
            Host::new().answer(&Request { udp_checksum: Some(checksum), ..request.clone() });
        }
    }
}

#[test]
fn an_answers_checksum_is_never_zero() {
    // Finer than the timestamps: no noise, so that 2^16 origins give 2^16 sums, and one of them zero.
    let clock = Some(ClockState { precision: -32, ..clock() });
    let host = Host { clock, ..Host::new() };
    for request in Request::of_both_families() {
        let mut saved_from_zero = 0;
        for origin in 0..=0xffff {
            let request = Request { payload: message(4, 3, origin).to_vec(), ..request.clone() };
            let mut frame = request.build();
            host.respond(&mut frame);
            Answer::take_apart(&frame);
            let offset = request.udp_offset() + 6;
            saved_from_zero += u32::from(frame[offset..offset + 2] == [0xff, 0xff]);
        }
        assert!(saved_from_zero > 0);
    }
}

#[test]
fn padding_behind_the_packet_is_left_alone() {
    for request in Request::of_both_families() {
        for length in [1, 2, 3, 4, 18, 100] {
            let padding: Vec<u8> = (1..=length).collect();
            let request = Request { padding: padding.clone(), ..request.clone() };
            Host::new().answer(&request);
            let mut frame = request.build();
            Host::new().respond(&mut frame);
            assert!(frame.ends_with(&padding));
        }
    }
}

#[test]
fn the_answer_says_nothing_of_the_requests_ip_header() {
    let plain = Host::new().answer(&Request::ipv4());
    let mut frame = Request::ipv4().build();
    // Service class, identification and "don't fragment", with the checksum made right again.
    frame[15] = 0xff;
    frame[18..22].copy_from_slice(&[0xab, 0xcd, 0x40, 0]);
    let (header, _) = etherparse::Ipv4Header::from_slice(&frame[14..]).expect("a header");
    frame[24..26].copy_from_slice(&header.calc_header_checksum().to_be_bytes());
    Host::new().respond(&mut frame);
    assert_eq!(Answer::take_apart(&frame), plain);
}

#[test]
fn a_request_of_another_builder_is_answered() {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, SERVER_MAC)
        .double_vlan(FIRST_VLAN.try_into().expect("12 bits"), (FIRST_VLAN + 1).try_into().expect("12 bits"))
        .ipv4(CLIENT_IPV4.octets(), SERVER_IPV4.octets(), 3)
        .udp(CLIENT_PORT, NTP_PORT)
        .write(&mut frame, &message(3, 3, ORIGIN))
        .expect("a vector takes everything");
    assert_eq!(Host::new().respond(&mut frame).verdict, Verdict::Answered);
    let answer = Answer::take_apart(&frame);
    assert_eq!((answer.vlans, answer.message.origin), (vec![FIRST_VLAN, FIRST_VLAN + 1], ORIGIN));
    assert_eq!(frame[14 + 8 + 9], IpNumber::UDP.0);
}
