//! Decides which candidates to take. This module is pure.

use protocol::Reading;
use serde::Serialize;

use super::Measured;
use crate::config::is_pool_name;
use crate::discipline::{Claim, agreement, ns_to_s};

/// Fewer cannot outvote a falseticker and survive the loss of one (RFC 8633, section 3.2).
const LEAST: usize = 4;
/// More would only cost their operators.
const MOST: usize = 7;
/// Beyond the fourth, a candidate is taken if it is at most this many times as bad as the fourth.
const MUCH_WORSE: f64 = 2.0;
/// Share of lost requests above which a candidate is not fit.
const LOSS_LIMIT: f64 = 0.5;
/// Largest root distance with which the daemon would use a source (MAXDIST of RFC 5905).
const DISTANCE_LIMIT_S: f64 = 1.5;
/// Highest stratum of an upstream that leaves us one which the pool accepts: 1 to 5 must be served.
const STRATUM_LIMIT: u8 = 4;

/// Whether a candidate should be taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "verdict", content = "reason")]
pub enum Fit {
    /// The candidate should be taken.
    Taken,
    /// It is fit, but there are enough better ones.
    Spare,
    /// It is not fit, for this reason.
    Unfit(String),
}

/// A candidate and what was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ranked {
    /// The name as it was given.
    pub name: String,
    /// The address that was asked.
    pub address: Option<String>,
    /// Whether it should be taken.
    #[serde(flatten)]
    pub fit: Fit,
    /// Share of the requests without an answer.
    pub loss: f64,
    /// The measured values, if it has answered.
    #[serde(flatten)]
    pub figures: Option<Figures>,
}

/// What the answers say.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figures {
    /// The stratum as on the wire.
    pub stratum: u8,
    /// The reference ID as tools show it.
    pub reference: String,
    /// The shortest round trip.
    pub delay_s: f64,
    /// How far the host's clock is behind the candidate's, according to the answer with the shortest round
    /// trip.
    pub offset_s: f64,
    /// That offset, relative to the median of the candidates.
    pub off_median_s: f64,
    /// Root mean square of the differences between that offset and those of the other answers.
    pub jitter_s: f64,
    /// The largest possible error of its time here: half of the round trip, plus the error that it reports.
    pub root_distance_s: f64,
}

/// All candidates: first those taken, then the others, each group from the best to the worst.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ranking {
    /// The candidates.
    pub candidates: Vec<Ranked>,
}

/// Ranks what was measured.
#[must_use]
pub fn rank(measured: &[Measured]) -> Ranking {
    let mut candidates: Vec<Ranked> = measured.iter().map(Ranked::of).collect();
    compare_with_median(&mut candidates);
    leave_out_twins(&mut candidates);
    leave_out_falsetickers(&mut candidates);
    candidates.sort_by(|a, b| a.badness().total_cmp(&b.badness()));
    take_best(&mut candidates);
    Ranking { candidates }
}

impl Ranking {
    /// Returns the candidates to configure.
    pub fn taken(&self) -> impl Iterator<Item = &Ranked> {
        self.candidates.iter().filter(|candidate| candidate.fit == Fit::Taken)
    }

    /// Whether there are too few to outvote a falseticker.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.taken().count() < LEAST
    }
}

impl Ranked {
    /// Rates a candidate by itself; what the others say is not known yet.
    fn of(measured: &Measured) -> Self {
        let figures = Figures::of(&measured.readings);
        let answered = measured.readings.len();
        #[expect(clippy::cast_precision_loss, reason = "at most eight")]
        let loss = if measured.sent == 0 { 0.0 } else { 1.0 - answered as f64 / f64::from(measured.sent) };
        let unfit = if is_pool_name(&measured.name) {
            Some(
                "pool names are not for servers in the pool: they would become each other's upstreams".into(),
            )
        } else if let Some(reason) = &measured.unusable {
            Some(reason.clone())
        } else if let Some(kiss) = &measured.kiss {
            Some(format!("it does not want to be queried: kiss of death {kiss}"))
        } else if let Some(figures) = &figures {
            figures.unfit(&measured.readings, loss)
        } else {
            Some(measured.failure.clone().unwrap_or_else(|| "it has no address".into()))
        };
        Self {
            name: measured.name.clone(),
            address: measured.address.map(|address| address.ip().to_string()),
            fit: unfit.map_or(Fit::Spare, Fit::Unfit),
            loss,
            figures,
        }
    }

    /// Returns the cost of a request to it in s: the error that remains, increased if requests are lost.
    /// Unfit candidates come last.
    fn badness(&self) -> f64 {
        match (&self.fit, &self.figures) {
            (Fit::Unfit(_), _) | (_, None) => f64::INFINITY,
            (_, Some(figures)) => (figures.root_distance_s + figures.jitter_s) / (1.0 - self.loss),
        }
    }

    fn fit_figures(&self) -> Option<&Figures> {
        self.figures.as_ref().filter(|_| !matches!(self.fit, Fit::Unfit(_)))
    }
}

impl Figures {
    fn of(readings: &[Reading]) -> Option<Self> {
        let best = readings.iter().min_by_key(|reading| reading.delay_ns)?;
        let others = readings.len().saturating_sub(1).max(1);
        let squares = readings.iter().map(|reading| {
            let apart_s = ns_to_s(reading.offset_ns.saturating_sub(best.offset_ns));
            apart_s * apart_s
        });
        let delay_s = ns_to_s(best.delay_ns).max(0.0);
        #[expect(clippy::cast_precision_loss, reason = "at most eight")]
        let jitter_s = (squares.sum::<f64>() / others as f64).sqrt();
        Some(Self {
            stratum: best.server.stratum,
            reference: best.server.reference(),
            delay_s,
            offset_s: ns_to_s(best.offset_ns),
            off_median_s: 0.0,
            jitter_s,
            root_distance_s: delay_s / 2.0 + best.server.root_distance_s(),
        })
    }

    fn unfit(&self, readings: &[Reading], loss: f64) -> Option<String> {
        if !readings.iter().all(|reading| reading.server.is_synchronised()) {
            Some("it is not synchronised".into())
        } else if self.stratum > STRATUM_LIMIT {
            Some(format!("stratum {}: must be 1 to {STRATUM_LIMIT}", self.stratum))
        } else if self.root_distance_s > DISTANCE_LIMIT_S {
            Some(format!("root distance {:.3} s: above {DISTANCE_LIMIT_S} s", self.root_distance_s))
        } else if loss >= LOSS_LIMIT {
            Some(format!("{:.0} % of the requests were lost", loss * 100.0))
        } else {
            None
        }
    }
}

fn compare_with_median(candidates: &mut [Ranked]) {
    let mut offsets: Vec<f64> =
        candidates.iter().filter_map(|candidate| Some(candidate.fit_figures()?.offset_s)).collect();
    offsets.sort_by(f64::total_cmp);
    let (Some(low), Some(high)) =
        (offsets.get(offsets.len().saturating_sub(1) / 2), offsets.get(offsets.len() / 2))
    else {
        return;
    };
    let median_s = f64::midpoint(*low, *high);
    for figures in candidates.iter_mut().filter_map(|candidate| candidate.figures.as_mut()) {
        figures.off_median_s = figures.offset_s - median_s;
    }
}

/// Leaves out duplicates: one server under two names has one vote.
fn leave_out_twins(candidates: &mut [Ranked]) {
    for index in 1..candidates.len() {
        let (earlier, later) = candidates.split_at_mut(index);
        let Some(candidate) = later.first_mut().filter(|candidate| candidate.fit_figures().is_some()) else {
            continue;
        };
        if let Some(twin) = earlier.iter().find(|twin| twin.address == candidate.address) {
            candidate.fit = Fit::Unfit(format!("it is the same server as {}", twin.name));
        }
    }
}

/// Leaves out those that the majority contradicts, with the daemon's own rule; without a majority, it leaves
/// out all.
fn leave_out_falsetickers(candidates: &mut [Ranked]) {
    let claim = |(source, candidate): (usize, &Ranked)| {
        let figures = candidate.fit_figures()?;
        let distance_s = figures.root_distance_s + figures.jitter_s;
        Some(Claim { source, offset_s: figures.offset_s, distance_s, trusted: false })
    };
    let claims: Vec<Claim> = candidates.iter().enumerate().filter_map(claim).collect();
    let agreed = agreement(&claims, claims.len());
    for claim in &claims {
        let Some(candidate) = candidates.get_mut(claim.source) else { continue };
        let off_ms = candidate.figures.as_ref().map_or(0.0, |figures| figures.off_median_s * 1e3);
        match &agreed {
            Some(agreed) if agreed.holds(claim) => {}
            Some(_) => {
                candidate.fit = Fit::Unfit(format!(
                    "falseticker: {off_ms:+.3} ms off the median, beyond what its root distance allows"
                ));
            }
            None => {
                candidate.fit = Fit::Unfit("no majority of the candidates agrees on the time".into());
            }
        }
    }
}

/// Takes the best four, and up to seven of those that are about as good.
fn take_best(candidates: &mut [Ranked]) {
    let fourth = candidates.get(LEAST - 1).map_or(f64::INFINITY, Ranked::badness);
    for (place, candidate) in candidates.iter_mut().enumerate().take(MOST) {
        let good = place < LEAST || candidate.badness() <= MUCH_WORSE * fourth;
        if good && candidate.fit == Fit::Spare {
            candidate.fit = Fit::Taken;
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::ServerTime;
    use responder::clock::NtpShort;

    use super::*;

    fn reading(offset_ms: i64, delay_ms: i64) -> Reading {
        let server = ServerTime {
            stratum: 2,
            root_delay: NtpShort::from_nanos(2_000_000),
            root_dispersion: NtpShort::from_nanos(1_000_000),
            reference_id: 0x7f00_0001,
            ..ServerTime::default()
        };
        Reading { server, offset_ns: offset_ms * 1_000_000, delay_ns: delay_ms * 1_000_000 }
    }

    /// Makes a candidate whose four requests were answered alike.
    fn good(number: u8, delay_ms: i64) -> Measured {
        Measured {
            name: format!("ntp{number}.example.net"),
            address: Some(([192, 0, 2, number], 123).into()),
            sent: 4,
            readings: vec![reading(40, delay_ms); 4],
            failure: None,
            kiss: None,
            unusable: None,
        }
    }

    fn names(ranking: &Ranking) -> Vec<&str> {
        ranking.taken().map(|candidate| candidate.name.trim_end_matches(".example.net")).collect()
    }

    #[track_caller]
    fn assert_unfit(ranking: &Ranking, name: &str, why: &str) {
        let found = ranking.candidates.iter().find(|candidate| candidate.name == name).unwrap();
        assert!(matches!(&found.fit, Fit::Unfit(reason) if reason.contains(why)), "{found:?}");
    }

    #[test]
    fn four_are_taken_and_those_beyond_only_if_they_are_about_as_good() {
        let near = [good(1, 40), good(2, 10), good(3, 30), good(4, 20), good(5, 50), good(6, 500)];
        let ranking = rank(&near);
        assert_eq!(names(&ranking), ["ntp2", "ntp4", "ntp3", "ntp1", "ntp5"]);
        assert_eq!(ranking.candidates[5].fit, Fit::Spare);
        let many: Vec<Measured> = (1..=12).map(|number| good(number, 20)).collect();
        assert_eq!(rank(&many).taken().count(), 7);
        assert!(!ranking.is_short() && rank(&near[..3]).is_short());
    }

    #[test]
    fn loss_and_jitter_count_against_a_candidate() {
        let mut lossy = good(1, 20);
        lossy.readings.truncate(3);
        let mut restless = good(2, 20);
        restless.readings[3] = reading(65, 70);
        let ranking = rank(&[lossy, restless, good(3, 20), good(4, 21), good(5, 22)]);
        assert_eq!(names(&ranking)[..4], ["ntp3", "ntp4", "ntp5", "ntp1"]);
        let figures = ranking.candidates.iter().find(|candidate| candidate.name.starts_with("ntp2")).unwrap();
        let jitter_s = figures.figures.as_ref().unwrap().jitter_s;
        assert!((jitter_s - 0.025 / 3_f64.sqrt()).abs() < 1e-9, "{jitter_s}");
    }

    #[test]
    fn those_left_out_are_told_why() {
        let pool = Measured::of("2.debian.pool.ntp.org");
        let silent = Measured { readings: Vec::new(), failure: Some("no answer".into()), ..good(5, 1) };
        let kissed = Measured { kiss: Some("RATE".into()), ..good(6, 1) };
        let mut lossy = good(7, 1);
        lossy.readings.truncate(2);
        let mut unsynchronised = good(8, 1);
        unsynchronised.readings[0].server.leap = 3;
        let mut low = good(9, 1);
        low.readings.iter_mut().for_each(|reading| reading.server.stratum = 5);
        let mut far = good(10, 1);
        far.readings.iter_mut().for_each(|reading| reading.server.root_dispersion = NtpShort(2 << 16));
        let mut liar = good(11, 1);
        liar.readings.iter_mut().for_each(|reading| reading.offset_ns += 90_000_000);
        let own = Measured { unusable: Some("it is an address of this host itself".into()), ..good(12, 1) };
        let twin = Measured { name: "same.example.net".into(), ..good(2, 1) };
        let mut all = vec![good(1, 10), good(2, 10), good(3, 10), good(4, 10)];
        all.extend([pool, silent, kissed, lossy, unsynchronised, low, far, liar, own, twin]);

        let ranking = rank(&all);
        assert_eq!(names(&ranking), ["ntp1", "ntp2", "ntp3", "ntp4"]);
        for (name, why) in [
            ("2.debian.pool.ntp.org", "pool"),
            ("ntp5.example.net", "no answer"),
            ("ntp6.example.net", "RATE"),
            ("ntp7.example.net", "50 %"),
            ("ntp8.example.net", "not synchronised"),
            ("ntp9.example.net", "stratum 5"),
            ("ntp10.example.net", "root distance 2.0"),
            ("ntp11.example.net", "+90.000 ms off the median"),
            ("ntp12.example.net", "this host itself"),
            ("same.example.net", "ntp2.example.net"),
        ] {
            assert_unfit(&ranking, name, why);
        }
    }

    #[test]
    fn without_a_majority_nobody_is_taken() {
        let apart = (1..=4).map(|number| {
            let mut candidate = good(number, 10);
            let offset_ns = i64::from(number) * 1_000_000_000;
            candidate.readings.iter_mut().for_each(|reading| reading.offset_ns = offset_ns);
            candidate
        });
        let ranking = rank(&apart.collect::<Vec<_>>());
        assert_eq!(ranking.taken().count(), 0);
        assert_unfit(&ranking, "ntp1.example.net", "no majority");
        assert_eq!(rank(&[]).taken().count(), 0);
    }
}
