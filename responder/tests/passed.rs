//! What is not answered here but passed on: other traffic, other hosts' requests, and what the socket answers.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a test that panics says what it has to say"
)]

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{
    ArpEthIpv4Packet, ArpOperation, IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header,
    Ipv6Extensions, Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader, PacketBuilder,
};
use responder::{Outcome, Verdict};
use testinput::frames::{
    BROADCAST_IPV4, CLIENT_IPV4, CLIENT_IPV6, CLIENT_MAC, CLIENT_PORT, Host, NTP_PORT, ORIGIN, Request,
    SERVER_IPV4, SERVER_IPV6, SERVER_MAC, SERVICE_VLAN, TAGS, VLAN, message,
};

/// Asserts that the frame passes as something that is not NTP at all, which no counter counts.
#[track_caller]
fn assert_not_ntp(frame: &[u8]) {
    Host::new().assert_unanswered(frame, Verdict::NotNtp);
    assert_eq!(Host::new().respond(&mut frame.to_vec()), Outcome::NOT_NTP);
}

#[test]
fn other_ports_are_not_ntp() {
    for request in Request::of_both_families() {
        for destination_port in [0, 53, 122, 124, 323, 0x7b00, 65535] {
            let request = Request { destination_port, ..request.clone() };
            assert_not_ntp(&request.build());
            assert_not_ntp(&Request { source_port: NTP_PORT, ..request }.build());
        }
    }
}

#[test]
fn tcp_to_port_123_is_not_ntp() {
    assert_not_ntp(&tcp(IpHeaders::Ipv4(ipv4_header(), Ipv4Extensions::default())));
    assert_not_ntp(&tcp(IpHeaders::Ipv6(ipv6_header(), Ipv6Extensions::default())));
}

fn tcp(ip: IpHeaders) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, SERVER_MAC)
        .ip(ip)
        .tcp(CLIENT_PORT, NTP_PORT, 1, 1024)
        .write(&mut frame, &message(4, 3, ORIGIN))
        .expect("a vector takes everything");
    frame
}

fn ipv4_header() -> Ipv4Header {
    Ipv4Header {
        source: CLIENT_IPV4.octets(),
        destination: SERVER_IPV4.octets(),
        time_to_live: 64,
        ..Ipv4Header::default()
    }
}

fn ipv6_header() -> Ipv6Header {
    Ipv6Header {
        source: CLIENT_IPV6.octets(),
        destination: SERVER_IPV6.octets(),
        hop_limit: 64,
        ..Ipv6Header::default()
    }
}

#[test]
fn no_other_ip_protocol_is_ntp() {
    for request in Request::of_both_families() {
        for protocol in (0..=255).map(IpNumber).filter(|protocol| *protocol != IpNumber::UDP) {
            assert_not_ntp(&Request { protocol, ..request.clone() }.build());
        }
    }
}

#[test]
fn arp_is_not_ntp() {
    let arp = ArpEthIpv4Packet {
        operation: ArpOperation::REQUEST,
        sender_mac: CLIENT_MAC,
        sender_ipv4: CLIENT_IPV4.octets(),
        target_mac: [0; 6],
        target_ipv4: SERVER_IPV4.octets(),
    };
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, [0xff; 6])
        .arp(arp.into())
        .write(&mut frame)
        .expect("a vector takes everything");
    // As long as a request, for the checks to be about more than the length.
    frame.resize(110, 0);
    assert_not_ntp(&frame);
}

#[test]
fn no_other_ethertype_is_ntp() {
    for request in Request::of_both_families() {
        for ethertype in [0_u16, 46, 0x0600, 0x0801, 0x0806, 0x8035, 0x86dc, 0x8863, 0x88cc, 0x9100, 0xffff] {
            let mut frame = request.build();
            frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
            assert_not_ntp(&frame);
        }
    }
}

#[test]
fn an_ethertype_of_the_other_family_is_not_ntp() {
    let [mut ipv4, mut ipv6] = Request::of_both_families().map(|request| request.build());
    ipv4[12..14].copy_from_slice(&0x86dd_u16.to_be_bytes());
    ipv6[12..14].copy_from_slice(&0x0800_u16.to_be_bytes());
    assert_not_ntp(&ipv4);
    assert_not_ntp(&ipv6);
}

#[test]
fn three_tags_are_one_too_many() {
    for request in Request::of_both_families() {
        for tags in [[VLAN; 3], [SERVICE_VLAN; 3], [SERVICE_VLAN, SERVICE_VLAN, VLAN]] {
            assert_not_ntp(&Request { tags: tags.to_vec(), ..request.clone() }.build());
        }
    }
}

#[test]
fn ipv4_options_go_to_the_socket() {
    for words in 1..=10 {
        // Record route would be answered by a kernel, "no operation" is ignored: both are its business.
        for mut ipv4_options in [vec![1; 4 * words], vec![0; 4 * words]] {
            ipv4_options[0] = 1;
            assert_not_ntp(&Request { ipv4_options, ..Request::ipv4() }.build());
        }
    }
}

#[test]
fn options_that_look_like_a_udp_header_are_no_udp_header() {
    let mut options = CLIENT_PORT.to_be_bytes().to_vec();
    options.extend(NTP_PORT.to_be_bytes());
    options.extend([0, 56, 0, 0]);
    assert_not_ntp(&Request { ipv4_options: options, ..Request::ipv4() }.build());
}

#[test]
fn ipv6_extension_headers_go_to_the_socket() {
    let options = Ipv6RawExtHeader::new_raw(IpNumber::UDP, &[1, 4, 0, 0, 0, 0]).expect("eight bytes");
    let fragment = Ipv6FragmentHeader::new(IpNumber::UDP, IpFragOffset::ZERO, true, 77);
    assert_not_ntp(&extended(Ipv6Extensions {
        destination_options: Some(options.clone()),
        ..Ipv6Extensions::default()
    }));
    assert_not_ntp(&extended(Ipv6Extensions {
        hop_by_hop_options: Some(options),
        ..Ipv6Extensions::default()
    }));
    assert_not_ntp(&extended(Ipv6Extensions { fragment: Some(fragment), ..Ipv6Extensions::default() }));
    // The same builder without any, for the comparison.
    let mut plain = extended(Ipv6Extensions::default());
    assert_eq!(Host::new().respond(&mut plain).verdict, Verdict::Answered);
}

/// A request with these extension headers.
fn extended(extensions: Ipv6Extensions) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, SERVER_MAC)
        .ip(IpHeaders::Ipv6(ipv6_header(), extensions))
        .udp(CLIENT_PORT, NTP_PORT)
        .write(&mut frame, &message(4, 3, ORIGIN))
        .expect("a vector takes everything");
    frame
}

#[test]
fn a_later_fragment_is_not_ntp_whatever_it_looks_like() {
    for fragment_offset in [1, 2, 185, 0x1fff] {
        for more_fragments in [false, true] {
            assert_not_ntp(&Request { more_fragments, fragment_offset, ..Request::ipv4() }.build());
        }
    }
}

#[test]
fn a_first_fragment_is_left_for_the_kernel_to_put_together() {
    let request = Request { more_fragments: true, ..Request::ipv4() };
    Host::new().assert_unanswered(&request.build(), Verdict::PassFragment);
    // As is usual, with a UDP length that goes beyond the fragment.
    let request = Request { udp_length: Some(1400), ..request };
    Host::new().assert_unanswered(&request.build(), Verdict::PassFragment);
}

#[test]
fn a_request_to_an_address_that_is_not_served_passes() {
    for request in Request::of_both_families() {
        for tags in TAGS {
            let others = match request.destination {
                std::net::IpAddr::V4(_) => [
                    Ipv4Addr::new(192, 0, 2, 122),
                    BROADCAST_IPV4,
                    Ipv4Addr::BROADCAST,
                    Ipv4Addr::UNSPECIFIED,
                ]
                .map(Into::into),
                std::net::IpAddr::V6(server) => [
                    Ipv6Addr::from_bits(server.to_bits() ^ 1),
                    Ipv6Addr::from_bits(server.to_bits() ^ 1 << 127),
                    Ipv6Addr::UNSPECIFIED,
                    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x101),
                ]
                .map(Into::into),
            };
            for destination in others {
                let request = Request { destination, tags: tags.to_vec(), ..request.clone() };
                Host::new().assert_unanswered(&request.build(), Verdict::PassForOthers);
            }
        }
    }
}

#[test]
fn before_any_address_is_published_everything_passes() {
    let host = Host { served: None, ..Host::new() };
    for request in Request::of_both_families() {
        host.assert_unanswered(&request.build(), Verdict::PassForOthers);
    }
}

#[test]
fn a_clock_that_cannot_be_read_leaves_the_answer_to_the_socket() {
    let host = Host { clock: None, ..Host::new() };
    for request in Request::of_both_families() {
        host.assert_unanswered(&request.build(), Verdict::PassClock);
    }
}

#[test]
fn modes_of_servers_and_peers_pass() {
    for request in Request::of_both_families() {
        for version in 0..=7 {
            for mode in [1, 2, 4, 5] {
                let payload = message(version, mode, ORIGIN).to_vec();
                let request = Request { payload, ..request.clone() };
                Host::new().assert_unanswered(&request.build(), Verdict::PassMode);
            }
        }
    }
}

#[test]
fn mode_0_is_a_clients_in_version_1_only_and_not_from_port_123() {
    for request in Request::of_both_families() {
        for version in [0, 2, 3, 4, 5, 6, 7] {
            let request = Request { payload: message(version, 0, ORIGIN).to_vec(), ..request.clone() };
            Host::new().assert_unanswered(&request.build(), Verdict::PassMode);
        }
        let payload = message(1, 0, ORIGIN).to_vec();
        let peer = Request { payload, source_port: NTP_PORT, ..request };
        Host::new().assert_unanswered(&peer.build(), Verdict::PassMode);
    }
}

#[test]
fn versions_that_are_not_spoken_pass() {
    for request in Request::of_both_families() {
        for version in [0, 5, 6, 7] {
            let request = Request { payload: message(version, 3, ORIGIN).to_vec(), ..request.clone() };
            Host::new().assert_unanswered(&request.build(), Verdict::PassVersion);
        }
    }
}

#[test]
fn requests_with_extension_fields_or_a_mac_go_to_the_socket() {
    for request in Request::of_both_families() {
        for words in 1..=40 {
            let mut payload = message(4, 3, ORIGIN).to_vec();
            payload.resize(48 + 4 * words, 0x11);
            let request = Request { payload, ..request.clone() };
            Host::new().assert_unanswered(&request.build(), Verdict::PassLong);
        }
    }
}

#[test]
fn a_packet_that_goes_on_behind_its_datagram_goes_to_the_socket() {
    for request in Request::of_both_families() {
        let length = if request.source.is_ipv4() { 76 } else { 56 };
        let request = Request { ip_length: Some(length + 4), padding: vec![0; 8], ..request };
        Host::new().assert_unanswered(&request.build(), Verdict::PassLong);
    }
}
