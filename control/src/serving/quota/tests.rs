//! The account over restarts, reboots, detached interfaces, and clocks that are wrong.

use std::collections::BTreeMap;

use testinput::random::Random;

use super::*;
use crate::config::{Quota, QuotaCounts};

const DAY_S: f64 = 86_400.0;
/// 2026-11-01 00:00 UTC, and the months after it.
const NOVEMBER_S: f64 = 1_793_491_200.0;
const DECEMBER_S: f64 = NOVEMBER_S + 30.0 * DAY_S;
const JANUARY_S: f64 = DECEMBER_S + 31.0 * DAY_S;

fn quota(bytes: u64) -> Quota {
    Quota { bytes, counts: QuotaCounts::Out, day: 1, netspeed: None }
}

fn sent(bytes: u64) -> Bytes {
    Bytes { received: 2 * bytes, sent: bytes, refused: 0 }
}

/// A machine with its clock, the program's counters, and a daemon that may be there or not.
struct Machine {
    boot: u32,
    map: u32,
    counters: BTreeMap<u32, Bytes>,
    sockets: Bytes,
    now_s: f64,
    daemon: Option<Daemon>,
    disk: Option<String>,
}

/// What a daemon keeps in memory.
struct Daemon {
    account: Account,
    seen: BTreeMap<u32, Bytes>,
    seen_sockets: Bytes,
}

impl Machine {
    fn new(now_s: f64) -> Self {
        let counters = [(2, Bytes::default())].into();
        let mut machine =
            Self { boot: 1, map: 7, counters, sockets: Bytes::default(), now_s, daemon: None, disk: None };
        machine.start();
        machine
    }

    fn identity(&self) -> Identity {
        Identity { boot: self.boot.to_string(), map: self.map }
    }

    fn start(&mut self) {
        self.sockets = Bytes::default();
        let record = match self.disk.as_ref().map(|text| Record::parse(text).unwrap()) {
            Some(record) => record.catch_up(&self.identity(), self.counters.clone()),
            None => Record {
                account: Account::new(),
                identity: Some(self.identity()),
                counters: self.counters.clone(),
            },
        };
        self.daemon =
            Some(Daemon { account: record.account, seen: record.counters, seen_sockets: Bytes::default() });
    }

    /// Time passes, in which so much is answered on an interface, and by the sockets if a daemon runs.
    fn pass(
        &mut self,
        seconds: f64,
        interface: u32,
        bytes: u64,
        by_sockets: u64,
        is_known: bool,
        quota: &Quota,
    ) {
        self.now_s += seconds;
        if let Some(counters) = self.counters.get_mut(&interface) {
            *counters = counters.plus(sent(bytes));
        }
        if let Some(daemon) = &mut self.daemon {
            self.sockets = self.sockets.plus(Bytes { sent: by_sockets, ..Bytes::default() });
            daemon.look(&self.counters, self.sockets, seconds, is_known.then_some(self.now_s), quota);
        }
    }

    fn write(&mut self) {
        let identity = self.identity();
        if let Some(daemon) = &self.daemon {
            let record =
                Record { account: daemon.account, identity: Some(identity), counters: daemon.seen.clone() };
            self.disk = Some(record.to_text().unwrap());
        }
    }

    fn used(&self) -> u64 {
        self.daemon.as_ref().unwrap().account.used().sent
    }

    fn account(&self) -> &Account {
        &self.daemon.as_ref().unwrap().account
    }
}

impl Daemon {
    fn look(
        &mut self,
        counters: &BTreeMap<u32, Bytes>,
        sockets: Bytes,
        passed_s: f64,
        time_s: Option<f64>,
        quota: &Quota,
    ) {
        let came = came(true, &self.seen, counters).plus(sockets.since(self.seen_sockets));
        (self.seen, self.seen_sockets) = (counters.clone(), sockets);
        self.account.step(came, passed_s, time_s, Some(quota));
    }
}

/// Restarts and crashes at any moment, new boots, interfaces that come and go, a clock that is not always known: all
/// that the program answered is counted once, and of the sockets no more is lost than since the last write before a
/// crash.
#[test]
fn whatever_happens_all_is_counted_once() {
    for seed in 0..400 {
        let mut random = Random::new(seed);
        let quota = quota(u64::MAX / 4);
        let mut machine = Machine::new(NOVEMBER_S + DAY_S);
        // What was answered, and the most that a crash may have lost.
        let (mut answered, mut lost, mut unwritten) = (0, 0, 0);
        machine.pass(1.0, 2, 0, 0, true, &quota);
        machine.write();
        for _ in 0..random.between(10, 300) {
            let interface = random.pick(&[2, 3]);
            let is_there = machine.counters.contains_key(&interface);
            let is_known = random.chance(80);
            match random.below(12) {
                // A stop in good order; the program goes on answering.
                0 => {
                    machine.write();
                    unwritten = 0;
                    machine.daemon = None;
                }
                // A crash of the daemon: what the sockets answered since the last write is lost.
                1 => {
                    machine.daemon = None;
                    lost += std::mem::take(&mut unwritten);
                }
                2 if machine.daemon.is_none() => machine.start(),
                // The end of the machine in good order: the maps go with it.
                3 => {
                    if machine.daemon.is_none() {
                        machine.start();
                    }
                    machine.pass(1.0, 0, 0, 0, is_known, &quota);
                    machine.write();
                    unwritten = 0;
                    (machine.boot, machine.map) = (machine.boot + 1, 7);
                    machine.counters = [(2, Bytes::default())].into();
                    machine.start();
                }
                // An interface is detached, and one is attached: its counters begin at zero.
                4 | 5 if machine.daemon.is_some() => {
                    if !is_there {
                        machine.counters.insert(interface, Bytes::default());
                    } else if machine.counters.len() > 1 {
                        machine.counters.remove(&interface);
                    }
                    machine.pass(0.0, 0, 0, 0, is_known, &quota);
                    machine.write();
                    unwritten = 0;
                }
                // All is detached without a daemon: what came since is counted before the maps are removed.
                6 if machine.daemon.is_none() => {
                    let record = Record::parse(machine.disk.as_ref().unwrap()).unwrap();
                    let record = record.catch_up(&machine.identity(), machine.counters.clone());
                    let record = Record { identity: None, counters: BTreeMap::new(), ..record };
                    machine.disk = Some(record.to_text().unwrap());
                    machine.map += 1;
                    machine.counters = [(2, Bytes::default())].into();
                }
                7 if machine.daemon.is_some() => {
                    machine.write();
                    unwritten = 0;
                }
                _ => {
                    let (bytes, by_sockets) = (random.below(1 << 30), random.below(1 << 20));
                    let runs = machine.daemon.is_some();
                    machine.pass(random.uniform() * 300.0, interface, bytes, by_sockets, is_known, &quota);
                    answered += if is_there { bytes } else { 0 };
                    if runs {
                        answered += by_sockets;
                        unwritten += by_sockets;
                    }
                }
            }
        }
        if machine.daemon.is_none() {
            machine.start();
        }
        let used = machine.used();
        assert!(used <= answered, "seed {seed}: {used} counted of {answered}");
        assert_eq!(used + lost, answered, "seed {seed}: {used} of {answered}, {lost} lost");
    }
}

#[test]
fn traffic_of_a_restart_is_counted_once() {
    let quota = quota(1_000_000);
    let mut machine = Machine::new(NOVEMBER_S + DAY_S);
    machine.pass(10.0, 2, 1000, 10, true, &quota);
    machine.write();
    machine.daemon = None;
    machine.pass(5.0, 2, 300, 99, true, &quota);
    machine.start();
    assert_eq!(machine.used(), 1310, "what the program answered without a daemon counts");
    machine.pass(10.0, 2, 1, 1, true, &quota);
    assert_eq!(machine.used(), 1312);
}

#[test]
fn traffic_of_a_reboot_is_counted_once_though_all_numbers_begin_again() {
    let quota = quota(1_000_000);
    let mut machine = Machine::new(NOVEMBER_S + DAY_S);
    machine.pass(10.0, 2, 1000, 0, true, &quota);
    machine.write();
    // Another boot; the map has the same number, and its counters are higher than those of before.
    machine.boot += 1;
    machine.counters = [(2, sent(5000))].into();
    machine.start();
    assert_eq!(machine.used(), 6000);
}

#[test]
fn traffic_of_a_detached_and_attached_interface_is_counted_once() {
    let quota = quota(1_000_000);
    let mut machine = Machine::new(NOVEMBER_S + DAY_S);
    machine.pass(10.0, 2, 1000, 0, true, &quota);
    machine.counters.remove(&2);
    machine.pass(10.0, 2, 0, 0, true, &quota);
    assert_eq!(machine.used(), 1000);
    machine.counters.insert(2, Bytes::default());
    machine.pass(10.0, 2, 2500, 0, true, &quota);
    assert_eq!(machine.used(), 3500, "its counters are higher than before, and began at zero");
    // With a daemon that did not see it end: lower counters have begun again.
    machine.write();
    machine.counters.insert(2, sent(20));
    machine.start();
    assert_eq!(machine.used(), 3520);
}

#[test]
fn traffic_of_a_changed_set_of_interfaces_is_counted_once() {
    let quota = quota(1_000_000);
    let mut machine = Machine::new(NOVEMBER_S + DAY_S);
    machine.pass(10.0, 2, 1000, 0, true, &quota);
    machine.write();
    machine.daemon = None;
    // Another interface was attached in between by nobody who wrote, and the first one is gone.
    machine.counters = [(3, sent(70))].into();
    machine.start();
    assert_eq!(machine.used(), 1070);
}

#[test]
fn a_month_ends_and_the_next_one_begins_at_zero() {
    let quota = quota(1_000_000);
    let mut machine = Machine::new(DECEMBER_S - 100.0);
    machine.pass(50.0, 2, 1000, 0, true, &quota);
    assert_eq!(machine.account().period(), Some(Period::containing(1_793_491_200, 1)));
    machine.pass(49.0, 2, 1000, 0, true, &quota);
    assert_eq!(machine.used(), 2000);
    machine.pass(2.0, 2, 100, 0, true, &quota);
    assert_eq!(machine.used(), 50, "half of the two seconds");
    assert_eq!(machine.account().previous.map(|month| month.bytes.sent), Some(2050));
}

#[test]
fn of_a_gap_over_the_end_of_a_month_each_month_gets_its_part() {
    let quota = quota(1_000_000);
    let mut machine = Machine::new(DECEMBER_S - 3000.0);
    machine.pass(1.0, 2, 1000, 0, true, &quota);
    machine.write();
    machine.daemon = None;
    machine.pass(2999.0 + 1000.0, 2, 4000, 0, true, &quota);
    machine.start();
    machine.pass(0.0, 2, 0, 0, true, &quota);
    let account = machine.account();
    let [before, now] = [account.previous, account.current].map(|month| month.unwrap().bytes.sent);
    assert_eq!(before + now, 5000);
    assert!((999..=1001).contains(&now), "{now} of the 4000 of 4000 s, of which 1000 are in December");
}

#[test]
fn a_clock_that_goes_ahead_into_the_next_month_and_comes_back_loses_nothing() {
    let quota = quota(1_000_000);
    let mut machine = Machine::new(NOVEMBER_S + DAY_S);
    machine.pass(10.0, 2, 1000, 0, true, &quota);
    for ahead_s in [40.0 * DAY_S, 400.0 * DAY_S] {
        machine.now_s += ahead_s;
        machine.pass(10.0, 2, 200, 0, true, &quota);
        assert!(machine.used() <= 200, "it is another month");
        machine.now_s -= ahead_s;
        machine.pass(10.0, 2, 30, 0, true, &quota);
    }
    assert_eq!(machine.used(), 1460);
}

#[test]
fn a_clock_that_goes_back_before_the_month_does_not_begin_a_new_quota() {
    let quota = quota(1_000_000);
    let mut machine = Machine::new(DECEMBER_S + DAY_S);
    machine.pass(10.0, 2, 1000, 0, true, &quota);
    machine.now_s -= 60.0 * DAY_S;
    machine.pass(10.0, 2, 200, 0, true, &quota);
    assert_eq!(machine.used(), 1200);
    machine.now_s = 5.0;
    machine.pass(10.0, 2, 1, 0, true, &quota);
    assert_eq!(machine.used(), 1201);
}

#[test]
fn a_clock_that_is_not_known_at_boot_keeps_the_month_that_is_on_disk() {
    let quota = quota(1_000_000);
    let mut machine = Machine::new(DECEMBER_S - 100.0);
    machine.pass(10.0, 2, 1000, 0, true, &quota);
    machine.write();
    machine.boot += 1;
    machine.counters = [(2, Bytes::default())].into();
    machine.start();
    // By its own count December has begun, but nobody knows yet.
    machine.pass(500.0, 2, 60, 0, false, &quota);
    assert_eq!((machine.used(), machine.account().current.unwrap().start_s), (1060, 1_793_491_200));
    assert!(machine.account().standing(&quota).time_left_s >= DAY_S, "no end that may not be one");
    machine.pass(10.0, 2, 0, 0, true, &quota);
    assert!(machine.used() < 60, "{}", machine.used());
    let all = machine.account().previous.unwrap().bytes.sent + machine.used();
    assert_eq!(all, 1060);
}

#[test]
fn without_a_file_and_without_the_time_traffic_is_counted_for_the_month_that_turns_out() {
    let quota = quota(1_000_000);
    let mut machine = Machine::new(JANUARY_S + 10.0);
    for _ in 0..100 {
        machine.pass(10.0, 2, 10, 0, false, &quota);
    }
    assert_eq!((machine.used(), machine.account().period()), (1000, None));
    assert!(machine.account().view(&quota).to_string().contains("does not know yet which month"));
    machine.pass(10.0, 2, 10, 0, true, &quota);
    assert_eq!(machine.used(), 1010);
    assert_eq!(machine.account().current.map(|month| month.start_s), Some(1_798_761_600));
}

#[test]
fn another_first_day_keeps_what_was_used() {
    let mut machine = Machine::new(NOVEMBER_S + 19.0 * DAY_S);
    machine.pass(10.0, 2, 1000, 0, true, &quota(1_000_000));
    for day in [15, 31, 20, 1] {
        machine.pass(10.0, 2, 0, 0, true, &Quota { day, ..quota(1_000_000) });
        assert_eq!(machine.used(), 1000, "day {day}");
        let period = machine.account().period().unwrap();
        assert_eq!(period, Period::containing(1_793_491_200 + 19 * 86_400, day), "day {day}");
    }
}

#[test]
fn the_rate_and_the_forecast_are_those_of_the_traffic() {
    let quota = quota(10_000_000_000);
    let mut machine = Machine::new(NOVEMBER_S);
    assert_eq!(machine.account().view(&quota).forecast_bytes, None);
    while machine.now_s < NOVEMBER_S + 3.0 * DAY_S {
        machine.pass(60.0, 2, 60 * 5000, 0, true, &quota);
    }
    let view = machine.account().view(&quota);
    let (rate, forecast) = (view.rate_bytes_per_s.unwrap(), view.forecast_bytes.unwrap());
    assert!((rate - 5000.0).abs() < 1.0, "{rate}");
    assert!(forecast.abs_diff(5000 * 30 * 86_400) < 10_000_000, "{forecast}");
    // 10 GB at 5 kB/s: 23 days and 3.6 hours.
    let used_up_s = view.used_up_unix_s.unwrap();
    assert!((used_up_s - (1_793_491_200 + 2_000_000)).abs() < 1000, "{used_up_s}");
    assert!((view.advice.unwrap().factor - 0.9 * 10e9 / (5000.0 * 30.0 * DAY_S)).abs() < 0.001);
    let counted = |counts| {
        machine.account().view(&Quota { counts, ..quota }).rate_bytes_per_s.map(|rate| format!("{rate:.0}"))
    };
    assert_eq!(
        [QuotaCounts::In, QuotaCounts::Both].map(counted),
        ["10000", "15000"].map(|rate| Some(rate.to_owned()))
    );
}

/// Through the whole account: months of all lengths with any first day, restarts at any moment, and any traffic.
#[test]
fn no_month_sends_more_than_its_quota_whatever_arrives_and_however_often_the_daemon_restarts() {
    const QUOTA: u64 = 1_000_000_000_000;
    const STEP_S: f64 = 300.0;
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let quota = Quota { day: u8::try_from(random.between(1, 31)).unwrap(), ..quota(QUOTA) };
        // Any month of eight years, two of which are leap years.
        let start_s = NOVEMBER_S + random.uniform() * 8.0 * 365.25 * DAY_S;
        let mut machine = Machine::new(start_s.floor());
        let mut months: BTreeMap<i64, u64> = BTreeMap::new();
        let (mut load, mut cap) = (0.0, None::<f64>);
        // What comes in one step without a cap, before anything can be done.
        let mut largest_step = 0;
        while machine.now_s < start_s + 70.0 * DAY_S {
            if random.chance(1) {
                // In quotas a month; ten thousand are a line at full rate.
                load = random.pick(&[0.1, 0.8, 1.2, 4.0, 100.0, 10_000.0]);
            }
            let wanted = load * 1e12 / (30.0 * DAY_S) * STEP_S;
            let answered = cap.map_or(wanted, |cap| wanted.min(cap * STEP_S));
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative")]
            let bytes = answered as u64;
            if cap.is_none() {
                largest_step = largest_step.max(bytes);
            }
            let daemon_is_there = !random.chance(2);
            if !daemon_is_there {
                machine.write();
                machine.daemon = None;
            }
            machine.pass(STEP_S, 2, bytes, 0, true, &quota);
            if let Some(daemon) = &mut machine.daemon
                && wanted > answered
            {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative")]
                let refused = Bytes { refused: (wanted - answered) as u64, ..Bytes::default() };
                daemon.account.step(refused, 1e-3, Some(machine.now_s), Some(&quota));
            }
            if !daemon_is_there {
                machine.start();
                machine.pass(0.0, 2, 0, 0, true, &quota);
            }
            #[expect(clippy::cast_possible_truncation, reason = "seconds of a clock")]
            let period = Period::containing((machine.now_s - STEP_S) as i64, quota.day);
            *months.entry(period.start_s).or_default() += bytes;
            cap = machine.account().cap(&quota);
        }
        for (start_s, bytes) in months {
            // A step over the end of a month is in one of the two here.
            let most = QUOTA + QUOTA / 100 + 2 * largest_step;
            assert!(bytes <= most, "seed {seed}, month from {start_s}: {bytes} of {most}");
        }
    }
}
