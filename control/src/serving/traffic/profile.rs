//! The shape of a source's requests, in a fixed number of bytes, and the kinds of abuse that show in it.
//!
//! Everything here is judged by pairs of samples that follow each other. Whether a port or a timestamp repeats shows in
//! any sample of the requests. Intervals are judged only where all requests of the source are sampled.

use responder::sample::{OTHER_PATH, Sample, USUAL_PATH};
use responder::verdict::Verdict;

use crate::status::traffic::Kind;

/// Pairs that it takes before anything is said.
const FEWEST: u32 = 15;
/// With so many, all numbers are halved, so that what is over is forgotten.
const MOST: u32 = 256;
/// Intervals over which mean and deviation are taken.
const INTERVALS: u32 = 32;
/// A rate that no single client has, in requests per second.
const HIGH_RATE: f64 = 1.0;
/// A rate above that of any client with the usual intervals.
const RAISED_RATE: f64 = 0.1;
/// Time that a pattern must last, in s: longer than the burst at the start of a client.
const SHORTEST_S: f64 = 30.0;
/// The same for a constant interval.
const SHORTEST_POLL_S: f64 = 60.0;
/// Intervals far below the 64 s that clients of public servers keep to, in s.
const SHORT_POLL_S: f64 = 16.0;
/// Deviations of exact and of constant intervals, as parts of their mean.
const EXACT: f64 = 0.02;
const CONSTANT: f64 = 0.2;
/// Numbers of hops that even a NAT with all systems behind it, and several routes to it, does not have.
const MANY_PATHS: u32 = 12;
/// Hops by which two paths differ, if it is not one of several equal routes.
const APART: u8 = 3;

/// Interval of devices whose behaviour is published, with the publication: docs/limits.md has the table.
const PUBLISHED: [(&str, f64); 2] =
    [("Netgear routers of 2003 (RFC 4085)", 1.0), ("TP-Link repeaters of 2017", 5.0)];
/// How far an interval is from a published one at most, as a part of it.
const RESEMBLANCE: f64 = 0.05;

/// What is known of the requests of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Profile {
    first_ns: u64,
    last: Sample,
    /// Whether the last sample was of a time when all requests were sampled.
    was_complete: bool,
    pairs: u32,
    same_port: u32,
    same_transmit: u32,
    intervals: u32,
    mean_s: f64,
    variance: f64,
    /// A bit for each number of hops.
    hops: [u64; 4],
    /// How often a request by the usual path and one by another followed each other, with paths that are apart.
    path_changes: u32,
    /// Requests over the rate of a known source, by its usual path and by another.
    usual_over: u32,
    other_over: u32,
    /// The latest number of hops by the usual path, and by another.
    usual_hops: u8,
    other_hops: u8,
}

impl Profile {
    /// Takes in a sample. `complete` says whether all requests of the source are sampled at this time.
    pub(super) fn take(&mut self, sample: &Sample, complete: bool) {
        let before = std::mem::replace(&mut self.last, *sample);
        let [word, bit] = [usize::from(sample.hops >> 6), usize::from(sample.hops & 63)];
        if sample.hops != 0 {
            self.hops[word] |= 1 << bit;
        }
        let was_complete = std::mem::replace(&mut self.was_complete, complete);
        if self.first_ns == 0 {
            self.first_ns = sample.at_ns.max(1);
            return;
        }
        if self.pairs >= MOST {
            for number in [
                &mut self.pairs,
                &mut self.same_port,
                &mut self.same_transmit,
                &mut self.path_changes,
                &mut self.usual_over,
                &mut self.other_over,
            ] {
                *number /= 2;
            }
            self.hops = [0; 4];
        }
        self.pairs += 1;
        // Port 0 is one that was not told.
        self.same_port += u32::from(sample.port != 0 && sample.port == before.port);
        self.same_transmit += u32::from(sample.transmit == before.transmit);
        self.take_path(before.kind, sample);
        let verdict = Verdict::ALL.get(usize::from(sample.verdict));
        if verdict.is_some_and(|verdict| verdict.is_of_limits()) {
            self.usual_over += u32::from(sample.kind & USUAL_PATH != 0);
            self.other_over += u32::from(sample.kind & OTHER_PATH != 0);
        }
        if complete && was_complete {
            self.take_interval(sample.at_ns.saturating_sub(before.at_ns));
        }
    }

    fn take_interval(&mut self, passed_ns: u64) {
        #[expect(clippy::cast_precision_loss, reason = "an interval")]
        let interval_s = passed_ns as f64 / 1e9;
        self.intervals = (self.intervals + 1).min(INTERVALS);
        let weight = 1.0 / f64::from(self.intervals);
        let off = interval_s - self.mean_s;
        self.mean_s += weight * off;
        self.variance += weight * (off * off - self.variance);
        if self.intervals == 1 {
            self.variance = 0.0;
        }
    }

    fn take_path(&mut self, before: u8, sample: &Sample) {
        const PATHS: u8 = USUAL_PATH | OTHER_PATH;
        match sample.kind & PATHS {
            USUAL_PATH => self.usual_hops = sample.hops,
            OTHER_PATH => self.other_hops = sample.hops,
            _ => return,
        }
        let changed = before & PATHS != 0 && before & PATHS != sample.kind & PATHS;
        let unknown = self.usual_hops == 0 || self.other_hops == 0;
        if changed && (unknown || self.usual_hops.abs_diff(self.other_hops) >= APART) {
            self.path_changes += 1;
        }
    }

    /// Returns the kinds of abuse that show, for a source with so many requests per second.
    pub(super) fn kinds(&self, requests_per_s: f64) -> Vec<Kind> {
        let mut kinds = Vec::new();
        if self.pairs < FEWEST {
            return kinds;
        }
        let lasted_s = self.lasted_s();
        let mostly = |part: u32| u64::from(part) * 10 >= u64::from(self.pairs) * 9;
        if requests_per_s >= HIGH_RATE && lasted_s >= SHORTEST_S && mostly(self.same_port) {
            kinds.push(Kind::FixedPort);
        }
        if requests_per_s >= RAISED_RATE && lasted_s >= SHORTEST_S && mostly(self.same_transmit) {
            kinds.push(Kind::RepeatedTimestamp);
        }
        if let Some((_, deviation)) = self.interval() {
            if deviation < EXACT && lasted_s >= SHORTEST_S {
                kinds.push(Kind::ExactInterval);
            } else if deviation < CONSTANT && lasted_s >= SHORTEST_POLL_S {
                kinds.push(Kind::ConstantPoll);
            }
        }
        // A change of the route is one change. Where both go on, they are two senders. A flood drowns the requests of the
        // source itself, but the source does not become known for one.
        if self.path_changes >= FEWEST || mostly(self.other_over) {
            kinds.push(Kind::Forged);
        }
        if mostly(self.usual_over) {
            kinds.push(Kind::UsualPath);
        }
        if self.hops.iter().map(|word| word.count_ones()).sum::<u32>() >= MANY_PATHS {
            kinds.push(Kind::ManyPaths);
        }
        kinds
    }

    /// Returns the interval in s, if it is constant and far below the usual ones.
    pub(super) fn interval_s(&self) -> Option<f64> {
        self.interval().filter(|(_, deviation)| *deviation < CONSTANT).map(|(mean_s, _)| mean_s)
    }

    /// Returns the devices that are known for such an interval.
    pub(super) fn resembles(&self) -> Option<&'static str> {
        let interval_s = self.interval_s()?;
        let (name, _) =
            PUBLISHED.iter().find(|(_, theirs_s)| (interval_s / theirs_s - 1.0).abs() < RESEMBLANCE)?;
        Some(name)
    }

    /// The mean interval, and its deviation as a part of it, where they are known and short.
    fn interval(&self) -> Option<(f64, f64)> {
        let known = self.intervals >= FEWEST && self.mean_s > 0.0 && self.mean_s < SHORT_POLL_S;
        known.then(|| (self.mean_s, self.variance.max(0.0).sqrt() / self.mean_s))
    }

    #[expect(clippy::cast_precision_loss, reason = "seconds")]
    fn lasted_s(&self) -> f64 {
        self.last.at_ns.saturating_sub(self.first_ns) as f64 / 1e9
    }
}

#[cfg(test)]
mod tests {
    use responder::sample::KNOWN;
    use testinput::random::Random;

    use super::super::heavy::{FADE_S, Heavy};
    use super::*;

    const KEY: (u8, u64) = (0, 7);

    /// A client behind an address.
    struct Client {
        next_s: f64,
        /// The mean interval, and by how much it differs each time, as a part of it.
        interval_s: f64,
        jitter: f64,
        /// Requests of a burst that are left, and their interval.
        burst: u32,
        burst_s: f64,
        /// Port 0 is another one each time.
        port: u16,
        /// The timestamp that is always the same, if it is.
        transmit: Option<[u8; 8]>,
        hops: u8,
        path: u8,
    }

    impl Client {
        fn of(random: &mut Random, interval_s: f64, jitter: f64) -> Self {
            let (next_s, hops) = (interval_s * random.uniform(), random.pick(&[50, 114, 241]));
            Self {
                next_s,
                interval_s,
                jitter,
                burst: 0,
                burst_s: 2.0,
                port: 0,
                transmit: None,
                hops,
                path: 0,
            }
        }

        /// A client as people run it, which begins with a burst.
        fn honest(random: &mut Random) -> Self {
            let interval_s = f64::from(1 << random.between(6, 10));
            let jitter = random.pick(&[0.0, 0.001, 0.02, 0.1]);
            let port = random.pick(&[0, 0, 0, 123]);
            let client = Self::of(random, interval_s, jitter);
            // chronyd and ntpd send 4 to 8 requests 2 s apart at their start, ntpdate 4.
            Self {
                burst: u32::try_from(random.between(0, 8)).unwrap(),
                burst_s: random.pick(&[1.0, 2.0]),
                port,
                ..client
            }
        }

        fn request(&mut self, random: &mut Random) -> Sample {
            let sent_s = self.next_s;
            self.next_s += if self.burst > 0 {
                self.burst -= 1;
                self.burst_s
            } else {
                (self.interval_s * (1.0 + self.jitter * random.normal())).max(1e-4)
            };
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative")]
            let at_ns = ((sent_s + 1e-3 * random.uniform()) * 1e9) as u64;
            let any_port = 1024 + u16::try_from(random.below(64_000)).unwrap();
            Sample {
                at_ns,
                port: if self.port == 0 { any_port } else { self.port },
                transmit: self.transmit.unwrap_or_else(|| random.array()),
                // Packets of one client may take several equal routes.
                hops: self.hops - u8::from(random.chance(30)),
                kind: if self.path == 0 { 0 } else { self.path | KNOWN },
                ..Sample::default()
            }
        }
    }

    /// All kinds that are named at any time within some seconds, of clients behind one address of which one request in
    /// `rarity` is sampled.
    fn named(clients: &mut [Client], seconds: f64, rarity: u64, random: &mut Random) -> (Vec<Kind>, Profile) {
        let (mut heavy, mut now_s, mut kinds) = (Heavy::default(), 0.0, Vec::new());
        while let Some(client) = clients
            .iter_mut()
            .min_by(|a, b| a.next_s.total_cmp(&b.next_s))
            .filter(|client| client.next_s < seconds)
        {
            heavy.fade(client.next_s - now_s);
            now_s = client.next_s;
            let sample = client.request(random);
            if random.below(rarity) == 0 {
                #[expect(clippy::cast_precision_loss, reason = "small")]
                heavy.add(KEY, rarity as f64, false);
                heavy.profile(KEY, &sample, rarity == 1);
            }
            let counts = heavy.of(KEY);
            for kind in counts.profile.kinds(counts.requests / FADE_S) {
                if !kinds.contains(&kind) {
                    kinds.push(kind);
                }
            }
        }
        (kinds, heavy.of(KEY).profile)
    }

    #[test]
    fn honest_clients_are_never_named_alone_or_behind_a_nat() {
        for seed in 0..300 {
            let mut random = Random::new(seed);
            let number = random.pick(&[1, 1, 2, 3, 5, 20, 200]);
            let mut clients: Vec<_> = (0..number).map(|_| Client::honest(&mut random)).collect();
            let rarity = random.pick(&[1, 1, 16]);
            let (kinds, profile) = named(&mut clients, 600.0, rarity, &mut random);
            assert_eq!(kinds, [], "seed {seed}, {number} clients: {profile:?}");
        }
    }

    #[test]
    fn monitors_are_never_named() {
        for seed in 0..100 {
            let mut random = Random::new(seed);
            // A monitor sends a few requests within seconds, every few minutes.
            let mut monitors: Vec<_> = (0..random.between(1, 3))
                .map(|_| Client { burst: 3, burst_s: 2.0, ..Client::of(&mut random, 150.0, 0.1) })
                .collect();
            for _ in 0..20 {
                let (kinds, profile) = named(&mut monitors, 3000.0, 1, &mut random);
                assert_eq!(kinds, [], "seed {seed}: {profile:?}");
                for monitor in &mut monitors {
                    (monitor.burst, monitor.next_s) = (3, 0.0);
                }
            }
        }
    }

    #[test]
    fn a_fixed_port_with_a_high_rate_is_named_also_out_of_a_few_samples() {
        for seed in 0..100 {
            let mut random = Random::new(seed);
            let interval_s = random.pick(&[0.5, 0.1, 0.02]);
            let client = Client { port: 40_000, ..Client::of(&mut random, interval_s, 0.5) };
            let rarity = random.pick(&[1, 4]);
            let (kinds, profile) = named(&mut [client], 300.0, rarity, &mut random);
            assert!(kinds.contains(&Kind::FixedPort), "seed {seed}: {kinds:?} {profile:?}");
            assert!(
                !kinds.contains(&Kind::ExactInterval) && !kinds.contains(&Kind::RepeatedTimestamp),
                "{kinds:?}"
            );
        }
    }

    #[test]
    fn a_timestamp_that_repeats_is_named() {
        for seed in 0..100 {
            let mut random = Random::new(seed);
            let (interval_s, transmit) = (random.pick(&[0.1, 1.0, 4.0]), random.pick(&[[0; 8], [7; 8]]));
            let client = Client { transmit: Some(transmit), ..Client::of(&mut random, interval_s, 0.4) };
            let (kinds, profile) = named(&mut [client], 300.0, 1, &mut random);
            assert!(kinds.contains(&Kind::RepeatedTimestamp), "seed {seed}: {kinds:?} {profile:?}");
        }
    }

    #[test]
    fn intervals_without_jitter_and_polls_far_below_64_s_are_named_with_the_devices_that_have_them() {
        for seed in 0..100 {
            let mut random = Random::new(seed);
            let known = [(1.0, Some("Netgear")), (2.5, None), (5.0, Some("TP-Link")), (10.0, None)];
            let (interval_s, wanted) = random.pick(&known);
            let exact = Client::of(&mut random, interval_s, 0.0);
            let (kinds, profile) = named(&mut [exact], 600.0, 1, &mut random);
            assert_eq!(kinds, [Kind::ExactInterval], "seed {seed}: {profile:?}");
            assert!((profile.interval_s().unwrap() / interval_s - 1.0).abs() < 0.01);
            let like = profile.resembles().map(|name| name.split(' ').next().unwrap());
            assert_eq!(like, wanted, "{interval_s}");
            let constant = Client::of(&mut random, interval_s, 0.08);
            let (kinds, profile) = named(&mut [constant], 600.0, 1, &mut random);
            assert_eq!(kinds, [Kind::ConstantPoll], "seed {seed}: {profile:?}");
            let random_poll = Client::of(&mut random, interval_s, 0.5);
            let (kinds, profile) = named(&mut [random_poll], 600.0, 1, &mut random);
            assert_eq!(kinds, [], "seed {seed}: {profile:?}");
        }
    }

    #[test]
    fn a_flood_in_the_name_of_a_known_source_is_named_by_its_path_whatever_share_is_sampled() {
        for (path, verdicts, expected, other) in [
            (OTHER_PATH, [Verdict::DropLimited, Verdict::Leaked], Kind::Forged, Kind::UsualPath),
            (USUAL_PATH, [Verdict::AnsweredKnown, Verdict::DropLimited], Kind::UsualPath, Kind::Forged),
        ] {
            for seed in 0..50 {
                let mut random = Random::new(seed);
                let mut profile = Profile::default();
                // The source itself is hardly among the samples.
                for number in 0..200_u64 {
                    let verdict = random.pick(&verdicts);
                    let own = random.chance(2);
                    let sample = Sample {
                        at_ns: number * 50_000_000 + random.below(20_000_000),
                        transmit: random.array(),
                        hops: 57,
                        kind: KNOWN | if own { USUAL_PATH } else { path },
                        verdict: if own { Verdict::Answered } else { verdict } as u8,
                        ..Sample::default()
                    };
                    profile.take(&sample, false);
                }
                let kinds = profile.kinds(500.0);
                assert!(kinds.contains(&expected) && !kinds.contains(&other), "seed {seed}: {kinds:?}");
            }
        }
    }

    #[test]
    fn an_address_that_is_forged_is_named_and_a_route_that_changes_is_not() {
        for seed in 0..100 {
            let mut random = Random::new(seed);
            let owner =
                |random: &mut Random| Client { path: USUAL_PATH, hops: 54, ..Client::of(random, 4.0, 0.5) };
            let forger = Client { path: OTHER_PATH, hops: 240, ..Client::of(&mut random, 1.0, 0.5) };
            let mut both = [owner(&mut random), forger];
            let (kinds, profile) = named(&mut both, 300.0, 1, &mut random);
            assert!(kinds.contains(&Kind::Forged), "seed {seed}: {kinds:?} {profile:?}");
            // The same client by another path from some time on; and one over two routes of nearly the same length.
            let mut rerouted = Client { path: OTHER_PATH, hops: 48, ..Client::of(&mut random, 4.0, 0.5) };
            rerouted.next_s = 150.0;
            let mut profile = Profile::default();
            let mut before = owner(&mut random);
            while before.next_s < 150.0 {
                profile.take(&before.request(&mut random), true);
            }
            while rerouted.next_s < 600.0 {
                profile.take(&rerouted.request(&mut random), true);
            }
            assert_eq!(profile.kinds(0.25), [], "seed {seed}: {profile:?}");
            let second = Client { path: OTHER_PATH, hops: 55, ..Client::of(&mut random, 4.0, 0.5) };
            let (kinds, profile) = named(&mut [owner(&mut random), second], 300.0, 1, &mut random);
            assert_eq!(kinds, [], "seed {seed}: {profile:?}");
        }
    }

    #[test]
    fn a_source_with_any_number_of_hops_is_named() {
        let mut random = Random::new(1);
        let mut clients: Vec<_> = (0..40)
            .map(|number| Client { hops: 60 + 4 * number, ..Client::of(&mut random, 8.0, 0.5) })
            .collect();
        let (kinds, profile) = named(&mut clients, 120.0, 1, &mut random);
        assert!(kinds.contains(&Kind::ManyPaths), "{kinds:?} {profile:?}");
    }

    #[test]
    fn what_is_over_is_forgotten_and_no_number_grows_without_end() {
        let mut random = Random::new(2);
        let mut profile = Profile::default();
        let mut bad = Client { port: 9, transmit: Some([1; 8]), ..Client::of(&mut random, 0.01, 0.0) };
        for _ in 0..100_000 {
            profile.take(&bad.request(&mut random), true);
        }
        assert!(profile.kinds(100.0).contains(&Kind::FixedPort) && profile.pairs <= MOST);
        (bad.port, bad.transmit, bad.jitter) = (0, None, 0.5);
        for _ in 0..1000 {
            profile.take(&bad.request(&mut random), true);
        }
        assert_eq!(profile.kinds(100.0), []);
        assert!(size_of::<Profile>() <= 176, "{}", size_of::<Profile>());
    }
}
