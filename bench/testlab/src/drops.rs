//! What the lab itself loses: packets that neither the server nor a client has a part in.

use std::fs;

use crate::lab::Lab;

/// What is lost without the server having any part in it.
#[derive(Clone, Copy, Debug)]
pub struct Drops {
    /// By the veth, whose rings hold 256 frames: requests and answers.
    pub link: u64,
    /// By the client's sockets, whose buffers were full.
    pub sockets: u64,
}

impl Drops {
    /// The counters as they are now.
    pub fn of(lab: &Lab) -> Self {
        let dropped = |host: &str, direction: &str| {
            let link = link(lab, host);
            link["stats64"][direction]["dropped"].as_u64().unwrap_or_else(|| panic!("no statistics: {link}"))
        };
        let sockets = lab.inside("client", || {
            // Of this thread's network namespace, which is not the process's.
            let read = |name: &str| fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap();
            receive_buffer_errors_ipv4(&read("snmp")) + receive_buffer_errors_ipv6(&read("snmp6"))
        });
        // What the server cannot send back shows as dropped at the client's end, too.
        let link = dropped("client", "tx") + dropped("client", "rx") + dropped("server", "rx");
        Self { link, sockets }
    }

    /// What was lost since an earlier look; nothing of an interface that was made anew meanwhile.
    #[must_use]
    pub const fn since(self, earlier: &Self) -> Self {
        Self {
            link: self.link.saturating_sub(earlier.link),
            sockets: self.sockets.saturating_sub(earlier.sockets),
        }
    }

    /// The sum of both.
    pub const fn total(self) -> u64 {
        self.link + self.sockets
    }
}

/// What `ip` shows of the interface `lan0` of a host.
pub fn link(lab: &Lab, host: &str) -> serde_json::Value {
    let said =
        lab.exec(host, &["ip", "-json", "-statistics", "link", "show", "dev", "lan0"]).expect_success();
    let links: serde_json::Value = serde_json::from_str(&said).unwrap();
    links[0].clone()
}

/// A line of names, and one of numbers.
fn receive_buffer_errors_ipv4(snmp: &str) -> u64 {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Udp:"));
    let (names, numbers) =
        (lines.next().unwrap().split_whitespace(), lines.next().unwrap().split_whitespace());
    let (_, errors) = names.zip(numbers).find(|(name, _)| *name == "RcvbufErrors").unwrap();
    errors.parse().unwrap()
}

/// A line each.
fn receive_buffer_errors_ipv6(snmp6: &str) -> u64 {
    let mut words =
        snmp6.lines().find(|line| line.starts_with("Udp6RcvbufErrors")).unwrap().split_whitespace();
    words.next_back().unwrap().parse().unwrap()
}
