//! Reads iptables rules as `iptables-save` and `ip6tables-save` print them.

use responder::verdict::Family;

use super::ruleset::{Action, Chain, Destination, Hook, Kind, Rule, Ruleset, State, Test};
use crate::safe_text::shell_word;

/// Reads the rules. Lines that make no sense are left out; unknown options make a rule uncertain.
pub(super) fn read(text: &str, family: Family) -> Ruleset {
    let mut ruleset = Ruleset::default();
    let mut table = String::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = format!("{} {name}", family.label());
        } else if let Some(chain) = line.strip_prefix(':') {
            ruleset.chains.extend(read_chain(chain, &table, family));
        } else if line.starts_with("-A ") {
            let words = words(line);
            let chain = ruleset
                .chains
                .iter_mut()
                .find(|chain| chain.table == table && words.get(1) == Some(&chain.name));
            if let Some(chain) = chain {
                chain.rules.push(read_rule(line, words.get(2..).unwrap_or_default()));
            }
        }
    }
    ruleset
}

/// Reads a chain such as `INPUT DROP [0:0]` or `mine - [0:0]`.
fn read_chain(line: &str, table: &str, family: Family) -> Option<Chain> {
    let mut words = line.split_whitespace();
    let (name, policy) = (words.next()?, words.next()?);
    let short_table = table.split(' ').nth(1)?;
    let hook = match (short_table, name) {
        ("nat", "PREROUTING") => Some(Hook::In),
        // The others do not see what comes in.
        ("nat", _) => None,
        (_, "PREROUTING" | "INPUT") => Some(Hook::In),
        (_, "OUTPUT" | "POSTROUTING") => Some(Hook::Out),
        _ => None,
    };
    let tool = match family {
        Family::Ipv4 => "iptables",
        Family::Ipv6 => "ip6tables",
    };
    let of_table = if short_table == "filter" { String::new() } else { format!(" -t {short_table}") };
    Some(Chain {
        table: table.to_owned(),
        name: name.to_owned(),
        family: Some(family),
        hook,
        entry: Vec::new(),
        translates: short_table == "nat",
        accepts: policy != "DROP",
        rules: Vec::new(),
        exception: format!("{tool}{of_table} -I {} {{}} -j ACCEPT", shell_word(name)),
    })
}

fn read_rule(line: &str, words: &[String]) -> Rule {
    let (mut tests, mut action) = (Vec::new(), Action::Nothing);
    let mut words = words.iter().map(String::as_str).peekable();
    let mut negated = false;
    while let Some(option) = words.next() {
        if option == "!" {
            negated = true;
            continue;
        }
        let mut value = || words.next().unwrap_or_default();
        let test = match option {
            "-p" | "--protocol" => Some(protocol(value(), negated)),
            "--icmpv6-type" => {
                let solicits = ["135", "neighbour-solicitation", "neighbor-solicitation"].contains(&value());
                Some(Test::Kind(if solicits == negated { Vec::new() } else { vec![Kind::Solicitation] }))
            }
            "-i" | "--in-interface" => Some(interface(Hook::In, value(), negated)),
            "-o" | "--out-interface" => Some(interface(Hook::Out, value(), negated)),
            "--dport" | "--dports" => {
                Some(ports(value()).map_or(Test::Unknown, |ports| Test::DestinationPort(ports, negated)))
            }
            "--sport" | "--sports" => {
                Some(ports(value()).map_or(Test::Unknown, |ports| Test::SourcePort(ports, negated)))
            }
            "--state" | "--ctstate" => Some(states(value(), negated)),
            "-m" | "--match" => match value() {
                // Their options are read, or they always hold.
                "udp" | "tcp" | "icmp6" | "multiport" | "state" | "conntrack" | "comment" | "addrtype"
                | "rt" | "hl" => None,
                _ => Some(Test::Unknown),
            },
            "--dst-type" if !negated => Some(Test::Destination(match value() {
                "LOCAL" => Destination::Local,
                "MULTICAST" => Destination::Multicast,
                _ => Destination::Other,
            })),
            // No packet that matters here has a routing header, and neighbour solicitations have crossed no
            // router.
            "--rt-type" => {
                let _kind = value();
                Some(Test::Kind(Vec::new()))
            }
            "--hl-eq" if !negated && value() == "255" => Some(Test::Kind(vec![Kind::Solicitation])),
            "--comment" => {
                let _text = value();
                None
            }
            "-j" | "--jump" | "-g" | "--goto" => {
                let goes = option == "-g" || option == "--goto";
                action = target(value(), goes);
                // The options that follow belong to the target.
                break;
            }
            _ => Some(Test::Unknown),
        };
        tests.extend(test);
        negated = false;
    }
    Rule { text: line.to_owned(), tests, action }
}

fn target(name: &str, goes: bool) -> Action {
    match name {
        "ACCEPT" => Action::Accept,
        "DROP" | "REJECT" => Action::Drop,
        "RETURN" => Action::Return,
        "DNAT" | "REDIRECT" => Action::Redirect,
        name if goes => Action::Goto(name.to_owned()),
        // The target is a chain, or has no chain and decides nothing (LOG, CT, MARK).
        name => Action::Jump(name.to_owned()),
    }
}

fn protocol(name: &str, negated: bool) -> Test {
    let kinds = [(["udp", "17", "all"], Kind::Udp), (["ipv6-icmp", "icmpv6", "all"], Kind::Solicitation)];
    let passes = |names: &[&str]| names.contains(&name) != negated;
    Test::Kind(kinds.into_iter().filter(|(names, _)| passes(names)).map(|(_, kind)| kind).collect())
}

/// A `+` at the end matches any suffix.
fn interface(hook: Hook, name: &str, negated: bool) -> Test {
    let name = name.strip_suffix('+').map_or_else(|| name.to_owned(), |start| format!("{start}*"));
    Test::Interface(hook, name, negated)
}

fn states(list: &str, negated: bool) -> Test {
    let states = [("NEW", State::New), ("ESTABLISHED", State::Established), ("UNTRACKED", State::Untracked)];
    let passes = |word: &str| list.split(',').any(|found| found == word) != negated;
    Test::State(states.into_iter().filter(|(word, _)| passes(word)).map(|(_, state)| state).collect())
}

/// Reads ports such as `123`, `100:200` or `53,123`.
fn ports(text: &str) -> Option<Vec<(u16, u16)>> {
    text.split(',')
        .map(|range| {
            let (from, to) = range.split_once(':').unwrap_or((range, range));
            Some((from.parse().ok()?, to.parse().ok()?))
        })
        .collect()
}

/// Splits a line into words. iptables-save puts words with spaces in quotes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' if quoted => word.extend(characters.next()),
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(std::mem::take(&mut word)),
            character => word.push(character),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::doctor::firewall::ruleset::{Fate, Packet, REQUEST};

    /// The rules that ufw makes on Debian 12, shortened: SSH is allowed, other incoming packets are denied.
    const UFW: &str = "# Generated by iptables-save v1.8.9 (nf_tables) on Mon Nov 23 05:00:00 2026\n\
        *filter\n:INPUT DROP [7:336]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n:ufw-before-input - [0:0]\n\
        :ufw-not-local - [0:0]\n:ufw-user-input - [0:0]\n:ufw-skip-to-policy-input - [0:0]\n\
        -A INPUT -j ufw-before-input\n\
        -A ufw-before-input -i lo -j ACCEPT\n\
        -A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
        -A ufw-before-input -m conntrack --ctstate INVALID -j DROP\n\
        -A ufw-before-input -p udp -m udp --sport 67 --dport 68 -j ACCEPT\n\
        -A ufw-before-input -j ufw-not-local\n\
        -A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN\n\
        -A ufw-not-local -m addrtype --dst-type BROADCAST -j RETURN\n\
        -A ufw-not-local -j DROP\n\
        -A ufw-user-input -m limit --limit 3/min --limit-burst 10 -j LOG --log-prefix \"[UFW BLOCK] \"\n\
        -A ufw-before-input -j ufw-user-input\n\
        -A ufw-user-input -p tcp -m tcp --dport 22 -m comment --comment \"say \\\"hi\\\" -j ACCEPT\" -j ACCEPT\n\
        -A ufw-skip-to-policy-input -j DROP\nCOMMIT\n";

    #[test]
    fn ufw_drops_requests_until_the_port_is_allowed_and_lets_replies_in() {
        let ruleset = read(UFW, Family::Ipv4);
        let Fate::Dropped(chain, None) = ruleset.fate(REQUEST) else { panic!("{:?}", ruleset.fate(REQUEST)) };
        assert_eq!(chain.exception, "iptables -I INPUT {} -j ACCEPT");
        let reply =
            Packet { source_port: 123, destination_port: 40_000, state: State::Established, ..REQUEST };
        assert_eq!(ruleset.fate(reply), Fate::Passes);
        let allowed = UFW.replace("COMMIT", "-A ufw-user-input -p udp -m udp --dport 123 -j ACCEPT\nCOMMIT");
        assert_eq!(read(&allowed, Family::Ipv4).fate(REQUEST), Fate::Passes);
    }

    #[test]
    fn the_rule_that_drops_is_named_as_it_stands() {
        for rule in [
            "-A OUTPUT -p udp -m udp --dport 123 -j DROP",
            "-A OUTPUT -o eth+ -p udp -m multiport --dports 53,100:200 -j REJECT --reject-with icmp-port-unreachable",
            "-A OUTPUT ! -p tcp -m comment --comment \"no time\" -j DROP",
            "-A OUTPUT -m state --state NEW -j DROP",
        ] {
            let text = format!("*filter\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -o lo -j ACCEPT\n{rule}\nCOMMIT\n");
            let ruleset = read(&text, Family::Ipv6);
            let fate = ruleset.fate(Packet { hook: Hook::Out, family: Family::Ipv6, ..REQUEST });
            assert!(matches!(fate, Fate::Dropped(_, Some(found)) if found.text == rule), "{rule}: {fate:?}");
        }
    }
    #[test]
    fn neighbours_are_let_in_by_their_type() {
        let rules = "*filter\n:INPUT DROP [0:0]\n-A INPUT -p ipv6-icmp -m icmp6 --icmpv6-type 135 -j ACCEPT\nCOMMIT\n";
        let solicitation =
            Packet { family: Family::Ipv6, kind: Kind::Solicitation, state: State::Untracked, ..REQUEST };
        assert_eq!(read(rules, Family::Ipv6).fate(solicitation), Fate::Passes);
        let ufw = rules.replace("icmp6 --icmpv6-type 135", "icmp6 --icmpv6-type 135 -m hl --hl-eq 255");
        let ufw = ufw.replace("-A INPUT", "-A INPUT -m rt --rt-type 0 -j DROP\n-A INPUT");
        assert_eq!(read(&ufw, Family::Ipv6).fate(solicitation), Fate::Passes);
        let others = rules.replace("135", "128");
        assert!(matches!(read(&others, Family::Ipv6).fate(solicitation), Fate::Dropped(..)));
    }

    /// The rules that Docker makes for `-p 123:123/udp`, as iptables-save 1.8.9 prints them, shortened.
    const DOCKER: &str = "*nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n\
        :POSTROUTING ACCEPT [0:0]\n:DOCKER - [0:0]\n\
        -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
        -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER\n\
        -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE\n\
        -A DOCKER -i docker0 -j RETURN\n\
        -A DOCKER ! -i docker0 -p udp -m udp --dport 123 -j DNAT --to-destination 172.17.0.2:123\nCOMMIT\n";

    #[test]
    fn requests_that_docker_sends_to_a_container_are_seen_and_dropped_by_nothing() {
        let ruleset = read(DOCKER, Family::Ipv4);
        let (_, rule, sure) = ruleset.redirection(REQUEST).unwrap();
        assert!(sure && rule.text.contains("--to-destination 172.17.0.2:123"), "{rule:?}");
        assert_eq!(ruleset.fate(REQUEST), Fate::Passes);
        assert_eq!(ruleset.redirection(Packet { interface: "docker0", ..REQUEST }), None);
        assert_eq!(ruleset.redirection(Packet { destination_port: 53, ..REQUEST }), None);
        let own = "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p udp -m udp --dport 123 -j REDIRECT --to-ports 1123\nCOMMIT\n";
        assert!(read(own, Family::Ipv6).redirection(Packet { family: Family::Ipv6, ..REQUEST }).is_some());
    }

    #[test]
    fn options_that_are_not_known_leave_a_doubt() {
        let text = "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p udp -m set --match-set bad src -j DROP\nCOMMIT\n";
        assert!(
            matches!(read(text, Family::Ipv4).fate(REQUEST), Fate::Unsure(chain, Some(_)) if chain.exception.contains("-t raw"))
        );
        for line in [
            "*",
            ":",
            ":x",
            "-A ",
            "-A nowhere -j DROP",
            "*filter\n:INPUT DROP\n-A INPUT ! -p",
            "\"",
            "-A INPUT \"\\",
        ] {
            let _survived = read(line, Family::Ipv4);
        }
    }
}
