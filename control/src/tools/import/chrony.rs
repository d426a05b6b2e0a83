//! Reads `chrony.conf`.

use std::net::{IpAddr, Ipv4Addr};

use super::lines::lines;
use super::plan::{Access, Plan};
use super::source;
use crate::net::prefix::{Prefix, truncated};

/// Drivers of reference clocks, which chronyd names in upper case.
const DRIVERS: [&str; 5] = ["PPS", "SHM", "SOCK", "PHC", "RTC"];

/// What clients notice, or what names files in which there may be more of it. All else stays with a chronyd that goes on
/// keeping the clock.
const IS_SEEN_BY_CLIENTS: [&str; 11] = [
    "allow",
    "deny",
    "ratelimit",
    "bindaddress",
    "binddevice",
    "port",
    "smoothtime",
    "leapsecmode",
    "confdir",
    "sourcedir",
    "include",
];

/// Reads a file into the plan.
pub(super) fn read(plan: &mut Plan<'_>, text: &str) {
    for line in lines(text) {
        plan.at(line.number, line.text);
        if !IS_SEEN_BY_CLIENTS.contains(&line.directive.as_str()) {
            plan.leave_alone();
        }
        read_directive(plan, &line.directive, &line.arguments);
    }
    finish(plan);
}

fn read_directive(plan: &mut Plan<'_>, directive: &str, arguments: &[&str]) {
    match directive {
        "server" | "peer" | "pool" => source::read(plan, directive, arguments),
        "refclock" => match arguments.first() {
            Some(driver) if DRIVERS.contains(driver) => {
                plan.reference_clock(!arguments.contains(&"noselect"));
            }
            _ => plan.unknown(),
        },
        "initstepslew" => plan.other_source("its servers are not read; see `makestep` in [clock]"),
        "makestep" => makestep(plan, arguments),
        "local" => local(plan, arguments),
        "leapseclist" => match arguments {
            [path, ..] => plan.leap_seconds_list(path),
            [] => plan.note("it names no file"),
        },
        "minsources" => plan.min_sources(arguments.first().and_then(|word| word.parse().ok())),
        "maxdistance" => plan.milliseconds(
            "max_distance_ms",
            arguments.first().and_then(|word| word.parse().ok()),
            0.001..=16.0,
        ),
        "maxslewrate" => maxslewrate(plan, arguments),
        "allow" => access(plan, arguments, Access::Allow),
        "deny" => access(plan, arguments, Access::Deny),
        "ratelimit" => ratelimit(plan, arguments),
        "confdir" | "sourcedir" | "include" => {
            plan.other_source("included files are not read: import each of them");
        }
        _ => without_equivalent(plan, directive),
    }
}

/// Notes why a directive is left out.
fn without_equivalent(plan: &mut Plan<'_>, directive: &str) {
    match directive {
        "leapsectz" => plan.note(
            "time zone files are not read: use `leap_seconds_list = \"/usr/share/zoneinfo/leap-seconds.list\"` in \
             [clock] instead",
        ),
        "driftfile" => plan.note("nothing to set: the frequency is kept in the state directory"),
        "rtcsync" | "rtcfile" | "rtcdevice" | "rtcautotrim" | "rtconutc" | "hwclockfile" => {
            plan.note("nothing to set: the kernel keeps the hardware clock in step when the system clock is synchronised");
        }
        "lock_all" | "sched_priority" | "hwtimestamp" | "hwtstimeout" | "ptpport" | "ptpdomain" | "maxtxbuffers" => {
            plan.note("hardware timestamps and scheduling cannot be configured here");
        }
        "keyfile" | "commandkey" | "generatecommandkey" | "authselectmode" => {
            plan.note("symmetric keys and NTS are not supported");
        }
        "ntsdumpdir" | "ntscachedir" | "ntsservercert" | "ntsserverkey" | "ntstrustedcerts" | "ntsport"
        | "ntsprocesses" | "ntsratelimit" | "ntsrefresh" | "ntsrotate" | "ntsntpserver" | "ntsaeads" | "maxntsconnections"
        | "nocerttimecheck" | "nosystemcert" => plan.note("symmetric keys and NTS are not supported"),
        "cmdallow" | "cmddeny" | "bindcmdaddress" | "bindcmddevice" | "cmdport" | "cmdratelimit" | "opencommands" => {
            plan.note("nothing to set: commands come over a local socket only");
        }
        "bindaddress" | "binddevice" | "bindacqaddress" | "bindacqdevice" | "port" | "acquisitionport" => {
            plan.note("see `interfaces` and `serve`");
        }
        "logdir" | "log" | "logbanner" | "logchange" | "dumpdir" | "dumponexit" | "mailonchange" | "clientloglimit"
        | "noclientlog" => plan.note("no statistics or log files are written: see `status`, [metrics] and the journal"),
        "smoothtime" if plan.is_beside() => plan.note(
            "chronyd smooths only what it answers itself; all others get the system clock's time: take it out of chronyd's \
             configuration",
        ),
        "leapsecmode" if plan.is_beside() => {
            plan.note("only `system`, the default, tells this server when a leap second comes: take it out of chronyd's configuration");
        }
        "smoothtime" | "leapsecmode" => plan.note("leap seconds are not smeared: the served time is UTC"),
        "broadcast" | "clockprecision" | "combinelimit" | "corrtimeratio" | "dscp" | "fallbackdrift"
        | "linux_freq_scale" | "linux_hz" | "manual" | "maxchange" | "maxclockerror" | "maxdrift" | "maxjitter"
        | "maxsamples" | "maxupdateskew" | "minsamples" | "ntpsigndsocket" | "pidfile" | "refresh" | "reselectdist"
        | "stratumweight" | "tempcomp" | "user" => plan.note("no equivalent"),
        _ => plan.unknown(),
    }
}

/// chronyd answers only clients that an `allow` names.
fn finish(plan: &mut Plan<'_>) {
    if !plan.has_access(Access::Allow) {
        plan.about(0, "allow");
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

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the guard's bounds")]
fn maxslewrate(plan: &mut Plan<'_>, arguments: &[&str]) {
    match arguments.first().and_then(|word| word.parse::<f64>().ok()) {
        Some(ppm) if (1.0..90_001.0).contains(&ppm) => plan.clock("max_slew_ppm", &(ppm as u32)),
        _ => plan.note("not a number from 1 to 90000"),
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
