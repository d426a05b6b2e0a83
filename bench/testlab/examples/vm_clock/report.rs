//! Rows of the table: what a play's record comes to.

use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::daemons::Daemon;
use crate::play::{Judged, NEAR_S, Record};
use crate::probe::KernelSample;

/// A row.
pub(crate) struct Row {
    scenario: String,
    magnitude: String,
    daemon: Daemon,
    /// Synchronised answers.
    synchronised: usize,
    wrong: usize,
    /// The wrong answer that is furthest beyond what it claims.
    worst: Option<Judged>,
    /// From zero to the first synchronised answer.
    synchronised_after: Option<Duration>,
    /// From zero until the kernel's clock was near the truth for good.
    near_after: Option<Duration>,
    /// Looks at which the kernel's own bound was broken, and the worst of them.
    bound_broken: usize,
    worst_kernel: Option<KernelSample>,
    /// Over the second half of the time since zero, so that the way to there does not count.
    served_rms_s: Option<f64>,
    kernel_rms_s: Option<f64>,
    faults: Vec<String>,
    notes: Vec<String>,
}

impl Row {
    pub(crate) fn new(scenario: &str, magnitude: String, daemon: Daemon, record: &Record) -> Self {
        let Record { zero, answers, kernel, .. } = record;
        let wrong: Vec<_> = answers.iter().filter(|answer| answer.is_wrong()).collect();
        let broken: Vec<_> = kernel.iter().filter(|sample| sample.is_wrong()).collect();
        let beyond_s = |sample: &KernelSample| sample.least_error_s() - sample.max_error_s;
        let synchronised = || answers.iter().filter(|answer| answer.answer.is_synchronised());
        let after_zero = |at: Instant| at.saturating_duration_since(*zero);
        let end = answers.iter().map(|answer| answer.at).max().unwrap_or(*zero);
        let half_way = *zero + after_zero(end) / 2;
        let settled = |at: Instant| at >= half_way;
        let served = synchronised().filter(|answer| settled(answer.at));
        let shown = kernel.iter().filter(|sample| settled(sample.at));
        let mut row = Self {
            scenario: scenario.into(),
            magnitude,
            daemon,
            synchronised: synchronised().count(),
            wrong: wrong.len(),
            worst: wrong
                .iter()
                .max_by(|one, other| one.excess_s().total_cmp(&other.excess_s()))
                .map(|worst| **worst),
            synchronised_after: synchronised().map(|answer| answer.at).find(|at| at >= zero).map(after_zero),
            near_after: near_since(kernel, *zero).map(after_zero),
            bound_broken: broken.len(),
            worst_kernel: broken
                .iter()
                .max_by(|one, other| beyond_s(one).total_cmp(&beyond_s(other)))
                .map(|worst| **worst),
            served_rms_s: rms(served.map(|answer| (answer.error_s, answer.answer.uncertainty_s))),
            kernel_rms_s: rms(shown.map(|sample| (sample.error_s, sample.uncertainty_s))),
            faults: Vec::new(),
            notes: record.notes.clone(),
        };
        if row.wrong > 0 {
            row.faults.push("wrong answers".into());
        }
        // Another keeper's bound is not ours.
        if row.bound_broken > 0 && matches!(daemon, Daemon::Steering | Daemon::Chronyd) {
            row.faults.push("the kernel's bound is broken".into());
        }
        row.faults.extend(record.faults.iter().cloned());
        row
    }

    /// A row for a play that did not come to its end.
    pub(crate) fn failed(scenario: &str, magnitude: String, daemon: Daemon, error: &str) -> Self {
        Self {
            scenario: scenario.into(),
            magnitude,
            daemon,
            synchronised: 0,
            wrong: 0,
            worst: None,
            synchronised_after: None,
            near_after: None,
            bound_broken: 0,
            worst_kernel: None,
            served_rms_s: None,
            kernel_rms_s: None,
            faults: vec![format!("the play failed: {error}")],
            notes: Vec::new(),
        }
    }

    /// What the row of a play begins with, by which it is known among rows that were made before.
    pub(crate) fn beginning(scenario: &str, magnitude: &str, daemon: Daemon) -> String {
        format!("| {scenario} | {magnitude} | {daemon} |")
    }

    /// Whether the row speaks against the daemon under test. Others are only beside it.
    pub(crate) fn is_failure(&self) -> bool {
        self.daemon.is_ours() && !self.faults.is_empty()
    }
}

/// As a row of a table in Markdown.
impl Display for Row {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let worst = self.worst.map_or("-".into(), |worst| {
            format!("{} in {}", amount(worst.error_s), amount(worst.answer.bound_s()))
        });
        let kernel = self.worst_kernel.map_or(String::new(), |worst| {
            format!(": {} in {}", amount(worst.error_s), amount(worst.max_error_s))
        });
        let seconds =
            |time: Option<Duration>| time.map_or("-".into(), |time| format!("{:.1}", time.as_secs_f64()));
        let rms = |rms_s: Option<f64>| rms_s.map_or("-".into(), |rms_s| format!("{:.0}", rms_s * 1e6));
        let verdict = match (self.faults.is_empty(), self.daemon.is_ours()) {
            (true, _) => "right".into(),
            (false, true) => format!("**{}**", self.faults.join(", ")),
            (false, false) => self.faults.join(", "),
        };
        let notes = self.notes.join("; ");
        let line = format!(
            "{} {} | {} | {worst} | {} | {} | {}{kernel} | {} | {} | {verdict} | {notes} |",
            Self::beginning(&self.scenario, &self.magnitude, self.daemon),
            self.synchronised,
            self.wrong,
            seconds(self.synchronised_after),
            seconds(self.near_after),
            self.bound_broken,
            rms(self.served_rms_s),
            rms(self.kernel_rms_s),
        );
        f.write_str(&line.replace('\n', " "))
    }
}

/// Everything that was recorded, a line for each answer (S) and each look at the kernel's clock (K), by time since zero.
pub(crate) struct Trace<'record>(pub(crate) &'record Record);

impl Display for Trace<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Record { zero, answers, kernel, .. } = self.0;
        let time_s = |at: Instant| {
            at.checked_duration_since(*zero)
                .map_or_else(|| -zero.duration_since(at).as_secs_f64(), |time| time.as_secs_f64())
        };
        let served = answers.iter().map(|judged| {
            let Judged { at, answer, error_s, .. } = judged;
            let line = format!(
                "{:9.3} S leap {} stratum {} error {error_s:+.6} uncertainty {:.6} bound {:.6}{}",
                time_s(*at),
                answer.leap,
                answer.stratum,
                answer.uncertainty_s,
                answer.bound_s(),
                if judged.is_wrong() { " WRONG" } else { "" },
            );
            (*at, line)
        });
        let shown = kernel.iter().map(|sample| {
            let line = format!(
                "{:9.3} K synchronised {} error {:+.6} uncertainty {:.6} bound {:.6}{}",
                time_s(sample.at),
                u8::from(sample.is_synchronised),
                sample.error_s,
                sample.uncertainty_s,
                sample.max_error_s,
                if sample.is_wrong() { " WRONG" } else { "" },
            );
            (sample.at, line)
        });
        let mut lines: Vec<_> = served.chain(shown).collect();
        lines.sort_by_key(|(at, _)| *at);
        lines.iter().try_for_each(|(_, line)| writeln!(f, "{line}"))
    }
}

/// Of a row's columns.
pub(crate) const HEAD: &str = "| scenario | magnitude | server | synchronised answers | wrong | worst | synchronised after (s) \
     | kernel within 1 ms after (s) | kernel's bound broken | served RMS (us) | kernel RMS (us) | verdict | remarks |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|";

/// Strata and references of synchronised answers, for people.
pub(crate) fn identities(answers: &[testlab::oracle::Answer]) -> String {
    let identities: BTreeSet<_> = answers
        .iter()
        .filter(|answer| answer.is_synchronised())
        .map(|answer| (answer.stratum, answer.reference_id))
        .collect();
    let told =
        |(stratum, reference)| format!("stratum {stratum} with reference {}", Ipv4Addr::from(reference));
    identities.into_iter().map(told).collect::<Vec<_>>().join(", ")
}

/// When the clock came near the truth for good.
fn near_since(kernel: &[KernelSample], zero: Instant) -> Option<Instant> {
    let mut since = None;
    for sample in kernel.iter().filter(|sample| sample.at >= zero) {
        if sample.least_error_s() > NEAR_S {
            since = None;
        } else {
            since = since.or(Some(sample.at));
        }
    }
    since
}

/// Of errors and their uncertainties. Those that are less sure than most are left out.
fn rms(errors: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
    let mut errors: Vec<_> = errors.collect();
    errors.sort_by(|one, other| one.1.total_cmp(&other.1));
    errors.truncate(errors.len().div_ceil(2));
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let count = errors.len() as f64;
    let sum: f64 = errors.iter().map(|(error_s, _)| error_s * error_s).sum();
    (count > 0.0).then(|| (sum / count).sqrt())
}

/// With a unit that fits.
fn amount(seconds: f64) -> String {
    match seconds.abs() {
        large if large >= 1.0 => format!("{seconds:.3} s"),
        small if small < 0.001 => format!("{:.0} us", seconds * 1e6),
        _ => format!("{:.1} ms", seconds * 1e3),
    }
}
