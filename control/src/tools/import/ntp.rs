//! Reads `ntp.conf` of the reference implementation and of `NTPsec`.

use std::net::IpAddr;

use super::plan::{Access, Plan, quoted};
use super::source;
use crate::net::prefix::{Prefix, truncated};

/// Flags that always hold here: nothing on the wire changes the server or reads its state.
const ALWAYS: [&str; 12] = [
    "nomodify",
    "notrap",
    "nopeer",
    "noquery",
    "kod",
    "limited",
    "notrust",
    "lowpriotrap",
    "ntpport",
    "noepeer",
    "nomrulist",
    "version",
];

/// Reads a directive into the plan.
pub(super) fn read(plan: &mut Plan<'_>, directive: &str, arguments: &[&str]) {
    match directive {
        "server" | "peer" | "pool" => match arguments.first() {
            Some(address) if address.starts_with("127.127.1.") => plan.local_stratum(5),
            Some(address) if address.starts_with("127.127.") => {
                plan.note("reference clocks are not supported: leave them to a daemon that supports them, and serve the system clock");
            }
            _ => source::read(plan, directive, arguments),
        },
        "fudge" => fudge(plan, arguments),
        "restrict" => restrict(plan, arguments),
        "leapfile" => match arguments {
            [path, ..] => plan.clock("leap_seconds_list", &quoted(path.trim_matches('"'))),
            [] => plan.note("it names no file"),
        },
        "tos" => tos(plan, arguments),
        "tinker" => tinker(plan, arguments),
        "driftfile" => plan.note("nothing to set: the frequency is kept in the state directory"),
        "discard" => plan.note("see [limits]: the default refuses no well-behaved client"),
        "refclock" => {
            plan.note("reference clocks are not supported: leave them to a daemon that supports them, and serve the system clock");
        }
        "broadcast" | "broadcastclient" | "multicastclient" | "manycastclient" | "manycastserver" => {
            plan.note("broadcast and multicast are not supported");
        }
        "interface" | "nic" => plan.note("see `interfaces` and `serve`"),
        "keys" | "keysdir" | "trustedkey" | "requestkey" | "controlkey" | "crypto" | "nts" | "autokey" => {
            plan.note("symmetric keys, Autokey and NTS are not supported");
        }
        "statsdir" | "statistics" | "filegen" | "logfile" | "logconfig" | "mrulist" | "monitor" => {
            plan.note("no statistics or log files are written: see `status`, [metrics] and the journal");
        }
        "includefile" => plan.note("included files are not read: import each of them"),
        "enable" | "disable" => plan.note("nothing to switch: see [clock], [limits] and [metrics]"),
        _ => plan.note("unknown directive"),
    }
}

/// Does what requires the whole file; there is nothing here.
pub(super) fn finish(_plan: &mut Plan<'_>) {}

fn fudge(plan: &mut Plan<'_>, arguments: &[&str]) {
    match arguments {
        [clock, "stratum", stratum, ..] if clock.starts_with("127.127.1.") => {
            plan.local_stratum(stratum.parse().unwrap_or(0));
        }
        [clock, ..] if clock.starts_with("127.127.1.") => {}
        _ => plan.note("reference clocks are not supported"),
    }
}

fn tos(plan: &mut Plan<'_>, arguments: &[&str]) {
    let mut words = arguments.iter();
    while let Some(option) = words.next() {
        match (*option, words.next().and_then(|value| value.parse::<u32>().ok())) {
            ("orphan", Some(stratum)) => plan.local_stratum(u8::try_from(stratum).unwrap_or(0)),
            (option, _) => plan.note(&format!("`{option}` has no equivalent")),
        }
    }
}

fn tinker(plan: &mut Plan<'_>, arguments: &[&str]) {
    let mut words = arguments.iter();
    while let Some(option) = words.next() {
        match (*option, words.next().and_then(|value| value.parse::<f64>().ok())) {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "within the guard's bounds"
            )]
            ("panic", Some(panic_s)) if (1.0..=1e6).contains(&panic_s) => {
                plan.clock("panic_s", &(panic_s as u32));
            }
            ("panic", _) => plan.note("an offset above `panic_s` is always left to the operator"),
            (option, _) => plan.note(&format!("`{option}` has no equivalent; see `makestep` in [clock]")),
        }
    }
}

fn restrict(plan: &mut Plan<'_>, arguments: &[&str]) {
    let mut words = arguments.iter().copied().peekable();
    let family = words.next_if(|word| matches!(*word, "-4" | "-6"));
    let Some(whom) = words.next() else {
        return plan.note("it names no address");
    };
    let mask = words.next_if_eq(&"mask").map(|_| words.next());
    let flags: Vec<String> = words.map(str::to_ascii_lowercase).collect();
    for flag in &flags {
        if !ALWAYS.contains(&flag.as_str()) && !matches!(flag.as_str(), "ignore" | "noserve") {
            plan.note(&format!("the flag `{flag}` has no equivalent"));
        }
    }
    let refused = flags.iter().any(|flag| flag == "ignore" || flag == "noserve");
    let access = if refused { Access::Deny } else { Access::Allow };
    if whom == "default" || whom == "source" {
        // Everybody else is answered anyway, and answers of upstreams do not pass the lists.
        if refused && whom == "default" {
            for (prefix, of) in [("0.0.0.0/0", "-4"), ("::/0", "-6")] {
                if let Some(prefix) = prefix.parse().ok().filter(|_| family.is_none_or(|family| family == of))
                {
                    plan.access(prefix, access);
                }
            }
        }
        return;
    }
    let prefix = match mask {
        None => whom.parse::<Prefix>().ok(),
        Some(mask) => masked(whom, mask.unwrap_or_default()),
    };
    match prefix {
        Some(prefix) if prefix.address().is_loopback() => {
            if refused {
                plan.note("the host itself is always answered");
            }
        }
        Some(prefix) => plan.access(prefix, access),
        None => plan.note("not an address with a mask; names are not looked up"),
    }
}

/// Parses `192.0.2.0 mask 255.255.255.0`. Bits beyond the mask are ignored.
fn masked(address: &str, mask: &str) -> Option<Prefix> {
    let (address, mask): (IpAddr, IpAddr) = (address.parse().ok()?, mask.parse().ok()?);
    let (ones, contiguous) = match mask {
        IpAddr::V4(mask) => (mask.to_bits().leading_ones(), mask.to_bits().count_ones()),
        IpAddr::V6(mask) => (mask.to_bits().leading_ones(), mask.to_bits().count_ones()),
    };
    let length =
        u8::try_from(ones).ok().filter(|_| ones == contiguous && address.is_ipv4() == mask.is_ipv4())?;
    Prefix::new(truncated(address, length), length).ok()
}
