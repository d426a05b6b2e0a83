//! Reads `chrony.conf`.

use std::net::{IpAddr, Ipv4Addr};

use super::plan::{Access, Plan, quoted};
use super::source;
use crate::net::prefix::{Prefix, truncated};

/// Reads a directive into the plan.
pub(super) fn read(plan: &mut Plan<'_>, directive: &str, arguments: &[&str]) {
    match directive {
        "server" | "peer" | "pool" => source::read(plan, directive, arguments),
        "makestep" => makestep(plan, arguments),
        "local" => local(plan, arguments),
        "leapseclist" => match arguments {
            [path, ..] => plan.clock("leap_seconds_list", &quoted(path)),
            [] => plan.note("it names no file"),
        },
        "leapsectz" => plan.note(
            "time zone files are not read: use `leap_seconds_list = \"/usr/share/zoneinfo/leap-seconds.list\"` in \
             [clock] instead",
        ),
        "minsources" => match arguments.first().and_then(|word| word.parse().ok()) {
            Some(fewest @ 1..=32) => plan.min_sources(fewest),
            _ => plan.note("not a number from 1 to 32"),
        },
        "maxdistance" => number(plan, "max_distance_ms", arguments, 0.001..=16.0, 1_000.0),
        "maxslewrate" => number(plan, "max_slew_ppm", arguments, 1.0..=500.0, 1.0),
        "allow" => access(plan, arguments, Access::Allow),
        "deny" => access(plan, arguments, Access::Deny),
        "ratelimit" => ratelimit(plan, arguments),
        "driftfile" => plan.note("nothing to set: the frequency is kept in the state directory"),
        "rtcsync" | "rtcfile" | "rtcdevice" | "rtcautotrim" | "rtconutc" | "hwclockfile" => {
            plan.note("nothing to set: the kernel keeps the hardware clock in step when the system clock is synchronised");
        }
        "refclock" | "lock_all" | "sched_priority" | "hwtimestamp" | "hwtstimeout" => {
            plan.note("reference clocks, hardware timestamps and scheduling cannot be configured here");
        }
        "keyfile" | "ntsdumpdir" | "ntsservercert" | "ntsserverkey" | "ntstrustedcerts" | "ntsport" | "authselectmode" => {
            plan.note("symmetric keys and NTS are not supported");
        }
        "confdir" | "sourcedir" | "include" => plan.note("included files are not read: import each of them"),
        "cmdallow" | "cmddeny" | "bindcmdaddress" | "cmdport" | "cmdratelimit" | "opencommands" => {
            plan.note("nothing to set: commands come over a local socket only");
        }
        "bindaddress" | "binddevice" | "bindacqaddress" | "port" | "acquisitionport" => {
            plan.note("see `interfaces` and `serve`");
        }
        "logdir" | "log" | "logbanner" | "logchange" | "dumpdir" | "dumponexit" | "mailonchange" | "clientloglimit"
        | "noclientlog" => plan.note("no statistics or log files are written: see `status`, [metrics] and the journal"),
        "smoothtime" | "leapsecmode" => plan.note("leap seconds are not smeared: the served time is UTC"),
        _ => plan.note("no equivalent, or unknown directive"),
    }
}

/// chronyd answers only clients that an `allow` names.
pub(super) fn finish(plan: &mut Plan<'_>) {
    if !plan.has_access(Access::Allow) {
        plan.at(0, "allow");
        return plan.note(
            "it is missing, so chronyd answers no client; this server answers all except `deny` in [access]",
        );
    }
    for all in ["0.0.0.0/0", "::/0"] {
        if let Ok(prefix) = all.parse() {
            plan.deny_unless_named(prefix);
        }
    }
}

fn makestep(plan: &mut Plan<'_>, arguments: &[&str]) {
    let parsed = match arguments {
        [threshold, updates] => threshold.parse::<f64>().ok().zip(updates.parse::<i64>().ok()),
        _ => None,
    };
    match parsed {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "within the guard's bounds"
        )]
        Some((threshold_s, updates)) if (0.001..=1e5).contains(&threshold_s) => {
            // A negative number means "always".
            let updates = u32::try_from(updates).unwrap_or(u32::MAX);
            let ms = (threshold_s * 1_000.0) as u64;
            plan.clock("makestep", &format!("{{ threshold_ms = {ms}, updates = {updates} }}"));
        }
        _ => plan.note("not a threshold of 0.001 to 100000 s and a number of updates"),
    }
}

fn local(plan: &mut Plan<'_>, arguments: &[&str]) {
    let stratum = arguments.iter().position(|word| *word == "stratum").and_then(|at| arguments.get(at + 1));
    match stratum {
        Some(stratum) => plan.local_stratum(stratum.parse().unwrap_or(0)),
        None => plan.local_stratum(10),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "within bounds that are positive"
)]
fn number(
    plan: &mut Plan<'_>,
    key: &'static str,
    arguments: &[&str],
    bounds: std::ops::RangeInclusive<f64>,
    factor: f64,
) {
    match arguments.first().and_then(|word| word.parse::<f64>().ok()) {
        Some(value) if bounds.contains(&value) => plan.clock(key, &((value * factor) as u64)),
        _ => plan.note(&format!("not a number from {} to {}", bounds.start(), bounds.end())),
    }
}

fn access(plan: &mut Plan<'_>, arguments: &[&str], access: Access) {
    let whom = arguments.iter().find(|word| **word != "all").copied();
    let prefixes = match whom {
        None => ["0.0.0.0/0", "::/0"].iter().filter_map(|prefix| prefix.parse().ok()).collect(),
        Some(whom) => prefix(whom).into_iter().collect::<Vec<Prefix>>(),
    };
    if prefixes.is_empty() {
        plan.note("not a subnet; names are not looked up");
    }
    for prefix in prefixes {
        if arguments.contains(&"all") {
            plan.forget_within(prefix);
        }
        plan.access(prefix, access);
    }
}

/// Parses an address, a subnet, or the first bytes of an IPv4 address. Bits beyond the length are ignored.
fn prefix(text: &str) -> Option<Prefix> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length.parse::<u8>().ok()?)),
        None => (text, None),
    };
    let (address, whole): (IpAddr, u8) = if let Ok(address) = address.parse::<IpAddr>() {
        (address, if address.is_ipv4() { 32 } else { 128 })
    } else {
        let mut octets = [0; 4];
        let given: Vec<u8> = address.split('.').map(str::parse).collect::<Result<_, _>>().ok()?;
        octets.get_mut(..given.len())?.copy_from_slice(&given);
        (Ipv4Addr::from(octets).into(), 8 * u8::try_from(given.len()).ok()?)
    };
    let length = length.unwrap_or(whole);
    Prefix::new(truncated(address, length), length).ok()
}

fn ratelimit(plan: &mut Plan<'_>, arguments: &[&str]) {
    // These are the defaults of chronyd: one request in 8 s, 8 at once, and one in 4 of the others.
    let (mut interval_log2, mut burst, mut leak) = (3, 8_u32, 2_u8);
    let mut words = arguments.iter();
    while let Some(option) = words.next() {
        if *option == "kod" {
            words.next();
            continue;
        }
        let value = words.next().and_then(|word| word.parse::<i32>().ok());
        match (*option, value) {
            ("interval", Some(value)) => interval_log2 = value,
            ("burst", Some(value)) => burst = u32::try_from(value).unwrap_or(0).clamp(1, 3_600),
            ("leak", Some(value)) => leak = u8::try_from(value).unwrap_or(0).clamp(1, 16),
            _ => plan.note(&format!("`{option}` is not valid")),
        }
    }
    if interval_log2 > 0 {
        plan.note("the lowest rate is one request per second");
    }
    plan.limit("rate", &(1_u32 << (-interval_log2).clamp(0, 13)));
    plan.limit("burst", &burst);
    plan.limit("leak", &leak);
}
