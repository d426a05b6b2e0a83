//! Rule sets as people have them, and as nft prints them.

use super::*;
use crate::tools::doctor::firewall::ruleset::{Fate, Packet, REQUEST};

/// The ruleset of a workstation as nft 1.0.6 prints it: the policy is drop; established connections and
/// SSH are accepted.
const CLOSED: &str = r#"{"nftables": [
        {"metainfo": {"version": "1.0.6", "release_name": "Lester Gooch #5", "json_schema_version": 1}},
        {"table": {"family": "inet", "name": "filter", "handle": 1}},
        {"chain": {"family": "inet", "table": "filter", "name": "input", "handle": 1, "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}},
        {"chain": {"family": "inet", "table": "filter", "name": "forward", "handle": 2, "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}},
        {"chain": {"family": "inet", "table": "filter", "name": "output", "handle": 3, "type": "filter", "hook": "output", "prio": 0, "policy": "accept"}},
        {"rule": {"family": "inet", "table": "filter", "chain": "input", "handle": 4, "expr": [
            {"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["established", {"accept": null}], ["related", {"accept": null}], ["invalid", {"drop": null}]]}}}]}},
        {"rule": {"family": "inet", "table": "filter", "chain": "input", "handle": 5, "expr": [
            {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "lo"}}, {"accept": null}]}},
        {"rule": {"family": "inet", "table": "filter", "chain": "input", "handle": 6, "expr": [
            {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": {"set": [22, 80]}}}, {"counter": {"packets": 0, "bytes": 0}}, {"accept": null}]}}
    ]}"#;

fn with(rules: &str) -> Ruleset {
    let end = CLOSED.rfind("    ]}").unwrap();
    read(&format!("{}, {rules}]}}", &CLOSED[..end])).unwrap()
}

fn input(expressions: &str) -> String {
    format!(
        r#"{{"rule": {{"family": "inet", "table": "filter", "chain": "input", "handle": 9, "expr": [{expressions}]}}}}"#
    )
}

#[test]
fn a_closed_input_drops_requests_and_lets_the_replies_of_upstreams_in() {
    let ruleset = read(CLOSED).unwrap();
    let Fate::Dropped(chain, None) = ruleset.fate(REQUEST) else { panic!("{:?}", ruleset.fate(REQUEST)) };
    assert_eq!(chain.exception, "nft insert rule inet filter input {} accept");
    let reply = Packet { source_port: 123, destination_port: 40_000, state: State::Established, ..REQUEST };
    assert_eq!(ruleset.fate(reply), Fate::Passes);
    assert_eq!(ruleset.fate(Packet { hook: Hook::Out, ..REQUEST }), Fate::Passes);
}

#[test]
fn the_shapes_in_which_a_port_is_let_in_are_understood() {
    for port in [
        "123",
        r#"{"set": [53, 123]}"#,
        r#"{"set": [{"range": [100, 200]}]}"#,
        r#"{"range": [100, 200]}"#,
        r#""ntp""#,
    ] {
        let expression = format!(
            r#"{{"match": {{"op": "==", "left": {{"payload": {{"protocol": "udp", "field": "dport"}}}}, "right": {port}}}}}, {{"accept": null}}"#
        );
        assert_eq!(with(&input(&expression)).fate(REQUEST), Fate::Passes, "{port}");
    }
    let protocol = r#"{"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": {"set": ["tcp", "udp"]}}},
            {"match": {"op": "==", "left": {"payload": {"protocol": "th", "field": "dport"}}, "right": 123}}, {"accept": null}"#;
    assert_eq!(with(&input(protocol)).fate(REQUEST), Fate::Passes);
}
#[test]
fn a_closed_input_keeps_neighbours_from_finding_the_host_until_their_questions_are_let_in() {
    let solicitation =
        Packet { family: Family::Ipv6, kind: Kind::Solicitation, state: State::Untracked, ..REQUEST };
    assert!(matches!(read(CLOSED).unwrap().fate(solicitation), Fate::Dropped(_, None)));
    for (left, right) in [
        (
            r#"{"payload": {"protocol": "icmpv6", "field": "type"}}"#,
            r#"{"set": ["nd-neighbor-solicit", "nd-router-advert"]}"#,
        ),
        (r#"{"meta": {"key": "l4proto"}}"#, r#""ipv6-icmp""#),
        (r#"{"ct": {"key": "state"}}"#, r#"["established", "untracked"]"#),
        (r#"{"fib": {"result": "type", "flags": ["daddr"]}}"#, r#""multicast""#),
    ] {
        let rule =
            format!(r#"{{"match": {{"op": "in", "left": {left}, "right": {right}}}}}, {{"accept": null}}"#);
        let ruleset = with(&input(&rule));
        assert_eq!(ruleset.fate(solicitation), Fate::Passes, "{left}");
        assert!(matches!(ruleset.fate(REQUEST), Fate::Dropped(..)), "{left}");
    }
}

#[test]
fn a_named_set_leaves_a_doubt() {
    let named = r#"{"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": "@open"}}, {"accept": null}"#;
    assert!(matches!(with(&input(named)).fate(REQUEST), Fate::Unsure(_, None)));
    let addresses = r#"{"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "@friends"}}, {"accept": null}"#;
    assert!(matches!(with(&input(addresses)).fate(REQUEST), Fate::Unsure(_, None)));
}

/// Rules as nft 1.0.6 prints them of a kernel that has them.
const METERS: &str = include_str!("../captured/meter.json");
const INTERFACES: &str = include_str!("../captured/netdev.json");

/// The ruleset with only one of its rules, by handle.
fn only(mut ruleset: Ruleset, handle: u32) -> Ruleset {
    let end = format!(" handle {handle}");
    ruleset.chains.iter_mut().for_each(|chain| chain.rules.retain(|rule| rule.text.ends_with(&end)));
    ruleset
}

#[test]
fn a_limit_for_each_source_may_drop_and_does_not_drop_all() {
    for (handle, shape) in [
        (5, "an element of a set with a limit"),
        (7, "a meter"),
        (8, "a set whose elements have a limit"),
        (10, "a limit"),
    ] {
        let ruleset = only(read(METERS).unwrap(), handle);
        let Fate::Unsure(_, Some(rule)) = ruleset.fate(REQUEST) else {
            panic!("{shape}: {:?}", ruleset.fate(REQUEST))
        };
        assert_eq!(rule.text, format!("inet filter input handle {handle}"));
        let other = Packet { source_port: 123, destination_port: 40_000, ..REQUEST };
        assert_eq!(ruleset.fate(other), Fate::Passes, "{shape}");
    }
    let remembers = METERS.replace(r#"{"counter": {"packets": 0, "bytes": 0}}"#, r#"{"drop": null}"#);
    let ruleset = only(read(&remembers).unwrap(), 9);
    assert!(matches!(ruleset.fate(REQUEST), Fate::Dropped(..)), "a set without a limit takes every element");
}

#[test]
fn the_hooks_of_an_interface_are_seen_and_concern_only_its_packets() {
    let fate = |json: &str, packet: Packet<'static>| match read(json).unwrap().fate(packet) {
        Fate::Passes => ("passes", String::new()),
        Fate::Dropped(chain, _) => ("dropped", chain.exception.clone()),
        Fate::Unsure(chain, _) => ("unsure", chain.exception.clone()),
    };
    let at = |interface| Packet { interface, ..REQUEST };
    // This version of nft does not say which interface a chain is of.
    let exception = "nft insert rule netdev edge in {} accept".to_owned();
    assert_eq!(fate(INTERFACES, at("lan0")), ("unsure", exception.clone()));
    // Later ones do.
    let told = INTERFACES.replace(
        r#""hook": "ingress", "prio": -500"#,
        r#""hook": "ingress", "dev": ["lan0", "lan1"], "prio": -500"#,
    );
    let told = told.replace(r#""hook": "egress""#, r#""hook": "egress", "dev": "lan0""#);
    let told =
        told.replace(r#""hook": "ingress", "prio": 0"#, r#""hook": "ingress", "dev": "lan1", "prio": 0"#);
    assert_ne!(told, INTERFACES);
    assert_eq!(fate(&told, at("lan0")), ("dropped", exception));
    assert_eq!(fate(&told, at("eth0")).0, "passes");
    let version6 = |interface| Packet { family: Family::Ipv6, interface, ..REQUEST };
    assert_eq!(fate(&told, version6("lan0")).0, "passes", "the chain accepts IPv6 before");
    assert_eq!(fate(&told, version6("lan1")), ("dropped", "nft insert rule inet mine in {} accept".into()));
    let answer = |interface| Packet {
        hook: Hook::Out,
        source_port: 123,
        destination_port: 40_000,
        interface,
        ..REQUEST
    };
    assert_eq!([fate(&told, answer("lan0")).0, fate(&told, answer("lan1")).0], ["dropped", "passes"]);
}

#[test]
fn each_way_to_send_requests_elsewhere_is_seen_and_where_it_is_not_sure_that_is_said() {
    const TRANSLATIONS: &str = include_str!("../captured/dnat.json");
    let redirection = |handles: &[u32], packet| {
        let mut ruleset = read(TRANSLATIONS).unwrap();
        for chain in &mut ruleset.chains {
            chain.rules.retain(|rule| {
                handles.iter().any(|handle| rule.text.ends_with(&format!(" handle {handle}")))
            });
        }
        assert_eq!(ruleset.fate(packet), Fate::Passes, "nothing is dropped");
        ruleset.redirection(packet).map(|(_, rule, sure)| (rule.text.clone(), sure))
    };
    let by = |handle: u32, sure| {
        let chain = if handle == 3 { "containers" } else { "prerouting" };
        Some((format!("inet nat {chain} handle {handle}"), sure))
    };
    let here = Packet { interface: "lan0", ..REQUEST };
    assert_eq!(redirection(&[4], here), by(4, true), "dnat on an interface");
    assert_eq!(redirection(&[4], REQUEST), None, "dnat on another interface");
    assert_eq!(redirection(&[5], here), by(5, true), "redirect");
    assert_eq!(redirection(&[6], here), by(6, false), "dnat of one address, which may be served");
    for jump in [8, 9, 11] {
        assert_eq!(redirection(&[jump, 3], here), by(3, true), "by the jump with the handle {jump}");
    }
    assert_eq!(redirection(&[13], here), by(13, true), "dnat by a map");
    assert_eq!(redirection(&[], here), None);
    let elsewhere = Packet { destination_port: 53, ..here };
    assert_eq!(redirection(&[4, 5, 8, 3], elsewhere), None, "another port");
}

#[test]
fn what_is_no_ruleset_is_refused_and_odd_ones_are_survived() {
    assert!(read("").is_err() && read("{}").is_err());
    let odd = r#"{"nftables": [{"chain": {}}, {"rule": {}}, {"rule": {"expr": [7, {}, {"match": 3}, {"vmap": {}}]}},
            {"chain": {"family": "ip", "table": "t", "name": "c", "hook": "input", "policy": 7}},
            {"rule": {"family": "ip", "table": "t", "chain": "c", "expr": [{"jump": {}}, {"match": {"op": "==", "left": {}, "right": {"set": [{}]}}}, {"drop": null}]}}]}"#;
    assert!(matches!(read(odd).unwrap().fate(REQUEST), Fate::Unsure(..)));
}
