//! Rules of a packet filter of any kind, and the fate of a packet in them.

use responder::verdict::Family;

/// Largest depth of jumps that is followed; the kernel accepts 16.
const DEEPEST: usize = 16;

/// Largest number of rules that are evaluated for a packet, so that chains that jump to each other over and
/// over end.
const MOST_STEPS: u32 = 1_000_000;

/// All rules that are for packets from or to this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ruleset {
    pub(super) chains: Vec<Chain>,
}

/// A chain of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    /// The table of the chain: chains of other tables may have the same name.
    pub(super) table: String,
    pub(super) name: String,
    /// The family whose packets the chain sees; `None` means both.
    pub(super) family: Option<Family>,
    /// Where packets enter the chain, if it is a base chain.
    pub(super) hook: Option<Hook>,
    /// Which packets enter it there; the hook of an interface sees those of the interface.
    pub(super) entry: Vec<Test>,
    /// Whether it translates destinations: it sees the first packet of each flow to this host, and drops none.
    pub(super) translates: bool,
    /// Whether the chain's policy accepts packets that no rule decides on.
    pub(super) accepts: bool,
    pub(super) rules: Vec<Rule>,
    /// The command that accepts the packets of a port before all other rules, with `{}` in place of the port.
    pub(super) exception: String,
}

/// The hook at which packets enter a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// Packets to this host.
    In,
    /// Packets from this host.
    Out,
}

/// A rule: if all tests hold, its action is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// The rule as the filter's own tool shows it.
    pub(super) text: String,
    pub(super) tests: Vec<Test>,
    pub(super) action: Action,
}

/// A condition on a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Test {
    /// The packet is of one of these kinds.
    Kind(Vec<Kind>),
    /// The packet is of this family.
    Family(Family),
    /// The source port is in one of these ranges; if the flag is set, it is in none of them.
    SourcePort(Vec<(u16, u16)>, bool),
    DestinationPort(Vec<(u16, u16)>, bool),
    /// The flow is in one of these states.
    State(Vec<State>),
    /// The destination is an address of this kind.
    Destination(Destination),
    /// The packet uses this interface at the hook; a `*` at the end of the name matches any suffix. If the
    /// flag is set, it uses another interface.
    Interface(Hook, String, bool),
    /// The packet uses one of these interfaces.
    Device(Vec<String>),
    /// An unknown condition, which may hold or not.
    Unknown,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Accept,
    /// Drops the packet, silently or with an error message.
    Drop,
    /// Sends the packet to another address or port, in a chain that translates.
    Redirect,
    Jump(String),
    Goto(String),
    Return,
    /// Counts, logs or marks; the next rule decides.
    Nothing,
}

/// The kind of a packet, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A UDP datagram, with its ports.
    Udp,
    /// A neighbour solicitation: a neighbour asks for the MAC address of an IPv6 address.
    Solicitation,
}

/// The kind of a packet's destination address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// An address of this host.
    Local,
    /// A multicast address, which neighbour solicitations are sent to.
    Multicast,
    /// Another address, which no packet that matters here has.
    Other,
}

/// The state of a packet in connection tracking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    New,
    Established,
    /// Not tracked; neighbour solicitations never are.
    Untracked,
}

/// A packet that a server needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet<'a> {
    pub(super) hook: Hook,
    pub(super) family: Family,
    pub(super) interface: &'a str,
    pub(super) kind: Kind,
    pub(super) state: State,
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
}

/// The fate of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate<'a> {
    Passes,
    /// The rule, or else the chain's policy, drops it. The chain is the one that packets enter at the hook.
    Dropped(&'a Chain, Option<&'a Rule>),
    /// Its fate depends on what is not known here; the rule may drop it.
    Unsure(&'a Chain, Option<&'a Rule>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    Yes,
    No,
    Perhaps,
}

/// The outcome of a chain and of those that it jumps to.
enum End<'a> {
    Accepted,
    Dropped(Option<&'a Rule>),
    Returned,
}

/// What may have become of the packet before that.
#[derive(Default)]
struct Doubts<'a> {
    accepted: bool,
    dropped: Option<&'a Rule>,
    steps: u32,
}

impl Ruleset {
    /// Returns the fate of a packet. A chain that accepts decides only for itself, one that drops decides for
    /// all.
    pub(super) fn fate(&self, packet: Packet<'_>) -> Fate<'_> {
        let mut unsure = None;
        for chain in self.chains.iter().filter(|chain| !chain.translates) {
            let mut doubts = Doubts::default();
            match chain.sees(packet) {
                Holds::Yes => {}
                Holds::No => continue,
                Holds::Perhaps => doubts.accepted = true,
            }
            let dropped_by = match self.walk(chain, packet, &mut doubts, 0) {
                End::Accepted => None,
                End::Returned => (!chain.accepts).then_some(None),
                End::Dropped(rule) => Some(rule),
            };
            match (dropped_by, doubts.accepted, doubts.dropped) {
                (Some(rule), false, _) => return Fate::Dropped(chain, rule),
                (Some(rule), true, _) => unsure = unsure.or(Some((chain, rule))),
                (None, _, Some(rule)) => unsure = unsure.or(Some((chain, Some(rule)))),
                (None, _, None) => {}
            }
        }
        unsure.map_or(Fate::Passes, |(chain, rule)| Fate::Unsure(chain, rule))
    }

    /// Returns the chain and the rule that send a packet to another address or port before it is delivered, and whether
    /// that is certain.
    pub(super) fn redirection(&self, packet: Packet<'_>) -> Option<(&Chain, &Rule, bool)> {
        let redirects = |rule: &&Rule| rule.action == Action::Redirect;
        let mut unsure = None;
        for chain in self.chains.iter().filter(|chain| chain.translates) {
            let mut doubts = Doubts::default();
            match chain.sees(packet) {
                Holds::Yes => {}
                Holds::No => continue,
                Holds::Perhaps => doubts.accepted = true,
            }
            let end = self.walk(chain, packet, &mut doubts, 0);
            match (end, doubts.accepted) {
                (End::Dropped(Some(rule)), false) if redirects(&rule) => return Some((chain, rule, true)),
                (End::Dropped(Some(rule)), true) if redirects(&rule) => {
                    unsure = unsure.or(Some((chain, rule, false)));
                }
                _ => {}
            }
            let perhaps = doubts.dropped.filter(redirects);
            unsure = unsure.or(perhaps.map(|rule| (chain, rule, false)));
        }
        unsure
    }

    fn walk<'a>(
        &'a self,
        chain: &'a Chain,
        packet: Packet<'_>,
        doubts: &mut Doubts<'a>,
        depth: usize,
    ) -> End<'a> {
        // Whether a rule may have ended the chain; if so, the effect of later rules is uncertain.
        let mut perhaps_returned = false;
        for rule in &chain.rules {
            doubts.steps += 1;
            if doubts.steps > MOST_STEPS {
                doubts.accepted = true;
                doubts.dropped = doubts.dropped.or(Some(rule));
                return End::Returned;
            }
            let holds = match rule.holds(packet) {
                Holds::Yes if perhaps_returned => Holds::Perhaps,
                holds => holds,
            };
            let target = match (&rule.action, holds) {
                (_, Holds::No) | (Action::Nothing, _) => continue,
                (Action::Return, Holds::Perhaps) => {
                    perhaps_returned = true;
                    continue;
                }
                (Action::Accept, Holds::Yes) => return End::Accepted,
                (Action::Drop | Action::Redirect, Holds::Yes) => return End::Dropped(Some(rule)),
                (Action::Return, Holds::Yes) => return End::Returned,
                (Action::Accept, Holds::Perhaps) => {
                    doubts.accepted = true;
                    continue;
                }
                (Action::Drop | Action::Redirect, Holds::Perhaps) => {
                    doubts.dropped = doubts.dropped.or(Some(rule));
                    continue;
                }
                (Action::Jump(target) | Action::Goto(target), _) => target,
            };
            let below = self.chains.iter().find(|below| below.table == chain.table && below.name == *target);
            let Some(below) = below.filter(|_| depth < DEEPEST) else { continue };
            match (self.walk(below, packet, doubts, depth + 1), holds) {
                (End::Returned, Holds::Yes) if matches!(rule.action, Action::Goto(_)) => {
                    return End::Returned;
                }
                (End::Returned, _) => {}
                (End::Accepted, Holds::Perhaps) => doubts.accepted = true,
                (End::Dropped(dropped), Holds::Perhaps) => doubts.dropped = doubts.dropped.or(dropped),
                (end, _) => return end,
            }
        }
        End::Returned
    }
}

impl Chain {
    /// Whether a packet enters the chain.
    fn sees(&self, packet: Packet<'_>) -> Holds {
        if self.hook != Some(packet.hook) || self.family.is_some_and(|family| family != packet.family) {
            return Holds::No;
        }
        all_hold(&self.entry, packet)
    }
}

impl Rule {
    fn holds(&self, packet: Packet<'_>) -> Holds {
        all_hold(&self.tests, packet)
    }
}

fn all_hold(tests: &[Test], packet: Packet<'_>) -> Holds {
    let results = tests.iter().map(|test| test.holds(packet));
    results.fold(Holds::Yes, |all, one| match (all, one) {
        (Holds::No, _) | (_, Holds::No) => Holds::No,
        (Holds::Perhaps, _) | (_, Holds::Perhaps) => Holds::Perhaps,
        (Holds::Yes, Holds::Yes) => Holds::Yes,
    })
}

impl Test {
    fn holds(&self, packet: Packet<'_>) -> Holds {
        let within = |ranges: &[(u16, u16)], port: u16| {
            ranges.iter().any(|(first, last)| (*first..=*last).contains(&port))
        };
        let holds = match self {
            Self::Kind(kinds) => kinds.contains(&packet.kind),
            Self::Family(family) => *family == packet.family,
            Self::SourcePort(..) | Self::DestinationPort(..) if packet.kind != Kind::Udp => false,
            Self::SourcePort(ranges, negated) => within(ranges, packet.source_port) != *negated,
            Self::DestinationPort(ranges, negated) => within(ranges, packet.destination_port) != *negated,
            Self::State(states) => states.contains(&packet.state),
            Self::Destination(destination) => match destination {
                Destination::Local => packet.hook == Hook::In && packet.kind == Kind::Udp,
                Destination::Multicast => packet.kind == Kind::Solicitation,
                Destination::Other => false,
            },
            // A packet to this host has no output interface.
            Self::Interface(hook, name, negated) => {
                let is_it = *hook == packet.hook
                    && name
                        .strip_suffix('*')
                        .map_or(name == packet.interface, |start| packet.interface.starts_with(start));
                is_it != *negated
            }
            Self::Device(names) => names.iter().any(|name| name == packet.interface),
            Self::Unknown => return Holds::Perhaps,
        };
        if holds { Holds::Yes } else { Holds::No }
    }
}

/// A request for the time, at the input hook.
#[cfg(test)]
pub(super) const REQUEST: Packet<'_> = Packet {
    hook: Hook::In,
    family: Family::Ipv4,
    interface: "eth0",
    source_port: 40_000,
    destination_port: 123,
    kind: Kind::Udp,
    state: State::New,
};

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(tests: &[Test], action: Action) -> Rule {
        Rule { text: format!("{action:?}"), tests: tests.to_vec(), action }
    }

    fn chain(name: &str, hook: Option<Hook>, accepts: bool, rules: Vec<Rule>) -> Chain {
        Chain {
            table: "t".into(),
            name: name.into(),
            family: None,
            hook,
            entry: Vec::new(),
            translates: false,
            accepts,
            rules,
            exception: String::new(),
        }
    }

    fn of(rules: Vec<Rule>, accepts: bool) -> Ruleset {
        let others = vec![rule(&[Test::DestinationPort(vec![(123, 123)], false)], Action::Accept)];
        Ruleset {
            chains: vec![chain("input", Some(Hook::In), accepts, rules), chain("ntp", None, true, others)],
        }
    }

    fn passes(rules: Vec<Rule>, accepts: bool) -> bool {
        of(rules, accepts).fate(REQUEST) == Fate::Passes
    }

    #[test]
    fn the_first_rule_that_holds_decides_and_else_the_policy() {
        assert!(passes(vec![], true) && !passes(vec![], false));
        let port = |ports, negated| Test::DestinationPort(vec![ports], negated);
        assert!(passes(
            vec![rule(&[port((100, 200), false)], Action::Accept), rule(&[], Action::Drop)],
            false
        ));
        assert!(!passes(
            vec![rule(&[port((123, 123), false)], Action::Drop), rule(&[], Action::Accept)],
            true
        ));
        assert!(passes(vec![rule(&[port((123, 123), true)], Action::Drop)], true));
        assert!(!passes(vec![rule(&[Test::State(vec![State::Established])], Action::Accept)], false));
        assert!(!passes(vec![rule(&[Test::Kind(vec![Kind::Solicitation])], Action::Accept)], false));
        let of_interface =
            |name: &str| rule(&[Test::Interface(Hook::In, name.into(), false)], Action::Accept);
        assert!(passes(vec![of_interface("eth*")], false) && !passes(vec![of_interface("lo")], false));
    }

    #[test]
    fn jumps_come_back_and_gotos_do_not() {
        let jump = || rule(&[], Action::Jump("ntp".into()));
        assert!(passes(vec![jump()], false));
        let empty = |action: Action| {
            let mut ruleset = of(vec![rule(&[], action), rule(&[], Action::Drop)], true);
            ruleset.chains[1].rules.clear();
            ruleset
        };
        assert!(matches!(empty(Action::Jump("ntp".into())).fate(REQUEST), Fate::Dropped(..)));
        assert_eq!(empty(Action::Goto("ntp".into())).fate(REQUEST), Fate::Passes);
        // The kernel would not accept such a loop.
        let mut ruleset = of(vec![rule(&[], Action::Jump("input".into()))], true);
        assert_eq!(ruleset.fate(REQUEST), Fate::Passes);
        ruleset.chains[0].accepts = false;
        assert!(matches!(ruleset.fate(REQUEST), Fate::Dropped(_, None)));
    }
    #[test]
    fn chains_that_jump_over_and_over_leave_a_doubt_and_take_no_time() {
        let link = |number: usize| {
            let jumps = vec![rule(&[], Action::Jump(format!("chain{}", number + 1))); 40];
            chain(&format!("chain{number}"), (number == 0).then_some(Hook::In), true, jumps)
        };
        let ruleset = Ruleset { chains: (0..DEEPEST).map(link).collect() };
        assert!(matches!(ruleset.fate(REQUEST), Fate::Unsure(..)));
    }

    #[test]
    fn what_is_not_understood_leaves_a_doubt_and_no_more() {
        let perhaps = |action| rule(&[Test::Unknown], action);
        assert!(matches!(of(vec![perhaps(Action::Drop)], true).fate(REQUEST), Fate::Unsure(_, Some(_))));
        assert!(matches!(of(vec![perhaps(Action::Accept)], false).fate(REQUEST), Fate::Unsure(_, None)));
        assert_eq!(of(vec![perhaps(Action::Accept)], true).fate(REQUEST), Fate::Passes);
        let sure = of(
            vec![
                rule(&[Test::Kind(vec![Kind::Udp]), Test::Unknown], Action::Nothing),
                rule(&[], Action::Drop),
            ],
            true,
        );
        assert!(matches!(sure.fate(REQUEST), Fate::Dropped(..)));
    }
    #[test]
    fn a_chain_that_may_have_ended_leaves_a_doubt_about_what_comes_after() {
        let rules = vec![rule(&[Test::Unknown], Action::Return), rule(&[], Action::Drop)];
        assert!(matches!(of(rules, true).fate(REQUEST), Fate::Unsure(_, Some(_))));
        let local = |kind| vec![rule(&[Test::Destination(kind)], Action::Return), rule(&[], Action::Drop)];
        assert!(passes(local(Destination::Local), true) && !passes(local(Destination::Other), true));
    }

    #[test]
    fn every_chain_of_the_hook_has_to_let_it_pass() {
        let mut ruleset = of(vec![rule(&[], Action::Accept)], true);
        ruleset.chains.push(chain("late", Some(Hook::In), false, vec![]));
        assert!(matches!(ruleset.fate(REQUEST), Fate::Dropped(chain, None) if chain.name == "late"));
        ruleset.chains[2].family = Some(Family::Ipv6);
        assert_eq!(ruleset.fate(REQUEST), Fate::Passes);
        assert_eq!(ruleset.fate(Packet { hook: Hook::Out, ..REQUEST }), Fate::Passes);
    }
}
