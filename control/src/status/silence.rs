//! Whether the upstreams have fallen silent, and how long the time is good without them.

use super::sources::Peer;
use super::{Status, units};

impl Status {
    /// Whether the time comes from upstreams, and none of them has answered its latest requests.
    #[must_use]
    pub fn upstreams_are_silent(&self) -> bool {
        !self.upstreams.is_empty() && self.upstreams.iter().all(Peer::is_silent)
    }

    /// Returns what to tell an operator while no upstream answers, with how long the time is good without them.
    #[must_use]
    pub fn silence(&self) -> Option<String> {
        let clock = &self.clock;
        if !self.upstreams_are_silent() {
            return None;
        }
        let heard = self.upstreams.iter().filter_map(|peer| peer.when_s).min_by(f64::total_cmp);
        let since = heard.map_or_else(String::new, |heard_s| {
            format!(", the latest answer came {} ago", units::duration(heard_s))
        });
        Some(match clock.holdover_s.filter(|_| clock.synchronised && !clock.inherited) {
            Some(holdover_s) => format!(
                "no upstream answers{since}: do not restart the daemon, because holdover is good for about {} more{}",
                units::duration(holdover_s),
                self.time_of_day_after(holdover_s)
                    .map(|until| format!(" (until {until} UTC)"))
                    .unwrap_or_default()
            ),
            None => format!("no upstream answers{since}"),
        })
    }

    /// Returns the time of day in UTC, such as `03:05`, in so many seconds by the machine's clock, if that is within a day.
    fn time_of_day_after(&self, seconds: f64) -> Option<String> {
        const DAY_S: f64 = 86_400.0;
        let daemon = self.daemon.as_ref().filter(|_| (0.0..DAY_S).contains(&seconds))?;
        let minute = ((daemon.started_unix_s + daemon.uptime_s + seconds) % DAY_S / 60.0).floor();
        Some(format!("{:02.0}:{:02.0}", (minute / 60.0).floor(), minute % 60.0))
    }
}
