//! Reads `server`, `pool` and `peer`, which both formats write nearly alike.

use super::plan::{Plan, Upstream};

/// Poll intervals that can be configured, as powers of two in s.
const POLLS: std::ops::RangeInclusive<i32> = 3..=17;
/// Default poll intervals of the configuration.
const POLL_DEFAULTS: (u8, u8) = (6, 10);

/// Options of both formats that take a value and have no counterpart.
const WITH_VALUE: [&str; 18] = [
    "key",
    "version",
    "mode",
    "ttl",
    "bias",
    "certset",
    "maxdelay",
    "maxdelayratio",
    "maxdelaydevratio",
    "maxdelayquant",
    "mindelay",
    "asymmetry",
    "offset",
    "minsamples",
    "maxsamples",
    "filter",
    "polltarget",
    "ask",
];
/// Options with a value that change nothing worth a note.
const SILENT_WITH_VALUE: [&str; 6] =
    ["presend", "minstratum", "ntsport", "maxsources", "maxunreach", "extfield"];

/// Reads such a directive.
pub(super) fn read(plan: &mut Plan<'_>, directive: &str, arguments: &[&str]) {
    let mut words = arguments.iter().copied().peekable();
    while words.next_if(|word| matches!(*word, "-4" | "-6")).is_some() {
        plan.note("the address decides the family");
    }
    let Some(address) = words.next() else {
        return plan.note("it names no server");
    };
    let mut upstream = Upstream { address: address.into(), ..Upstream::default() };
    while let Some(option) = words.next() {
        let option = option.to_ascii_lowercase();
        match option.as_str() {
            "iburst" => upstream.iburst = true,
            "prefer" => upstream.prefer = true,
            "trust" | "true" => upstream.trust = true,
            "burst" => plan.note("`burst` loads other people's servers at every poll: omitted"),
            "minpoll" | "maxpoll" => {
                let poll = words.next().and_then(|word| word.parse::<i32>().ok());
                let Some(poll) = poll else {
                    plan.note(&format!("`{option}` has no number"));
                    continue;
                };
                let fits = poll.clamp(*POLLS.start(), *POLLS.end());
                if fits != poll {
                    plan.note(&format!("`{option} {poll}` is not 3 to 17: {fits} is used instead"));
                }
                let fits = u8::try_from(fits).ok();
                if option == "minpoll" { upstream.minpoll = fits } else { upstream.maxpoll = fits }
            }
            "port" => match words.next().and_then(|word| word.parse().ok()).filter(|port| *port != 0) {
                Some(port) => upstream.port = (port != responder::udp::NTP_PORT).then_some(port),
                None => plan.note("`port` has no valid number"),
            },
            "noselect" => return plan.other_source("`noselect`: a server that is not followed is not queried"),
            "nts" => plan
                .note("`nts` is not supported: the server would be queried without authentication, so check that this is acceptable"),
            "xleave" | "offline" | "auto_offline" | "copy" | "preempt" | "require" => {
                plan.note(&format!("`{option}` has no equivalent"));
            }
            name if WITH_VALUE.contains(&name) => {
                let _value = words.next();
                plan.note(&format!("`{name}` has no equivalent"));
            }
            name if SILENT_WITH_VALUE.contains(&name) => {
                let _value = words.next();
            }
            name => plan.unknown_option(name),
        }
    }
    let (min, max) =
        (upstream.minpoll.unwrap_or(POLL_DEFAULTS.0), upstream.maxpoll.unwrap_or(POLL_DEFAULTS.1));
    if min > max {
        match (upstream.minpoll, upstream.maxpoll) {
            // One was given, and the other's default is on the wrong side of it.
            (Some(poll), None) => upstream.maxpoll = Some(poll),
            (None, Some(poll)) => upstream.minpoll = Some(poll),
            _ => {
                plan.note("minpoll is above maxpoll: both omitted");
                (upstream.minpoll, upstream.maxpoll) = (None, None);
            }
        }
    }
    match directive {
        "peer" => plan.peer(),
        "pool" => plan.note("only one of the servers behind the name is queried"),
        _ => {}
    }
    plan.upstream(upstream);
}
