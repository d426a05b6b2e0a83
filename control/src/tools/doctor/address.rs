//! The served addresses: whether they will stay, and whether the pool can reach them.

use std::net::IpAddr;
use std::path::Path;

use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};

use super::finding::Finding;
use crate::net::address::is_public;
use crate::safe_text::shell_word;

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) interface: u32,
    pub(super) ip: IpAddr,
    prefix_length: u8,
    /// Remaining lifetime in seconds if nothing renews the address; `None` means for ever.
    valid_s: Option<u32>,
    deprecated: bool,
    temporary: bool,
    /// Whether duplicate address detection is still running or has failed.
    tentative: bool,
}

impl Address {
    /// Reads the kernel's message. Returns `None` for addresses that are valid only on the link or the host.
    pub(super) fn of(message: &AddressMessage) -> Option<Self> {
        let header = &message.header;
        if !matches!(header.scope, AddressScope::Universe | AddressScope::Site) {
            return None;
        }
        let (mut local, mut network, mut valid_s) = (None, None, None);
        let mut flags = AddressFlags::from_bits_retain(header.flags.bits().into());
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(found) => local = Some(*found),
                AddressAttribute::Address(found) => network = Some(*found),
                AddressAttribute::CacheInfo(found) => valid_s = Some(found.ifa_valid),
                AddressAttribute::Flags(found) => flags = *found,
                _ => {}
            }
        }
        let ip = local.or(network)?;
        let for_ever = flags.contains(AddressFlags::Permanent);
        let checked = header.flags.intersects(AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed);
        Some(Self {
            interface: header.index,
            ip,
            prefix_length: header.prefix_len,
            valid_s: valid_s.filter(|valid_s| !for_ever && *valid_s != u32::MAX),
            deprecated: flags.contains(AddressFlags::Deprecated),
            // Over IPv4 the same flag marks a second address in a network.
            temporary: ip.is_ipv6() && flags.contains(AddressFlags::Secondary),
            tentative: checked,
        })
    }

    /// Whether clients can use the address for as long as anybody knows.
    const fn is_lasting(&self) -> bool {
        !self.deprecated && !self.temporary && !self.tentative
    }
}

/// The facts about an interface's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts<'a> {
    name: &'a str,
    addresses: Vec<&'a Address>,
    ipv6: Ipv6,
}

/// What the kernel does with IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ipv6 {
    Usable,
    /// IPv6 is disabled with this sysctl setting.
    Disabled(&'static str),
    /// The kernel does not have IPv6.
    Missing,
}

/// Examines the addresses of an interface and of the interfaces stacked on it.
pub(super) fn examine(name: &str, addresses: &[Address], stack: &[u32]) -> Vec<Finding> {
    let addresses = addresses.iter().filter(|address| stack.contains(&address.interface)).collect();
    judge(&Facts { name, addresses, ipv6: ipv6(name) })
}

fn ipv6(name: &str) -> Ipv6 {
    if !Path::new("/proc/sys/net/ipv6").exists() {
        return Ipv6::Missing;
    }
    let is_set = |interface: &str| {
        let path = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
        std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
    };
    match (is_set("all"), is_set(name)) {
        (true, _) => Ipv6::Disabled("all"),
        (false, true) => Ipv6::Disabled("interface"),
        (false, false) => Ipv6::Usable,
    }
}

fn judge(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = ipv4_findings(facts);
    findings.extend(ipv6_findings(facts));
    findings
}

fn ipv4_findings(facts: &Facts<'_>) -> Vec<Finding> {
    let Facts { name, addresses, .. } = facts;
    let ipv4: Vec<_> = addresses.iter().copied().filter(|address| address.ip.is_ipv4()).collect();
    if ipv4.is_empty() {
        return vec![
            Finding::warning("ipv4-address", format!("{name} has no IPv4 address"))
                .why("most of the pool's clients use IPv4"),
        ];
    }
    let mut findings: Vec<_> = ipv4
        .iter()
        .filter_map(|address| Some((address, address.valid_s?)))
        .map(|(Address { ip, prefix_length, .. }, valid_s)| {
            Finding::warning(
                "address-lease",
                format!("{name}: {ip} is a DHCP lease, valid for another {valid_s} s"),
            )
            .why("the pool hands out addresses for years: a server whose address changes fails its clients")
            .fix(format!("ip address change {ip}/{prefix_length} dev {} valid_lft forever preferred_lft forever", shell_word(name)))
            .advice(
                "that lasts until the next boot: configure the address as static, or have the provider promise that \
                 the lease always is this one",
            )
        })
        .collect();
    if findings.is_empty() {
        findings.push(Finding::ok("ipv4-address", format!("{name}: {} stays", list(&ipv4))));
    }
    if !ipv4.iter().any(|address| is_public(address.ip)) {
        findings.push(
            Finding::note("private-address", format!("{name}: {} is not a public address", list(&ipv4))).why(
                "the pool accepts public addresses only; behind NAT the connection table becomes a bottleneck",
            ),
        );
    }
    findings
}

/// Returns the command for a setting of an interface.
fn sysctl(interface: &str, setting: &str) -> String {
    format!("sysctl -w {}", shell_word(&format!("net.ipv6.conf.{interface}.{setting}")))
}

fn ipv6_findings(facts: &Facts<'_>) -> Vec<Finding> {
    let Facts { name, addresses, ipv6 } = facts;
    let none = |what: String| {
        Finding::note("ipv6", what).why("some of the pool's clients use IPv6 only; the pool accepts both")
    };
    match ipv6 {
        Ipv6::Missing => return vec![none(format!("{name}: this kernel has no IPv6; only IPv4 is served"))],
        Ipv6::Disabled(scope) => {
            let interface = if *scope == "all" { "all" } else { name };
            return vec![
                none(format!("{name}: IPv6 is disabled by sysctl (net.ipv6.conf.{interface}.disable_ipv6)"))
                    .fix(sysctl(interface, "disable_ipv6=0"))
                    .advice("also change it where it is set at boot: `grep -rs disable_ipv6 /etc/sysctl.*`"),
            ];
        }
        Ipv6::Usable => {}
    }
    let global: Vec<_> = addresses.iter().copied().filter(|address| address.ip.is_ipv6()).collect();
    let lasting: Vec<_> = global.iter().copied().filter(|address| address.is_lasting()).collect();
    if global.is_empty() {
        return vec![
            none(format!("{name} has no IPv6 address except its link-local one"))
                .advice("ask the provider for one and configure it as static"),
        ];
    }
    if lasting.is_empty() {
        return vec![
            Finding::warning(
                "ipv6",
                format!(
                    "{name}: {} is temporary, deprecated or still being checked for duplicates",
                    list(&global)
                ),
            )
            .why("clients are given an address that will disappear")
            .fix(sysctl(name, "use_tempaddr=0"))
            .advice("configure a static address; `ip -6 address show` shows the state of the present ones"),
        ];
    }
    if !lasting.iter().any(|address| is_public(address.ip)) {
        return vec![none(format!("{name}: {} is not a public IPv6 address", list(&lasting)))];
    }
    let leases = lasting.iter().filter(|address| address.valid_s.is_some()).count();
    if leases == lasting.len() {
        return vec![
            Finding::note("ipv6", format!("{name}: {} comes from a router or DHCP", list(&lasting)))
                .why("it stays the same as long as the router announces the same network")
                .advice("configure a static address if the provider does not guarantee that"),
        ];
    }
    vec![Finding::ok("ipv6", format!("{name}: {} stays", list(&lasting)))]
}

fn list(addresses: &[&Address]) -> String {
    // A network such as 2001:db8::/64 can have hundreds of addresses.
    const MOST: usize = 4;
    let mut texts: Vec<_> = addresses.iter().take(MOST).map(|address| address.ip.to_string()).collect();
    if addresses.len() > MOST {
        texts.push(format!("and {} more", addresses.len() - MOST));
    }
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::doctor::finding::Severity::{self, Note, Ok, Warning};
    use crate::tools::doctor::finding::{ids, only};

    fn address(ip: &str) -> Address {
        Address {
            interface: 2,
            ip: ip.parse().unwrap(),
            prefix_length: 24,
            valid_s: None,
            deprecated: false,
            temporary: false,
            tentative: false,
        }
    }

    fn judged(addresses: &[Address], ipv6: Ipv6) -> Vec<Finding> {
        judge(&Facts { name: "eth0", addresses: addresses.iter().collect(), ipv6 })
    }

    #[test]
    fn static_public_addresses_are_well() {
        let findings = judged(&[address("198.51.100.1"), address("2600:1f18::1")], Ipv6::Usable);
        assert_eq!(ids(&findings), [("ipv4-address", Ok), ("ipv6", Ok)]);
    }

    #[test]
    fn a_lease_is_named_with_what_is_left_of_it() {
        let lease = Address { valid_s: Some(3600), ..address("198.51.100.1") };
        let findings = judged(&[lease], Ipv6::Usable);
        let found = only(&findings, "address-lease");
        assert!(found.severity == Warning && found.what.contains("3600 s"), "{found:?}");
        assert!(found.fix.as_ref().unwrap().starts_with("ip address change 198.51.100.1/24 dev eth0"));
    }

    #[test]
    fn private_addresses_are_noted_and_no_ipv4_at_all_is_a_warning() {
        let findings = judged(&[address("10.0.0.5")], Ipv6::Usable);
        assert_eq!(only(&findings, "private-address").severity, Note);
        assert_eq!(only(&judged(&[], Ipv6::Usable), "ipv4-address").severity, Warning);
    }

    #[test]
    fn ipv6_is_missing_disabled_private_temporary_leased_or_well() {
        let found = |addresses: &[Address], ipv6| {
            let findings = judged(addresses, ipv6);
            let Finding { severity, what, fix, .. } = only(&findings, "ipv6").clone();
            (severity, what, fix)
        };
        let expect = |addresses: &[Address], ipv6, severity: Severity, part: &str| {
            let (found, what, _) = found(addresses, ipv6);
            assert!(found == severity && what.contains(part), "{what}");
        };
        let global = address("2600:1f18::1");
        expect(&[], Ipv6::Missing, Note, "this kernel has no IPv6");
        expect(&[], Ipv6::Usable, Note, "no IPv6 address");
        expect(&[address("fd77::1")], Ipv6::Usable, Note, "not a public");
        expect(&[Address { valid_s: Some(600), ..global.clone() }], Ipv6::Usable, Note, "router");
        expect(&[Address { temporary: true, ..global.clone() }], Ipv6::Usable, Warning, "temporary");
        expect(&[Address { deprecated: true, ..global.clone() }, global.clone()], Ipv6::Usable, Ok, "stays");
        for (scope, interface) in [("all", "all"), ("interface", "eth0")] {
            let fix = found(std::slice::from_ref(&global), Ipv6::Disabled(scope)).2.unwrap();
            assert_eq!(fix, format!("sysctl -w net.ipv6.conf.{interface}.disable_ipv6=0"));
        }
    }

    #[test]
    fn what_the_kernel_says_of_an_address_is_read() {
        let mut message = AddressMessage::default();
        message.header.index = 2;
        message.header.prefix_len = 24;
        message.header.flags = AddressHeaderFlags::Permanent;
        message.attributes = vec![
            AddressAttribute::Address("198.51.100.7".parse().unwrap()),
            AddressAttribute::Local("198.51.100.1".parse().unwrap()),
            AddressAttribute::Flags(AddressFlags::Permanent),
        ];
        assert_eq!(Address::of(&message), Some(address("198.51.100.1")));
        message.header.scope = AddressScope::Link;
        assert_eq!(Address::of(&message), None);
        // A flag that marks a second address over IPv4 marks a temporary one over IPv6.
        for (ip, temporary) in [("198.51.100.1", false), ("2600:1f18::1", true)] {
            let mut message = AddressMessage::default();
            message.header.flags = AddressHeaderFlags::Secondary | AddressHeaderFlags::Deprecated;
            message.attributes = vec![AddressAttribute::Address(ip.parse().unwrap())];
            let address = Address::of(&message).unwrap();
            assert_eq!((address.temporary, address.deprecated), (temporary, true));
        }
    }
}
