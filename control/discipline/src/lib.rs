//! The clock discipline: from samples of several upstreams to a line of time with an error bound.
//!
//! Pure: no sockets, no clock, no system calls. Time is an argument everywhere, and what comes out is for the
//! caller to do. So a simulated day takes milliseconds, and whatever happens on a network can be tried.
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
//! After each [`Discipline::sample`] and [`Discipline::due`], and now and then in between (a line's bound grows
//! more slowly if it is renewed), publish [`Discipline::line`]. No line means "unsynchronised". With a private
//! line nothing else is needed: the line is right at once. Where the kernel's clock is to be steered, [`mod@steer_policy`]
//! says how, and each change of its rate goes back in by [`Discipline::frequency_changed`]. A clock that stood still
//! (suspend) is reported by [`Discipline::time_lost`]; a jump that nobody reported is found out by the samples. An answer
//! that cannot be used, as its server is not synchronised or in a loop, is reported by [`Discipline::unfit`].
//! Kisses go to [`Discipline::slow_down`] and [`Discipline::deny`]; a reload uses [`Discipline::add`] and
//! [`Discipline::retire`], which leave the other sources undisturbed; [`Discipline::drift`] is what to keep for
//! the next start, and [`Discipline::report`] says what became of a source and why.
//!
//! # The way of a sample
//!
//! 1. `path`: the round trip says how noisy the sample is, and whether the route is still the same.
//! 2. `update` fits what is held possible of the source's bias to its path and to what the server claims: a source is at
//!    best as good as it says, and a claim that widens reopens the bias.
//! 3. `surprise`: a sample that contradicts the estimate is left out, the bound widens until it holds what the sample
//!    says, and all sources are asked again. Then it is decided whether the clock, the path or the server has changed.
//! 4. `selection`, `intersection`: each source claims an interval, and a majority must have a point in common. At
//!    start-up it is a majority of all *configured* sources, until a short patience has run out: whoever answers first
//!    is not right for that. Once there is an estimate that a majority holds possible, claims are measured against it.
//!    Where as many exclude it as hold it possible, nobody is followed, and the last agreement ages.
//! 5. `ensemble`, `kalman`: the samples of the selected sources go into one estimate of the clock.
//! 6. `bound`, `aging`: how far the estimate may be wrong. The bound covers all that a majority of the claims overlaps
//!    on, and is never less than what the best selected source supports. `line` is the result.
//! 7. `poll`: what the sample was worth decides when the next one is asked for, and how that is polite.
//!
//! # What the bound rests on
//!
//! On truthful claims of a majority, on physics, and on nothing that is learnt. A server is truthful if its clock is off
//! by no more than half of the root delay plus the root dispersion that it states. Then true time is within half of the
//! round trip and that of what the sample reads, whatever the queues did. Two samples of one source leave a range of
//! frequencies possible, and carry the claim on to later moments, together with RFC 5905's PHI. The estimate may be as
//! wrong as it likes, and a minority of the sources may lie as it likes: the bound still holds. The exceptions are a jump
//! of the local clock, until a majority of the sources has been heard twice after it, and a local clock that is off by
//! more than 600 ppm or changes its frequency by more than 15 ppm between two samples.
//!
//! # Politeness
//!
//! First contact with `iburst` is eight requests at most: 2 s apart until four were answered, the rest then
//! after 4, 8 and 16 s, for the frequency. Never again after that, but for half of it after a suspend. Then 64 s
//! to 1024 s by default, and never faster than `min_poll`: slower wherever a sample buys nothing, that is, where
//! the clock is known to half a percent of the round trip anyway or a nearer source says it all. A sample that
//! contradicts the estimate may bring four requests forward at each source; each is made up for by an interval of twice
//! the length. RATE doubles the interval for good, DENY ends it. A source that does not answer is asked less.
//!
//! # Why a Kalman filter over all sources
//!
//! Three candidates ran in the same simulated worlds: a weighted regression over each source's latest samples
//! with a runs test on the residuals, a Kalman filter (offset and frequency) for each source, both averaged
//! over the sources, and one Kalman filter over all sources and the biases of their paths. All weigh samples by
//! the same model of the path, all poll every 64 s, and both Kalman filters are banks over wanders. RMS error in
//! us, medians over eight simulated days:
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
//! The regression loses where the clock wanders, since its window is a poor model of that; averages
//! lose with many servers, since the far ones' knowledge of how the clock *moves* is thrown away with their
//! ignorance of where it *is*. `control/discipline/tests/simulation/filters.txt` has the whole table; it is made by
//! `SIMULATION_WRITE=1 cargo test -p discipline --test simulation filters`, and `results.txt` beside it has the
//! figures of all scenarios.
//!
//! # What it cannot do
//!
//! An asymmetry that was there from the start is invisible to anyone without a better clock: it is within the
//! bound, never in the estimate. With a single source, a server that errs for some minutes looks like a local clock that
//! has jumped: the estimate follows its second word, and the bound covers both times for eight polls. With no source at
//! all the error grows as the oscillator's wander has it, and the bound grows faster than that.

mod aging;
mod engine;
mod ensemble;
mod intersection;
mod kalman;
mod leap;
mod line;
mod observation;
mod path;
mod poll;
mod source;
mod steer_policy;
mod time;

pub use engine::{Config, Discipline, Drift, SourceReport};
pub use ensemble::Ensemble;
pub use intersection::{Agreement, Claim, agreement, majority_hull};
pub use leap::{Leap, LeapList, LeapListError};
pub use line::ClockLine;
pub use observation::{Gaussian, Observation, Prior};
pub use path::{Path, RouteState};
pub use source::{Sample, SourceConfig, Standing};
pub use steer_policy::{Action, Panic, SteerConfig, steer};
pub use time::{LocalTime, ns_to_s, s_to_ns};
