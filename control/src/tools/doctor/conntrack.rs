//! Connection tracking: NTP can fill its table, except with requests that XDP answers, which never get there.

use std::fs::File;
use std::io::{BufRead as _, BufReader};

use super::finding::Finding;

/// Fill level above which the table is nearly full. The kernel drops packets of new connections when it is
/// full.
const FULL: f64 = 0.8;
/// Number of entries that this host's own exchanges with upstreams and passed-up requests can explain.
const FEW: usize = 1_000;
/// Largest number of lines that are read: the table may have millions.
const MOST_LINES: usize = 200_000;

/// The command that keeps NTP out of the table.
const NOTRACK: &str = "nft 'add table inet ntp; add chain inet ntp in { type filter hook prerouting priority raw; }; \
                       add chain inet ntp out { type filter hook output priority raw; }; \
                       add rule inet ntp in udp dport 123 notrack; add rule inet ntp out udp sport 123 notrack'";

/// The facts about the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Facts {
    count: u64,
    max: u64,
    /// Number of entries for port 123 among those that were read; needs root.
    of_ntp: Option<usize>,
}

/// Examines the table of this network namespace.
pub(super) fn examine() -> Vec<Finding> {
    let number = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/net/netfilter/{name}")).ok()?;
        text.trim().parse().ok()
    };
    let (Some(count), Some(max)) = (number("nf_conntrack_count"), number("nf_conntrack_max")) else {
        return vec![Finding::ok("conntrack", "connections are not tracked")];
    };
    let of_ntp = File::open("/proc/thread-self/net/nf_conntrack").ok().map(|file| {
        let lines = BufReader::new(file).lines().map_while(Result::ok);
        lines.take(MOST_LINES).filter(|line| is_ntp(line)).count()
    });
    judge(Facts { count, max, of_ntp })
}

/// Whether a line is about NTP. It looks like `ipv4     2 udp      17 23 src=192.0.2.9 dst=192.0.2.1
/// sport=40000 dport=123 [UNREPLIED] src=...`.
fn is_ntp(line: &str) -> bool {
    let mut words = line.split_whitespace();
    words.nth(2) == Some("udp") && words.any(|word| word == "dport=123" || word == "sport=123")
}

fn judge(facts: Facts) -> Vec<Finding> {
    let Facts { count, max, of_ntp } = facts;
    let mut findings = Vec::new();
    #[expect(clippy::cast_precision_loss, reason = "a ratio for showing")]
    let full = count as f64 / max.max(1) as f64;
    if full >= FULL {
        findings.push(
            Finding::warning("conntrack-full", format!("the connection table is {:.0} % full ({count} of {max})", full * 100.0))
                .why("when it is full, the kernel drops new connections, including this host's requests to upstreams")
                .fix(format!("sysctl -w net.netfilter.nf_conntrack_max={}", max.saturating_mul(4)))
                .advice("requests that XDP answers are not in it; `conntrack -L` shows whose connections they are"),
        );
    }
    match of_ntp {
        Some(of_ntp) if of_ntp > FEW => findings.push(
            Finding::warning("conntrack-ntp", format!("{of_ntp} tracked connections belong to port 123"))
                .why("many requests are passed up instead of being answered by XDP, or the program is not attached; each takes an entry in the table")
                .fix(NOTRACK),
        ),
        _ if findings.is_empty() => findings.push(Finding::ok(
            "conntrack",
            match of_ntp {
                Some(of_ntp) => format!("{count} of {max} connection tracking entries in use, {of_ntp} for port 123"),
                None => format!("{count} of {max} connection tracking entries in use"),
            },
        )),
        _ => {}
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::doctor::finding::Severity::{Ok, Warning};
    use crate::tools::doctor::finding::ids;

    #[test]
    fn a_table_that_fills_up_and_one_full_of_ntp_are_warned_of() {
        assert_eq!(ids(&judge(Facts { count: 100, max: 65_536, of_ntp: Some(3) })), [("conntrack", Ok)]);
        assert_eq!(ids(&judge(Facts { count: 100, max: 65_536, of_ntp: None })), [("conntrack", Ok)]);
        let full = judge(Facts { count: 60_000, max: 65_536, of_ntp: Some(50_000) });
        assert_eq!(ids(&full), [("conntrack-full", Warning), ("conntrack-ntp", Warning)]);
        assert_eq!(full[0].fix.as_deref(), Some("sysctl -w net.netfilter.nf_conntrack_max=262144"));
        assert_eq!(judge(Facts { count: 1, max: 0, of_ntp: None }).len(), 1);
    }

    #[test]
    fn lines_of_ntp_are_told_from_others() {
        let line = |protocol: &str, port: u16| {
            format!(
                "ipv4     2 {protocol}      17 23 src=192.0.2.9 dst=192.0.2.1 sport=40000 dport={port} [UNREPLIED] src=192.0.2.1"
            )
        };
        assert!(is_ntp(&line("udp", 123)));
        assert!(!is_ntp(&line("tcp", 123)) && !is_ntp(&line("udp", 1234)) && !is_ntp(""));
    }
}
