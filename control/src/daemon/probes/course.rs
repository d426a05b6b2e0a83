//! The server's own state over the last day: what went on for a while, and a summary of each minute.

use std::collections::VecDeque;

use crate::status::probes::{Course, Minute, Span, What};
use crate::sys::process;

/// Minutes of a day.
const MINUTES: usize = 1_440;
/// Spans that there is room for.
const SPANS: usize = 1_024;
/// The longest time between two looks at something that goes on.
const LONGEST_LOOK_S: f64 = 3.0;
/// Names of upstreams are cut to this many characters, so that a course has a largest size.
const LONGEST_NAME: usize = 64;

/// What is known of the clock and the limits at a look.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    /// The error bound, if the clock is synchronised.
    pub(super) bound_s: Option<f64>,
    /// The system peer.
    pub(super) peer: Option<String>,
    /// See [`Minute::offset_s`].
    pub(super) offset_s: Option<f64>,
    /// The other upstream that is furthest from the served clock, and its offset.
    pub(super) other: Option<(String, f64)>,
    /// Requests that the limiter has refused since the last look.
    pub(super) limited: u64,
    /// Requests that the budget has refused since the last look.
    pub(super) over_budget: u64,
}

/// The course up to now.
#[derive(Debug)]
pub(super) struct CourseLog {
    since_unix_s: f64,
    spans: VecDeque<Span>,
    minutes: VecDeque<Minute>,
    /// How far the served time is ahead of the machine's clock.
    ahead_s: f64,
}

impl CourseLog {
    /// Makes a course that begins now.
    pub(super) const fn new(now_unix_s: f64) -> Self {
        Self { since_unix_s: now_unix_s, spans: VecDeque::new(), minutes: VecDeque::new(), ahead_s: 0.0 }
    }

    /// Takes in what time is served now: all times of the course are by the served clock, as far as it is known.
    pub(super) fn served_time_is(&mut self, unix_s: f64) {
        self.ahead_s = unix_s - process::unix_s();
    }

    /// Returns the time by that clock.
    pub(super) fn now_unix_s(&self) -> f64 {
        process::unix_s() + self.ahead_s
    }

    /// Notes that something goes on. It goes on from the last look if it went on then.
    pub(super) fn goes_on(&mut self, what: What, now_unix_s: f64) {
        self.went_on(what, now_unix_s, now_unix_s);
    }

    /// Notes that something went on from one moment to another one, which is now or nearly.
    pub(super) fn went_on(&mut self, what: What, from_unix_s: f64, to_unix_s: f64) {
        let is_it = |span: &&mut Span| {
            is_same(&span.what, &what) && (0.0..=LONGEST_LOOK_S).contains(&(to_unix_s - span.to_unix_s))
        };
        if let Some(span) = self.spans.iter_mut().rev().take(32).find(is_it) {
            span.to_unix_s = to_unix_s;
            add_number(&mut span.what, &what);
            return;
        }
        if self.spans.len() == SPANS
            && let Some(oldest) = self.spans.pop_front()
        {
            self.since_unix_s = self.since_unix_s.max(oldest.to_unix_s);
        }
        self.spans.push_back(Span { from_unix_s, to_unix_s, what });
    }

    /// Takes a look into the minute's summary.
    pub(super) fn look(&mut self, look: Look, now_unix_s: f64) {
        let begun_unix_s = (now_unix_s / 60.0).floor() * 60.0;
        // A clock that was set back begins no minute anew.
        let is_new = self.minutes.back().is_none_or(|minute| minute.at_unix_s < begun_unix_s);
        if is_new {
            if self.minutes.len() == MINUTES {
                self.minutes.pop_front();
            }
            self.minutes.push_back(Minute { at_unix_s: begun_unix_s, ..Minute::default() });
            let oldest = now_unix_s - 60.0 * f64::from(u16::try_from(MINUTES).unwrap_or(u16::MAX));
            self.since_unix_s = self.since_unix_s.max(oldest);
            while self.spans.front().is_some_and(|span| span.to_unix_s < oldest) {
                self.spans.pop_front();
            }
        }
        let Some(minute) = self.minutes.back_mut() else { return };
        minute.bound_s = further(minute.bound_s, look.bound_s);
        minute.offset_s = further(minute.offset_s, look.offset_s);
        if let Some((name, offset_s)) = look.other
            && minute.other_offset_s.is_none_or(|known| known.abs() <= offset_s.abs())
        {
            (minute.other, minute.other_offset_s) = (Some(short(&name)), Some(offset_s));
        }
        minute.peer = look.peer.as_deref().map(short);
        minute.limited = minute.limited.saturating_add(look.limited);
        minute.over_budget = minute.over_budget.saturating_add(look.over_budget);
    }

    /// Returns the course.
    pub(super) fn view(&self) -> Course {
        Course {
            since_unix_s: self.since_unix_s,
            spans: self.spans.iter().cloned().collect(),
            minutes: self.minutes.iter().cloned().collect(),
        }
    }
}

/// The value that is further from zero.
fn further(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    one.into_iter().chain(other).max_by(|a, b| a.abs().total_cmp(&b.abs()))
}

fn short(name: &str) -> String {
    name.chars().take(LONGEST_NAME).collect()
}

/// Whether two are the same apart from their number.
fn is_same(one: &What, other: &What) -> bool {
    match (one, other) {
        (What::ReportsLost { .. }, What::ReportsLost { .. }) => true,
        (What::DriverDrops { interface, .. }, What::DriverDrops { interface: other, .. }) => {
            interface == other
        }
        _ => one == other,
    }
}

fn add_number(what: &mut What, more: &What) {
    if let (
        What::ReportsLost { number } | What::DriverDrops { number, .. },
        What::ReportsLost { number: more } | What::DriverDrops { number: more, .. },
    ) = (what, more)
    {
        *number = number.saturating_add(*more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_UNIX_S: f64 = 1_790_000_000.0;

    fn down(interface: &str) -> What {
        What::LinkDown { interface: interface.into() }
    }

    #[test]
    fn what_is_seen_at_each_look_is_one_span_and_numbers_are_added() {
        let mut course = CourseLog::new(START_UNIX_S);
        for look in 0..40 {
            let now = START_UNIX_S + f64::from(look) / 4.0;
            course.goes_on(down("eth0"), now);
            course.goes_on(What::ReportsLost { number: 2 }, now);
            if look == 20 {
                course.goes_on(down("eth1"), now);
            }
        }
        course.goes_on(down("eth0"), START_UNIX_S + 60.0);
        let spans = course.view().spans;
        assert_eq!(spans.len(), 4, "{spans:#?}");
        assert!((spans[0].to_unix_s - spans[0].from_unix_s - 9.75).abs() < 1e-9);
        assert_eq!(spans[1].what, What::ReportsLost { number: 80 });
    }

    #[test]
    fn a_day_is_kept_and_what_was_before_is_not_claimed_to_be_known() {
        let mut course = CourseLog::new(START_UNIX_S);
        for minute in 0..3_000 {
            let now = START_UNIX_S + 60.0 * f64::from(minute);
            course.goes_on(down("eth0"), now);
            let other = Some(("x".repeat(300), f64::from(minute)));
            let look = Look { bound_s: Some(0.01), limited: 1, other, ..Look::default() };
            course.look(look.clone(), now);
            course.look(look, now + 1.0);
        }
        let view = course.view();
        assert_eq!(view.minutes.len(), MINUTES);
        assert_eq!(view.minutes[7].limited, 2);
        assert!(view.spans.len() <= SPANS);
        assert!(view.since_unix_s > START_UNIX_S);
        assert!(view.spans.iter().all(|span| span.to_unix_s >= view.since_unix_s - 60.0));
        assert!(serde_json::to_string(&view).unwrap().len() < 1 << 19, "it fits into an answer");
    }

    #[test]
    fn a_minute_has_the_worst_of_its_looks() {
        let mut course = CourseLog::new(START_UNIX_S);
        for (bound_s, offset_s, other_s) in [(0.01, 0.001, 0.002), (0.03, -0.02, -0.05), (0.02, 0.003, 0.01)]
        {
            let look = Look {
                bound_s: Some(bound_s),
                offset_s: Some(offset_s),
                other: Some(("far".into(), other_s)),
                peer: Some("near".into()),
                ..Look::default()
            };
            course.look(look, START_UNIX_S);
        }
        let view = course.view();
        let minute = &view.minutes[0];
        assert_eq!(
            (minute.bound_s, minute.offset_s, minute.other_offset_s, minute.peer.as_deref()),
            (Some(0.03), Some(-0.02), Some(-0.05), Some("near"))
        );
    }
}
