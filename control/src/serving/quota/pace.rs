//! How fast a quota may be used: the cap on the answers, so that what is left lasts until the end of the period.
//!
//! The even pace is what is left divided by the time left. The demand is what clients would use if all were answered:
//! it includes what the cap refuses, so that the cap has no effect on it, and nothing can swing between the two. While
//! the demand is below the even pace, there is no cap. Above it the cap comes down from far above the demand, and
//! reaches the even pace where the demand is 15 % above it: there is no step at which clients suddenly notice.
//!
//! The demand is averaged over a day, so that the busy hours of a day that is fine on the whole are not refused. Near
//! the end of the period the average is over a quarter of the time left. Whatever arrives, the demand comes up to the
//! even pace before more than a part of what is left is used, because the average grows as fast as the traffic does: a
//! flood of a hundred times the pace is noticed a hundred times as fast.

use crate::config::QuotaCounts;

/// The longest time over which the demand is averaged, in s.
const LONGEST_S: f64 = 86_400.0;
/// The shortest one in s: some looks of the daemon.
const SHORTEST_S: f64 = 1.0;
/// The part of the time left over which the demand is averaged.
const PART_OF_TIME_LEFT: f64 = 0.25;
/// How far above the even pace the demand is when the cap is at the even pace, as a part of it.
const TRANSITION: f64 = 0.15;
/// Above this multiple of the even pace the demand is not remembered, so that a flood that has ended is forgotten.
const MOST_REMEMBERED: f64 = 1.5;
/// The time over which the received traffic is averaged, in s.
const RECEIVED_S: f64 = 600.0;
/// The part of the pace that answers keep if received traffic counts, too, and is more than there is for it.
const LEAST_PART: f64 = 0.25;
/// The part of a whole period's even pace that is answered when nothing is left.
pub const FLOOR: f64 = 0.01;

/// Where a quota stands. Amounts are in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    /// What is counted.
    pub counts: QuotaCounts,
    /// The whole quota.
    pub quota: f64,
    /// What is left of it; 0 if none is.
    pub left: f64,
    /// Length of the period in s.
    pub length_s: f64,
    /// Time until it ends in s.
    pub time_left_s: f64,
}

impl Standing {
    /// Returns the even pace in bytes per second: what is left by the time left.
    #[must_use]
    pub fn pace(&self) -> f64 {
        self.left.max(0.0) / self.time_left_s.max(SHORTEST_S)
    }

    /// Returns what is answered in any case, in bytes per second.
    #[must_use]
    pub fn floor(&self) -> f64 {
        FLOOR * self.quota / self.length_s.max(SHORTEST_S)
    }

    fn window_s(&self) -> f64 {
        (PART_OF_TIME_LEFT * self.time_left_s).clamp(SHORTEST_S, LONGEST_S)
    }
}

/// The averages that the cap follows, in bytes per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pace {
    /// What would be used if all were answered.
    pub demand: f64,
    /// What is received.
    pub received: f64,
}

impl Pace {
    /// Takes in what came in some seconds: bytes that would have been used if all had been answered, and received
    /// bytes.
    pub fn take(&mut self, demand: f64, received: f64, passed_s: f64, standing: &Standing) {
        if passed_s <= 0.0 {
            return;
        }
        let towards = |average: f64, bytes: f64, window_s: f64| {
            let weight = 1.0 - (-passed_s / window_s).exp();
            average + weight * (bytes / passed_s - average)
        };
        let window_s = standing.window_s();
        self.demand = towards(self.demand, demand, window_s).min(MOST_REMEMBERED * standing.pace());
        self.received = towards(self.received, received, window_s.min(RECEIVED_S));
    }

    /// Returns the most bytes per second that may be answered from now on; `None` if there is no cap.
    #[must_use]
    pub fn cap(&self, standing: &Standing) -> Option<f64> {
        let (pace, floor) = (standing.pace(), standing.floor());
        if pace <= 0.0 {
            return Some(floor);
        }
        let excess = self.demand / pace - 1.0;
        if excess <= 0.0 {
            return None;
        }
        let total = pace * (TRANSITION / excess).max(1.0).powi(2);
        let answers = match standing.counts {
            QuotaCounts::Out | QuotaCounts::In => total,
            QuotaCounts::Both => (total - self.received).max(LEAST_PART * total),
        };
        Some(answers.max(floor))
    }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use testinput::random::Random;

    use super::*;

    const DAY_S: f64 = 86_400.0;

    /// A period that is simulated in steps, with a quota of 1: what is wanted is in quotas per period.
    struct Month {
        counts: QuotaCounts,
        length_s: f64,
        /// The time that a cap is in force before it is looked at again.
        step_s: f64,
        pace: Pace,
        now_s: f64,
        sent: f64,
        received: f64,
        refused: f64,
        /// How often a cap came, and how often it was lifted.
        changes: u32,
        capped: bool,
        /// The largest amount that came in a step.
        largest_step: f64,
    }

    impl Month {
        fn new(counts: QuotaCounts, days: f64, step_s: f64) -> Self {
            Self {
                counts,
                length_s: days * DAY_S,
                step_s,
                pace: Pace::default(),
                now_s: 0.0,
                sent: 0.0,
                received: 0.0,
                refused: 0.0,
                changes: 0,
                capped: false,
                largest_step: 0.0,
            }
        }

        fn used(&self) -> f64 {
            match self.counts {
                QuotaCounts::Out => self.sent,
                QuotaCounts::In => self.received,
                QuotaCounts::Both => self.sent + self.received,
            }
        }

        fn standing(&self) -> Standing {
            Standing {
                counts: self.counts,
                quota: 1.0,
                left: (1.0 - self.used()).max(0.0),
                length_s: self.length_s,
                time_left_s: self.length_s - self.now_s,
            }
        }

        /// A step in which so much is wanted, and that much more is received which nobody would answer.
        fn step(&mut self, wanted_per_s: f64, useless_per_s: f64) {
            let standing = self.standing();
            let cap = self.pace.cap(&standing);
            if cap.is_some() != self.capped {
                (self.capped, self.changes) = (cap.is_some(), self.changes + 1);
            }
            let wanted = wanted_per_s * self.step_s;
            let sent = cap.map_or(wanted, |cap| wanted.min(cap * self.step_s));
            let received = wanted + useless_per_s * self.step_s;
            if cap.is_none() {
                self.largest_step = self.largest_step.max(wanted);
            }
            self.sent += sent;
            self.received += received;
            self.refused += wanted - sent;
            self.now_s += self.step_s;
            let demand = match self.counts {
                QuotaCounts::Out => wanted,
                QuotaCounts::In => received,
                QuotaCounts::Both => wanted + received,
            };
            let standing = self.standing();
            self.pace.take(demand, received, self.step_s, &standing);
        }

        fn is_over(&self) -> bool {
            self.now_s + self.step_s / 2.0 >= self.length_s
        }
    }

    /// A course of traffic in quotas per period, from a seed: days and nights, slow changes, bursts and floods.
    struct Course {
        random: Random,
        base: f64,
        swing: f64,
        phase: f64,
        burst_until_s: f64,
        burst: f64,
        /// The largest burst.
        most: f64,
    }

    impl Course {
        fn new(seed: u64) -> Self {
            let mut random = Random::new(seed);
            let base = random.pick(&[0.0, 0.1, 0.5, 0.9, 1.0, 1.1, 2.0, 10.0, 300.0]);
            let (swing, phase) = (random.uniform(), random.uniform());
            let most = random.pick(&[0.0, 3.0, 100.0, 10_000.0]);
            Self { random, base, swing, phase, burst_until_s: 0.0, burst: 0.0, most }
        }

        fn at(&mut self, now_s: f64) -> f64 {
            if now_s > self.burst_until_s && self.random.chance(1) {
                self.burst_until_s = now_s + self.random.exponential() * 7200.0;
                self.burst = self.most * self.random.uniform();
            }
            let burst = if now_s < self.burst_until_s { self.burst } else { 0.0 };
            self.base *= 1.0 + 0.01 * self.random.normal();
            (self.base * (1.0 + self.swing * (TAU * (now_s / DAY_S + self.phase)).sin())).max(0.0) + burst
        }
    }

    #[test]
    fn no_more_than_the_quota_is_sent_whatever_arrives() {
        for seed in 0..300 {
            let mut random = Random::new(seed ^ 0x51);
            let days = random.pick(&[28.0, 29.0, 30.0, 31.0]);
            let mut month = Month::new(QuotaCounts::Out, days, random.pick(&[60.0, 300.0]));
            let mut course = Course::new(seed);
            let mut wanted_in_all = 0.0;
            while !month.is_over() {
                let wanted = course.at(month.now_s) / month.length_s;
                wanted_in_all += wanted * month.step_s;
                month.step(wanted, 0.0);
            }
            // Beyond the floor, there is what one step without a cap may bring: a quarter of a second in the daemon.
            let most = 1.0 + FLOOR + month.largest_step;
            assert!(month.sent <= most, "seed {seed}: {} of {most}", month.sent);
            if wanted_in_all > 3.0 {
                assert!(month.sent > 0.5, "seed {seed}: only {} of {wanted_in_all} were sent", month.sent);
            }
        }
    }

    #[test]
    fn nothing_is_refused_while_the_demand_is_within_the_quota() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let (share, swing, phase) = (0.9 * random.uniform(), random.uniform(), random.uniform());
            let noise = 0.2 * random.uniform();
            let mut month = Month::new(QuotaCounts::Out, random.pick(&[28.0, 31.0]), 300.0);
            // Until the last days, when the average is over less than a day and night.
            while month.now_s < month.length_s - 4.0 * DAY_S {
                let wave = 1.0 + swing * (TAU * (month.now_s / DAY_S + phase)).sin();
                month.step(share * wave * (1.0 + noise * random.normal()).max(0.0) / month.length_s, 0.0);
            }
            assert!(month.refused < 1e-9, "seed {seed}: {share} of the quota, {} refused", month.refused);
            while !month.is_over() {
                let wave = 1.0 + swing * (TAU * (month.now_s / DAY_S + phase)).sin();
                month.step(share * wave / month.length_s, 0.0);
            }
            assert!(month.refused < 0.01, "seed {seed}: {share} of the quota, {} refused", month.refused);
        }
    }

    #[test]
    fn a_burst_is_answered_whole_if_the_rest_of_the_month_is_quiet() {
        let mut month = Month::new(QuotaCounts::Out, 30.0, 60.0);
        while month.now_s < 5.0 * DAY_S {
            month.step(0.3 / month.length_s, 0.0);
        }
        // An hour at ten times what the quota allows on average.
        while month.now_s < 5.0 * DAY_S + 3600.0 {
            month.step(10.0 / month.length_s, 0.0);
        }
        assert!(month.refused <= 0.0 && !month.capped, "{}", month.refused);
    }

    #[test]
    fn what_is_left_lasts_until_the_end_and_is_used() {
        for excess in [1.02, 1.1, 1.3, 2.0, 5.0, 50.0] {
            let mut month = Month::new(QuotaCounts::Out, 30.0, 300.0);
            let mut least_answered = f64::INFINITY;
            while !month.is_over() {
                let (before, wanted) = (month.sent, excess / month.length_s);
                month.step(wanted, 0.0);
                least_answered = least_answered.min((month.sent - before) / month.step_s * month.length_s);
            }
            assert!((0.97..=1.0 + FLOOR).contains(&month.sent), "{excess}: {}", month.sent);
            // Up to two days' worth goes before the demand is known; the rest is spread over all other days.
            assert!(least_answered > 0.83, "{excess}: at worst {least_answered} of the even pace");
        }
    }

    /// The cap comes down from above the demand: the share that is answered falls the more slowly the nearer the demand
    /// is to the pace, and the cap does not come and go.
    #[test]
    fn there_is_no_cliff_and_no_oscillation() {
        for seed in 0..60 {
            let mut random = Random::new(seed);
            let excess =
                random.pick(&[0.5, 0.9, 1.0, 1.05, 1.2, 2.0, 4.0, 8.0]) * (0.9 + 0.2 * random.uniform());
            let (swing, phase) = (random.pick(&[0.0, 0.0, 0.3, 0.6]), random.uniform());
            let mut month = Month::new(QuotaCounts::Out, 30.0, 60.0);
            let (mut share_before, mut largest_fall) = (1.0, 0.0_f64);
            let mut changes = 0;
            while !month.is_over() {
                let wave = 1.0 + swing * (TAU * (month.now_s / DAY_S + phase)).sin();
                let (before, wanted) = (month.sent, excess * wave / month.length_s);
                month.step(wanted, 0.0);
                let share = (month.sent - before) / (wanted * month.step_s);
                largest_fall = largest_fall.max(share_before - share);
                share_before = share;
                // Later, the average is over less than a day and a night.
                if month.now_s < month.length_s - 4.0 * DAY_S {
                    changes = month.changes;
                }
            }
            let most = 0.03 * excess * (1.0 + swing);
            assert!(
                largest_fall < most,
                "seed {seed}: {excess} with {swing}: fell by {largest_fall} in a minute"
            );
            // A day and a night may be above and below; a constant demand crosses the pace once.
            let most = if swing > 0.0 { 2 * 26 } else { 1 };
            assert!(changes <= most, "seed {seed}: {excess} with {swing}: {changes} changes");
        }
    }

    #[test]
    fn a_flood_that_has_ended_is_forgotten_within_two_days() {
        let mut month = Month::new(QuotaCounts::Out, 30.0, 60.0);
        while month.now_s < 3.0 * DAY_S {
            month.step(0.5 / month.length_s, 0.0);
        }
        while month.now_s < 3.5 * DAY_S {
            month.step(2000.0 / month.length_s, 0.0);
        }
        assert!(month.capped && month.used() < 0.2, "{}", month.used());
        let refused = month.refused;
        while month.now_s < 5.5 * DAY_S {
            month.step(0.5 / month.length_s, 0.0);
        }
        assert!(!month.capped && month.refused - refused < 1e-9, "{}", month.refused - refused);
    }

    #[test]
    fn when_all_is_used_a_hundredth_of_the_pace_is_answered() {
        let mut month = Month::new(QuotaCounts::Out, 30.0, 60.0);
        month.sent = 1.5;
        for _ in 0..1000 {
            month.step(5.0 / month.length_s, 0.0);
        }
        let rate = (month.sent - 1.5) / month.now_s * month.length_s;
        assert!((rate - FLOOR).abs() < 1e-6, "{rate}");
    }

    #[test]
    fn where_both_directions_count_answers_make_room_for_what_is_received() {
        for (wanted, useless, most_used) in
            [(0.4, 0.0, 0.81), (0.7, 0.0, 1.01), (3.0, 0.0, f64::INFINITY), (0.3, 0.5, 1.05)]
        {
            let mut month = Month::new(QuotaCounts::Both, 30.0, 300.0);
            while !month.is_over() {
                month.step(wanted / month.length_s, useless / month.length_s);
            }
            assert!(month.used() <= most_used, "{wanted} and {useless}: {}", month.used());
            // What is received cannot be refused, but the answers never make up more than the quota.
            assert!(month.sent <= 1.0 + FLOOR, "{wanted} and {useless}: {}", month.sent);
        }
    }

    #[test]
    fn what_is_received_alone_is_told_and_answered_within_the_pace() {
        let mut month = Month::new(QuotaCounts::In, 30.0, 300.0);
        while !month.is_over() {
            month.step(2.0 / month.length_s, 0.0);
        }
        assert!(month.refused > 0.5 && month.sent <= 1.0 + 2.0 * FLOOR, "{} sent", month.sent);
    }
}
