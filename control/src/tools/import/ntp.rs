//! Reads `ntp.conf` of the reference implementation and of `NTPsec`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::lines::{Line, lines};
use super::plan::{Access, Plan};
use super::source;
use crate::net::prefix::{Prefix, truncated};

/// Flags that always hold here: nothing on the wire changes the server or reads its state.
const ALWAYS: [&str; 11] = [
    "nomodify",
    "notrap",
    "nopeer",
    "noquery",
    "kod",
    "limited",
    "lowpriotrap",
    "ntpport",
    "noepeer",
    "nomrulist",
    "version",
];
/// What clients notice, or what names a file in which there may be more of it. All else stays with an ntpd that goes on
/// keeping the clock.
const IS_SEEN_BY_CLIENTS: [&str; 8] = [
    "restrict",
    "unrestrict",
    "delrestrict",
    "discard",
    "interface",
    "nic",
    "includefile",
    "leapsmearinterval",
];
/// The stratum of the local clock without `fudge`.
const LOCAL_STRATUM: u8 = 5;

/// Reads a file into the plan.
pub(super) fn read(plan: &mut Plan<'_>, text: &str) {
    let mut reader = Reader::default();
    for line in lines(text) {
        plan.at(line.number, line.text);
        reader.read(plan, &line);
    }
    reader.finish(plan);
}

/// What takes the whole file to decide.
#[derive(Default)]
struct Reader {
    /// The line that makes the local clock a source.
    local_clock: Option<(u32, String)>,
    fudged_stratum: Option<u8>,
    /// Whether requests from a prefix are refused. The flags of all lines about the same prefix add up.
    refused: BTreeMap<Prefix, bool>,
}

impl Reader {
    fn read(&mut self, plan: &mut Plan<'_>, line: &Line<'_>) {
        if !IS_SEEN_BY_CLIENTS.contains(&line.directive.as_str()) {
            plan.leave_alone();
        }
        let arguments = &line.arguments[..];
        match line.directive.as_str() {
            "server" | "peer" | "pool" => match arguments.first() {
                Some(address) if address.starts_with("127.127.1.") => self.local_clock(line),
                Some(address) if address.starts_with("127.127.") => {
                    plan.reference_clock(!arguments.contains(&"noselect"));
                }
                _ => source::read(plan, &line.directive, arguments),
            },
            // NTPsec names drivers in lower case; in upper case they are chronyd's.
            "refclock" => match arguments.first() {
                Some(&"local") => {
                    self.local_clock(line);
                    self.fudged_stratum = option(arguments, "stratum").or(self.fudged_stratum);
                }
                Some(driver) if driver.chars().any(|c| c.is_ascii_uppercase()) => plan.unknown(),
                _ => plan.reference_clock(!arguments.contains(&"noselect")),
            },
            "fudge" => match arguments.first() {
                Some(clock) if clock.starts_with("127.127.1.") => {
                    if arguments.contains(&"stratum") {
                        self.fudged_stratum = Some(option(arguments, "stratum").unwrap_or(0));
                    }
                }
                _ => plan.note("reference clocks are not supported"),
            },
            "restrict" => self.restrict(plan, arguments, Change::Add),
            "unrestrict" => self.restrict(plan, arguments, Change::TakeFlags),
            "delrestrict" => self.restrict(plan, arguments, Change::Remove),
            "leapfile" => match arguments {
                [path, ..] => plan.leap_seconds_list(path),
                [] => plan.note("it names no file"),
            },
            "tos" => tos(plan, arguments),
            "tinker" => tinker(plan, arguments),
            "enable" | "disable" => switch(plan, line.directive == "enable", arguments),
            directive => without_equivalent(plan, directive),
        }
    }

    fn local_clock(&mut self, line: &Line<'_>) {
        self.local_clock = Some((line.number, line.text.to_owned()));
    }

    fn restrict(&mut self, plan: &mut Plan<'_>, arguments: &[&str], change: Change) {
        let mut words = arguments.iter().copied().peekable();
        let family = words.next_if(|word| matches!(*word, "-4" | "-6"));
        let Some(whom) = words.next() else {
            return plan.note("it names no address");
        };
        let mask = words.next_if_eq(&"mask").map(|_| words.next().unwrap_or_default());
        let flags: Vec<String> = words.map(str::to_ascii_lowercase).collect();
        for flag in &flags {
            match flag.as_str() {
                "notrust" => {
                    plan.note("`notrust`: symmetric keys are not supported: clients are answered without");
                }
                "ignore" | "noserve" => {}
                flag if ALWAYS.contains(&flag) => {}
                flag => plan.note(&format!("the flag `{flag}` has no equivalent")),
            }
        }
        let has = |flag: &str| flags.iter().any(|known| known == flag);
        let refuses = has("ignore") || has("noserve");
        if refuses && has("ntpport") {
            return plan.note("`ntpport`: requests are not refused by the port that they come from");
        }
        let prefixes = match whom {
            // Answers of upstreams do not pass the lists.
            "source" => return,
            "default" => everybody(family),
            _ => network(whom, mask).into_iter().collect(),
        };
        if prefixes.is_empty() {
            plan.note("not an address with a mask; names are not looked up");
        }
        for prefix in prefixes {
            if prefix.address().is_loopback() {
                if refuses {
                    plan.note("the host itself is always answered");
                }
                continue;
            }
            match change {
                Change::Add => *self.refused.entry(prefix).or_default() |= refuses,
                Change::TakeFlags if refuses => {
                    self.refused.insert(prefix, false);
                }
                Change::TakeFlags if !flags.is_empty() => {}
                Change::TakeFlags | Change::Remove => {
                    self.refused.remove(&prefix);
                }
            }
        }
    }

    fn finish(self, plan: &mut Plan<'_>) {
        if let Some((line, text)) = self.local_clock {
            plan.about(line, &text);
            plan.local_stratum(self.fudged_stratum.unwrap_or(LOCAL_STRATUM));
        }
        for (prefix, refused) in self.refused {
            match refused {
                true => plan.access(prefix, Access::Deny),
                // Everybody is answered anyway.
                false if prefix.length() == 0 => {}
                false => plan.access(prefix, Access::Allow),
            }
        }
    }
}

/// What a directive does with the flags of a prefix.
#[derive(Clone, Copy)]
enum Change {
    Add,
    TakeFlags,
    Remove,
}

fn everybody(family: Option<&str>) -> Vec<Prefix> {
    [("0.0.0.0/0", "-4"), ("::/0", "-6")]
        .into_iter()
        .filter(|(_, of)| family.is_none_or(|family| family == *of))
        .filter_map(|(prefix, _)| prefix.parse().ok())
        .collect()
}

/// Parses `192.0.2.0`, `192.0.2.0/24` and `192.0.2.0 mask 255.255.255.0`. Bits beyond the mask are ignored.
fn network(whom: &str, mask: Option<&str>) -> Option<Prefix> {
    let (address, length) = match (mask, whom.split_once('/')) {
        (Some(mask), _) => {
            let (address, mask): (IpAddr, IpAddr) = (whom.parse().ok()?, mask.parse().ok()?);
            let (ones, contiguous) = match mask {
                IpAddr::V4(mask) => (mask.to_bits().leading_ones(), mask.to_bits().count_ones()),
                IpAddr::V6(mask) => (mask.to_bits().leading_ones(), mask.to_bits().count_ones()),
            };
            let fits = ones == contiguous && address.is_ipv4() == mask.is_ipv4();
            (address, u8::try_from(ones).ok().filter(|_| fits)?)
        }
        (None, Some((address, length))) => (address.parse().ok()?, length.parse().ok()?),
        (None, None) => {
            let address: IpAddr = whom.parse().ok()?;
            (address, if address.is_ipv4() { 32 } else { 128 })
        }
    };
    Prefix::new(truncated(address, length), length).ok()
}

/// Returns the number after a word, wherever the word is.
fn option<T: std::str::FromStr>(arguments: &[&str], name: &str) -> Option<T> {
    let place = arguments.iter().position(|word| *word == name)?;
    arguments.get(place + 1)?.parse().ok()
}

fn tos(plan: &mut Plan<'_>, arguments: &[&str]) {
    for pair in arguments.chunks(2) {
        let value = pair.get(1).copied();
        match pair[0] {
            "orphan" => plan.local_stratum(value.and_then(|value| value.parse().ok()).unwrap_or(0)),
            "minsane" => plan.min_sources(value.and_then(|value| value.parse().ok())),
            "maxdist" => {
                plan.milliseconds(
                    "max_distance_ms",
                    value.and_then(|value| value.parse().ok()),
                    0.001..=16.0,
                );
            }
            option => plan.note(&format!("`{option}` has no equivalent")),
        }
    }
}

fn tinker(plan: &mut Plan<'_>, arguments: &[&str]) {
    for pair in arguments.chunks(2) {
        match (pair[0], pair.get(1).and_then(|value| value.parse::<f64>().ok())) {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "within the guard's bounds"
            )]
            ("panic", Some(panic_s)) if (1.0..=1e6).contains(&panic_s) => {
                plan.clock("panic_s", &(panic_s as u32));
            }
            ("panic", _) => plan.note("an offset above `panic_s` is always left to the operator"),
            // ntpd never steps with 0, and otherwise at any time.
            ("step", Some(0.0)) => plan.clock("makestep", &"{ threshold_ms = 1000, updates = 0 }"),
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "within the guard's bounds"
            )]
            ("step", Some(step_s)) if (0.001..=1e5).contains(&step_s) => {
                let (ms, always) = ((step_s * 1_000.0) as u64, u32::MAX);
                plan.clock("makestep", &format!("{{ threshold_ms = {ms}, updates = {always} }}"));
            }
            ("step", _) => plan.note("`step` is not a number from 0.001 to 100000 s, or 0"),
            (option, _) => plan.note(&format!("`{option}` has no equivalent; see `makestep` in [clock]")),
        }
    }
}

fn switch(plan: &mut Plan<'_>, enable: bool, arguments: &[&str]) {
    for word in arguments {
        match (*word, enable) {
            ("ntp", true) => plan.forget_clock("steer"),
            ("ntp", false) => plan.clock("steer", &false),
            ("bclient", true) => plan.other_source("broadcast and multicast are not supported"),
            (word, _) => {
                plan.note(&format!("`{word}`: nothing to switch: see [clock], [limits] and [metrics]"));
            }
        }
    }
}

/// Notes why a directive is left out.
fn without_equivalent(plan: &mut Plan<'_>, directive: &str) {
    match directive {
        "driftfile" => plan.note("nothing to set: the frequency is kept in the state directory"),
        "discard" => plan.note("see [limits]: the default refuses no well-behaved client"),
        "broadcast" | "broadcastclient" | "multicastclient" | "manycastclient" | "manycastserver" => {
            plan.other_source("broadcast and multicast are not supported");
        }
        "phone" => plan.other_source("modems are not supported"),
        "interface" | "nic" => plan.note("see `interfaces` and `serve`"),
        "keys" | "keysdir" | "trustedkey" | "requestkey" | "controlkey" | "crypto" | "nts" | "autokey"
        | "revoke" | "ident" | "automax" => {
            plan.note("symmetric keys, Autokey and NTS are not supported");
        }
        "statsdir" | "statistics" | "filegen" | "logfile" | "logconfig" | "mrulist" | "mru" | "monitor"
        | "saveconfigdir" => {
            plan.note("no statistics or log files are written: see `status`, [metrics] and the journal");
        }
        "includefile" => plan.other_source("included files are not read: import each of them"),
        "leapsmearinterval" => plan.note("leap seconds are not smeared: the served time is UTC"),
        "broadcastdelay" | "calldelay" | "dscp" | "qos" | "freq" | "mdnstries" | "mem" | "rlimit"
        | "nonvolatile" | "ntpsigndsocket" | "pidfile" | "pollskewlist" | "reset" | "setvar" | "simulate"
        | "tick" | "trap" | "ttl" | "unconfig" | "unpeer" | "extra" | "clockstats" | "peerstats"
        | "loopstats" => plan.note("no equivalent"),
        _ => plan.unknown(),
    }
}
