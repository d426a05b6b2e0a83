//! What the server shows of itself is what it does: over HTTP, to Prometheus, to a browser and on the command line.

mod agreement;
mod browser;
mod dashboard;
mod listener;
mod logs;
mod page;
mod prometheus;
mod upstreams;
mod web;

use std::net::{IpAddr, UdpSocket};

use testlab::wire::{PORT, is_answer, request};
use testlab::{Lab, PATIENCE};

/// The lab's configuration; its clients may ask as often as they like.
const CONFIG: &str =
    "interfaces = [\"lan0\"]\n[access]\nunlimited = [\"10.77.0.0/24\", \"fd77::/64\"]\n[clock]\n";
/// Serves the machine's clock whether it is synchronised or not.
const LOCAL: &str = "local_stratum = 10\n";
/// Where the listener is unless the configuration says otherwise.
const LISTEN: &str = "127.0.0.1:9200";

/// Sends as many requests of a version to an address, one after the other, and checks every answer.
fn ask(lab: &Lab, server: &str, version: u8, often: u64) {
    lab.inside("client", || {
        let server: IpAddr = server.parse().unwrap();
        let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.connect((server, PORT)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = [0; 100];
        for cookie in 1..=often {
            socket.send(&request(version, cookie)).unwrap();
            let length = socket.recv(&mut answer).unwrap();
            assert!(is_answer(&answer[..length], version, cookie));
        }
    });
}
