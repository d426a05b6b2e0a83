//! The clock discipline: from samples of several upstreams to a clock line with an error bound.
//!
//! This crate is pure: it has no sockets, no clock and no system calls. Time is an argument everywhere, and
//! the caller carries out what the results say. So a simulated day takes milliseconds, and anything that can
//! happen on a network can be simulated.
//!
//! # How to drive it
//!
//! ```
//! use discipline::{Config, Discipline, Leap, LocalTime, Sample, SourceConfig};
//!
//! let start = LocalTime::from_ns(0); // CLOCK_MONOTONIC
//! let mut discipline = Discipline::new(Config::default(), &[SourceConfig::default()], start, None);
//! while discipline.line(start).is_none() {
//!     // Sleep until the next wake-up, then ask the sources that are due.
//!     let now = discipline.next_wakeup().expect("there is a source");
//!     for source in discipline.due(now) {
//!         // Send a request, and once a valid answer is here:
//!         discipline.sample(source, &Sample {
//!             at: now, // the middle of the exchange, by the local clock
//!             offset_ns: 1_700_000_000_000_000_000, // UTC minus local clock
//!             delay_s: 0.01,
//!             dispersion_s: 1e-6,
//!             root_delay_s: 0.001,
//!             root_dispersion_s: 0.001,
//!             stratum: 1,
//!             leap: Leap::None,
//!         });
//!     }
//!     # let start = now;
//!     # if let Some(line) = discipline.line(now) { assert!(line.bound_s(now) < 0.02); break; }
//! }
//! ```
//!
//! After each [`Discipline::sample`] and [`Discipline::due`], and now and then in between (a line's bound
//! grows more slowly if it is renewed), publish [`Discipline::line`]. If there is no line, the time is
//! unsynchronised. With a private line nothing else is needed: the line is right at once. If the kernel's
//! clock should be steered, [`mod@steer`] decides how, and each change of its rate is reported to
//! [`Discipline::frequency_changed`]. A clock that stood still (suspend) is reported to
//! [`Discipline::time_lost`]; a jump that is not reported is detected from the samples. An answer that cannot
//! be used, because its server is not synchronised or is in a loop, is reported to [`Discipline::unfit`].
//! Kisses go to [`Discipline::slow_down`] and [`Discipline::deny`]. A reload uses [`Discipline::add`] and
//! [`Discipline::retire`], which leave the other sources undisturbed. [`Discipline::drift`] returns what to
//! store for the next start, and [`Discipline::report`] the state of a source and the reason for it.
//!
//! # The way of a sample
//!
//! 1. `path`: the round trip shows how noisy the sample is, and whether the route is still the same.
//! 2. `update` adjusts the possible bias of the source to its path and to what the server claims: a source is
//!    at best as good as it says, and a claim that widens reopens the bias.
//! 3. `surprise`: a sample that contradicts the estimate is left out, the bound widens until it covers the
//!    sample, and all sources are asked again. Then it is decided whether the clock, the path or the server
//!    has changed.
//! 4. `selection`, `intersection`: each source claims an interval, and a majority must have a point in
//!    common. At start-up it is a majority of all *configured* sources, until a short patience has run out: a
//!    source is not right because it answers first. Once there is an estimate that a majority holds possible,
//!    claims are measured against it. If as many sources exclude it as hold it possible, no source is
//!    followed, and the last agreement ages.
//! 5. `ensemble`, `kalman`: the samples of the selected sources go into one estimate of the clock.
//! 6. `bound`, `aging`: how far the estimate may be wrong. The bound covers everything that a majority of the
//!    claims overlaps on, and is never less than what the best selected source supports. `line` is the
//!    result.
//! 7. `poll`: the value of the sample decides when the next one is requested, within the limits of
//!    politeness.
//!
//! # What the bound rests on
//!
//! The bound rests on truthful claims of a majority and on physics, and on nothing that is learnt. A server
//! is truthful if its clock is off by no more than half of the root delay plus the root dispersion that it
//! states. Then true time is within that and half of the round trip of what the sample measures, whatever the
//! queues did. Two samples of one source leave a range of frequencies possible. Together with PHI of RFC 5905
//! this carries the claim on to later moments. The estimate may be as wrong as it likes, and a minority of
//! the sources may lie as it likes: the bound still holds. There are two exceptions. One is a jump of the
//! local clock, until a majority of the sources has answered twice after it. The other is a local clock that
//! is off by more than 600 ppm or changes its frequency by more than 15 ppm between two samples.
//!
//! # Politeness
//!
//! First contact with `iburst` is at most eight requests: 2 s apart until four were answered, and the rest
//! after 4, 8 and 16 s, for the frequency. A burst is never repeated, except for half of it after a suspend.
//! Then the interval is 64 s to 1024 s by default, and never shorter than `min_poll`. It is longer if a
//! sample gains nothing, that is, if the clock is known to half a percent of the round trip anyway or a
//! nearer source provides more. A sample that contradicts the estimate may bring four requests forward at
//! each source. Each of them is made up for by an interval of twice the length. RATE doubles the interval for
//! good, DENY ends the requests. A source that does not answer is asked less often.
//!
//! # Why a Kalman filter over all sources
//!
//! Three candidates ran in the same simulated worlds: a weighted regression over each source's latest samples
//! with a runs test on the residuals; a Kalman filter (offset and frequency) for each source, averaged over
//! the sources; and one Kalman filter over all sources and the biases of their paths. All of them weigh
//! samples with the same model of the path and poll every 64 s, and both Kalman filters are banks over
//! wanders. The table shows the RMS error in us as the median over eight simulated days:
//!
//! | | regression | Kalman, one each | Kalman over all |
//! |---|---|---|---|
//! | one server, LAN, usual wander | 28 | 13 | 13 |
//! | the same, ten times the wander | 93 | 28 | 29 |
//! | the same, a hundred times the wander | 212 | 71 | 70 |
//! | one server, 10 ms away | 71 | 69 | 65 |
//! | four servers, 1 to 40 ms away | 22.5 | 8.2 | 7.5 |
//! | seven servers, heavy tails, loss | 30 | 23 | 12 |
//!
//! The regression loses where the clock wanders, because its window is a poor model of that. Averages lose
//! with many servers: what the far ones know about how the clock *moves* is thrown away together with their
//! ignorance of where it *is*. `control/discipline/tests/simulation/filters.txt` has the whole table, which
//! is made by `SIMULATION_WRITE=1 cargo test -p discipline --test simulation filters`. `results.txt` beside
//! it has the figures of all scenarios.
//!
//! # What it cannot do
//!
//! An asymmetry that was there from the start is invisible without a better clock: it is within the bound,
//! but never in the estimate. With a single source, a server that is wrong for some minutes looks like a
//! local clock that has jumped: the estimate follows its second sample, and the bound covers both times for
//! eight polls. Without any source the error grows with the oscillator's wander, and the bound grows faster
//! than that.

mod aging;
pub mod calendar;
mod engine;
mod ensemble;
mod intersection;
mod kalman;
mod leap;
mod line;
mod observation;
mod path;
mod poll;
mod sha1;
mod source;
mod steer;
mod time;

pub use engine::{Config, Discipline, Drift, SourceReport};
pub use ensemble::Ensemble;
pub use intersection::{Agreement, Claim, agreement, majority_hull};
pub use leap::{Leap, LeapList, LeapListError};
pub use line::ClockLine;
pub use observation::{Gaussian, Observation, Prior};
pub use path::{Path, RouteState};
pub use source::{Sample, SourceConfig, Standing};
pub use steer::{Action, Panic, SteerConfig, steer};
pub use time::{LocalTime, ns_to_s, s_to_ns};
