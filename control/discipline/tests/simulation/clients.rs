//! The clients under test: the discipline with a private line, and with a steered clock.

use discipline::{Action, ClockLine, Discipline, LocalTime, Sample, SteerConfig, ns_to_s, steer};

use crate::world::{Client, Reading};

/// Publishes its line whenever it changes.
pub(crate) struct PrivateLine {
    discipline: Discipline,
    line: Option<ClockLine>,
}

impl PrivateLine {
    pub(crate) fn new(discipline: Discipline) -> Self {
        Self { discipline, line: None }
    }
}

impl Client for PrivateLine {
    fn next_wakeup(&self) -> Option<LocalTime> {
        self.discipline.next_wakeup()
    }

    fn due(&mut self, now: LocalTime) -> Vec<usize> {
        self.discipline.due(now)
    }

    fn sample(&mut self, server: usize, sample: &Sample) {
        self.discipline.sample(server, sample);
    }

    fn reading(&self, now: LocalTime) -> Option<Reading> {
        self.line.map(|line| Reading {
            utc_ns: line.utc_ns(now),
            bound_s: line.bound_s(now),
            frequency: line.frequency,
        })
    }

    fn publish(&mut self, now: LocalTime) -> f64 {
        self.line = self.discipline.line(now);
        0.0
    }

    fn time_lost(&mut self, now: LocalTime) {
        self.discipline.time_lost(now);
        self.line = None;
    }
}

/// Steers its clock, as the kernel's would be: the local clock never steps, the time of day does.
pub(crate) struct Steered {
    discipline: Discipline,
    config: SteerConfig,
    updates: u32,
    /// Time of day minus local time, in ns; steps change it.
    of_day_ns: i64,
    /// Rate corrections in force: for good, and until the slew ends.
    frequency: f64,
    extra: f64,
    slew_ends: Option<LocalTime>,
    line: Option<ClockLine>,
    fresh: bool,
}

impl Steered {
    pub(crate) fn new(discipline: Discipline, of_day_ns: i64) -> Self {
        Self {
            discipline,
            config: SteerConfig::default(),
            updates: 0,
            of_day_ns,
            frequency: 0.0,
            extra: 0.0,
            slew_ends: None,
            line: None,
            fresh: false,
        }
    }

    fn correction(&self) -> f64 {
        (1.0 + self.frequency) * (1.0 + self.extra) - 1.0
    }

    fn act(&mut self, now: LocalTime, frequency: f64, extra: f64) {
        let before = self.correction();
        self.frequency = (1.0 + self.frequency) * (1.0 + frequency) - 1.0;
        self.extra = extra;
        self.discipline.frequency_changed(now, (1.0 + self.correction()) / (1.0 + before) - 1.0);
    }
}

impl Client for Steered {
    fn next_wakeup(&self) -> Option<LocalTime> {
        self.discipline.next_wakeup().into_iter().chain(self.slew_ends).min()
    }

    fn due(&mut self, now: LocalTime) -> Vec<usize> {
        self.discipline.due(now)
    }

    fn sample(&mut self, server: usize, sample: &Sample) {
        self.discipline.sample(server, sample);
        self.fresh = true;
    }

    fn reading(&self, now: LocalTime) -> Option<Reading> {
        let line = self.line?;
        let off_s = ns_to_s(line.utc_ns(now) - now.as_ns() - self.of_day_ns);
        Some(Reading {
            utc_ns: now.as_ns() + self.of_day_ns,
            bound_s: line.bound_s(now) + off_s.abs(),
            frequency: line.frequency,
        })
    }

    fn publish(&mut self, now: LocalTime) -> f64 {
        if self.slew_ends.is_some_and(|end| end <= now) {
            self.act(now, 0.0, 0.0);
            self.slew_ends = None;
        }
        self.line = self.discipline.line(now);
        if let Some(line) = self.line.filter(|_| self.fresh) {
            self.fresh = false;
            let off_s = ns_to_s(line.utc_ns(now) - now.as_ns() - self.of_day_ns);
            // The line's frequency holds what an unfinished slew adds; undo that first.
            let frequency = (1.0 + line.frequency) * (1.0 + self.extra) - 1.0;
            match steer(&self.config, self.updates, off_s, frequency, line.of_configured_majority) {
                Ok(Action::Step { by_s, frequency }) => {
                    self.of_day_ns += (by_s * 1e9).round() as i64;
                    self.act(now, frequency, 0.0);
                    self.slew_ends = None;
                }
                Ok(Action::Slew { frequency, extra, for_s }) => {
                    self.act(now, frequency, extra);
                    self.slew_ends = Some(now.plus_seconds(for_s));
                }
                Ok(Action::Wait) => {}
                Err(panic) => unreachable!("no scenario is that far off: {panic}"),
            }
            self.updates += 1;
            self.line = self.discipline.line(now);
        }
        self.correction()
    }

    fn time_lost(&mut self, now: LocalTime) {
        self.discipline.time_lost(now);
        self.line = None;
    }
}
