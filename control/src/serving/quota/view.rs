//! The quota as the status shows it.

use super::account::Account;
use crate::config::{Quota, QuotaCounts};
use crate::status;

impl Account {
    /// Returns where a quota stands, for people and for programs.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "estimates, which are not negative, and seconds of a clock"
    )]
    pub fn view(&self, quota: &Quota) -> status::quota::Quota {
        let (used, period, standing) = (self.used(), self.period(), self.standing(quota));
        let used_bytes = used.used(quota.counts);
        let rate = self.demand().map(|demand| match quota.counts {
            QuotaCounts::Out => demand.sent,
            QuotaCounts::In => demand.received,
            QuotaCounts::Both => demand.sent + demand.received,
        });
        let to_come = period.and(rate).map(|rate| rate * standing.time_left_s);
        let used_up_unix_s = to_come.zip(self.now_s).zip(rate).and_then(|((to_come, now_s), rate)| {
            (to_come > standing.left).then(|| (now_s + standing.left / rate) as i64)
        });
        let mut view = status::quota::Quota {
            quota_bytes: quota.bytes,
            counts: quota.counts.label().into(),
            used_bytes,
            received_bytes: used.received,
            sent_bytes: used.sent,
            refused_bytes: used.refused,
            period_start_unix_s: period.map(|period| period.start_s),
            period_end_unix_s: period.map(|period| period.end_s),
            rate_bytes_per_s: rate,
            forecast_bytes: to_come.map(|to_come| (used_bytes as f64 + to_come) as u64),
            used_up_unix_s,
            cap_bytes_per_s: self.cap(quota),
            netspeed_bits_per_s: quota.netspeed,
            advice: None,
        };
        view.advice = view.advise(standing.length_s);
        view
    }
}
