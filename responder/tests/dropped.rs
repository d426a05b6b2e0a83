//! What is dropped: sources that cannot be clients, control messages, lengths that lie, broken headers.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that panics says what it has to say"
)]

use std::net::{Ipv4Addr, Ipv6Addr};

use responder::limiter::SYMMETRIC;
use responder::{Action, Policy, Verdict};
use testinput::frames::{
    BROADCAST_IPV4, CLIENT_IPV4, CLIENT_MAC, Host, ORIGIN, Request, SERVER_IPV4, SERVER_IPV6, TAGS, message,
};

#[test]
fn a_request_from_an_ipv4_address_that_is_no_clients_is_dropped() {
    for source in [
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::new(0, 1, 2, 3),
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::new(127, 255, 255, 254),
        Ipv4Addr::new(224, 0, 1, 1),
        Ipv4Addr::new(239, 255, 255, 255),
        Ipv4Addr::new(240, 0, 0, 1),
        Ipv4Addr::BROADCAST,
        BROADCAST_IPV4,
        SERVER_IPV4,
    ] {
        let request = Request { source: source.into(), ..Request::ipv4() };
        Host::new().assert_unanswered(&request.build(), Verdict::DropSource);
    }
}

#[test]
fn a_request_from_an_ipv6_address_that_is_no_clients_is_dropped() {
    for source in [
        Ipv6Addr::UNSPECIFIED,
        Ipv6Addr::LOCALHOST,
        CLIENT_IPV4.to_ipv6_mapped(),
        CLIENT_IPV4.to_ipv6_mapped().to_bits().wrapping_sub(0xffff << 32).into(),
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
        Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 0x101),
        SERVER_IPV6,
    ] {
        let request = Request { source: source.into(), ..Request::ipv6() };
        Host::new().assert_unanswered(&request.build(), Verdict::DropSource);
    }
}

#[test]
fn the_neighbours_of_implausible_addresses_are_clients() {
    for source in [[1, 0, 0, 0], [126, 255, 255, 255], [128, 0, 0, 1], [223, 255, 255, 255], [10, 0, 0, 1]] {
        Host::new().answer(&Request { source: Ipv4Addr::from(source).into(), ..Request::ipv4() });
    }
    for source in [
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1),
        Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0xc633, 0x6407),
        Ipv6Addr::from_bits(SERVER_IPV6.to_bits() ^ 1),
        Ipv6Addr::from_bits(SERVER_IPV6.to_bits() ^ 1 << 64),
    ] {
        Host::new().answer(&Request { source: source.into(), ..Request::ipv6() });
    }
}

#[test]
fn a_frame_from_a_group_of_stations_is_dropped() {
    for request in Request::of_both_families() {
        for source_mac in [[0xff; 6], [0x01, 0, 0x5e, 0, 1, 1], [CLIENT_MAC[0] | 1, 0, 0, 0, 0, 1]] {
            let request = Request { source_mac, ..request.clone() };
            Host::new().assert_unanswered(&request.build(), Verdict::DropSource);
        }
    }
}

#[test]
fn control_and_private_messages_are_dropped_whatever_their_length() {
    for request in Request::of_both_families() {
        for version in 0..=7 {
            for mode in [6, 7] {
                for length in [1, 8, 12, 47, 48, 49, 192, 480] {
                    let mut payload = message(version, mode, ORIGIN).to_vec();
                    payload.resize(length, 0);
                    let frame = Request { payload, ..request.clone() }.build();
                    Host::new().assert_unanswered(&frame, Verdict::DropControl);
                    assert_eq!(Host::new().respond(&mut frame.clone()).version, version);
                }
            }
        }
    }
}

#[test]
fn a_message_of_less_than_48_bytes_is_dropped() {
    for request in Request::of_both_families() {
        for length in 0..48 {
            let payload = message(4, 3, ORIGIN)[..length].to_vec();
            // Padded to the shortest frame that Ethernet has, and to one that has room for a message.
            for padding in [0, 18, 60] {
                let request =
                    Request { payload: payload.clone(), padding: vec![0; padding], ..request.clone() };
                Host::new().assert_unanswered(&request.build(), Verdict::DropLength);
            }
        }
    }
}

#[test]
fn a_message_that_is_no_whole_number_of_words_is_dropped() {
    for request in Request::of_both_families() {
        for length in (49..120).filter(|length| length % 4 != 0) {
            let mut payload = message(4, 3, ORIGIN).to_vec();
            payload.resize(length, 0x11);
            let request = Request { payload, ..request.clone() };
            Host::new().assert_unanswered(&request.build(), Verdict::DropLength);
        }
    }
}

#[test]
fn an_ip_length_beyond_the_frame_is_dropped() {
    for request in Request::of_both_families() {
        let right = if request.source.is_ipv4() { 76 } else { 56 };
        for excess in [1, 4, 100, 65_535 - 76] {
            let request = Request { ip_length: Some(right + excess), ..request.clone() };
            Host::new().assert_unanswered(&request.build(), Verdict::DropLength);
        }
    }
}

#[test]
fn an_ip_length_that_ends_before_the_datagram_is_dropped() {
    for request in Request::of_both_families() {
        let right = if request.source.is_ipv4() { 76 } else { 56 };
        for ip_length in 0..right {
            let request = Request { ip_length: Some(ip_length), ..request.clone() };
            Host::new().assert_unanswered(&request.build(), Verdict::DropLength);
        }
    }
}

#[test]
fn a_udp_length_beyond_the_packet_is_dropped() {
    for request in Request::of_both_families() {
        for udp_length in [57, 60, 64, 1000, 65_535] {
            // Not even if the frame has the bytes: they are padding.
            for padding in [0, 8, 1000] {
                let request =
                    Request { udp_length: Some(udp_length), padding: vec![0; padding], ..request.clone() };
                Host::new().assert_unanswered(&request.build(), Verdict::DropLength);
            }
        }
    }
}

#[test]
fn a_udp_length_without_a_message_is_dropped() {
    for request in Request::of_both_families() {
        for udp_length in 0..56 {
            let request = Request { udp_length: Some(udp_length), ..request.clone() };
            Host::new().assert_unanswered(&request.build(), Verdict::DropLength);
        }
    }
}

#[test]
fn a_wrong_ipv4_header_checksum_is_dropped() {
    for tags in TAGS {
        let request = Request { tags: tags.to_vec(), ..Request::ipv4() };
        let offset = request.ip_offset() + 10;
        for bit in 0..16 {
            let mut frame = request.build();
            frame[offset + bit / 8] ^= 1 << (bit % 8);
            Host::new().assert_unanswered(&frame, Verdict::DropChecksum);
        }
    }
}

#[test]
fn over_ipv6_there_must_be_a_checksum_and_over_ipv4_there_need_not() {
    for tags in TAGS {
        let tags = tags.to_vec();
        for payload in [message(4, 3, ORIGIN), message(1, 0, ORIGIN)] {
            let without = |request| Request {
                udp_checksum: Some(0),
                tags: tags.clone(),
                payload: payload.to_vec(),
                ..request
            };
            Host::new().assert_unanswered(&without(Request::ipv6()).build(), Verdict::DropChecksum);
            Host::new().answer(&without(Request::ipv4()));
        }
    }
}

#[test]
fn there_is_no_port_0_to_answer_to() {
    let host = Host { policy: Policy { options: SYMMETRIC, ..Policy::OFF }, ..Host::new() };
    for request in Request::of_both_families() {
        for first in 0..=255 {
            let mut payload = request.payload.clone();
            payload[0] = first;
            let request = Request { source_port: 0, payload: payload.clone(), ..request.clone() };
            host.assert_unanswered(&request.build(), Verdict::DropSource);
            let from_socket = responder::message::Request::parse(&payload, 0, &host.policy);
            assert_eq!(from_socket, Err(Verdict::DropSource));
        }
    }
}

#[test]
fn a_bit_that_flipped_in_an_ipv4_header_is_never_answered() {
    let request = Request::ipv4();
    for bit in 0..160 {
        let mut frame = request.build();
        frame[request.ip_offset() + bit / 8] ^= 1 << (bit % 8);
        let sent = frame.clone();
        assert_ne!(Host::new().respond(&mut frame).verdict.action(), Action::Transmit, "bit {bit}");
        assert_eq!(frame, sent);
    }
}
