//! The words of `pool why`.

use std::fmt::Write as _;

use super::causes::{Cause, Finding, Refused};
use super::offsets::{OffsetCause, Whose};
use super::{Answer, Known};
use crate::status::probes::{Fate, ProbeSource, What};
use crate::status::units::{difference, duration, interval};
use crate::tools::pool::score::JOINING_SCORE;

/// Times of the same trouble that are listed one by one.
const LISTED: usize = 3;
/// What lasted less is not worth a line where no monitor's log names it.
const LEAST_SPAN_S: f64 = 1.0;

/// Describes what is known of an address.
pub(super) fn describe(answer: &Answer, known: &Known) -> String {
    let mut text = heading(answer);
    let mut line = |words: &str| {
        let _infallible = writeln!(text, "{words}");
    };
    line(&what_is_known(answer, known));
    match &answer.scores {
        Err(error) => {
            line(&format!("the scores are not known: {}", error.what));
            line("what this server did by itself is all that can be said:");
            for words in here(answer, known) {
                line(&words);
            }
        }
        Ok(_) if answer.judgement.findings.is_empty() => {
            line("no monitor's check took points");
        }
        Ok(_) => {
            let sum: f64 = answer.judgement.findings.iter().map(|finding| finding.entry.step).sum();
            line(&format!(
                "{} of the monitors' checks brought less than a point, {sum:+.1} in all:",
                answer.judgement.findings.len()
            ));
            for words in findings(answer, known) {
                line(&words);
            }
        }
    }
    text
}

fn heading(answer: &Answer) -> String {
    let Some(address) = answer.address else { return format!("over {}:\n", family_name(answer.family)) };
    let score = answer.scores.as_ref().ok().and_then(|published| published.main()).map(|main| main.score);
    match score {
        Some(score) if score >= JOINING_SCORE => format!("{address}: score {score:.1}, in the pool\n"),
        Some(score) => {
            format!("{address}: score {score:.1}, below the {JOINING_SCORE} that the pool requires\n")
        }
        None => format!("{address}:\n"),
    }
}

/// How many probes came in, and from when on that is known.
fn what_is_known(answer: &Answer, known: &Known) -> String {
    let sources: Vec<&ProbeSource> =
        known.rounds.sources.iter().filter(|source| source.family == answer.family).collect();
    let rounds: Vec<_> = sources.iter().flat_map(|source| &source.rounds).collect();
    let whole = rounds.iter().filter(|round| round.count(Fate::is_time) == round.requests.len());
    let whole = whole.filter(|round| round.missing() == 0).count();
    let since = known.rounds.since_unix_s.max(known.course.since_unix_s);
    let began = if known.rounds.until_unix_s - since < 86_000.0 { ", when the daemon started" } else { "" };
    let mut text = format!(
        "known here since {} UTC{began}: {} of probes over {} from {}, {whole} of them whole and answered",
        moment(since),
        plural(rounds.len(), "round"),
        family_name(answer.family),
        plural(sources.len(), "source")
    );
    if known.rounds.forgotten > 0 {
        let _infallible = write!(text, "; {} more sources found no room", known.rounds.forgotten);
    }
    text
}

/// The findings, of which those of one monitor with the same cause are one.
fn findings(answer: &Answer, known: &Known) -> Vec<String> {
    let mut groups: Vec<(Vec<&Finding>, String)> = Vec::new();
    for finding in &answer.judgement.findings {
        let words: Vec<_> = finding.causes.iter().map(|cause| self::cause(cause, known)).collect();
        let words = words.join("; and ");
        let same = groups.iter_mut().find(|(group, text)| {
            *text == words && group.first().is_some_and(|first| first.entry.monitor == finding.entry.monitor)
        });
        match same {
            Some((group, _)) => group.push(finding),
            None => groups.push((vec![finding], words)),
        }
    }
    let describe = |(group, words): &(Vec<&Finding>, String)| {
        let times: Vec<_> =
            group.iter().take(LISTED).map(|finding| moment(finding.entry.at_unix_s)).collect();
        let more = match group.len().saturating_sub(LISTED) {
            0 => String::new(),
            more => format!(" and {more} times more"),
        };
        let Some(first) = group.first() else { return String::new() };
        let from = first.source.as_ref().map_or_else(String::new, |source| format!(" ({source})"));
        format!(
            "  {}{more}  {}{from} {:+.1}: {words}",
            times.join(", "),
            answer.name(first.entry.monitor),
            first.entry.step
        )
    };
    groups.iter().map(describe).collect()
}

/// What the server did by itself.
fn here(answer: &Answer, known: &Known) -> Vec<String> {
    let refused = |refused: &Refused| {
        let times: Vec<_> = refused.at_unix_s.iter().take(LISTED).map(|at| moment(*at)).collect();
        let more = match refused.at_unix_s.len().saturating_sub(LISTED) {
            0 => String::new(),
            more => format!(" and {more} times more"),
        };
        format!("  {}{more}  {}: {}", times.join(", "), refused.source, cause(&refused.cause, known))
    };
    let mut lines: Vec<_> = answer.here.iter().map(refused).collect();
    for span in &known.course.spans {
        let for_s = span.to_unix_s - span.from_unix_s;
        let lasted =
            if for_s < LEAST_SPAN_S { "for a moment".into() } else { format!("for {}", duration(for_s)) };
        let words = match &span.what {
            What::Unsynchronised { reason } if for_s >= LEAST_SPAN_S => {
                format!("answers said {lasted} that the server is not synchronised: {reason}")
            }
            What::LinkDown { interface } => format!("the link of {interface} was down {lasted}"),
            What::Detached { interface } if for_s >= LEAST_SPAN_S => {
                format!("the program was not on {interface} {lasted}, so that only the sockets answered")
            }
            _ => continue,
        };
        lines.push(format!("  {}  {words}", moment(span.from_unix_s)));
    }
    if lines.is_empty() {
        lines.push("  it refused no round of probes, and its clock and its links were well".into());
    }
    lines
}

/// Says what a cause is.
pub(super) fn cause(cause: &Cause, known: &Known) -> String {
    match cause {
        Cause::LostIn { lost, arrived: 0 } => {
            format!("all {lost} requests were lost on the way in; nothing here dropped them")
        }
        Cause::LostIn { lost, arrived } => format!(
            "{lost} of {} requests were lost on the way in; nothing here dropped them, and the answer to the rest was \
             lost on the way out",
            lost + arrived
        ),
        Cause::LostOut { answered, arrived } => format!(
            "answers were lost on the way out: {arrived} requests arrived and {answered} were answered, and the \
             monitor saw no answer"
        ),
        Cause::FamilyBlocked { from_unix_s, to_unix_s, other_family_arrives } => {
            blocked(&known.rounds, *from_unix_s, *to_unix_s, *other_family_arrives)
        }
        Cause::Limited { requests } => format!(
            "the limiter refused {}: the monitor's source was over its rate; see `[limits] rate` and `burst`",
            number_of(*requests)
        ),
        Cause::OverBudget { requests } => {
            format!("the budget was spent, and {} got no answer; see `[limits]`", number_of(*requests))
        }
        Cause::Denied { source } => denied(source.as_deref(), known),
        Cause::Unsent { requests } => {
            format!("the socket could not send the answer to {}", number_of(*requests))
        }
        Cause::Unsynchronised { from_unix_s, for_s, reason } => {
            let since = from_unix_s.map_or_else(String::new, |from| {
                format!(" for {} from {} on", duration(for_s.max(1.0)), moment(from))
            });
            let reason = reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
            format!("answers said{since} that the server is not synchronised{reason}")
        }
        Cause::LinkDown { interface, from_unix_s, for_s } => format!(
            "the link of {interface} was down for {} from {} on",
            duration(for_s.max(1.0)),
            moment(*from_unix_s)
        ),
        Cause::DriverDrops { interface, number } => {
            format!("the driver of {interface} dropped {number} frames at that time")
        }
        Cause::ReportsLost { number } => {
            let lost = match number {
                0 => "more requests came than are reported".to_owned(),
                number => format!("the ring buffer overflowed and at least {number} reports were lost"),
            };
            format!("{lost}, so that the requests may have arrived all the same: their fate is not known")
        }
        Cause::Offset(offset) => off(offset),
        Cause::NotKnown { known_from_unix_s } => {
            format!("not known before {}, when the daemon's record begins", moment(*known_from_unix_s))
        }
        Cause::Unexplained => "nothing here explains it".into(),
    }
}

fn blocked(
    rounds: &crate::status::probes::ProbeRounds,
    from_unix_s: f64,
    to_unix_s: f64,
    other_family_arrives: bool,
) -> String {
    let until = if to_unix_s >= rounds.until_unix_s { "now".into() } else { moment(to_unix_s) };
    let when = format!("from {} to {until}", moment(from_unix_s));
    if other_family_arrives {
        format!(
            "nothing arrived over this family {when}, from any monitor, while the other family's probes did: it is \
             blocked before this server, by a firewall or by the provider"
        )
    } else {
        format!(
            "nothing arrived {when}, from any monitor: NTP is blocked or the network was down before this server"
        )
    }
}

fn denied(source: Option<&str>, known: &Known) -> String {
    let Some(source) = source else {
        return "a list denies the monitor: see `pooltime-xdp access list`".into();
    };
    match known.denying(source) {
        Some(entry) => format!(
            "a list denies {source} (entry {entry}): `pooltime-xdp access list` shows where it comes from"
        ),
        None => format!("a list denied {source} then, but does not any more"),
    }
}

fn off(OffsetCause { offset_s, whose }: &OffsetCause) -> String {
    let offset = difference(*offset_s);
    match whose {
        Whose::Upstream { followed, contradicted_by: Some(other) } => format!(
            "{offset} off: upstream {followed}, which the clock followed, was {} off; {other} agrees with the monitors",
            interval(offset_s.abs())
        ),
        Whose::Upstream { followed, contradicted_by: None } => format!(
            "{offset} off: upstream {followed}, which the clock followed, was {} off, or the path to it is longer \
             one way",
            interval(offset_s.abs())
        ),
        Whose::Correcting { followed } => {
            format!("{offset} off: the served clock was off from upstream {followed} and was being corrected")
        }
        Whose::Keeper => format!(
            "{offset} off: the machine's clock was, and another daemon keeps that; see `chronyc tracking` or `ntpq -p`"
        ),
        Whose::Path { others } => format!(
            "{offset} off for this monitor alone; {others} checks of others at that time saw nothing of it, so it is \
             the path between"
        ),
        Whose::Unknown => format!("{offset} off, and no other monitor's check tells whose fault it was"),
    }
}

fn number_of(requests: usize) -> String {
    match requests {
        1 => "a request".into(),
        number => format!("{number} requests"),
    }
}

fn plural(number: usize, name: &str) -> String {
    if number == 1 { format!("1 {name}") } else { format!("{number} {name}s") }
}

fn family_name(label: &str) -> &'static str {
    if label == responder::Family::Ipv6.label() { "IPv6" } else { "IPv4" }
}

/// Writes a moment, in UTC: `11-27 14:05`.
#[expect(clippy::cast_possible_truncation, reason = "seconds since the Unix epoch")]
fn moment(unix_s: f64) -> String {
    let seconds = unix_s.floor() as i64;
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (month, day) = month_and_day(days);
    format!("{month:02}-{day:02} {:02}:{:02}", second / 3_600, second / 60 % 60)
}

/// The month and the day of the month of a day since the Unix epoch, in the Gregorian calendar.
fn month_and_day(days: i64) -> (i64, i64) {
    let is_leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    // 400 years have 146,097 days. Within them, the year is counted out.
    let (mut year, mut day) = (1970 + days.div_euclid(146_097) * 400, days.rem_euclid(146_097));
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if day < length {
            break;
        }
        (year, day) = (year + 1, day - length);
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < length {
            break;
        }
        (month, day) = (month + 1, day - length);
    }
    (month, day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_those_of_the_calendar() {
        for (unix_s, text) in [
            (0.0, "01-01 00:00"),
            (951_782_399.0, "02-28 23:59"),
            (951_782_400.0, "02-29 00:00"),
            (1_700_000_000.9, "11-14 22:13"),
            (4_107_542_399.0, "02-28 23:59"),
            (4_107_542_400.0, "03-01 00:00"),
            (1_735_689_599.0, "12-31 23:59"),
        ] {
            assert_eq!(moment(unix_s), text, "{unix_s}");
        }
    }

    fn known() -> Known {
        let entry = |prefix: &str, access: responder::Access| crate::serving::limits::Listed {
            prefix: prefix.parse().unwrap(),
            access: access.label().into(),
            live: false,
            seconds_left: None,
        };
        Known {
            entries: vec![
                entry("192.0.0.0/8", responder::Access::Denied),
                entry("192.0.2.0/24", responder::Access::Denied),
                entry("192.0.2.0/26", responder::Access::Ordinary),
                entry("2001:db8:7:0:8000::/65", responder::Access::Denied),
            ],
            ..Known::default()
        }
    }

    #[test]
    fn the_entry_that_denies_a_source_is_the_longest_one_around_it_or_one_within_it() {
        let known = known();
        let of = |source: &str| cause(&Cause::Denied { source: Some(source.into()) }, &known);
        assert!(
            of("192.0.2.7").starts_with("a list denies 192.0.2.7 (entry 192.0.2.0/24): "),
            "{}",
            of("192.0.2.7")
        );
        assert!(of("192.0.3.7").contains("(entry 192.0.0.0/8)"), "{}", of("192.0.3.7"));
        assert!(of("2001:db8:7::/64").contains("(entry 2001:db8:7:0:8000::/65)"));
        assert_eq!(of("198.51.100.7"), "a list denied 198.51.100.7 then, but does not any more");
    }

    #[test]
    fn every_cause_has_words_with_its_figures() {
        let at = 1_790_000_000.0;
        let offset = |whose| Cause::Offset(OffsetCause { offset_s: 0.031, whose });
        let followed = || "ntp1.example".to_owned();
        for (told, words) in [
            (
                Cause::LostIn { lost: 3, arrived: 0 },
                "all 3 requests were lost on the way in; nothing here dropped",
            ),
            (Cause::LostIn { lost: 2, arrived: 1 }, "2 of 3 requests were lost on the way in"),
            (Cause::LostOut { answered: 3, arrived: 3 }, "3 requests arrived and 3 were answered"),
            (Cause::Limited { requests: 1 }, "the limiter refused a request"),
            (Cause::OverBudget { requests: 3 }, "the budget was spent, and 3 requests got no answer"),
            (
                Cause::Unsynchronised {
                    from_unix_s: Some(at),
                    for_s: 12.4,
                    reason: Some("no upstream answers".into()),
                },
                "answers said for 12 s from 09-21 14:13 on that the server is not synchronised: no upstream answers",
            ),
            (
                Cause::LinkDown { interface: "eth0".into(), from_unix_s: at, for_s: 4.2 },
                "the link of eth0 was down for 4 s from 09-21 14:13 on",
            ),
            (Cause::ReportsLost { number: 7 }, "the ring buffer overflowed and at least 7 reports were lost"),
            (
                Cause::FamilyBlocked { from_unix_s: at, to_unix_s: at, other_family_arrives: true },
                "a firewall or by the provider",
            ),
            (
                offset(Whose::Upstream {
                    followed: followed(),
                    contradicted_by: Some("ntp2.example".into()),
                }),
                "+31.0 ms off: upstream ntp1.example, which the clock followed, was 31.0 ms off; ntp2.example agrees",
            ),
            (
                offset(Whose::Correcting { followed: followed() }),
                "+31.0 ms off: the served clock was off from upstream",
            ),
            (offset(Whose::Path { others: 4 }), "4 checks of others at that time saw nothing of it"),
            (Cause::NotKnown { known_from_unix_s: at }, "not known before 09-21 14:13, when"),
        ] {
            let text = cause(&told, &known());
            assert!(text.contains(words), "{text}");
        }
    }
}
