//! Rules of a packet filter, whoever made them, and what becomes of a packet in them.

use responder::verdict::Family;

/// Jumps from chain to chain that are followed; the kernel takes 16.
const DEEPEST: usize = 16;

/// Rules that are looked at for a packet: chains that jump to each other over and over end somewhere.
const MOST_STEPS: u32 = 1_000_000;

/// All rules there are, as far as they are for packets from or to this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ruleset {
    pub(super) chains: Vec<Chain>,
}

/// A chain of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    /// The table that it is in: chains of other tables may have the same name.
    pub(super) table: String,
    pub(super) name: String,
    /// The family whose packets it sees; both if none.
    pub(super) family: Option<Family>,
    /// Where packets enter it, if they do.
    pub(super) hook: Option<Hook>,
    /// What becomes of those that no rule decides on.
    pub(super) accepts: bool,
    pub(super) rules: Vec<Rule>,
    /// What lets the packets of a port through, put before all rules: with `{}` for it.
    pub(super) exception: String,
}

/// Which packets enter a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// Those to this host.
    In,
    /// Those from it.
    Out,
}

/// A rule: if all tests hold, the action is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// As the filter's own tool shows it.
    pub(super) text: String,
    pub(super) tests: Vec<Test>,
    pub(super) action: Action,
}

/// A test of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Test {
    /// Only packets of these kinds pass.
    Kind(Vec<Kind>),
    /// Only this family's.
    Family(Family),
    /// Ports in one of these ranges, or in none of them.
    SourcePort(Vec<(u16, u16)>, bool),
    DestinationPort(Vec<(u16, u16)>, bool),
    /// Which states of a flow pass.
    State(Vec<State>),
    /// To an address of this kind.
    Destination(Destination),
    /// Of this interface; a `*` at the end stands for anything. Or not of it.
    Interface(Hook, String, bool),
    /// Anything else: it may hold or not.
    Unknown,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Accept,
    /// Silently or not.
    Drop,
    Jump(String),
    Goto(String),
    Return,
    /// Counts, logs, marks: the next rule decides.
    Nothing,
}

/// What a packet is, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// With ports.
    Udp,
    /// A neighbour asks for the station of an IPv6 address.
    Solicitation,
}

/// Whose address a packet goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// One of this host's.
    Local,
    /// A group's: neighbours are asked for by one.
    Multicast,
    /// Another one, which no packet that matters here has.
    Other,
}

/// What connection tracking makes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    New,
    Established,
    /// Solicitations always are.
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

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate<'a> {
    Passes,
    /// In this chain, which packets enter by the hook, by this rule, or by the chain's policy.
    Dropped(&'a Chain, Option<&'a Rule>),
    /// It depends on what is not known here: perhaps by this rule.
    Unsure(&'a Chain, Option<&'a Rule>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    Yes,
    No,
    Perhaps,
}

/// What became of a packet in a chain and those that it jumps to.
enum End<'a> {
    Accepted,
    Dropped(Option<&'a Rule>),
    Returned,
}

/// What may have become of it before that.
#[derive(Default)]
struct Doubts<'a> {
    accepted: bool,
    dropped: Option<&'a Rule>,
    steps: u32,
}

impl Ruleset {
    /// What becomes of a packet. An accepting chain decides for itself alone, a dropping one for all.
    pub(super) fn fate(&self, packet: Packet<'_>) -> Fate<'_> {
        let mut unsure = None;
        for chain in self.chains.iter().filter(|chain| chain.hook == Some(packet.hook)) {
            if chain.family.is_some_and(|family| family != packet.family) {
                continue;
            }
            let mut doubts = Doubts::default();
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

    fn walk<'a>(
        &'a self,
        chain: &'a Chain,
        packet: Packet<'_>,
        doubts: &mut Doubts<'a>,
        depth: usize,
    ) -> End<'a> {
        // Whether a rule may have ended the chain: what later ones do is in doubt then.
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
                (Action::Drop, Holds::Yes) => return End::Dropped(Some(rule)),
                (Action::Return, Holds::Yes) => return End::Returned,
                (Action::Accept, Holds::Perhaps) => {
                    doubts.accepted = true;
                    continue;
                }
                (Action::Drop, Holds::Perhaps) => {
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

impl Rule {
    fn holds(&self, packet: Packet<'_>) -> Holds {
        let results = self.tests.iter().map(|test| test.holds(packet));
        results.fold(Holds::Yes, |all, one| match (all, one) {
            (Holds::No, _) | (_, Holds::No) => Holds::No,
            (Holds::Perhaps, _) | (_, Holds::Perhaps) => Holds::Perhaps,
            (Holds::Yes, Holds::Yes) => Holds::Yes,
        })
    }
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
            // A packet to this host has no interface that it leaves by.
            Self::Interface(hook, name, negated) => {
                let is_it = *hook == packet.hook
                    && name
                        .strip_suffix('*')
                        .map_or(name == packet.interface, |start| packet.interface.starts_with(start));
                is_it != *negated
            }
            Self::Unknown => return Holds::Perhaps,
        };
        if holds { Holds::Yes } else { Holds::No }
    }
}

/// A request for the time, as it comes in.
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
        // A loop, which the kernel would not take.
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
