//! Sends requests to a server at the other end of a link like a client, and checks every frame of its
//! answers.
//!
//! `wire_check INTERFACE IPV4 IPV6` sends a number of requests over each family from a UDP socket, followed
//! by tagged ones. It prints how many were answered over each family and how many of these answers had right
//! checksums on the wire. It prints `right` if every tagged request was answered in its VLAN and nowhere
//! else. `scripts/vm` has the addresses.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use control::net::query::exchange;
use testlab::wire::{Datagram, PORT, Wire, is_answer, request};

/// Deadline for an answer; emulated machines are slow.
const PATIENCE: Duration = Duration::from_secs(2);
const SERVERS: [&str; 2] = ["10.77.0.1", "fd77::1"];
const IN_THE_VLAN: [(&str, &str); 2] = [("10.78.0.2", "10.78.0.1"), ("fd78::2", "fd78::1")];
/// The type of an 802.1Q tag, and the VLAN ID.
const TAG: (u16, u16) = (0x8100, 10);
const TAGGED: u64 = 5;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [interface, ipv4, ipv6] = arguments.as_slice() else {
        eprintln!("wire_check: INTERFACE IPV4 IPV6");
        std::process::exit(64);
    };
    let (mut answered, mut right) = ([0, 0], 0);
    for (index, wanted) in [ipv4, ipv6].into_iter().enumerate() {
        for _ in 0..wanted.parse().unwrap_or(0) {
            let wire = Wire::here(interface);
            let server = SocketAddr::new(address(SERVERS[index]), PORT);
            if exchange(server, PATIENCE).is_ok() {
                answered[index] += 1;
                right += usize::from(is_right(&wire, server));
            }
        }
    }
    println!("{} {} {right} {}", answered[0], answered[1], in_the_vlan(interface));
}

/// Whether the one answer that went over the wire is untagged and has right checksums.
fn is_right(wire: &Wire, server: SocketAddr) -> bool {
    let answers = wire.answers();
    matches!(answers.as_slice(), [one] if one.source == server && one.checksums && one.tags.is_empty())
}

fn in_the_vlan(interface: &str) -> String {
    let (mut in_it, mut elsewhere) = (0, 0);
    for (source, destination) in IN_THE_VLAN {
        for cookie in 1..=TAGGED {
            let wire = Wire::here(interface);
            let message = request(4, cookie);
            let mut asked = Datagram::request(address(source), address(destination), &message);
            asked.tags = vec![TAG];
            let is_ours = |answer: &Datagram| answer.checksums && is_answer(&answer.payload, 4, cookie);
            wire.send(&asked.to_frame());
            match wire.find(PATIENCE, |frame| Datagram::parse(frame).filter(is_ours)) {
                Some(answer) if asked.is_answered_by(&answer) => in_it += 1,
                Some(_) => elsewhere += 1,
                None => {}
            }
        }
    }
    let all = TAGGED * IN_THE_VLAN.len() as u64;
    if in_it == all { "right".into() } else { format!("{in_it}/{all}-in-it-{elsewhere}-elsewhere") }
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}
