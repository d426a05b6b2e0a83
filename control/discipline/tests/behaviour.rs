//! What the discipline believes, whom, and when: behaviour in single situations, without noise.

use discipline::{
    Config, Discipline, Drift, Leap, LeapList, LocalTime, Sample, SourceConfig, Standing, s_to_ns,
};

/// The local clock is this far from UTC, and keeps perfect time.
const OFFSET_NS: i64 = 1_483_142_400_000_000_000;
const DELAY_S: f64 = 0.002;

fn at(seconds: f64) -> LocalTime {
    LocalTime::from_ns(s_to_ns(seconds))
}

fn sample(seconds: f64, error_s: f64) -> Sample {
    Sample {
        at: at(seconds),
        offset_ns: OFFSET_NS + s_to_ns(error_s),
        delay_s: DELAY_S,
        dispersion_s: 1e-6,
        root_delay_s: 0.0,
        root_dispersion_s: 0.0,
        stratum: 1,
        leap: Leap::None,
    }
}

fn over(sources: &[SourceConfig], config: Config) -> Discipline {
    Discipline::new(config, sources, at(0.0), None)
}

fn five() -> Discipline {
    over(&[SourceConfig::default(); 5], Config::default())
}

/// Asks and answers until `end_s`: each source is off by its error, or silent where it has none.
fn live(discipline: &mut Discipline, errors_s: &[Option<f64>], end_s: f64) -> usize {
    let mut requests = 0;
    while let Some(now) = discipline.next_wakeup().filter(|&now| now < at(end_s)) {
        for index in discipline.due(now) {
            requests += 1;
            if let Some(error_s) = errors_s[index] {
                let seconds = now.seconds_since(at(0.0));
                discipline.sample(index, &sample(seconds, error_s));
            }
        }
    }
    requests
}

/// A server with an error of its own that it owns up to.
#[derive(Clone, Copy)]
struct Honest {
    error_s: f64,
    root_dispersion_s: f64,
}

const EXACT: Honest = Honest { error_s: 0.0, root_dispersion_s: 0.000_1 };

/// As [`live`], with servers that say how good they are.
fn live_with(discipline: &mut Discipline, servers: &[Option<Honest>], end_s: f64) {
    while let Some(now) = discipline.next_wakeup().filter(|&now| now < at(end_s)) {
        for index in discipline.due(now) {
            if let Some(server) = servers[index] {
                let plain = sample(now.seconds_since(at(0.0)), server.error_s);
                discipline.sample(index, &Sample { root_dispersion_s: server.root_dispersion_s, ..plain });
            }
        }
    }
}

fn standings(discipline: &Discipline, sources: usize) -> Vec<Standing> {
    (0..sources).map(|index| discipline.report(index, at(0.0)).standing).collect()
}

fn error_s(discipline: &Discipline, seconds: f64) -> Option<f64> {
    let line = discipline.line(at(seconds))?;
    Some(discipline::ns_to_s(line.utc_ns(at(seconds)) - at(seconds).as_ns() - OFFSET_NS))
}

#[test]
fn without_any_answer_there_is_no_time_and_the_burst_ends() {
    let mut discipline = over(&[SourceConfig::default()], Config::default());
    let requests = live(&mut discipline, &[None], 64.0);
    assert_eq!(requests, 8);
    assert_eq!(discipline.line(at(64.0)), None);
    assert_eq!(standings(&discipline, 1), [Standing::Unreachable]);
}

#[test]
fn one_server_gives_the_time_with_its_third_answer() {
    let mut discipline = over(&[SourceConfig::default()], Config::default());
    live(&mut discipline, &[Some(0.0)], 3.0);
    assert_eq!(discipline.line(at(3.0)), None);
    live(&mut discipline, &[Some(0.0)], 5.0);
    let line = discipline.line(at(5.0)).expect("three answers");
    assert_eq!((line.stratum, line.leap, line.reference), (2, Leap::None, 0));
    assert!(error_s(&discipline, 5.0).expect("a line").abs() < 1e-6);
    assert!(line.bound_s(at(5.0)) >= DELAY_S / 2.0);
}

#[test]
fn two_fast_liars_are_not_believed_before_a_majority_has_spoken() {
    let mut discipline = five();
    live(&mut discipline, &[Some(0.05), Some(0.05), None, None, None], 10.0);
    assert_eq!(discipline.line(at(10.0)), None);
    let mut discipline = five();
    live(&mut discipline, &[Some(0.05), Some(0.05), Some(0.0), Some(0.0), Some(0.0)], 10.0);
    assert!(error_s(&discipline, 10.0).expect("three agree").abs() < 1e-6);
    let liar = Standing::Falseticker;
    let good = Standing::Selected;
    assert_eq!(standings(&discipline, 5), [liar, liar, good, good, good]);
}

#[test]
fn after_a_while_the_silent_have_no_vote() {
    let mut discipline = five();
    live(&mut discipline, &[Some(0.0), Some(0.0), None, None, None], 30.0);
    assert!(discipline.line(at(30.0)).is_some());
}

#[test]
fn a_network_that_comes_up_late_makes_no_liar_credible() {
    let mut discipline = five();
    live(&mut discipline, &[None; 5], 1000.0);
    // All are asked now and then; who comes first is chance.
    let servers = [Some(0.05), Some(0.05), Some(0.0), Some(0.0), Some(0.0)];
    for second in 1001..1400 {
        live(&mut discipline, &servers, f64::from(second));
        let off_s = error_s(&discipline, f64::from(second));
        assert!(off_s.is_none_or(|off_s| off_s.abs() < 1e-3), "{off_s:?} at {second}");
    }
    assert!(discipline.line(at(1400.0)).is_some());
}

#[test]
fn two_that_disagree_give_no_time() {
    let mut discipline = over(&[SourceConfig::default(); 2], Config::default());
    live(&mut discipline, &[Some(0.0), Some(0.05)], 600.0);
    assert_eq!(discipline.line(at(600.0)), None);
    assert_eq!(standings(&discipline, 2), [Standing::NoMajority; 2]);
}

#[test]
fn a_preferred_source_is_followed_while_it_agrees() {
    let prefer = SourceConfig { prefer: true, ..SourceConfig::default() };
    let mut discipline = over(&[SourceConfig::default(), prefer, SourceConfig::default()], Config::default());
    live(&mut discipline, &[Some(0.0), Some(0.000_3), Some(0.0)], 600.0);
    assert_eq!(standings(&discipline, 3), [Standing::Backup, Standing::Selected, Standing::Backup]);
    assert!((error_s(&discipline, 600.0).expect("a line") - 0.000_3).abs() < 1e-5);
}

#[test]
fn a_trusted_source_outvotes_the_rest() {
    let trust = SourceConfig { trust: true, ..SourceConfig::default() };
    let mut discipline = over(&[SourceConfig::default(), trust, SourceConfig::default()], Config::default());
    live(&mut discipline, &[Some(0.05), Some(0.0), Some(0.05)], 60.0);
    assert!(error_s(&discipline, 60.0).expect("the trusted one").abs() < 1e-6);
    assert_eq!(standings(&discipline, 3)[0], Standing::Falseticker);
}

#[test]
fn fewer_than_min_sources_give_no_time() {
    let config = Config { min_sources: Some(2), ..Config::default() };
    let mut discipline = over(&[SourceConfig::default(); 2], config);
    live(&mut discipline, &[Some(0.0), None], 600.0);
    assert_eq!(discipline.line(at(600.0)), None);
}

#[test]
fn a_source_too_far_from_its_reference_is_not_used() {
    let mut discipline = over(&[SourceConfig::default()], Config::default());
    for round in 0..4 {
        let far = Sample { root_dispersion_s: 2.0, ..sample(f64::from(round), 0.0) };
        discipline.sample(0, &far);
    }
    assert_eq!(discipline.line(at(4.0)), None);
    assert_eq!(standings(&discipline, 1), [Standing::Distant]);
}

#[test]
fn kisses_are_obeyed() {
    let mut discipline = over(&[SourceConfig::default(); 2], Config::default());
    discipline.slow_down(0, at(1.0));
    discipline.deny(1);
    let requests = live(&mut discipline, &[Some(0.0), Some(0.0)], 1.0 + 128.0 * 4.0);
    assert!(requests <= 4, "{requests}");
    assert_eq!(standings(&discipline, 2)[1], Standing::Denied);
}

#[test]
fn a_jump_of_the_clock_that_nobody_reported_is_followed() {
    let mut discipline = over(&[SourceConfig::default(); 3], Config::default());
    live(&mut discipline, &[Some(0.0); 3], 1000.0);
    live(&mut discipline, &[Some(2.0); 3], 1400.0);
    assert!((error_s(&discipline, 1400.0).expect("a line") - 2.0).abs() < 1e-3);
}

#[test]
fn a_reported_jump_voids_the_time_until_the_sources_are_heard_again() {
    let mut discipline = over(&[SourceConfig::default(); 3], Config::default());
    live(&mut discipline, &[Some(0.0); 3], 1000.0);
    discipline.time_lost(at(1000.0));
    assert_eq!(discipline.line(at(1000.0)), None);
    live(&mut discipline, &[Some(2.0); 3], 1004.0);
    assert!((error_s(&discipline, 1004.0).expect("a line") - 2.0).abs() < 1e-4);
}

#[test]
fn samples_that_cannot_be_are_ignored() {
    let mut discipline = over(&[SourceConfig::default()], Config::default());
    live(&mut discipline, &[Some(0.0)], 100.0);
    let before = error_s(&discipline, 101.0);
    for wrong in [f64::NAN, f64::INFINITY, -1.0] {
        discipline.sample(0, &Sample { delay_s: wrong, ..sample(100.0, 9.0) });
        discipline.sample(0, &Sample { root_delay_s: wrong, ..sample(100.0, 9.0) });
    }
    assert_eq!(error_s(&discipline, 101.0), before);
}

#[test]
fn extreme_offsets_do_not_panic() {
    for offset_ns in [i64::MIN, i64::MAX, 0] {
        let mut discipline = over(&[SourceConfig::default(); 2], Config::default());
        for round in 0..4 {
            let wild = Sample { offset_ns, leap: Leap::Insert, ..sample(f64::from(round), 0.0) };
            discipline.sample(0, &wild);
            discipline.sample(1, &wild);
            discipline.sample(1, &sample(f64::from(round), 0.0));
            discipline.due(at(f64::from(round)));
        }
        let _ = (discipline.line(at(9.0)), discipline.report(0, at(9.0)), discipline.next_wakeup());
    }
}

#[test]
fn a_liar_from_another_century_does_not_cost_precision() {
    let mut discipline = over(&[SourceConfig::default(); 3], Config::default());
    live(&mut discipline, &[Some(-1.4e9), Some(0.0), Some(0.0)], 600.0);
    assert!(error_s(&discipline, 600.0).expect("two agree").abs() < 2e-9);
}

#[test]
fn sources_come_and_go_without_disturbing_the_rest() {
    let mut discipline = over(&[SourceConfig::default(); 2], Config::default());
    live(&mut discipline, &[Some(0.0); 2], 1000.0);
    assert_eq!(discipline.add(SourceConfig::default(), at(1000.0)), 2);
    assert!(discipline.line(at(1000.0)).is_some());
    live(&mut discipline, &[Some(0.0); 3], 1100.0);
    assert_eq!(standings(&discipline, 3), [Standing::Selected; 3]);
    discipline.retire(0);
    assert!(discipline.line(at(1100.0)).is_some());
    assert_eq!(discipline.add(SourceConfig::default(), at(1100.0)), 0);
    live(&mut discipline, &[Some(0.0); 3], 1200.0);
    assert_eq!(standings(&discipline, 3), [Standing::Selected; 3]);
}

#[test]
fn a_drift_from_an_earlier_run_is_used_but_the_bound_does_not_rely_on_it() {
    let line = |drift| {
        let mut discipline = Discipline::new(Config::default(), &[SourceConfig::default()], at(0.0), drift);
        live(&mut discipline, &[Some(0.0)], 5.0);
        discipline.line(at(5.0)).expect("three answers")
    };
    let (fresh, known) = (line(None), line(Some(Drift { frequency: 0.0, skew: 1e-8, wander: None })));
    assert!(known.skew < fresh.skew / 2.0);
    // The bound rests on the samples of this run alone: the file may be another machine's.
    assert!(known.bound_s(at(60.0)) <= fresh.bound_s(at(60.0)) * 1.01);
}

#[test]
fn with_all_sources_gone_the_bound_grows_and_the_horizon_comes_near() {
    let mut discipline = over(&[SourceConfig::default()], Config::default());
    live(&mut discipline, &[Some(0.0)], 3600.0);
    let then = discipline.line(at(3600.0)).expect("a line");
    live(&mut discipline, &[None], 40_000.0);
    let now = discipline.line(at(40_000.0)).expect("still a line: its bound says what it is worth");
    assert!(now.bound_s(at(40_000.0)) > then.bound_s(at(3600.0)));
    let limit_s = now.bound_s(at(40_000.0)) + 1e-9;
    assert!(now.horizon(limit_s).seconds_since(at(40_000.0)) < 1.0);
    assert!(now.bound_s(now.horizon(1.0)) <= 1.0);
}

#[test]
fn a_leap_second_is_announced_by_majority_unless_the_list_denies_it() {
    // The local clock's zero is 31 December 2016; the first list has the leap, the second one does not.
    let lists = [
        ("#@ 3928521600\n3644697600 36\n3692217600 37\n", Leap::Insert),
        ("#@ 3928521600\n3644697600 36\n", Leap::None),
    ];
    for (text, expected) in lists {
        let leap_list = Some(LeapList::parse(text).expect("a list"));
        let mut discipline = over(&[SourceConfig::default(); 3], Config { leap_list, ..Config::default() });
        for round in 0..4 {
            for index in 0..3 {
                let leap = if index == 0 { Leap::None } else { Leap::Insert };
                discipline.sample(index, &Sample { leap, ..sample(f64::from(round), 0.0) });
            }
        }
        assert_eq!(discipline.line(at(4.0)).map(|line| line.leap), Some(expected));
    }
}

#[test]
fn the_inserted_second_repeats_a_label() {
    let mut discipline = over(&[SourceConfig::default()], Config::default());
    for round in 0..4 {
        discipline.sample(0, &Sample { leap: Leap::Insert, ..sample(86_300.0 + f64::from(round), 0.0) });
    }
    let before = discipline.line(at(86_399.0)).expect("a line").utc_ns(at(86_399.0));
    discipline.due(at(86_401.0));
    let after = discipline.line(at(86_401.0)).expect("a line").utc_ns(at(86_401.0));
    assert!((after - before - 1_000_000_000).abs() < 100_000);
}

#[test]
fn whatever_servers_say_nothing_panics_and_every_figure_is_a_number() {
    let mut state = 1_u64;
    let mut dice = |sides: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % sides
    };
    let delays_s = [0.0, 1e-9, 1e-4, 0.01, 1.0, 60_000.0, f64::NAN];
    let utc_less_local = [i64::MIN, -OFFSET_NS, 0, OFFSET_NS, OFFSET_NS + 1_000_000, i64::MAX];
    for _ in 0..200 {
        let mut discipline = five();
        let mut seconds = 0.0;
        for _ in 0..200 {
            seconds += [0.0, 0.001, 2.0, 64.0, 5000.0][usize::try_from(dice(5)).expect("small")];
            let index = usize::try_from(dice(5)).expect("small");
            let mut pick = |of: &[f64]| of[usize::try_from(dice(of.len() as u64)).expect("small")];
            let wild = Sample {
                delay_s: pick(&delays_s),
                dispersion_s: pick(&delays_s[..3]),
                root_delay_s: pick(&delays_s[..4]),
                root_dispersion_s: pick(&delays_s),
                ..sample(seconds, 0.0)
            };
            let offset_ns = utc_less_local[usize::try_from(dice(6)).expect("small")];
            let stratum = u8::try_from(dice(256)).expect("small");
            let leap = [Leap::None, Leap::Insert, Leap::Delete][usize::try_from(dice(3)).expect("small")];
            match dice(12) {
                0 => drop(discipline.due(at(seconds))),
                1 => discipline.time_lost(at(seconds)),
                2 => discipline.slow_down(index, at(seconds)),
                3 => discipline.frequency_changed(at(seconds), 1e-4),
                _ => discipline.sample(index, &Sample { offset_ns, stratum, leap, ..wild }),
            }
            if let Some(line) = discipline.line(at(seconds)) {
                let figures = [line.frequency, line.skew, line.dispersion_rate, line.bound_s(at(seconds))];
                assert!(figures.iter().all(|figure| figure.is_finite()), "{line:?}");
                assert!(line.root_delay_s >= 0.0 && line.root_dispersion_s >= 0.0);
            }
        }
    }
}

#[test]
fn coarse_sources_that_say_so_do_not_move_the_time_whoever_is_heard_first() {
    for (off_s, root_dispersion_s) in [(0.05, 0.1), (0.5, 1.2), (-0.3, 0.4), (0.002, 0.003)] {
        let coarse = Honest { error_s: off_s, root_dispersion_s };
        for (exact, several) in [(2, 2), (1, 1), (2, 3), (1, 4)] {
            let mut servers = vec![Some(coarse); several];
            servers.extend(vec![Some(EXACT); exact]);
            for reversed in [false, true] {
                if reversed {
                    servers.reverse();
                }
                let mut discipline = over(&vec![SourceConfig::default(); servers.len()], Config::default());
                for end in 1..200_u32 {
                    let seconds = f64::from(end) * 7.3;
                    live_with(&mut discipline, &servers, seconds);
                    let Some(line) = discipline.line(at(seconds)) else { continue };
                    let off_s = error_s(&discipline, seconds).expect("a line").abs();
                    assert!(off_s <= line.bound_s(at(seconds)), "{off_s} at {seconds}: {line:?}");
                    let fine_s = if seconds < 120.0 { DELAY_S } else { 0.000_5 };
                    assert!(off_s < fine_s, "{off_s} at {seconds} with {exact} of {}", servers.len());
                }
            }
        }
    }
}

#[test]
fn a_liar_whom_the_others_cannot_refute_is_within_the_bound() {
    for lie_s in [0.000_5, -0.003, 0.009] {
        let liar = Some(Honest { error_s: lie_s, root_dispersion_s: 0.0 });
        let truthful = Some(Honest { error_s: 0.0, root_dispersion_s: 0.01 });
        let mut discipline = over(&[SourceConfig::default(); 3], Config::default());
        live_with(&mut discipline, &[liar, truthful, truthful], 600.0);
        let line = discipline.line(at(600.0)).expect("a line");
        assert!(error_s(&discipline, 600.0).expect("a line").abs() <= line.bound_s(at(600.0)), "{line:?}");
    }
}

#[test]
fn a_dead_reference_is_replaced_by_one_that_is_heard() {
    let good = Some(Honest { error_s: 0.0, root_dispersion_s: 0.000_01 });
    let worse = Some(Honest { error_s: 0.001, root_dispersion_s: 0.01 });
    let mut discipline = over(&[SourceConfig::default(); 3], Config::default());
    live_with(&mut discipline, &[good, worse, worse], 2000.0);
    let then = discipline.line(at(2000.0)).expect("a line");
    assert_eq!(then.reference, 0);
    live_with(&mut discipline, &[None, worse, worse], 8000.0);
    let now = discipline.line(at(8000.0)).expect("a line");
    assert_ne!(now.reference, 0);
    assert!(now.root_dispersion_s > 0.01, "no better than the best that is heard: {now:?}");
    assert_eq!(standings(&discipline, 3)[0], Standing::Unreachable);
}

#[test]
fn a_server_that_follows_us_back_is_no_news() {
    // They have a common source until it is gone.
    const GONE_S: f64 = 40.0;
    // How long ago the other one has asked us when we ask it, in s.
    const ASKED_S: f64 = 0.5;
    for seed in 0..200_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut noise = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            f64::from(u32::try_from(random >> 40).expect("24 bits")) / f64::from(1 << 24)
        };
        let source = SourceConfig { min_poll: 3, max_poll: 3, ..SourceConfig::default() };
        let mut discipline = over(&[source; 2], Config::default());
        let mut largest_s = 0.0_f64;
        let mut check = |discipline: &Discipline, now: LocalTime| {
            let bound_s = discipline.line(now).map_or(f64::INFINITY, |line| line.bound_s(now));
            assert!(bound_s >= largest_s - 1e-6, "seed {seed}, {now:?}: {bound_s} s after {largest_s} s");
            largest_s = bound_s;
        };
        while let Some(now) = discipline.next_wakeup().filter(|&now| now < at(600.0)) {
            let seconds = now.seconds_since(at(0.0));
            let asked = now.plus_seconds(-ASKED_S);
            let ours_s = discipline.line(asked).map(|line| line.bound_s(asked));
            let is_gone = seconds > GONE_S;
            for index in discipline.due(now) {
                // What it heard of the common source may reach us once more.
                let is_alone = seconds > GONE_S + 10.0;
                if is_alone {
                    check(&discipline, now);
                }
                if index == 0 && is_gone {
                    continue;
                }
                let root_dispersion_s =
                    ours_s.filter(|_| index == 1 && is_gone).map_or(0.000_1, |ours_s| ours_s + 0.000_05);
                let drifted_s = if index == 1 { (seconds - GONE_S).max(0.0) * 12e-6 } else { 0.0 };
                let queue_s = 0.000_2 * noise() * noise();
                let plain = sample(seconds, drifted_s + (noise() - 0.5) * queue_s);
                discipline.sample(index, &Sample { root_dispersion_s, delay_s: 0.000_1 + queue_s, ..plain });
                if is_alone {
                    check(&discipline, now);
                }
            }
        }
        assert!(largest_s > 0.001, "seed {seed}: {largest_s} s");
    }
}

#[test]
fn a_server_that_says_it_is_not_synchronised_has_no_say_at_once() {
    let mut discipline = over(&[SourceConfig::default(); 3], Config::default());
    live(&mut discipline, &[Some(0.0); 3], 1000.0);
    let reference = discipline.line(at(1000.0)).expect("a line").reference;
    discipline.unfit(reference, at(1000.0));
    let line = discipline.line(at(1000.0)).expect("two are left");
    assert_ne!(line.reference, reference);
    assert_eq!(standings(&discipline, 3)[reference], Standing::Unfit);
}

#[test]
fn of_three_or_more_two_must_agree() {
    for configured in [3, 4, 7] {
        let mut discipline = over(&vec![SourceConfig::default(); configured], Config::default());
        let mut errors_s = vec![None; configured];
        errors_s[0] = Some(7200.0);
        live(&mut discipline, &errors_s, 3000.0);
        assert_eq!(discipline.line(at(3000.0)), None);
        let config = Config { min_sources: Some(1), ..Config::default() };
        let mut discipline = over(&vec![SourceConfig::default(); configured], config);
        live(&mut discipline, &errors_s, 3000.0);
        assert!(discipline.line(at(3000.0)).is_some_and(|line| !line.of_configured_majority));
    }
    let mut discipline = over(&[SourceConfig::default()], Config::default());
    live(&mut discipline, &[Some(0.0)], 60.0);
    assert!(discipline.line(at(60.0)).is_some_and(|line| line.of_configured_majority));
}

#[test]
fn jumps_of_every_size_are_survived_by_any_number_of_sources() {
    for sources in [1, 2, 3, 4, 7] {
        for jump_s in [0.001, -0.005, 0.02, -0.5, 3.0, -3600.0] {
            let mut discipline = over(&vec![SourceConfig::default(); sources], Config::default());
            live(&mut discipline, &vec![Some(0.0); sources], 5000.0);
            live(&mut discipline, &vec![Some(jump_s); sources], 7100.0);
            let off_s = error_s(&discipline, 7100.0).map(|off_s| off_s - jump_s);
            assert!(off_s.is_some_and(|off_s| off_s.abs() < 1e-4), "{off_s:?} after {jump_s} with {sources}");
        }
    }
}

#[test]
fn one_liar_that_jumps_moves_nobody_and_costs_no_doubt_for_long() {
    let mut discipline = over(&[SourceConfig::default(); 4], Config::default());
    live(&mut discipline, &[Some(0.0); 4], 5000.0);
    live(&mut discipline, &[Some(100.0), Some(0.0), Some(0.0), Some(0.0)], 5300.0);
    let line = discipline.line(at(5300.0)).expect("three agree");
    assert!(line.bound_s(at(5300.0)) < 0.01, "{line:?}");
    assert!(error_s(&discipline, 5300.0).expect("a line").abs() < 1e-5);
    assert_eq!(standings(&discipline, 4)[0], Standing::Falseticker);
}

#[test]
fn a_drift_file_that_cannot_be_is_set_aside() {
    for frequency in [9999e-6, -700e-6, 80e-6] {
        let drift = Some(Drift { frequency, skew: 0.5e-6, wander: None });
        let mut discipline = Discipline::new(Config::default(), &[SourceConfig::default()], at(0.0), drift);
        for end in 3..120_u32 {
            let seconds = f64::from(end);
            live(&mut discipline, &[Some(0.0)], seconds);
            let Some(line) = discipline.line(at(seconds)) else { continue };
            let off_s = error_s(&discipline, seconds).expect("a line").abs();
            assert!(off_s <= line.bound_s(at(seconds)), "{frequency}: {off_s} at {seconds}: {line:?}");
            assert!(off_s < 0.002, "{frequency}: {off_s} at {seconds}");
        }
    }
}
