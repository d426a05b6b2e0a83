//! The interface of the default route, which is used where none is named.

use std::fs::read_to_string;

/// Returns the interface of the default route: that of IPv4, or if there is none, that of IPv6.
pub(crate) fn default_interface() -> Option<String> {
    // This is the file of this thread's network namespace.
    let read = |table| read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
    of_ipv4(&read("route")).or_else(|| of_ipv6(&read("ipv6_route")))
}

/// Reads `/proc/net/route`. In a default route destination and mask are zero; of several, the metric decides.
fn of_ipv4(routes: &str) -> Option<String> {
    let routes = routes.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [name, "00000000", _, _, _, _, metric, "00000000", ..] = fields[..] else { return None };
        Some((metric.parse::<u32>().ok()?, name))
    });
    routes.min().map(|(_, name)| name.to_owned())
}

/// Reads `/proc/net/ipv6_route`. The prefix of a default route is `::/0`; the kernel's own entry that rejects
/// packets is on `lo`.
fn of_ipv6(routes: &str) -> Option<String> {
    let routes = routes.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [destination, "00", _, _, _, metric, _, _, _, name] = fields[..] else { return None };
        let is_default = destination.bytes().all(|digit| digit == b'0') && name != "lo";
        is_default.then_some((u32::from_str_radix(metric, 16).ok()?, name))
    });
    routes.min().map(|(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n";
    const UNREACHABLE: &str = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
                               00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n";

    #[test]
    fn of_several_default_routes_the_one_with_the_least_metric_counts() {
        let routes = format!(
            "{HEADER}eth1 0002000A 00000000 0001 0 0 0 00FFFFFF 0 0 0\n\
             wlan0 00000000 0102000A 0003 0 0 600 00000000 0 0 0\n\
             eth0 00000000 0102000A 0003 0 0 100 00000000 0 0 0\n"
        );
        assert_eq!(of_ipv4(&routes).as_deref(), Some("eth0"));
    }

    #[test]
    fn a_host_without_ipv4_goes_out_by_ipv6() {
        let routes = format!(
            "{UNREACHABLE}20010db8000000000000000000000000 40 00000000000000000000000000000000 00 \
             00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth1\n\
             00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
             fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n"
        );
        assert_eq!(of_ipv6(&routes).as_deref(), Some("eth0"));
    }

    #[test]
    fn without_a_default_route_or_with_nonsense_there_is_none() {
        assert_eq!(of_ipv4(HEADER), None);
        assert_eq!(of_ipv4("Iface\n\nx"), None);
        assert_eq!(of_ipv6(UNREACHABLE), None);
        assert_eq!(of_ipv6("x\n\n"), None);
    }
}
