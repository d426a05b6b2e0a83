//! Reads `ntp.toml` of ntpd-rs.

use toml::de::{DeTable, DeValue};

use super::plan::{Access, Plan, Upstream};
use crate::net::prefix::{Prefix, truncated};

/// Reads a file into the plan.
pub(super) fn read(plan: &mut Plan<'_>, text: &str) {
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            plan.at(line_of(text, error.span().map_or(0, |span| span.start)), "");
            return plan.unknown();
        }
    };
    for (key, value) in table.get_ref() {
        let line = line_of(text, key.span().start);
        let key = key.get_ref().as_ref();
        match (key, value.get_ref()) {
            ("source", DeValue::Array(sources)) => {
                for source in sources {
                    plan.at(line_of(text, source.span().start), "source");
                    plan.leave_alone();
                    match source.get_ref() {
                        DeValue::Table(source) => read_source(plan, source),
                        _ => plan.unknown(),
                    }
                }
            }
            ("server", DeValue::Array(servers)) => {
                for server in servers {
                    plan.at(line_of(text, server.span().start), "server");
                    match server.get_ref() {
                        DeValue::Table(server) => read_server(plan, server),
                        _ => plan.unknown(),
                    }
                }
            }
            ("synchronization", DeValue::Table(settings)) => {
                plan.at(line, key);
                for (key, value) in settings {
                    plan.about(line_of(text, key.span().start), key.get_ref());
                    plan.leave_alone();
                    read_synchronization(plan, key.get_ref(), value.get_ref());
                }
            }
            ("source-defaults", DeValue::Table(_)) => {
                plan.at(line, key);
                plan.leave_alone();
                plan.note("see `minpoll` and `maxpoll` in [[upstream]]");
            }
            ("observability", DeValue::Table(_)) => {
                plan.at(line, key);
                plan.leave_alone();
                plan.note("see `status`, [metrics] and the journal");
            }
            ("keyset" | "nts-ke-server" | "nts-ke", _) => {
                plan.at(line, key);
                plan.leave_alone();
                plan.note("NTS is not supported");
            }
            _ => {
                plan.at(line, key);
                plan.unknown();
            }
        }
    }
}

fn read_source(plan: &mut Plan<'_>, source: &DeTable<'_>) {
    let text = |name: &str| value(source, name).and_then(DeValue::as_str);
    match text("mode") {
        Some("pps" | "sock") => return plan.reference_clock(true),
        Some("pool") => plan.note("only one of the servers behind the name is queried"),
        Some("nts" | "nts-pool") => plan.note(
            "NTS is not supported: the server would be queried without authentication, so check that this is acceptable",
        ),
        Some("server") => {}
        _ => return plan.unknown(),
    }
    let Some(address) = text("address") else { return plan.note("it names no server") };
    // The port is part of the address.
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if host.starts_with('[') || !host.contains(':') => (host, port.parse().ok()),
        _ => (address, None),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = port.filter(|port| *port != 0 && *port != responder::udp::NTP_PORT);
    plan.upstream(Upstream { address: host.into(), port, iburst: true, ..Upstream::default() });
}

fn read_server(plan: &mut Plan<'_>, server: &DeTable<'_>) {
    plan.note("see `interfaces` and `serve`");
    let filter = |name: &str| {
        let filter = value(server, name)?.as_table().and_then(|list| value(list, "filter"))?;
        Some(
            filter
                .as_array()?
                .iter()
                .filter_map(|entry| network(entry.get_ref().as_str()?))
                .collect::<Vec<_>>(),
        )
    };
    for prefix in filter("denylist").into_iter().flatten() {
        plan.access(prefix, Access::Deny);
    }
    let Some(allowed) = filter("allowlist") else { return };
    for prefix in allowed {
        plan.access(prefix, Access::Allow);
    }
    for all in ["0.0.0.0/0", "::/0"] {
        if let Ok(prefix) = all.parse() {
            plan.deny_unless_named(prefix);
        }
    }
}

/// Parses a network. Bits beyond its length are ignored.
fn network(text: &str) -> Option<Prefix> {
    match text.split_once('/') {
        Some((address, length)) => {
            let length = length.parse().ok()?;
            Prefix::new(truncated(address.parse().ok()?, length), length).ok()
        }
        None => text.parse().ok(),
    }
}

fn read_synchronization(plan: &mut Plan<'_>, key: &str, value: &DeValue<'_>) {
    let number = value.as_integer().and_then(|number| number.as_str().parse::<usize>().ok());
    match (key, number) {
        ("minimum-agreeing-sources", number) => plan.min_sources(number),
        // 16 is "unsynchronised", which is what this server says, too.
        ("local-stratum", Some(16)) => {}
        ("local-stratum", number) => {
            plan.local_stratum(number.and_then(|stratum| u8::try_from(stratum).ok()).unwrap_or(0));
        }
        _ => plan.note("no equivalent; see `makestep` and `panic_s` in [clock]"),
    }
}

fn value<'a>(table: &'a DeTable<'a>, name: &str) -> Option<&'a DeValue<'a>> {
    table.iter().find(|(key, _)| key.get_ref() == name).map(|(_, value)| value.get_ref())
}

fn line_of(text: &str, offset: usize) -> u32 {
    let lines = text.bytes().take(offset).filter(|byte| *byte == b'\n').count();
    u32::try_from(lines).unwrap_or(u32::MAX).saturating_add(1)
}
