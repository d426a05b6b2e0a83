//! Counters that the kernel reports only in its tables in `/proc/net`.

use std::fs;
use std::net::UdpSocket;

/// Returns the number of datagrams with a wrong checksum that this host has received so far.
pub(super) fn wrong_checksums() -> u64 {
    let [four, six] = ["/proc/self/net/snmp", "/proc/self/net/snmp6"]
        .map(|path| fs::read_to_string(path).unwrap_or_default());
    checksum_errors_in(&four) + checksum_errors_in_6(&six)
}

/// Reads it from a table like `/proc/net/snmp`: a line of names, followed by a line of values.
fn checksum_errors_in(table: &str) -> u64 {
    let mut lines = table.lines().filter(|line| line.starts_with("Udp:"));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return 0 };
    let mut columns = names.split_whitespace().zip(values.split_whitespace());
    columns.find(|(name, _)| *name == "InCsumErrors").and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}

/// Reads it from a table like `/proc/net/snmp6`: a name and a value per line.
fn checksum_errors_in_6(table: &str) -> u64 {
    let value = table.lines().find_map(|line| line.strip_prefix("Udp6InCsumErrors"));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

/// Returns the number of datagrams that the kernel dropped because the buffers of these sockets were full.
/// The server did not lose them.
pub(super) fn dropped_at(sockets: &[UdpSocket]) -> u64 {
    let ports: Vec<u16> =
        sockets.iter().filter_map(|socket| Some(socket.local_addr().ok()?.port())).collect();
    let tables = ["/proc/self/net/udp", "/proc/self/net/udp6"].map(fs::read_to_string);
    tables.iter().flatten().map(|table| drops_in(table, &ports)).sum()
}

/// Returns the drops of sockets bound to these ports, from a table like `/proc/net/udp`.
fn drops_in(table: &str, ports: &[u16]) -> u64 {
    let of_line = |line: &str| {
        let mut fields = line.split_whitespace();
        let (_, port) = fields.nth(1)?.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        ports.contains(&port).then(|| fields.last()?.parse::<u64>().ok())?
    };
    table.lines().skip(1).filter_map(of_line).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_checksums_are_found_in_both_tables() {
        let four = "Ip: Forwarding\nIp: 2\nUdp: InDatagrams NoPorts InErrors InCsumErrors IgnoredMulti\nUdp: 9 8 7 6 5\n";
        assert_eq!((checksum_errors_in(four), checksum_errors_in("")), (6, 0));
        assert_eq!(checksum_errors_in_6("Udp6InErrors \t3\nUdp6InCsumErrors                \t4\n"), 4);
    }

    #[test]
    fn drops_are_those_of_our_ports() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
            \x20 10: 0100007F:1F90 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 8 2 0 17\n\
            \x20 11: 0100007F:1F91 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 9 2 0 5\n";
        assert_eq!(drops_in(table, &[0x1f90]), 17);
        assert_eq!(drops_in(table, &[0x1f91, 0x1f90]), 22);
        assert_eq!(drops_in(table, &[1]), 0);
        assert_eq!(drops_in("", &[1]), 0);
    }
}
