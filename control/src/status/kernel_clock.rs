//! How the daemon treats the kernel's clock, for people and for machines.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What the daemon does with the kernel's clock, which the machine's other programs use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KernelClockStatus {
    /// How it is treated.
    pub treatment: Treatment,
    /// How far the served time is ahead of it, in seconds.
    pub offset_s: Option<f64>,
    /// Rate of the slew that is under way, in ppm; 0 without one.
    pub slew_ppm: f64,
    /// How often the daemon has stepped it since it started.
    pub steps: u64,
    /// Why it is steered no more.
    pub stopped_because: Option<String>,
}

/// How the kernel's clock is treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Treatment {
    /// `steer = false`.
    #[default]
    LeftAlone,
    /// It is kept where the served time is.
    Steered,
    /// It is off, and is brought back by a slew.
    Slewed,
    /// It is far off, and waits for more upstreams to agree before it is stepped.
    Waiting,
    /// It was steered, until something went wrong.
    Stopped,
}

impl Treatment {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::LeftAlone, Self::Steered, Self::Slewed, Self::Waiting, Self::Stopped];

    /// Returns the name in JSON and in metrics.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::LeftAlone => "left-alone",
            Self::Steered => "steered",
            Self::Slewed => "slewed",
            Self::Waiting => "waiting",
            Self::Stopped => "stopped",
        }
    }
}

impl KernelClockStatus {
    /// Returns how long the slew still takes, in seconds, if there is one.
    #[must_use]
    pub fn slew_remaining_s(&self) -> Option<f64> {
        let slew = self.slew_ppm * 1e-6;
        self.offset_s.filter(|_| slew != 0.0).map(|offset_s| (offset_s / slew).max(0.0))
    }

    /// Returns what an operator should know about it, if there is anything.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        match self.treatment {
            Treatment::LeftAlone | Treatment::Steered => None,
            Treatment::Slewed | Treatment::Waiting => Some(format!("the kernel's clock is {self}")),
            Treatment::Stopped => Some(format!(
                "the kernel's clock is no longer steered: {}",
                self.stopped_because.as_deref().unwrap_or("the reason is unknown")
            )),
        }
    }
}

/// In words that follow "the kernel's clock is".
impl fmt::Display for KernelClockStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(offset_s) = self.offset_s {
            let side = if offset_s < 0.0 { "ahead" } else { "behind" };
            write!(f, "{:.9} s {side} and ", offset_s.abs())?;
        }
        match self.treatment {
            Treatment::LeftAlone => f.write_str("left alone"),
            Treatment::Steered => f.write_str("steered"),
            Treatment::Slewed => {
                write!(f, "slewed at {:+.0} ppm", self.slew_ppm)?;
                let remaining = self.slew_remaining_s();
                remaining.map_or(Ok(()), |remaining_s| write!(f, ", for about {remaining_s:.0} s more"))
            }
            Treatment::Waiting => {
                f.write_str("not stepped before a majority of all configured upstreams agrees")
            }
            Treatment::Stopped => {
                let reason = self.stopped_because.as_deref().unwrap_or("the reason is unknown");
                write!(f, "no longer steered: {reason}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_operator_should_know_is_told_in_words() {
        let clock = |treatment| KernelClockStatus { treatment, ..KernelClockStatus::default() };
        assert_eq!(clock(Treatment::LeftAlone).warning(), None);
        assert_eq!(clock(Treatment::Steered).warning(), None);
        let slewed =
            KernelClockStatus { offset_s: Some(-0.5), slew_ppm: -50_000.0, ..clock(Treatment::Slewed) };
        assert_eq!(
            slewed.warning().unwrap(),
            "the kernel's clock is 0.500000000 s ahead and slewed at -50000 ppm, for about 10 s more"
        );
        let waiting = KernelClockStatus { offset_s: Some(86_400.0), ..clock(Treatment::Waiting) };
        assert!(waiting.warning().unwrap().contains("behind and not stepped before a majority"));
        let stopped = KernelClockStatus { stopped_because: Some("why".into()), ..clock(Treatment::Stopped) };
        assert!(stopped.warning().unwrap().ends_with("no longer steered: why"));
    }

    #[test]
    fn labels_are_those_of_json() {
        for treatment in Treatment::ALL {
            assert_eq!(serde_json::to_value(treatment).unwrap(), treatment.label());
        }
    }
}
