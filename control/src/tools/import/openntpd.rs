//! Reads `ntpd.conf` of openntpd.

use super::lines::lines;
use super::plan::{Plan, Upstream};

/// Reads a file into the plan.
pub(super) fn read(plan: &mut Plan<'_>, text: &str) {
    for line in lines(text) {
        plan.at(line.number, line.text);
        // Whom it serves is `listen`; the rest is about its own clock.
        if line.directive != "listen" {
            plan.leave_alone();
        }
        match (line.directive.as_str(), &line.arguments[..]) {
            ("server" | "servers", [address, options @ ..]) => {
                if line.directive == "servers" {
                    plan.note("only one of the servers behind the name is queried");
                }
                server(plan, address, options);
            }
            ("server" | "servers", []) => plan.note("it names no server"),
            ("sensor", _) => plan.other_source("sensors are not supported"),
            ("constraint" | "constraints", [from, ..]) if *from == "from" => {
                plan.note("constraints are not supported: a majority of the upstreams decides");
            }
            ("listen", [on, ..]) if *on == "on" => plan.note("see `interfaces` and `serve`"),
            ("query", [from, ..]) if *from == "from" => plan.note("the routing table chooses the address"),
            _ => plan.unknown(),
        }
    }
}

fn server(plan: &mut Plan<'_>, address: &str, options: &[&str]) {
    let mut options = options.iter();
    while let Some(option) = options.next() {
        match *option {
            "weight" => {
                let _weight = options.next();
                plan.note("`weight` has no equivalent; see `prefer`");
            }
            "trusted" => plan.note("`trusted` has no equivalent, because there are no constraints"),
            option => plan.unknown_option(option),
        }
    }
    plan.upstream(Upstream { address: address.into(), iburst: true, ..Upstream::default() });
}
