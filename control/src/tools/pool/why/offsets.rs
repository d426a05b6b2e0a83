//! Whose the offset is that a monitor measured: ours, an upstream's, or the path's. This module is pure.

use serde::Serialize;

use super::matching::Entry;
use crate::status::probes::{Course, Minute};

/// Checks of other monitors within this time say whether they saw the same.
const TOGETHER_S: f64 = 1_200.0;
/// The state of the clock is looked up within this time.
const NEAR_S: f64 = 300.0;
/// Offsets are alike if they differ by less than this part of the larger one.
const ALIKE: f64 = 0.5;

/// An offset and where it comes from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OffsetCause {
    /// Our clock minus the monitor's.
    pub offset_s: f64,
    /// Where it comes from.
    #[serde(flatten)]
    pub whose: Whose,
}

/// Where an offset comes from.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "whose", rename_all = "snake_case")]
pub enum Whose {
    /// The upstream that the clock followed was off: another upstream agrees with the monitors.
    Upstream {
        /// The upstream.
        followed: String,
        /// The one that agrees with the monitors.
        contradicted_by: Option<String>,
    },
    /// The served clock was off from the upstream that it followed, and was being corrected.
    Correcting {
        /// The upstream.
        followed: String,
    },
    /// There are no upstreams here: another daemon keeps the clock.
    Keeper,
    /// Other monitors saw nothing of it, so it is the path of this one.
    Path {
        /// How many others there were.
        others: usize,
    },
    /// Nobody else asked at that time, and nothing here tells.
    Unknown,
}

/// Finds where an offset comes from.
pub(super) fn cause(offset_s: f64, entry: &Entry, entries: &[Entry], course: &Course) -> OffsetCause {
    let others: Vec<f64> = entries
        .iter()
        .filter(|other| other.monitor != entry.monitor)
        .filter(|other| (other.at_unix_s - entry.at_unix_s).abs() < TOGETHER_S)
        .filter_map(|other| other.offset_s)
        .collect();
    let agreeing = others.iter().filter(|other| are_alike(**other, offset_s)).count();
    let is_only_here = !others.is_empty() && 2 * agreeing < others.len();
    let near = |minute: &&Minute| (minute.at_unix_s + 30.0 - entry.at_unix_s).abs() < NEAR_S;
    let minutes: Vec<_> = course.minutes.iter().filter(near).collect();
    let whose = match here(offset_s, &minutes) {
        Some(whose @ (Whose::Upstream { contradicted_by: Some(_), .. } | Whose::Correcting { .. })) => whose,
        _ if is_only_here => Whose::Path { others: others.len() },
        Some(whose) if agreeing > 0 => whose,
        _ => Whose::Unknown,
    };
    OffsetCause { offset_s, whose }
}

/// What the state of the clock says. An upstream that is right sees the offset of the server with the other sign.
fn here(offset_s: f64, minutes: &[&Minute]) -> Option<Whose> {
    let has_followed = |minute: &&&Minute| minute.peer.is_some();
    let of = |minute: &Minute| minute.peer.clone().unwrap_or_default();
    if let Some(minute) = minutes
        .iter()
        .filter(has_followed)
        .find(|minute| minute.offset_s.is_some_and(|seen| are_alike(-seen, offset_s)))
    {
        return Some(Whose::Correcting { followed: of(minute) });
    }
    if let Some(minute) = minutes
        .iter()
        .filter(has_followed)
        .find(|minute| minute.other_offset_s.is_some_and(|seen| are_alike(-seen, offset_s)))
    {
        return Some(Whose::Upstream { followed: of(minute), contradicted_by: minute.other.clone() });
    }
    let minute = minutes.last()?;
    Some(match &minute.peer {
        Some(followed) => Whose::Upstream { followed: followed.clone(), contradicted_by: None },
        None => Whose::Keeper,
    })
}

fn are_alike(one: f64, other: f64) -> bool {
    (one - other).abs() < ALIKE * one.abs().max(other.abs())
}
