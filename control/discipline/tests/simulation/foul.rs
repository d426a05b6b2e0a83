//! Foul weather: what goes wrong with servers, networks and oscillators, and what chrony 4.8 serves in it.
//!
//! chrony's figures are medians over four seeds of the same distributions, of the time that chronyd serves (its
//! clock and the correction that is still to be slewed) with its default configuration, and of its clock where
//! it polls at a fixed interval.

use discipline::{Drift, LocalTime, SourceConfig};

use crate::cases::{Case, Member};
use crate::exempt::Exempt;
use crate::figures::{Errors, median_of};
use crate::network::{Queue, Recurring, Reroute, Tail};
use crate::oscillator::{Course, Jump, Oscillator};
use crate::processors::on_all_processors;
use crate::property::discipline;
use crate::scenarios::{four, lan, wan};
use crate::server::{Claims, Fault, Server};
use crate::units::{MS, PPM, US};
use crate::world::{EVENT_S, HOUR_S, START_S, run};

/// A scenario of foul weather.
#[derive(Clone)]
pub(crate) struct Foul {
    pub(crate) id: String,
    pub(crate) about: String,
    pub(crate) case: Case,
    /// Statistics from here on, s.
    from_s: f64,
    /// When something happens, s.
    event_s: Option<f64>,
    threshold_s: f64,
    /// RMS error of what chronyd serves, us.
    pub(crate) served_us: Option<f64>,
    /// A fixed poll, and the RMS error of chrony's clock with it, us.
    pub(crate) equal: Option<(u8, f64)>,
}

/// The figures of one run, or their medians.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    pub(crate) poll_s: f64,
    pub(crate) rms_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) max_us: f64,
    pub(crate) bound_us: f64,
    pub(crate) outside_s: f64,
    /// Share of the time without a line.
    pub(crate) silent: f64,
    /// From the event until the error is below the threshold for good.
    pub(crate) back_s: f64,
}

/// A scenario with its figures.
pub(crate) struct Row {
    pub(crate) foul: Foul,
    pub(crate) median: Figures,
    pub(crate) runs: Vec<Figures>,
    /// RMS error at the equal poll, us.
    pub(crate) equal_us: Option<f64>,
}

impl Row {
    pub(crate) fn has_jump(&self) -> bool {
        !self.foul.case.oscillator.jumps.is_empty()
    }

    pub(crate) fn has_truthful_majority(&self) -> bool {
        self.foul.case.members.iter().filter(|member| member.truthful).count() * 2
            > self.foul.case.members.len()
    }
}

/// All rows, or those whose ids are listed.
pub(crate) fn all(only: Option<&str>, seeds: u64) -> Vec<Row> {
    let fouls: Vec<Foul> = scenarios()
        .into_iter()
        .filter(|foul| only.is_none_or(|only| only.split(',').any(|id| id == foul.id)))
        .collect();
    on_all_processors(fouls, |foul| row(foul, seeds))
}

fn row(foul: Foul, seeds: u64) -> Row {
    let runs: Vec<Figures> = (1..=seeds).map(|seed| measure(&foul, seed)).collect();
    let equal_us = foul.equal.map(|(poll, _)| {
        let mut equal = foul.clone();
        equal.case.source.min_poll = poll;
        equal.case.source.max_poll = poll;
        let runs: Vec<Figures> = (1..=seeds).map(|seed| measure(&equal, seed)).collect();
        median(&runs).rms_us
    });
    Row { median: median(&runs), runs, equal_us, foul }
}

fn measure(foul: &Foul, seed: u64) -> Figures {
    let mut case = foul.case.clone();
    case.seed = seed;
    let case = &case;
    let (mut account, mut exempt) = (Errors::default(), Exempt::default());
    let (mut outside_s, mut silent_s, mut all_s, mut requests) = (0.0, 0.0, 0.0, 0.0);
    let mut away_s = foul.event_s;
    let mut client = |now: LocalTime| discipline(case, now);
    run(&case.oscillator, &case.servers(), &mut client, seed, case.end_s, |second| {
        let open = exempt.open(case, second);
        let off_s = second.seen.map_or(f64::INFINITY, |(error_s, _)| error_s.abs());
        if foul.event_s.is_some_and(|event_s| second.at_s >= event_s) && off_s >= foul.threshold_s {
            away_s = Some(second.at_s);
        }
        if second.at_s > START_S + 60.0 {
            all_s += 1.0;
            silent_s += if second.seen.is_none() { 1.0 } else { 0.0 };
            requests += f64::from(second.requests);
        }
        let Some((error_s, reading)) = second.seen else {
            return;
        };
        if off_s > reading.bound_s && !open {
            outside_s += 1.0;
        }
        if second.at_s >= foul.from_s {
            account.enter(error_s, reading.bound_s);
        }
    });
    let errors = account.statistics();
    let back_s = match (foul.event_s, away_s) {
        (Some(_), Some(away_s)) if away_s >= case.end_s - 1.0 => f64::INFINITY,
        (Some(event_s), Some(away_s)) => away_s - event_s,
        _ => f64::NAN,
    };
    Figures {
        poll_s: all_s * case.members.len() as f64 / requests,
        rms_us: errors.rms_us,
        p99_us: errors.p99_us,
        max_us: errors.max_us,
        bound_us: errors.bound_us,
        outside_s,
        silent: silent_s / all_s,
        back_s,
    }
}

/// Figure by figure the median over the runs; of the seconds outside of the bound the sum.
fn median(runs: &[Figures]) -> Figures {
    let of = |figure: fn(&Figures) -> f64| median_of(runs, figure);
    Figures {
        poll_s: of(|run| run.poll_s),
        rms_us: of(|run| run.rms_us),
        p99_us: of(|run| run.p99_us),
        max_us: of(|run| run.max_us),
        bound_us: of(|run| run.bound_us),
        outside_s: runs.iter().map(|run| run.outside_s).sum(),
        silent: of(|run| run.silent),
        back_s: of(|run| run.back_s),
    }
}

impl Foul {
    fn new(id: impl Into<String>, about: impl Into<String>, servers: Vec<Server>) -> Self {
        let members = servers.into_iter().map(|server| Member { server, truthful: true }).collect();
        Self {
            id: id.into(),
            about: about.into(),
            case: Case {
                seed: 1,
                oscillator: Oscillator::usual(),
                members,
                source: SourceConfig::default(),
                drift: None,
                end_s: 24.0 * HOUR_S,
            },
            from_s: 4.0 * HOUR_S,
            event_s: None,
            threshold_s: MS,
            served_us: None,
            equal: None,
        }
    }

    fn chrony(mut self, served_us: f64) -> Self {
        self.served_us = Some(served_us);
        self
    }

    fn equal(mut self, poll: u8, rms_us: f64) -> Self {
        self.equal = Some((poll, rms_us));
        self
    }

    fn wander(mut self, wander: f64) -> Self {
        self.case.oscillator.wander = wander;
        self
    }

    fn fan(mut self, height: f64) -> Self {
        self.case.oscillator.courses.push(Course::Triangle {
            from_s: 0.0,
            rise_s: 300.0,
            height,
            period_s: 2.0 * HOUR_S,
        });
        self
    }

    fn each(mut self, change: impl Fn(usize, &mut Server)) -> Self {
        for (index, member) in self.case.members.iter_mut().enumerate() {
            change(index, &mut member.server);
        }
        self
    }

    fn liars(mut self, indexes: &[usize]) -> Self {
        for &index in indexes {
            self.case.members[index].truthful = false;
        }
        self
    }

    fn jump(mut self, step_s: f64, frequency: f64) -> Self {
        self.case.oscillator.jumps.push(Jump { at_s: EVENT_S, step_s, frequency });
        self.event()
    }

    fn event(mut self) -> Self {
        self.event_s = Some(EVENT_S);
        self
    }

    /// Nobody could get back.
    fn without_event(mut self) -> Self {
        self.event_s = None;
        self
    }

    fn threshold(mut self, threshold_s: f64) -> Self {
        self.threshold_s = threshold_s;
        self
    }

    /// The first two hours, from ten minutes on.
    fn start_up(mut self) -> Self {
        self.from_s = 600.0;
        self.case.end_s = 2.0 * HOUR_S;
        self.event_s = Some(START_S);
        self
    }

    fn until_h(mut self, hours: f64) -> Self {
        self.case.end_s = hours * HOUR_S;
        self
    }

    fn drift(mut self, off: f64, skew: f64) -> Self {
        let frequency = 1.0 / (1.0 + self.case.oscillator.base) - 1.0 + off;
        self.case.drift = Some(Drift { frequency, skew, wander: None });
        self
    }
}

fn l1() -> Vec<Server> {
    vec![Server::new(300.0 * US, 40.0 * US)]
}

fn w1() -> Vec<Server> {
    vec![Server::new(18.0 * MS, 0.7 * MS)]
}

fn t1() -> Vec<Server> {
    vec![Server::new(20.0 * US, 3.0 * US)]
}

/// Servers of the pool: a little loss, and a tail.
fn pool(paths_ms: &[(f64, f64)]) -> Vec<Server> {
    paths_ms
        .iter()
        .map(|&(base_ms, jitter_ms)| {
            let mut server = Server::new(base_ms * MS, jitter_ms * MS);
            server.path.loss = 0.005;
            server.path.tail = Some(Tail { share: 0.02, mean_s: 5.0 * MS });
            server
        })
        .collect()
}

fn p4() -> Vec<Server> {
    pool(&[(3.0, 0.15), (8.0, 0.4), (18.0, 0.5), (28.0, 1.0)])
}

fn p7() -> Vec<Server> {
    pool(&[(3.0, 0.15), (6.0, 0.3), (10.0, 0.4), (15.0, 0.5), (20.0, 0.6), (28.0, 1.0), (35.0, 1.0)])
}

/// So many exact servers and so many that are off by `off_s` and claim `claim_s`.
fn mixed(exact: usize, coarse: usize, off_s: f64, claim_s: f64, coarse_first: bool) -> Vec<Server> {
    let mut servers = vec![Server::new(300.0 * US, 40.0 * US); exact];
    let mut rough = Server::new(300.0 * US, 40.0 * US);
    rough.faults = vec![Fault::Offset(off_s)];
    rough.claims = Claims { root_dispersion_s: claim_s, stratum: 2, ..Claims::NONE };
    let at = if coarse_first { 0 } else { exact };
    servers.splice(at..at, std::iter::repeat_n(rough, coarse));
    servers
}

fn scenarios() -> Vec<Foul> {
    let mut all = fair();
    all.extend(estimates());
    all.extend(coarse());
    all.extend(lost());
    all.extend(liars());
    all.extend(jumps());
    all.extend(networks());
    all
}

/// As in the other table, for the comparison with what chronyd serves.
fn fair() -> Vec<Foul> {
    let new = Foul::new;
    vec![
        new("b", "1 server 100/100 us", lan()).chrony(86.7).equal(6, 22.5),
        new("c", "1 server 10/1 ms", wan()).chrony(474.0).equal(6, 105.0),
        new("d", "4 servers 1..40 ms", four()).chrony(61.5).equal(6, 16.5),
        new("f8_wan", "c, wander 1e-8", wan()).wander(1e-8).chrony(926.0),
        new("f0_lan", "b without wander", lan()).wander(0.0).chrony(12.0),
        new("f0_wan", "c without wander", wan()).wander(0.0).chrony(121.0),
        new("f7_lan", "b, wander 1e-7", lan()).wander(1e-7).chrony(118.0),
    ]
}

fn estimates() -> Vec<Foul> {
    let new = Foul::new;
    let off = [5.0, -3.0, 1.0, -2.0];
    let stratum_two = |index: usize, server: &mut Server| {
        server.faults = vec![Fault::Offset(off[index] * MS)];
        server.claims = Claims { root_dispersion_s: 6.0 * MS, stratum: 2, ..Claims::NONE };
    };
    let walking = |_: usize, server: &mut Server| {
        server.faults = vec![Fault::Walk { per_root_s: 50.0 * US, within_s: 5.0 * MS }];
        server.claims = Claims { root_dispersion_s: 6.0 * MS, stratum: 2, ..Claims::NONE };
    };
    let mut fast = new("fast", "P4, +499 ppm, no drift file, first 2 h", p4()).chrony(83.5).start_up();
    fast.case.oscillator.base = 499.0 * PPM;
    let mut slow = new("slow", "P4, -499 ppm, no drift file, first 2 h", p4()).start_up();
    slow.case.oscillator.base = -499.0 * PPM;
    vec![
        new("t_fan", "T1, a fan: 1 ppm in 5 min, each 2 h", t1()).fan(PPM).chrony(23.4).equal(6, 12.4),
        new("l_fan", "L1, the same", l1()).fan(PPM).chrony(184.0).equal(6, 27.0),
        new("p_fan", "P4, the same", p4()).fan(PPM),
        fast,
        slow,
        new("file", "P4, drift file 80 ppm wrong, first 2 h", p4())
            .drift(80.0 * PPM, 0.5 * PPM)
            .chrony(69.3)
            .start_up(),
        new("file_l", "L1, drift file 80 ppm wrong, first 2 h", l1())
            .drift(-80.0 * PPM, 0.5 * PPM)
            .start_up(),
        new("file_bad", "P4, drift file 9,999 ppm wrong, first 2 h", p4())
            .drift(9999.0 * PPM, 0.5 * PPM)
            .start_up(),
        new("file_ok", "P4, right drift file, first 2 h", p4()).drift(0.0, 0.5 * PPM).start_up(),
        new("stratum2", "P4 off by 5, -3, 1, -2 ms, claim 6 ms", p4()).each(stratum_two).chrony(1586.0),
        new("walking", "P4, each walks within 5 ms, claims 6 ms", p4()).each(walking),
    ]
}

/// Coarse but truthful servers beside exact ones.
fn coarse() -> Vec<Foul> {
    let sizes = [("", 50.0 * MS, 100.0 * MS), ("_s", 0.5, 1.2)];
    let mixes = [(2, 2), (1, 1), (2, 3)];
    let mut all = Vec::new();
    for (suffix, off_s, claim_s) in sizes {
        for (exact, rough) in mixes {
            for first in [true, false] {
                let place = if first { "first" } else { "last" };
                all.push(
                    Foul::new(
                        format!("a{exact}{rough}{}{suffix}", if first { "f" } else { "l" }),
                        format!("{exact} exact, {rough} {:.0} ms off {place}", off_s * 1e3),
                        mixed(exact, rough, off_s, claim_s, first),
                    )
                    .until_h(8.0),
                );
            }
        }
    }
    all
}

/// Servers that vanish or lose their source, and servers that have no other source than the client.
fn lost() -> Vec<Foul> {
    let new = Foul::new;
    let drifting = |server: &mut Server, rate: f64| {
        server.faults.push(Fault::Drift(EVENT_S, rate));
        server.claims.source_lost_s = EVENT_S;
    };
    let all_lost = move |index: usize, server: &mut Server| {
        if index == 0 {
            server.path.outages.push((EVENT_S, f64::INFINITY));
        } else {
            drifting(server, [10.0, 12.0, 14.0][index - 1] * PPM);
        }
    };
    let mirror = |server: &mut Server, from_s: f64| server.mirrors_from_s = from_s;
    let itself = move |index: usize, server: &mut Server| {
        if index > 0 {
            mirror(server, 0.0);
        }
    };
    let vanishes = |server: &mut Server| server.path.outages.push((EVENT_S, f64::INFINITY));
    let itself_alone = move |index: usize, server: &mut Server| {
        if index > 0 {
            mirror(server, 0.0);
        } else {
            vanishes(server);
        }
    };
    let mut near = l1();
    near.extend([
        Server::new(20.0 * US, 3.0 * US),
        Server::new(25.0 * US, 3.0 * US),
        Server::new(5.0 * US, US),
    ]);
    let mut pair = l1();
    pair.push(Server::new(100.0 * US, 20.0 * US));
    let mutual = move |index: usize, server: &mut Server| {
        if index == 0 { vanishes(server) } else { mirror(server, EVENT_S) }
    };
    vec![
        new("vanish", "P4, the nearest vanishes", p4())
            .each(move |index, server| {
                if index == 0 {
                    vanishes(server);
                }
            })
            .event(),
        new("lost", "P4, the same, the rest drift within claims", p4()).each(all_lost),
        new("mutual", "2 servers, one vanishes, one follows us", pair)
            .each(mutual)
            .liars(&[1])
            .event()
            .threshold(0.5),
        new("itself", "L1 and three times ourselves", near.clone()).each(itself).liars(&[1, 2, 3]),
        new("itself_0", "the same, L1 vanishes", near)
            .each(itself_alone)
            .liars(&[1, 2, 3])
            .event()
            .threshold(0.5),
        new("mirror", "1 server that follows us", l1())
            .each(move |_, server| mirror(server, EVENT_S))
            .liars(&[0]),
        new("silent", "P4, all silent for 1 h each 6 h", p4()).each(|_, server| {
            let hours = [5.0, 11.0, 17.0, 23.0];
            server.path.outages.extend(hours.map(|hour| (hour * HOUR_S, (hour + 1.0) * HOUR_S)));
        }),
    ]
}

fn liars() -> Vec<Foul> {
    let new = Foul::new;
    let lies = |count: usize, fault: Fault| {
        move |index: usize, server: &mut Server| {
            if index < count {
                server.faults = vec![fault];
            }
        }
    };
    let absent = |at: usize, until_s: f64, off_s: f64| {
        move |index: usize, server: &mut Server| {
            if index == at {
                server.faults = vec![Fault::Offset(off_s)];
            } else {
                server.path.outages.push((0.0, until_s));
            }
        }
    };
    let late = lies(1, Fault::OffsetBetween(EVENT_S, EVENT_S + 300.0, 100.0 * MS));
    vec![
        new("first", "P4, one 2 h off, 5 min before the others", p4())
            .each(absent(0, 330.0, 7200.0))
            .liars(&[0])
            .start_up(),
        new("alone", "P4, only one answers, 2 h off", p4())
            .each(absent(0, f64::INFINITY, 7200.0))
            .liars(&[0])
            .start_up()
            .without_event(),
        new("half", "P4, two drift away at 20 ppm", p4())
            .each(lies(2, Fault::Drift(EVENT_S, 20.0 * PPM)))
            .liars(&[0, 1])
            .chrony(13_300.0)
            .event(),
        new("three", "P7, three drift away at 20 ppm", p7())
            .each(lies(3, Fault::Drift(EVENT_S, 20.0 * PPM)))
            .liars(&[0, 1, 2])
            .event(),
        new("creep", "P7, three drift away at 1 ppm", p7())
            .each(lies(3, Fault::Drift(EVENT_S, PPM)))
            .liars(&[0, 1, 2])
            .event(),
        new("hidden", "P4, the nearest 1 ms off, claims nothing", p4())
            .each(lies(1, Fault::Offset(MS)))
            .liars(&[0]),
        new("lies", "L1, 100 ms wrong for 5 min", l1()).each(late).liars(&[0]).chrony(4100.0).event(),
        new("lies_w", "W1, 100 ms wrong for 5 min", w1()).each(late).liars(&[0]).event().threshold(3.0 * MS),
        new("steps", "L1, 100 ms wrong from 12 h on", l1())
            .each(lies(1, Fault::OffsetBetween(EVENT_S, f64::INFINITY, 100.0 * MS)))
            .liars(&[0])
            .event(),
    ]
}

/// Letter and name of some servers, the threshold in s, and sizes of jumps in ms.
type Place = (&'static str, &'static str, fn() -> Vec<Server>, f64, &'static [f64]);

fn jumps() -> Vec<Foul> {
    let new = Foul::new;
    let mut all = vec![
        new("j_p4", "P4, jump of +30 ms and +20 ppm", p4()).jump(30.0 * MS, 20.0 * PPM).chrony(3521.0),
        new("j_l1", "L1, the same", l1()).jump(30.0 * MS, 20.0 * PPM).chrony(3026.0),
    ];
    let places: [Place; 4] = [
        ("l", "L1", l1, MS, &[1.0, 3.0, 10.0, 50.0, 100.0, 1000.0, 10_000.0]),
        ("w", "W1", w1, 3.0 * MS, &[5.0, 50.0, 1000.0, 10_000.0]),
        ("p", "P4", p4, MS, &[1.0, 5.0, 50.0, 1000.0, 10_000.0]),
        ("7", "P7", p7, MS, &[5.0, 50.0, 1000.0]),
    ];
    for (letter, name, servers, threshold_s, sizes_ms) in places {
        for size_ms in sizes_ms {
            for (sign, word) in [(1.0, "+"), (-1.0, "-")] {
                let id = format!("{letter}{word}{size_ms}");
                let about = format!("{name}, jump of {word}{size_ms} ms");
                let step_s = sign * size_ms * MS;
                all.push(
                    Foul::new(id, about, servers()).jump(step_s, 0.0).threshold(threshold_s).until_h(18.0),
                );
            }
        }
    }
    let mut many = new("many", "P4, +-20 ms each hour", p4());
    many.case.oscillator.jumps = (5..23)
        .map(|hour| {
            let step_s = if hour % 2 == 0 { 20.0 * MS } else { -20.0 * MS };
            Jump { at_s: f64::from(hour) * HOUR_S, step_s, frequency: 0.0 }
        })
        .collect();
    all.push(many);
    all
}

fn networks() -> Vec<Foul> {
    let new = Foul::new;
    let bloat = |first_s: f64| {
        move |_: usize, server: &mut Server| {
            let (for_s, period_s) = (60.0, 600.0);
            server.path.recurring.push(Recurring {
                first_s,
                for_s,
                period_s,
                there_s: 0.0,
                back_s: 0.2,
                loss: 0.0,
            });
        }
    };
    let asymmetric = |index: usize, server: &mut Server| {
        if index.is_multiple_of(2) {
            server.path.back_s += 3.0 * MS;
        }
    };
    let routes = |index: usize, server: &mut Server| {
        if index < 2 {
            let more = [
                (6.0, 4.0, 0.0),
                (9.0, -4.0, 4.0),
                (12.0, 0.0, -4.0),
                (15.0, 10.0, 10.0),
                (18.0, -10.0, -10.0),
            ];
            server.path.reroutes.extend(more.map(|(hour, there_ms, back_ms)| Reroute {
                at_s: hour * HOUR_S,
                there_s: there_ms * MS,
                back_s: back_ms * MS,
            }));
        }
    };
    // The round trip then has the standard deviation that one way has with the usual queue.
    let gaussian = |_: usize, server: &mut Server| {
        server.path.queue = Queue::Gaussian { mean_sd: 5.0 };
        server.path.jitter_s /= std::f64::consts::SQRT_2;
    };
    let bursts = |_: usize, server: &mut Server| {
        let (for_s, period_s) = (300.0, 1800.0);
        server.path.recurring.push(Recurring {
            first_s: 600.0,
            for_s,
            period_s,
            there_s: 0.0,
            back_s: 0.0,
            loss: 0.8,
        });
    };
    vec![
        new("bloat", "P4, +200 ms back for 60 s of 600, from 0", p4())
            .each(bloat(0.0))
            .chrony(213.0)
            .equal(7, 67.4),
        new("bloat_l", "P4, the same from 5 min on", p4()).each(bloat(300.0)),
        new("bloat_w", "W1, +200 ms back for 60 s of 600, from 0", w1()).each(bloat(0.0)),
        new("gauss", "L1, Gaussian, 5 sd above the floor", l1()).each(gaussian).chrony(69.7).equal(6, 19.1),
        new("uniform", "L1, uniform queue", l1()).each(|_, server| server.path.queue = Queue::Uniform),
        new("ticks", "L1, timestamps of 1 ms", l1()).each(|_, server| server.resolution_s = MS).chrony(579.0),
        new("asym", "P4, 3 ms longer back on 1 and 3", p4()).each(asymmetric).chrony(997.0).equal(7, 952.0),
        new("routes", "P4, five new routes on two of them", p4()).each(routes),
        new("bursts", "P4, 80 % loss for 5 min of 30", p4()).each(bursts),
    ]
}
