//! What the daemon leaves to the sockets: addresses, MAC addresses and VLANs that the NIC path does not answer for.

use super::finding::Finding;
use crate::status::Status;

/// Examines the status of a daemon.
pub(super) fn examine(status: &Status) -> Vec<Finding> {
    let addresses = status.addresses_without_room.iter();
    let addresses = addresses.map(|told| Finding::warning("addresses-without-room", told.to_string()));
    let stations = status.interfaces.iter().filter_map(|interface| interface.left_to_sockets.as_ref());
    let stations = stations.map(|told| Finding::warning("left-to-sockets", told.clone()));
    addresses
        .chain(stations)
        .map(|found| {
            found
                .why("the socket answers fewer requests per second, and firewall and conntrack apply to what it answers")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::served::WithoutRoom;
    use crate::status::sample;
    use crate::tools::doctor::finding::Severity::Warning;
    use crate::tools::doctor::finding::ids;

    #[test]
    fn what_is_left_to_the_sockets_is_a_warning_and_a_server_without_it_has_none() {
        let mut status = sample();
        assert_eq!(examine(&status), []);
        status.interfaces[0].left_to_sockets = Some("eth0 has 97 MAC addresses and VLANs".into());
        status.addresses_without_room.push(WithoutRoom {
            family: "ipv4".into(),
            wanted: 97,
            broadcast: 2,
            number: 3,
            example: "192.0.2.97".parse().unwrap(),
        });
        let findings = examine(&status);
        assert_eq!(ids(&findings), [("addresses-without-room", Warning), ("left-to-sockets", Warning)]);
        let what = &findings[0].what;
        assert!(what.starts_with("97 IPv4 addresses and 2 broadcast addresses are too many"), "{what}");
    }
}
