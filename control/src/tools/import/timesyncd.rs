//! Reads `timesyncd.conf` of systemd-timesyncd.

use super::plan::{Plan, Upstream};

/// Names of servers with their lines.
type Servers<'a> = Vec<(u32, &'a str, &'a str)>;

/// Reads a file into the plan.
pub(super) fn read(plan: &mut Plan<'_>, text: &str) {
    let (mut servers, mut fallback): (Servers<'_>, Servers<'_>) = (Vec::new(), Vec::new());
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) || line == "[Time]" {
            continue;
        }
        plan.at(number, line);
        plan.leave_alone();
        let Some((key, value)) = line.split_once('=') else {
            plan.unknown();
            continue;
        };
        match key.trim_end() {
            "NTP" => add(&mut servers, number, line, value),
            "FallbackNTP" => add(&mut fallback, number, line, value),
            "RootDistanceMaxSec" => plan.milliseconds("max_distance_ms", seconds(value), 0.001..=16.0),
            "PollIntervalMinSec" | "PollIntervalMaxSec" => {
                plan.note("see `minpoll` and `maxpoll` in [[upstream]]");
            }
            "ConnectionRetrySec" | "SaveIntervalSec" => plan.note("nothing to set"),
            _ => plan.unknown(),
        }
    }
    // The fallback is for a file without servers.
    let (used, unused) = if servers.is_empty() { (fallback, servers) } else { (servers, fallback) };
    for (number, line, address) in used {
        plan.about(number, line);
        plan.upstream(Upstream { address: address.into(), iburst: true, ..Upstream::default() });
    }
    for (number, line, address) in unused {
        plan.about(number, line);
        plan.other_source(&format!("`{address}` is not used beside the servers in `NTP=`"));
    }
}

/// Adds servers. A line without any takes back those of the lines before.
fn add<'a>(servers: &mut Servers<'a>, number: u32, line: &'a str, value: &'a str) {
    if value.trim().is_empty() {
        servers.clear();
    }
    servers.extend(value.split_whitespace().map(|address| (number, line, address)));
}

/// Parses a time span of a single unit, such as `5`, `5s` and `500ms`.
fn seconds(text: &str) -> Option<f64> {
    let text = text.trim();
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[number.len()..] {
        "" | "s" | "sec" | "second" | "seconds" => 1.0,
        "ms" | "msec" => 1e-3,
        _ => return None,
    };
    Some(number.trim_end().parse::<f64>().ok()? * unit)
}
