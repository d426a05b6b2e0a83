//! The scenarios: world, client, declared limits, and what chrony 4.8 does in the same place.
//!
//! chrony's figures are medians over twelve seeds of a simulation with the same distributions, its default
//! configuration (`server ... iburst`, `makestep 1 3`), and the same definitions of every figure.

use discipline::{Config, SourceConfig};

use crate::network::{Reroute, Tail};
use crate::oscillator::{Course, Oscillator};
use crate::server::{Fault, Server};
use crate::units::{MS, PPM, US};
use crate::world::{EVENT_S, HOUR_S};

/// How the client uses its estimate.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Loop {
    PrivateLine,
    Steered,
}

/// What the medians must keep to. Violations of the bound are not allowed anywhere.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) rms_us: f64,
    pub(crate) max_us: f64,
    pub(crate) frequency_ppm: f64,
    pub(crate) sync_s: f64,
}

/// chrony's figures, as far as they were taken.
#[derive(Clone, Copy, Default)]
pub(crate) struct Chrony {
    pub(crate) poll_s: Option<f64>,
    pub(crate) answer_s: Option<f64>,
    pub(crate) sync_s: Option<f64>,
    /// Error of its kernel clock, and of what it serves: that clock and the correction still to be slewed.
    pub(crate) rms_us: Option<f64>,
    pub(crate) served_us: Option<f64>,
    pub(crate) max_us: Option<f64>,
    pub(crate) back_s: Option<f64>,
    pub(crate) violations: &'static str,
}

pub(crate) struct Scenario {
    pub(crate) id: &'static str,
    pub(crate) about: &'static str,
    pub(crate) oscillator: Oscillator,
    pub(crate) servers: Vec<Server>,
    pub(crate) sources: SourceConfig,
    pub(crate) config: Config,
    pub(crate) mode: Loop,
    /// True times of the statistics, and of the end, s.
    pub(crate) window_s: (f64, f64),
    /// From when the time to get back under the threshold counts, s.
    pub(crate) back_from_s: Option<f64>,
    pub(crate) threshold_s: f64,
    pub(crate) limits: Limits,
    pub(crate) chrony: Chrony,
}

impl Scenario {
    fn new(id: &'static str, about: &'static str, servers: Vec<Server>) -> Self {
        let config = Config::default();
        Self {
            id,
            about,
            oscillator: Oscillator::usual(),
            servers,
            sources: SourceConfig::default(),
            config,
            mode: Loop::PrivateLine,
            window_s: (4.0 * HOUR_S, 24.0 * HOUR_S),
            back_from_s: None,
            threshold_s: MS,
            limits: Limits { rms_us: 0.0, max_us: 0.0, frequency_ppm: 0.0, sync_s: 0.0 },
            chrony: Chrony::default(),
        }
    }

    fn wander(mut self, wander: f64) -> Self {
        self.oscillator.wander = wander;
        self
    }

    fn clock(mut self, base: f64, offset_s: f64) -> Self {
        self.oscillator.base = base;
        self.oscillator.offset_s = offset_s;
        self
    }

    fn course(mut self, course: Course) -> Self {
        self.oscillator.courses.push(course);
        self
    }

    fn each(mut self, change: impl Fn(usize, &mut Server)) -> Self {
        for (index, server) in self.servers.iter_mut().enumerate() {
            change(index, server);
        }
        self
    }

    fn poll(mut self, poll: u8) -> Self {
        self.sources.min_poll = poll;
        self.sources.max_poll = poll;
        self
    }

    fn after_event(mut self) -> Self {
        self.window_s.0 = EVENT_S;
        self
    }

    fn until_h(mut self, hours: f64) -> Self {
        self.window_s.1 = hours * HOUR_S;
        self
    }

    fn since_h(mut self, hours: f64) -> Self {
        self.window_s.0 = hours * HOUR_S;
        self
    }

    fn back_from(mut self, from_s: f64) -> Self {
        self.back_from_s = Some(from_s);
        self
    }

    fn threshold(mut self, threshold_s: f64) -> Self {
        self.threshold_s = threshold_s;
        self
    }

    fn steered(mut self) -> Self {
        self.mode = Loop::Steered;
        self
    }

    fn limits(mut self, rms_us: f64, max_us: f64, frequency_ppm: f64, sync_s: f64) -> Self {
        self.limits = Limits { rms_us, max_us, frequency_ppm, sync_s };
        self
    }

    /// Mean poll, time to synchronise, RMS and maximum; violations as chrony had them.
    fn chrony(
        mut self,
        poll_s: f64,
        sync_s: f64,
        rms_us: f64,
        max_us: f64,
        violations: &'static str,
    ) -> Self {
        let known = |value: f64| (value > 0.0).then_some(value);
        self.chrony.poll_s = known(poll_s);
        self.chrony.sync_s = known(sync_s);
        self.chrony.rms_us = known(rms_us);
        self.chrony.max_us = known(max_us);
        self.chrony.violations = violations;
        self
    }

    fn chrony_serves(mut self, rms_us: f64) -> Self {
        self.chrony.served_us = Some(rms_us);
        self
    }

    fn chrony_answers(mut self, answer_s: f64) -> Self {
        self.chrony.answer_s = Some(answer_s);
        self
    }

    fn chrony_back(mut self, back_s: f64) -> Self {
        self.chrony.back_s = Some(back_s);
        self
    }
}

pub(crate) fn lan() -> Vec<Server> {
    vec![Server::new(100.0 * US, 100.0 * US)]
}

pub(crate) fn wan() -> Vec<Server> {
    vec![Server::new(10.0 * MS, 1.0 * MS)]
}

pub(crate) fn four() -> Vec<Server> {
    [(1.0, 50.0), (5.0, 200.0), (15.0, 600.0), (40.0, 2000.0)]
        .map(|(base_ms, jitter_us)| Server::new(base_ms * MS, jitter_us * US))
        .to_vec()
}

pub(crate) fn seven() -> Vec<Server> {
    [2.0, 5.0, 8.0, 12.0, 20.0, 30.0, 45.0]
        .map(|base_ms| {
            let mut server = Server::new(base_ms * MS, 300.0 * US);
            server.path.tail = Some(Tail { share: 0.05, mean_s: 10.0 * MS });
            server.path.loss = 0.01;
            server
        })
        .to_vec()
}

fn five() -> Vec<Server> {
    [(2.0, 0.1), (4.0, 0.1), (6.0, 0.2), (8.0, 0.2), (10.0, 0.3)]
        .map(|(base_ms, jitter_ms)| Server::new(base_ms * MS, jitter_ms * MS))
        .to_vec()
}

fn asymmetric(index: usize, server: &mut Server) {
    let share = [0.05, -0.05, 0.1, -0.1, 0.05, -0.05, 0.1][index];
    server.path.there_s *= 1.0 + share;
    server.path.back_s *= 1.0 - share;
}

fn faulty(count: usize, fault: Fault) -> impl Fn(usize, &mut Server) {
    move |index, server| {
        if index < count {
            server.faults.push(fault);
        }
    }
}

fn rerouted(there_s: f64, back_s: f64) -> Reroute {
    Reroute { at_s: EVENT_S, there_s, back_s }
}

const RAMP: Course =
    Course::Triangle { from_s: EVENT_S, rise_s: HOUR_S, height: PPM, period_s: f64::INFINITY };
const SINE: Course = Course::Sine { amplitude: 0.1 * PPM, period_s: 1800.0 };
const DAY_AND_NIGHT: Course = Course::Sine { amplitude: PPM, period_s: 86_400.0 };

// While no link works, the oscillator goes where it goes: a client that knew its frequency exactly at the event
// would still be off by 1.3 ms at most in the median (13 ms at ten times the wander). The time after it is what a
// discipline can help.
const OUTAGE_END_S: f64 = EVENT_S + 6.0 * HOUR_S;

fn outage(_: usize, server: &mut Server) {
    server.path.outages.push((EVENT_S, OUTAGE_END_S));
}

fn lossy(_: usize, server: &mut Server) {
    server.path.loss = 0.3;
}

/// All of them, in the table's order.
pub(crate) fn all() -> Vec<Scenario> {
    let mut all = steady();
    all.extend(liars_and_routes());
    all.extend(outages_and_loss());
    all.extend(fixed_polls());
    all.extend(start_ups());
    all.extend(further());
    all
}

fn steady() -> Vec<Scenario> {
    let new = Scenario::new;
    vec![
        new("a", "1 server 100/10 us", vec![Server::new(100.0 * US, 10.0 * US)])
            .limits(4.8, 24.0, 0.024, 6.0)
            .threshold(0.1 * MS)
            .chrony(241.0, 7.0, 18.9, 97.0, "0"),
        new("b", "1 server 100/100 us (LAN)", lan())
            .chrony_serves(86.7)
            .limits(19.0, 82.0, 0.038, 6.0)
            .chrony(716.0, 6.0, 103.0, 336.0, ".16 % x 1.6"),
        new("c", "1 server 10/1 ms (WAN)", wan())
            .chrony_serves(474.0)
            .limits(120.0, 440.0, 0.07, 6.0)
            .threshold(3.0 * MS)
            .chrony(1030.0, 6.0, 440.0, 1110.0, "0"),
        new("d", "4 servers 1..40 ms", four())
            .chrony_serves(61.5)
            .limits(12.0, 51.0, 0.031, 4.0)
            .chrony(980.0, 7.0, 75.0, 234.0, "0"),
        new("e", "7 servers, heavy tail, 1 % loss", seven())
            .limits(21.0, 84.0, 0.038, 4.0)
            .chrony(1030.0, 7.0, 267.0, 739.0, "0"),
        new("e2", "e, asymmetric by 5..10 %", seven())
            .limits(98.0, 190.0, 0.038, 4.0)
            .each(asymmetric)
            .chrony(1030.0, 7.0, 286.0, 733.0, "0"),
        new("f0_lan", "b without wander", lan())
            .chrony_serves(12.0)
            .limits(7.7, 28.0, 0.0028, 6.0)
            .wander(0.0)
            .chrony(1030.0, 6.0, 11.6, 28.0, "0"),
        new("f0_wan", "c without wander", wan())
            .chrony_serves(121.0)
            .limits(77.0, 250.0, 0.0084, 6.0)
            .wander(0.0)
            .threshold(3.0 * MS)
            .chrony(1030.0, 6.0, 116.0, 285.0, "0"),
        new("f8_lan", "b, wander 1e-8", lan()).limits(40.0, 210.0, 0.22, 6.0).wander(1e-8).chrony(
            150.0,
            6.0,
            116.0,
            531.0,
            ".59 % x 1.9",
        ),
        new("f8_wan", "c, wander 1e-8", wan())
            .chrony_serves(926.0)
            .limits(190.0, 800.0, 0.37, 6.0)
            .wander(1e-8)
            .threshold(3.0 * MS)
            .chrony(1030.0, 6.0, 1090.0, 3360.0, "0"),
        new("f7_lan", "b, wander 1e-7", lan())
            .chrony_serves(118.0)
            .limits(99.0, 700.0, 1.4, 6.0)
            .wander(1e-7)
            .threshold(10.0 * MS)
            .chrony(66.0, 6.0, 141.0, 770.0, "1.7 % x 3.6"),
        new("f7_wan", "c, wander 1e-7", wan())
            .limits(410.0, 2100.0, 2.3, 6.0)
            .wander(1e-7)
            .threshold(10.0 * MS)
            .chrony(286.0, 6.0, 1880.0, 7900.0, ".03 %"),
        new("g", "b, 100 ppm", lan())
            .limits(19.0, 81.0, 0.037, 6.0)
            .clock(100.0 * PPM, 50.0 * MS)
            .chrony(775.0, 6.0, 103.0, 347.0, ".16 %"),
        new("h1", "b, 0.1 s off", lan())
            .limits(19.0, 77.0, 0.037, 6.0)
            .clock(0.0, 0.1)
            .chrony(700.0, 6.0, 103.0, 330.0, ".16 %"),
        new("h2", "b, 100 s off", lan())
            .limits(19.0, 77.0, 0.037, 6.0)
            .clock(0.0, 100.0)
            .chrony(700.0, 5.0, 103.0, 330.0, ".17 %"),
        new("h3", "b, 0.9 s off", lan())
            .limits(19.0, 77.0, 0.037, 6.0)
            .clock(0.0, 0.9)
            .chrony(700.0, 16.0, 103.0, 330.0, ".19 %"),
    ]
}

fn liars_and_routes() -> Vec<Scenario> {
    let new = Scenario::new;
    let longer_back = |server: &mut Server| server.path.reroutes.push(rerouted(0.0, 5.0 * MS));
    vec![
        new("i0", "5 good servers", five())
            .limits(18.0, 74.0, 0.037, 4.0)
            .chrony(1010.0, 7.0, 128.0, 346.0, "0"),
        new("i1", "the nearest at +50 ms", five())
            .limits(29.0, 130.0, 0.044, 4.0)
            .each(faulty(1, Fault::Offset(50.0 * MS)))
            .chrony(1010.0, 7.0, 189.0, 455.0, "0"),
        new("i2", "the two nearest at +50 ms", five())
            .limits(46.0, 200.0, 0.051, 4.0)
            .each(faulty(2, Fault::Offset(50.0 * MS)))
            .chrony(1010.0, 74.0, 197.0, 486.0, "start-up x 19"),
        new("i3", "the nearest drifts 20 ppm", five())
            .limits(32.0, 140.0, 0.044, 4.0)
            .each(faulty(1, Fault::Drift(EVENT_S, 20.0 * PPM)))
            .after_event()
            .chrony(0.0, 7.0, 0.0, 401.0, ""),
        new("i4", "the two nearest drift 20 ppm", five())
            .limits(49.0, 190.0, 0.049, 4.0)
            .each(faulty(2, Fault::Drift(EVENT_S, 20.0 * PPM)))
            .after_event()
            .chrony(0.0, 7.0, 0.0, 1030.0, ""),
        new("j1", "c, +5 ms on the way back", wan())
            .limits(190.0, 640.0, 0.075, 6.0)
            .each(|_, server| longer_back(server))
            .after_event()
            .threshold(3.0 * MS)
            .chrony(0.0, 6.0, 2300.0, 3300.0, ""),
        new("j2", "d, the same on the nearest", four())
            .limits(34.0, 160.0, 0.045, 4.0)
            .each(|index, server| {
                if index == 0 {
                    longer_back(server);
                }
            })
            .after_event()
            .chrony(0.0, 7.0, 1970.0, 0.0, ""),
    ]
}

fn outages_and_loss() -> Vec<Scenario> {
    let new = Scenario::new;
    let dead =
        |id, about, servers| new(id, about, servers).each(outage).after_event().back_from(OUTAGE_END_S);
    vec![
        dead("k_lan", "b, no link for 6 h", lan())
            .limits(680.0, 2300.0, 0.09, 6.0)
            .chrony(0.0, 6.0, 0.0, 1090.0, "")
            .chrony_back(348.0),
        dead("k_lan8", "the same, wander 1e-8", lan())
            .limits(5900.0, 21_000.0, 0.86, 6.0)
            .wander(1e-8)
            .chrony(0.0, 6.0, 0.0, 12_900.0, "9 %")
            .chrony_back(1091.0),
        dead("k_wan", "d, no link for 6 h", four())
            .limits(640.0, 2100.0, 0.084, 4.0)
            .chrony(0.0, 7.0, 0.0, 1600.0, "")
            .chrony_back(906.0),
        new("l_lan", "b, 30 % loss", lan()).limits(28.0, 140.0, 0.042, 10.0).each(lossy).chrony(
            488.0,
            15.0,
            159.0,
            580.0,
            ".12 % x 1.8",
        ),
        new("l_d", "d, 30 % loss", four())
            .limits(17.0, 79.0, 0.035, 10.0)
            .each(lossy)
            .chrony(1030.0, 9.0, 230.0, 848.0, "0"),
        new("o", "b, +1 ppm and back in 2 h", lan())
            .limits(27.0, 140.0, 0.08, 6.0)
            .course(RAMP)
            .after_event()
            .chrony(0.0, 6.0, 0.0, 528.0, ""),
        new("o_sin", "b, .1 ppm sine of 30 min", lan()).limits(33.0, 140.0, 0.14, 6.0).course(SINE).chrony(
            586.0,
            6.0,
            100.0,
            333.0,
            ".28 % x 2.4",
        ),
        new("p", "b, leap second at 48 h", lan())
            .limits(19.0, 78.0, 0.037, 6.0)
            .each(|_, server| server.leap_s = Some(48.0 * HOUR_S))
            .since_h(47.0)
            .until_h(60.0)
            .chrony(0.0, 6.0, 0.0, 280.0, ""),
    ]
}

fn fixed_polls() -> Vec<Scenario> {
    let new = Scenario::new;
    let wan_at = |id, about, poll| new(id, about, wan()).poll(poll).threshold(3.0 * MS);
    vec![
        new("m_b4", "b at poll 16 s", lan())
            .limits(9.7, 45.0, 0.031, 6.0)
            .poll(4)
            .chrony(16.0, 0.0, 11.1, 75.0, ""),
        new("m_b6", "b at 64 s", lan())
            .chrony_serves(20.4)
            .limits(19.0, 82.0, 0.038, 6.0)
            .poll(6)
            .chrony(65.0, 0.0, 22.2, 81.0, ""),
        new("m_b8", "b at 256 s", lan())
            .limits(38.0, 160.0, 0.048, 6.0)
            .poll(8)
            .chrony(258.0, 0.0, 50.7, 173.0, ""),
        new("m_b10", "b at 1024 s", lan())
            .limits(80.0, 320.0, 0.062, 6.0)
            .poll(10)
            .chrony(1030.0, 0.0, 105.0, 315.0, ""),
        wan_at("m_c4", "c at 16 s", 4).limits(52.0, 230.0, 0.059, 6.0).chrony(16.0, 0.0, 105.0, 629.0, "0"),
        wan_at("m_c6", "c at 64 s", 6)
            .chrony_serves(103.0)
            .limits(92.0, 370.0, 0.066, 6.0)
            .chrony(65.0, 0.0, 102.0, 363.0, "0"),
        wan_at("m_c10", "c at 1024 s", 10)
            .limits(330.0, 1100.0, 0.1, 1170.0)
            .chrony(1030.0, 0.0, 434.0, 1010.0, "0"),
        new("m_d6", "d at 64 s", four())
            .chrony_serves(14.8)
            .limits(11.0, 47.0, 0.031, 4.0)
            .poll(6)
            .chrony(65.0, 0.0, 15.6, 58.0, ""),
        new("m_e6", "e at 64 s", seven())
            .limits(18.0, 70.0, 0.035, 4.0)
            .poll(6)
            .chrony(65.0, 0.0, 40.4, 114.0, ""),
        new("m_f8_4", "f8_lan at 16 s", lan())
            .limits(20.0, 110.0, 0.18, 6.0)
            .wander(1e-8)
            .poll(4)
            .chrony(16.0, 0.0, 25.6, 117.0, "0"),
        new("m_f8_6", "f8_lan at 64 s", lan())
            .limits(40.0, 210.0, 0.22, 6.0)
            .wander(1e-8)
            .poll(6)
            .chrony(65.0, 0.0, 54.2, 213.0, ".12 %"),
    ]
}

fn start_ups() -> Vec<Scenario> {
    let new = |id, about, servers| Scenario::new(id, about, servers).since_h(1.0).until_h(2.0);
    vec![
        new("n_lan", "b, first 2 h", lan()).limits(19.0, 51.0, 0.04, 6.0).chrony_answers(4.25),
        new("n_wan", "c, first 2 h", wan())
            .limits(84.0, 210.0, 0.075, 6.0)
            .threshold(3.0 * MS)
            .chrony_answers(4.5),
        new("n_d", "d, first 2 h", four()).limits(15.0, 40.0, 0.037, 4.0).chrony_answers(5.0),
        new("n_e", "e, first 2 h", seven()).limits(20.0, 52.0, 0.045, 4.0).chrony_answers(5.75),
        new("n_loss", "b, 30 % loss, first 2 h", lan())
            .limits(30.0, 73.0, 0.048, 10.0)
            .each(lossy)
            .chrony_answers(11.5),
        {
            let mut slow = new("n_slow", "b without iburst", lan())
                .limits(26.0, 58.0, 0.041, 143.0)
                .chrony_answers(130.0);
            slow.sources.iburst = false;
            slow
        },
        new("n_few", "2 of 5 servers answer", five()).limits(22.0, 54.0, 0.045, 22.0).each(
            |index, server| {
                if index >= 2 {
                    server.path.outages.push((0.0, f64::INFINITY));
                }
            },
        ),
    ]
}

fn further() -> Vec<Scenario> {
    let new = Scenario::new;
    let mut asleep =
        new("suspend", "d, suspended for 1 h", four()).limits(12.0, 59.0, 0.035, 4.0).after_event();
    asleep.oscillator.suspended.push((EVENT_S, EVENT_S + HOUR_S));
    vec![
        new("s_b", "b, steering the clock", lan()).limits(19.0, 82.0, 0.037, 22.0).steered(),
        new("s_h3", "h3, slewing .9 s", lan()).limits(19.0, 83.0, 0.038, 31.0).clock(0.0, 0.9).steered(),
        new("s_f8", "f8_lan, steering", lan()).limits(41.0, 220.0, 0.22, 22.0).wander(1e-8).steered(),
        asleep,
        new("restart", "d, the nearest .1 s off for 10 min", four())
            .limits(13.0, 47.0, 0.033, 4.0)
            .each(faulty(1, Fault::OffsetBetween(EVENT_S, EVENT_S + 600.0, 0.1)))
            .after_event(),
        new("reroute", "d, the nearest 20 ms longer both ways", four())
            .limits(34.0, 160.0, 0.045, 4.0)
            .each(|index, server| {
                if index == 0 {
                    server.path.reroutes.push(rerouted(20.0 * MS, 20.0 * MS));
                }
            })
            .after_event(),
        new("shorter", "c, 4 ms shorter on the way there", wan())
            .limits(180.0, 510.0, 0.07, 6.0)
            .each(|_, server| server.path.reroutes.push(rerouted(-4.0 * MS, 0.0)))
            .after_event()
            .threshold(3.0 * MS),
        new("x_b", "b, server off by 100 us at random", lan())
            .limits(52.0, 200.0, 0.055, 6.0)
            .each(|_, server| server.noise_s = 100.0 * US),
        new("x_c", "c, server off by 1 ms at random", wan())
            .limits(330.0, 1100.0, 0.11, 6.0)
            .each(|_, server| server.noise_s = MS)
            .threshold(3.0 * MS),
        new("x_d", "d, the nearest off by 100 us at random", four()).limits(25.0, 110.0, 0.041, 4.0).each(
            |index, server| {
                if index == 0 {
                    server.noise_s = 100.0 * US;
                }
            },
        ),
        new("x_all", "d, all off by 100 us at random", four())
            .limits(40.0, 150.0, 0.048, 4.0)
            .each(|_, server| server.noise_s = 100.0 * US),
        new("daily", "d, 1 ppm sine of 24 h", four()).limits(14.0, 63.0, 0.044, 4.0).course(DAY_AND_NIGHT),
        new("no_leap", "5 servers, one with a false leap", five())
            .limits(18.0, 70.0, 0.037, 4.0)
            .each(|index, server| server.false_leap = index == 0)
            .since_h(47.0)
            .until_h(60.0),
    ]
}
