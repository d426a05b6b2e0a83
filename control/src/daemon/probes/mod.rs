//! What became of the probes of the pool's monitors, and what the server was like meanwhile. Both are kept for a day,
//! in memory: addresses of clients go to no disk.
//!
//! The loop brings the reports and the clock, the observer's thread what the kernel says of the interfaces.

mod course;
mod links;
mod rounds;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use responder::ClockState;
use responder::clock::NtpTimestamp;
use responder::layout::{Count, Grant, Spent};
use responder::sample::{OF_PROBES, Sample};
use responder::verdict::{COUNTERS, Outcome, Verdict};

use crate::status::probes::{Course, What};
use crate::sys::process;
use course::{CourseLog, Look};
use links::LinkWatch;
pub(super) use links::{LinkLook, LinkState};
use rounds::RoundLog;

/// The course, which the loop and the observer's thread write.
#[derive(Clone, Debug)]
pub(super) struct SharedCourse(Arc<Mutex<CourseLog>>);

impl SharedCourse {
    fn lock(&self) -> MutexGuard<'_, CourseLog> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the course up to now.
    pub(super) fn view(&self) -> Course {
        self.lock().view()
    }
}

/// The observer's part: it looks at the interfaces.
#[derive(Debug)]
pub(super) struct LinkRecorder {
    course: SharedCourse,
    watch: LinkWatch,
    last_unix_s: f64,
}

impl LinkRecorder {
    /// Makes one that looks for the first time next.
    pub(super) fn new(course: SharedCourse) -> Self {
        Self { course, watch: LinkWatch::default(), last_unix_s: process::unix_s() }
    }

    /// Takes in a look.
    pub(super) fn look(&mut self, links: &[LinkLook]) {
        let found = self.watch.look(links);
        let mut course = self.course.lock();
        let now_unix_s = course.now_unix_s();
        for (what, since_last_look) in found {
            let from = if since_last_look { self.last_unix_s.min(now_unix_s) } else { now_unix_s };
            course.went_on(what, from, now_unix_s);
        }
        drop(course);
        self.last_unix_s = now_unix_s;
    }
}

/// What the CPUs have reported, and what they were granted, as of a look.
#[derive(Debug, Default)]
struct Reported {
    /// Reports of all CPUs that they count since the map was made, at the look before.
    before: Option<u64>,
    /// Reports that were taken, on the same scale.
    taken: u64,
    /// Those of which it is known already that they were lost.
    lost: u64,
}

impl Reported {
    /// Takes in that so many reports were taken now. Returns how many more of those counted at the look before have not
    /// come and never will.
    fn take(&mut self, number: u64) -> u64 {
        let Some(before) = self.before else { return 0 };
        self.taken = self.taken.wrapping_add(number);
        // A report that was taken may have been counted since.
        let lost = before.wrapping_sub(self.taken).cast_signed().max(0).cast_unsigned();
        let more = lost.saturating_sub(self.lost);
        self.lost = self.lost.max(lost);
        more
    }

    /// Takes in what the CPUs count now.
    fn counted(&mut self, spent: &[Spent]) {
        let counted = spent.iter().fold(0_u64, |sum, spent| sum.wrapping_add(spent.samples));
        if self.before.is_none() {
            self.taken = counted;
        }
        self.before = Some(counted);
    }
}

/// The loop's part.
#[derive(Debug)]
pub(super) struct Probes {
    pub(super) rounds: RoundLog,
    pub(super) course: SharedCourse,
    reported: Reported,
    /// The value that the reports of each CPU might reach.
    granted: Vec<u64>,
    /// What the limiter and the budget have refused, at the look before.
    refused: Option<[u64; 2]>,
    last_unix_s: f64,
}

/// What the loop knows at a look.
pub(super) struct Seen<'a> {
    /// What the CPUs have reported since the last look.
    pub(super) samples: &'a [Sample],
    /// How many of them came through the ring buffer.
    pub(super) through_ring: usize,
    /// Whether the sockets had no room for all of theirs.
    pub(super) sockets_full: bool,
    /// All that was counted so far.
    pub(super) counters: &'a [Count; COUNTERS],
    /// The clock that is served.
    pub(super) clock: Option<ClockState>,
    /// Why it is not synchronised, if it is not.
    pub(super) reason: Option<&'static str>,
    /// The time of `CLOCK_MONOTONIC`.
    pub(super) now_ns: u64,
}

/// The upstreams at a look.
#[derive(Debug, Default)]
pub(super) struct Upstreams {
    /// The system peer.
    pub(super) peer: Option<String>,
    /// Its offset; without upstreams, what the clock's keeper still has to correct.
    pub(super) offset_s: Option<f64>,
    /// The other upstream that is furthest from the served clock, and its offset.
    pub(super) other: Option<(String, f64)>,
}

impl Probes {
    /// Makes one that knows nothing of what was before.
    pub(super) fn new() -> Self {
        let now_unix_s = process::unix_s();
        Self {
            rounds: RoundLog::new(now_unix_s),
            course: SharedCourse(Arc::new(Mutex::new(CourseLog::new(now_unix_s)))),
            reported: Reported::default(),
            granted: Vec::new(),
            refused: None,
            last_unix_s: now_unix_s,
        }
    }

    /// Returns the time by the clock that is served, in seconds since the Unix epoch.
    pub(super) fn now_unix_s(&self) -> f64 {
        self.course.lock().now_unix_s()
    }

    /// Takes in what came since the last look.
    pub(super) fn look(&mut self, seen: &Seen<'_>, upstreams: Upstreams) {
        let now_unix_s = unix_s(seen.clock.as_ref(), seen.now_ns);
        let synchronised_at =
            |at_ns| seen.clock.is_some_and(|clock: ClockState| clock.is_synchronised_at(at_ns));
        let mut probes: Vec<_> = seen.samples.iter().filter(|sample| sample.kind & OF_PROBES != 0).collect();
        // Each CPU has its own order.
        probes.sort_by_key(|probe| probe.at_ns);
        for probe in probes {
            let ago_s = seconds(seen.now_ns.saturating_sub(probe.at_ns));
            self.rounds.add(probe, synchronised_at(probe.at_ns), now_unix_s - ago_s);
        }
        let lost = self.reported.take(seen.through_ring as u64);
        let refused = refused(seen.counters);
        let before = self.refused.replace(refused).unwrap_or(refused);
        let synchronised = synchronised_at(seen.now_ns);
        let mut course = self.course.lock();
        course.served_time_is(now_unix_s);
        if !synchronised {
            let reason = seen.reason.unwrap_or("the clock was not published in time").to_owned();
            course.goes_on(What::Unsynchronised { reason }, now_unix_s);
        }
        if lost > 0 || seen.sockets_full {
            let from = self.last_unix_s.min(now_unix_s);
            course.went_on(What::ReportsLost { number: lost }, from, now_unix_s);
        }
        let bound_s = seen.clock.filter(|_| synchronised).map(|clock| {
            let half_delay_ns = clock.root_delay.as_nanos() / 2;
            seconds(half_delay_ns.saturating_add(clock.root_dispersion_at(seen.now_ns).as_nanos()))
        });
        let Upstreams { peer, offset_s, other } = upstreams;
        // An interface that went took its counters along.
        let more = |index: usize| refused[index].saturating_sub(before[index]);
        let look = Look { bound_s, peer, offset_s, other, limited: more(0), over_budget: more(1) };
        course.look(look, now_unix_s);
        drop(course);
        self.rounds.expire(now_unix_s);
        self.last_unix_s = now_unix_s;
    }

    /// Takes in what the CPUs have spent of their grants up to now. One that has used up its own may have held back
    /// reports.
    pub(super) fn spent(&mut self, spent: &[Spent]) {
        self.reported.counted(spent);
        let is_used_up = spent
            .iter()
            .zip(&self.granted)
            .any(|(spent, granted)| granted.wrapping_sub(spent.samples).cast_signed() <= 0);
        if is_used_up {
            let mut course = self.course.lock();
            let now_unix_s = course.now_unix_s();
            course.went_on(What::ReportsLost { number: 0 }, self.last_unix_s.min(now_unix_s), now_unix_s);
        }
    }

    /// Takes in what the CPUs are granted from now on.
    pub(super) fn granted(&mut self, grants: &[Grant]) {
        self.granted = grants.iter().map(|grant| grant.samples).collect();
    }
}

/// What the limiter and the budget have refused so far.
fn refused(counters: &[Count; COUNTERS]) -> [u64; 2] {
    let mut refused = [0_u64; 2];
    for outcome in Outcome::all() {
        let place = match outcome.verdict {
            Verdict::DropLimited | Verdict::KissRate => 0,
            Verdict::DropBudget => 1,
            _ => continue,
        };
        refused[place] = refused[place].wrapping_add(counters[outcome.counter()].packets);
    }
    refused
}

/// The time that is served while that is synchronised, else the machine's, in seconds since the Unix epoch.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "a fraction of a second is enough"
)]
fn unix_s(clock: Option<&ClockState>, now_ns: u64) -> f64 {
    let machine_s = process::unix_s();
    let Some(clock) = clock.filter(|clock| clock.is_synchronised_at(now_ns)) else { return machine_s };
    let machine = NtpTimestamp::from_unix(machine_s.floor() as i64, 0);
    machine_s.floor() + clock.time_at(now_ns).since(machine) as f64 / 2_f64.powi(32)
}

#[expect(clippy::cast_precision_loss, reason = "for showing")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use testinput::random::Random;

    use super::*;

    fn spent(samples: &[u64]) -> Vec<Spent> {
        samples.iter().map(|samples| Spent { samples: *samples, ..Spent::default() }).collect()
    }

    #[test]
    fn every_lost_report_is_noticed_and_none_that_only_comes_late_over_many_seeds() {
        for seed in 0..500 {
            let mut random = Random::new(seed);
            let mut counted = [random.bits(), random.bits()];
            let mut reported = Reported::default();
            let (mut waiting, mut lost, mut noticed) = (0, 0, 0);
            for _ in 0..200 {
                noticed += reported.take(waiting);
                waiting = 0;
                // Reports that come between the two looks of one round.
                let between = random.below(4);
                waiting += between;
                counted[0] = counted[0].wrapping_add(between);
                reported.counted(&spent(&counted));
                let more = random.below(50);
                counted[1] = counted[1].wrapping_add(more);
                waiting += more;
                if random.chance(3) {
                    let gone = random.below(waiting + 1);
                    waiting -= gone;
                    lost += gone;
                }
                assert!(noticed <= lost, "seed {seed}");
            }
            noticed += reported.take(waiting);
            reported.counted(&spent(&counted));
            noticed += reported.take(0);
            // What came in with the first look may hide as many.
            assert!(noticed <= lost && lost - noticed <= 4, "seed {seed}: {noticed} of {lost}");
        }
    }

    #[test]
    fn a_grant_that_is_used_up_is_a_time_of_which_not_all_is_known() {
        let mut probes = Probes::new();
        probes.granted(&[Grant { samples: 512, ..Grant::default() }; 2]);
        probes.spent(&spent(&[5, 511]));
        assert!(probes.course.view().spans.is_empty());
        probes.spent(&spent(&[5, 512]));
        assert!(matches!(probes.course.view().spans[0].what, What::ReportsLost { .. }));
    }

    #[test]
    fn only_probes_are_recorded_with_the_clock_of_their_moment() {
        let mut probes = Probes::new();
        let counters = Box::new([Count::default(); COUNTERS]);
        let zeros = ClockState::from_words([0; responder::clock::WORDS]);
        let clock = ClockState { stratum: 2, horizon_ns: 5_000, ..zeros };
        let sample = |kind, at_ns: u64| Sample {
            kind,
            at_ns,
            transmit: at_ns.to_be_bytes(),
            verdict: Verdict::Answered as u8,
            ..Sample::default()
        };
        let samples = [sample(OF_PROBES, 9_000), sample(1, 100), sample(OF_PROBES | 1, 4_000)];
        let seen = Seen {
            samples: &samples,
            through_ring: 3,
            sockets_full: false,
            counters: &counters,
            clock: Some(clock),
            reason: None,
            now_ns: 10_000,
        };
        probes.look(&seen, Upstreams::default());
        let view = probes.rounds.view(0.0, [32, 64]);
        let fates: Vec<_> = view.sources[0].rounds[0].requests.iter().map(|one| one.fate.label()).collect();
        assert_eq!(fates, ["answered", "unsynchronised"]);
        assert!(matches!(probes.course.view().spans[0].what, What::Unsynchronised { .. }));
    }
}
