//! Reads nftables rules as `nft --json list ruleset` prints them.

use responder::verdict::Family;
use serde_json::Value;

use super::ruleset::{Action, Chain, Destination, Hook, Kind, Rule, Ruleset, State, Test};
use crate::safe_text::shell_word;

/// Reads the rules. Tables of other kinds (bridges, an interface's own hooks) and chains that do not see
/// packets of this host are left out.
pub(super) fn read(json: &str) -> Result<Ruleset, String> {
    let json: Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let list = json["nftables"].as_array().ok_or("no list of nftables")?;
    let mut ruleset = Ruleset::default();
    for chain in list.iter().filter_map(|item| item.get("chain")) {
        ruleset.chains.extend(read_chain(chain));
    }
    for rule in list.iter().filter_map(|item| item.get("rule")) {
        let table = table(rule);
        let chain = ruleset
            .chains
            .iter_mut()
            .find(|chain| chain.table == table && Some(chain.name.as_str()) == rule["chain"].as_str());
        if let Some(chain) = chain {
            chain.rules.extend(read_rule(rule));
        }
    }
    Ok(ruleset)
}

fn table(item: &Value) -> String {
    let word = |key: &str| item[key].as_str().unwrap_or_default();
    format!("{} {}", word("family"), word("table"))
}

/// As [`table`], for a command.
fn table_words(item: &Value) -> String {
    let word = |key: &str| shell_word(item[key].as_str().unwrap_or_default());
    format!("{} {}", word("family"), word("table"))
}

fn read_chain(chain: &Value) -> Option<Chain> {
    let family = match chain["family"].as_str()? {
        "inet" => None,
        "ip" => Some(Family::Ipv4),
        "ip6" => Some(Family::Ipv6),
        _ => return None,
    };
    let hook = match chain["hook"].as_str() {
        // Chains of type nat see only first packets and drop none.
        Some(_) if chain["type"].as_str() == Some("nat") => None,
        Some("prerouting" | "input") => Some(Hook::In),
        Some("output" | "postrouting") => Some(Hook::Out),
        _ => None,
    };
    let (table, name) = (table(chain), chain["name"].as_str()?.to_owned());
    Some(Chain {
        exception: format!("nft insert rule {} {} {{}} accept", table_words(chain), shell_word(&name)),
        table,
        name,
        family,
        hook,
        accepts: chain["policy"].as_str() != Some("drop"),
        rules: Vec::new(),
    })
}

/// Reads a rule. With a verdict map, a rule decides about several kinds of packets at once; it becomes one
/// rule for each.
fn read_rule(rule: &Value) -> Vec<Rule> {
    let (mut tests, mut rules) = (Vec::new(), Vec::new());
    let text =
        format!("{} {} handle {}", table(rule), rule["chain"].as_str().unwrap_or_default(), rule["handle"]);
    let statements = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
    for statement in statements {
        let Some((kind, value)) = statement.as_object().and_then(|object| object.iter().next()) else {
            continue;
        };
        match kind.as_str() {
            "match" => tests.push(read_match(value)),
            "vmap" => rules.extend(read_map(value, &tests, &text)),
            // This is a match of iptables, whose content nft does not show.
            "xt" | "limit" | "quota" | "ct count" | "connlimit" => tests.push(Test::Unknown),
            _ => {
                if let Some(action) = verdict(kind, value) {
                    rules.push(Rule { text: text.clone(), tests: tests.clone(), action });
                }
            }
        }
    }
    rules
}

fn verdict(kind: &str, value: &Value) -> Option<Action> {
    let target = || value["target"].as_str().map(ToOwned::to_owned);
    Some(match kind {
        "accept" => Action::Accept,
        "drop" | "reject" => Action::Drop,
        "jump" => Action::Jump(target()?),
        "goto" => Action::Goto(target()?),
        "return" => Action::Return,
        _ => return None,
    })
}

fn read_map(map: &Value, tests: &[Test], text: &str) -> Vec<Rule> {
    // The map is given by name, in which case its elements are not known, or as a set.
    let elements = map["data"]["set"].as_array().map(Vec::as_slice).unwrap_or_default();
    let rule = |element: &Value| {
        let (kind, value) = element.get(1)?.as_object()?.iter().next()?;
        let mut tests = tests.to_vec();
        tests.push(test(&map["key"], element.get(0)?, false));
        Some(Rule { text: text.to_owned(), tests, action: verdict(kind, value)? })
    };
    elements.iter().filter_map(rule).collect()
}

fn read_match(value: &Value) -> Test {
    let negated = match value["op"].as_str() {
        Some("==" | "in") => false,
        Some("!=") => true,
        _ => return Test::Unknown,
    };
    test(&value["left"], &value["right"], negated)
}

fn test(left: &Value, right: &Value, negated: bool) -> Test {
    let payload = &left["payload"];
    let (protocol, field) = (payload["protocol"].as_str(), payload["field"].as_str());
    match (protocol, field) {
        (Some("udp" | "th"), Some("dport")) => {
            return ports(right).map_or(Test::Unknown, |ports| Test::DestinationPort(ports, negated));
        }
        (Some("udp" | "th"), Some("sport")) => {
            return ports(right).map_or(Test::Unknown, |ports| Test::SourcePort(ports, negated));
        }
        (Some("icmpv6"), Some("type")) => {
            return words(right).map_or(Test::Unknown, |words| {
                let solicits = words.iter().any(|word| word == "nd-neighbor-solicit" || word == "135");
                Test::Kind(if solicits == negated { Vec::new() } else { vec![Kind::Solicitation] })
            });
        }
        // No packet that matters here has such a header.
        (Some("tcp" | "icmp" | "sctp" | "dccp" | "esp" | "ah" | "igmp"), _) => return Test::Kind(Vec::new()),
        (Some("ip"), Some("protocol")) | (Some("ip6"), Some("nexthdr")) => {
            return words(right).map_or(Test::Unknown, |words| protocol_test(&words, negated));
        }
        _ => {}
    }
    let Some(words) = words(right) else { return Test::Unknown };
    let about_destination = left["meta"]["key"] == "pkttype"
        || (left["fib"]["result"] == "type"
            && left["fib"]["flags"].as_array().is_some_and(|flags| *flags == ["daddr"]));
    if let ([word], true, false) = (words.as_slice(), about_destination, negated) {
        return Test::Destination(match word.as_str() {
            "local" | "host" => Destination::Local,
            "multicast" => Destination::Multicast,
            _ => Destination::Other,
        });
    }
    match (left["meta"]["key"].as_str(), left["ct"]["key"].as_str()) {
        (Some("l4proto"), _) => protocol_test(&words, negated),
        (Some("nfproto"), _) => match words.as_slice() {
            [word] if (word == "ipv4") != negated => Test::Family(Family::Ipv4),
            [_] => Test::Family(Family::Ipv6),
            _ => Test::Unknown,
        },
        (Some(key @ ("iifname" | "iif" | "oifname" | "oif")), _) => match words.as_slice() {
            [name] => {
                let hook = if key.starts_with('i') { Hook::In } else { Hook::Out };
                Test::Interface(hook, name.clone(), negated)
            }
            _ => Test::Unknown,
        },
        (_, Some("state")) => {
            let states =
                [("new", State::New), ("established", State::Established), ("untracked", State::Untracked)];
            let passes = |word: &str| words.iter().any(|found| found == word) != negated;
            Test::State(states.into_iter().filter(|(word, _)| passes(word)).map(|(_, state)| state).collect())
        }
        _ => Test::Unknown,
    }
}

fn protocol_test(words: &[String], negated: bool) -> Test {
    let kinds = [(["udp", "17"], Kind::Udp), (["ipv6-icmp", "58"], Kind::Solicitation)];
    let passes = |names: &[&str]| words.iter().any(|word| names.contains(&word.as_str())) != negated;
    Test::Kind(kinds.into_iter().filter(|(names, _)| passes(names)).map(|(_, kind)| kind).collect())
}

/// Reads a word or a set of words.
fn words(value: &Value) -> Option<Vec<String>> {
    let list = value["set"].as_array().or(value.as_array());
    match list {
        Some(list) => list.iter().map(word).collect(),
        None => Some(vec![word(value)?]),
    }
}

fn word(value: &Value) -> Option<String> {
    match value {
        // Names of sets begin with this character.
        Value::String(text) if text.starts_with('@') => None,
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Reads a port, a range, or a set of both.
fn ports(value: &Value) -> Option<Vec<(u16, u16)>> {
    if let Some(list) = value["set"].as_array() {
        return list.iter().map(|value| ports(value)?.first().copied()).collect();
    }
    let number = |value: &Value| match value {
        Value::Number(number) => u16::try_from(number.as_u64()?).ok(),
        Value::String(name) if name == "ntp" => Some(responder::udp::NTP_PORT),
        _ => None,
    };
    let (first, last) = match value["range"].as_array().map(Vec::as_slice) {
        Some([first, last]) => (number(first)?, number(last)?),
        _ => (number(value)?, number(value)?),
    };
    Some(vec![(first, last)])
}

#[cfg(test)]
mod tests {
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
        let reply =
            Packet { source_port: 123, destination_port: 40_000, state: State::Established, ..REQUEST };
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
            let rule = format!(
                r#"{{"match": {{"op": "in", "left": {left}, "right": {right}}}}}, {{"accept": null}}"#
            );
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

    #[test]
    fn what_is_no_ruleset_is_refused_and_odd_ones_are_survived() {
        assert!(read("").is_err() && read("{}").is_err());
        let odd = r#"{"nftables": [{"chain": {}}, {"rule": {}}, {"rule": {"expr": [7, {}, {"match": 3}, {"vmap": {}}]}},
            {"chain": {"family": "ip", "table": "t", "name": "c", "hook": "input", "policy": 7}},
            {"rule": {"family": "ip", "table": "t", "chain": "c", "expr": [{"jump": {}}, {"match": {"op": "==", "left": {}, "right": {"set": [{}]}}}, {"drop": null}]}}]}"#;
        assert!(matches!(read(odd).unwrap().fate(REQUEST), Fate::Unsure(..)));
    }
}
