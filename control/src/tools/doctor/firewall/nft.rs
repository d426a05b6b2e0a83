//! Reads nftables rules as `nft --json list ruleset` prints them.

use responder::verdict::Family;
use serde_json::Value;

use super::ruleset::{Action, Chain, Destination, Hook, Kind, Rule, Ruleset, State, Test};
use crate::safe_text::shell_word;

/// Reads the rules. Tables of other kinds (bridges, ARP) and chains that do not see packets of this host are left
/// out.
pub(super) fn read(json: &str) -> Result<Ruleset, String> {
    let json: Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let list = json["nftables"].as_array().ok_or("no list of nftables")?;
    let mut ruleset = Ruleset::default();
    for chain in list.iter().filter_map(|item| item.get("chain")) {
        ruleset.chains.extend(read_chain(chain));
    }
    let limiting: Vec<_> = list.iter().filter_map(|item| limiting_set(item.get("set")?)).collect();
    for rule in list.iter().filter_map(|item| item.get("rule")) {
        let table = table(rule);
        let chain = ruleset
            .chains
            .iter_mut()
            .find(|chain| chain.table == table && Some(chain.name.as_str()) == rule["chain"].as_str());
        if let Some(chain) = chain {
            chain.rules.extend(read_rule(rule, &limiting));
        }
    }
    Ok(ruleset)
}

/// Returns the table and the name of a set whose elements have limits or counters of their own, as `@name`: a rule that
/// puts an element into it goes on only within them.
fn limiting_set(set: &Value) -> Option<(String, String)> {
    let has_statements = set["stmt"].as_array().is_some_and(|statements| !statements.is_empty());
    has_statements.then(|| Some((table(set), format!("@{}", set["name"].as_str()?))))?
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
        "inet" | "netdev" => None,
        "ip" => Some(Family::Ipv4),
        "ip6" => Some(Family::Ipv6),
        _ => return None,
    };
    let translates = chain["type"].as_str() == Some("nat");
    let hook = match chain["hook"].as_str() {
        Some("prerouting") if translates => Some(Hook::In),
        // These translate sources, or what this host sends.
        Some(_) if translates => None,
        Some("prerouting" | "input" | "ingress") => Some(Hook::In),
        Some("output" | "postrouting" | "egress") => Some(Hook::Out),
        _ => None,
    };
    let is_of_interface = matches!(chain["hook"].as_str(), Some("ingress" | "egress"));
    let (table, name) = (table(chain), chain["name"].as_str()?.to_owned());
    Some(Chain {
        exception: format!("nft insert rule {} {} {{}} accept", table_words(chain), shell_word(&name)),
        table,
        name,
        family,
        hook,
        // nft 1.0.6 does not tell of which interface.
        entry: if is_of_interface {
            vec![words(&chain["dev"]).map_or(Test::Unknown, Test::Device)]
        } else {
            Vec::new()
        },
        translates,
        accepts: chain["policy"].as_str() != Some("drop"),
        rules: Vec::new(),
    })
}

/// Reads a rule. With a verdict map, a rule decides about several kinds of packets at once; it becomes one
/// rule for each.
fn read_rule(rule: &Value, limiting: &[(String, String)]) -> Vec<Rule> {
    let (mut tests, mut rules) = (Vec::new(), Vec::new());
    let text =
        format!("{} {} handle {}", table(rule), rule["chain"].as_str().unwrap_or_default(), rule["handle"]);
    let statements = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
    for statement in statements {
        let Some((kind, value)) = statement.as_object().and_then(|object| object.iter().next()) else {
            continue;
        };
        match kind.as_str() {
            "match" => {
                tests.extend(family_of(&value["left"]));
                tests.push(read_match(value));
            }
            "vmap" => rules.extend(read_map(value, &tests, &text)),
            // This is a match of iptables, whose content nft does not show.
            "xt" | "limit" | "quota" | "ct count" | "connlimit" | "meter" => tests.push(Test::Unknown),
            "set" | "map" if limits(value, &table(rule), limiting) => tests.push(Test::Unknown),
            // A program decides.
            "queue" => rules.push(Rule {
                text: text.clone(),
                tests: [&tests[..], &[Test::Unknown]].concat(),
                action: Action::Drop,
            }),
            _ => {
                if let Some(action) = verdict(kind, value) {
                    rules.push(Rule { text: text.clone(), tests: tests.clone(), action });
                }
            }
        }
    }
    rules
}

/// Whether a statement that puts an element into a set is one that goes on only within a limit.
fn limits(statement: &Value, table: &str, limiting: &[(String, String)]) -> bool {
    let has_statements = match &statement["stmt"] {
        Value::Null => false,
        Value::Array(statements) => !statements.is_empty(),
        _ => true,
    };
    let set = statement["set"].as_str().or(statement["map"].as_str());
    has_statements || limiting.iter().any(|(of, name)| of == table && Some(name.as_str()) == set)
}

fn verdict(kind: &str, value: &Value) -> Option<Action> {
    let target = || value["target"].as_str().map(ToOwned::to_owned);
    Some(match kind {
        "accept" => Action::Accept,
        "drop" | "reject" => Action::Drop,
        "dnat" | "redirect" => Action::Redirect,
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

/// The family that a packet is of where a rule looks into its header. nft tests that first, and does not show it.
fn family_of(left: &Value) -> Option<Test> {
    match left["payload"]["protocol"].as_str()? {
        "ip" => Some(Test::Family(Family::Ipv4)),
        "ip6" => Some(Test::Family(Family::Ipv6)),
        _ => None,
    }
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
        (Some("ether"), Some("type")) => {
            return words(right).map_or(Test::Unknown, |words| ether_type(&words, negated));
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
        (Some("protocol"), _) => ether_type(&words, negated),
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

/// A test of the type of a frame.
fn ether_type(words: &[String], negated: bool) -> Test {
    match (words, negated) {
        ([word], false) if word == "ip" => Test::Family(Family::Ipv4),
        ([word], false) if word == "ip6" => Test::Family(Family::Ipv6),
        ([word], true) if word == "ip" => Test::Family(Family::Ipv6),
        ([word], true) if word == "ip6" => Test::Family(Family::Ipv4),
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
mod tests;
