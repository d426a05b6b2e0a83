//! How to steer a kernel clock towards the estimate; the caller carries it out.
//!
//! This is needed only where the daemon owns the system clock. A private line needs no steering, because it
//! is simply published anew. The frequency is corrected at once, and the offset by a slew on top of it, so
//! that time never runs backwards. A step is taken only within `makestep`, that is, in the first updates and
//! above a threshold. An offset beyond the panic limit is reported instead of followed.

use std::fmt;

/// Limits of steering.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SteerConfig {
    /// Offset in s above which the clock is stepped, during the first `step_updates`.
    pub step_above_s: f64,
    /// How many first updates of the estimate may step.
    pub step_updates: u32,
    /// Offset in s above which a correction is refused once the clock has been set.
    pub panic_s: f64,
    /// Fastest slew in s/s. The kernel's `ADJ_TICK` allows 0.1.
    pub max_slew: f64,
    /// Time over which a slew is spread if the limit allows it, in s.
    pub slew_over_s: f64,
    /// Offsets above this, in s, are an error of the clock rather than noise of the estimate: their slew takes only
    /// [`SteerConfig::quick_slew_over_s`].
    pub quick_above_s: f64,
    /// A slew of such an offset is spread over this long where the limit allows, in s.
    pub quick_slew_over_s: f64,
}

impl Default for SteerConfig {
    /// `makestep 1 3`, the panic limit of RFC 5905, and the fastest slew that other daemons allow themselves.
    fn default() -> Self {
        Self {
            step_above_s: 1.0,
            step_updates: 3,
            panic_s: 1000.0,
            max_slew: 0.083_333,
            slew_over_s: 8.0,
            quick_above_s: 1e-3,
            quick_slew_over_s: 1.0,
        }
    }
}

/// What to do to the kernel clock. Each change of its rate must be reported to the discipline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    /// Change its rate by `frequency` for good, and step it by `by_s`.
    Step {
        /// Seconds to add.
        by_s: f64,
        /// Change of rate in s/s.
        frequency: f64,
    },
    /// Change its rate by `frequency` for good, and by `extra` for the next `for_s` seconds.
    Slew {
        /// Change of rate in s/s.
        frequency: f64,
        /// Change of rate on top of it in s/s.
        extra: f64,
        /// Duration of the extra change, in s.
        for_s: f64,
    },
    /// Leave the clock alone for now: a first step beyond the panic limit requires a majority of the
    /// configured sources, and not all of them have answered.
    Wait,
}

/// The offset exceeds what any clock drifts by itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Panic {
    /// The offset in s.
    pub offset_s: f64,
    /// The limit in s.
    pub limit_s: f64,
}

impl fmt::Display for Panic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "the clock is {:.0} s off, beyond the panic limit of {:.0} s: check the sources, then set it by hand",
            self.offset_s, self.limit_s
        )
    }
}

impl std::error::Error for Panic {}

/// Decides how to bring a clock that is `offset_s` behind true time, and runs `frequency` too slow, to it.
/// `updates` counts the updates of the estimate that came before this one; `of_configured_majority` is
/// [`super::ClockLine::of_configured_majority`]. A board without a clock of its own boots in 1970 and must still
/// start, but a few sources that answer first must not move anybody by a day.
///
/// # Errors
///
/// [`Panic`] where the offset is above the limit and may not be stepped.
pub fn steer(
    config: &SteerConfig,
    updates: u32,
    offset_s: f64,
    frequency: f64,
    of_configured_majority: bool,
) -> Result<Action, Panic> {
    let may_step = updates < config.step_updates;
    if may_step && offset_s.abs() > config.panic_s && !of_configured_majority {
        return Ok(Action::Wait);
    }
    if may_step && offset_s.abs() > config.step_above_s {
        return Ok(Action::Step { by_s: offset_s, frequency });
    }
    if offset_s.abs() > config.panic_s {
        return Err(Panic { offset_s, limit_s: config.panic_s });
    }
    let over_s =
        if offset_s.abs() > config.quick_above_s { config.quick_slew_over_s } else { config.slew_over_s };
    let extra = (offset_s / over_s).clamp(-config.max_slew, config.max_slew);
    let for_s = if extra == 0.0 { 0.0 } else { offset_s / extra };
    Ok(Action::Slew { frequency, extra, for_s })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_offset_is_stepped_in_the_first_updates_only() {
        let config = SteerConfig::default();
        assert!(matches!(steer(&config, 0, -5.0, 0.0, true), Ok(Action::Step { by_s: -5.0, .. })));
        assert!(matches!(steer(&config, 3, -5.0, 0.0, true), Ok(Action::Slew { .. })));
        assert!(matches!(steer(&config, 0, 0.5, 0.0, true), Ok(Action::Slew { .. })));
    }

    #[test]
    fn a_slew_keeps_to_its_limit_and_still_arrives() {
        let config = SteerConfig::default();
        let Ok(Action::Slew { extra, for_s, .. }) = steer(&config, 9, -10.0, 0.0, true) else {
            panic!("ten seconds after the first updates are slewed");
        };
        assert!((extra + config.max_slew).abs() < 1e-12);
        assert!((extra * for_s + 10.0).abs() < 1e-9);
    }

    #[test]
    fn an_offset_above_the_noise_is_slewed_within_a_second_and_a_smaller_one_gently() {
        let config = SteerConfig::default();
        for (offset_s, over_s) in [(0.02, 1.0), (-0.02, 1.0), (0.0005, 8.0), (-0.0005, 8.0)] {
            let Ok(Action::Slew { extra, for_s, .. }) = steer(&config, 9, offset_s, 0.0, true) else {
                panic!("{offset_s} s are slewed");
            };
            assert!((for_s - over_s).abs() < 1e-9 && (extra * for_s - offset_s).abs() < 1e-12, "{offset_s}");
        }
    }

    #[test]
    fn beyond_the_panic_limit_nothing_is_done_once_the_clock_is_set() {
        let config = SteerConfig::default();
        assert!(steer(&config, 3, 2000.0, 0.0, true).is_err());
        assert!(matches!(steer(&config, 0, 2000.0, 0.0, true), Ok(Action::Step { .. })));
        assert_eq!(steer(&config, 0, 2000.0, 0.0, false), Ok(Action::Wait));
        assert!(matches!(steer(&config, 0, 500.0, 0.0, false), Ok(Action::Step { .. })));
    }
}
