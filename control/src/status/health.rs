//! Whether synchronised time is served within its error limit on all interfaces, for load balancers and
//! anycast hooks.

use serde::{Deserialize, Serialize};

use crate::safe_text::shell_word;
use crate::status::Status;

/// If a driver does not send more of the answers than this, clients do not get what they ask for.
const BAD_UNSENT_SHARE: f64 = 0.5;
/// More than this should be looked at.
const ODD_UNSENT_SHARE: f64 = 0.01;

/// The result of the health check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Whether clients get what they ask for.
    pub healthy: bool,
    /// Why the server is not healthy; empty if it is.
    pub reasons: Vec<String>,
    /// Problems that clients do not notice yet, or not at all.
    pub warnings: Vec<String>,
}

impl Health {
    /// Checks a server in this state.
    #[must_use]
    pub fn of(status: &Status) -> Self {
        let (mut reasons, mut warnings) = (Vec::new(), Vec::new());
        let clock = &status.clock;
        if !clock.synchronised {
            reasons.push(clock.reason.clone().unwrap_or_else(|| "the clock is not synchronised".into()));
        } else if let Some(limit) = clock.error_limit_s.filter(|limit| clock.error_bound_s > *limit) {
            reasons.push(format!(
                "the error bound is {:.6} s, above the limit of {limit} s",
                clock.error_bound_s
            ));
        }
        if status.interfaces.is_empty() {
            reasons.push("the program is not attached to any interface".into());
        }
        for interface in &status.interfaces {
            let name = &interface.name;
            if interface.mode.is_none() {
                reasons.push(format!("{name}: the program is not attached"));
            } else if !interface.up {
                reasons.push(format!("{name} is down: `ip link set {} up`", shell_word(name)));
            } else if interface.addresses.is_empty() {
                reasons.push(format!(
                    "{name} has no address to answer for: see `ip address show dev {}`",
                    shell_word(name)
                ));
            } else if let Some(share) = interface.unsent_share.filter(|share| *share > BAD_UNSENT_SHARE) {
                reasons.push(format!(
                    "{name}: the driver does not send {:.0} % of the answers (XDP_TX): `mode = \"generic\"` does without the driver",
                    share * 100.0
                ));
            }
            if let Some(share) = interface.unsent_share
                && (ODD_UNSENT_SHARE..=BAD_UNSENT_SHARE).contains(&share)
            {
                warnings
                    .push(format!("{name}: the driver does not send {:.0} % of the answers", share * 100.0));
            }
            warnings.extend(interface.left_to_sockets.clone());
            if let Some(fallback) = &interface.fallback {
                warnings.push(format!("{name}: generic mode, because native mode was refused: {fallback}"));
            }
        }
        warnings.extend(status.addresses_without_room.iter().map(ToString::to_string));
        if clock.synchronised && status.daemon.is_none() {
            warnings.push(format!(
                "no daemon is running: answers stay synchronised for {:.0} s",
                clock.horizon_s
            ));
        } else if clock.synchronised && clock.is_late() {
            warnings.push(format!(
                "the daemon hangs: the clock was published {:.1} s ago, and answers stay synchronised for {:.0} s",
                clock.age_s, clock.horizon_s
            ));
        } else if clock.synchronised && clock.inherited {
            warnings.push(format!(
                "the daemon was started anew and its upstreams have not agreed yet: the line of the daemon before it is \
                 served, and is good for {:.0} s more",
                clock.horizon_s
            ));
        }
        warnings.extend(status.quota.as_ref().and_then(crate::status::quota::Quota::warning));
        warnings.extend(status.silence());
        warnings.extend(clock.discipline.as_ref().and_then(|discipline| discipline.kernel_clock.warning()));
        warnings.extend(status.warnings.iter().cloned());
        Self { healthy: reasons.is_empty(), reasons, warnings }
    }

    /// Formats the result for people, one line per reason.
    #[must_use]
    pub fn to_text(&self) -> String {
        let verdict = if self.healthy { "healthy: serving synchronised time\n" } else { "NOT HEALTHY\n" };
        let reasons = self.reasons.iter().map(|reason| format!("  {reason}\n"));
        let warnings = self.warnings.iter().map(|warning| format!("  warning: {warning}\n"));
        std::iter::once(verdict.to_owned()).chain(reasons).chain(warnings).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::served::WithoutRoom;
    use crate::net::xdp_mode::Mode;
    use crate::status::kernel_clock::Treatment;
    use crate::status::sample;

    #[test]
    fn a_server_of_synchronised_time_is_healthy() {
        assert_eq!(Health::of(&sample()), Health { healthy: true, ..Health::default() });
    }

    #[test]
    fn what_keeps_clients_from_good_time_is_a_reason() {
        let reason = |spoil: &dyn Fn(&mut Status)| {
            let mut status = sample();
            spoil(&mut status);
            let health = Health::of(&status);
            assert!(!health.healthy && health.reasons.len() == 1, "{health:?}");
            health.to_text()
        };
        assert!(reason(&|status| status.clock.synchronised = false).contains("not synchronised"));
        assert!(reason(&|status| status.clock.error_bound_s = 1.5).contains("above the limit of 1 s"));
        assert!(reason(&|status| status.interfaces.clear()).contains("not attached to any interface"));
        assert!(
            reason(&|status| status.interfaces[0].mode = None).contains("eth0: the program is not attached")
        );
        assert!(reason(&|status| status.interfaces[0].up = false).contains("eth0 is down"));
        assert!(reason(&|status| status.interfaces[0].addresses.clear()).contains("eth0 has no address"));
        assert!(
            reason(&|status| status.interfaces[0].unsent_share = Some(1.0)).contains("does not send 100 %")
        );
    }

    #[test]
    fn what_clients_do_not_notice_is_a_warning() {
        let warning = |spoil: &dyn Fn(&mut Status)| {
            let mut status = sample();
            spoil(&mut status);
            let health = Health::of(&status);
            assert!(health.healthy && health.warnings.len() == 1, "{health:?}");
            health.to_text()
        };
        let slewed = warning(&|status| {
            let clock = &mut status.clock.discipline.as_mut().unwrap().kernel_clock;
            (clock.treatment, clock.offset_s, clock.slew_ppm) = (Treatment::Slewed, Some(2.5), 50_000.0);
        });
        assert!(slewed.contains("for about 50 s more"), "{slewed}");
        let left = "eth0 has 97 MAC addresses and VLANs";
        assert!(warning(&|status| status.interfaces[0].left_to_sockets = Some(left.into())).contains(left));
        let without_room = WithoutRoom {
            family: "ipv6".into(),
            wanted: 120,
            broadcast: 0,
            number: 24,
            example: "2001:db8::61".parse().unwrap(),
        };
        let full = warning(&|status| status.addresses_without_room.push(without_room.clone()));
        assert!(full.contains("requests to 24 of them, such as 2001:db8::61"), "{full}");
        assert!(warning(&|status| status.daemon = None).contains("no daemon is running"));
        let nobody = "the access lists deny every IPv4 client";
        assert!(warning(&|status| status.warnings.push(nobody.into())).contains(nobody));
        assert!(warning(&|status| status.clock.age_s = 3.0).contains("hangs"));
        let inherited = warning(&|status| (status.clock.age_s, status.clock.inherited) = (3.0, true));
        assert!(
            inherited.contains("line of the daemon before") && !inherited.contains("hangs"),
            "{inherited}"
        );
        assert!(
            warning(&|status| status.interfaces[0].unsent_share = Some(0.2)).contains("does not send 20 %")
        );
        assert!(
            warning(&|status| {
                status.interfaces[0].mode = Some(Mode::Generic);
                status.interfaces[0].fallback = Some("LRO is on".into());
            })
            .contains("LRO is on")
        );
    }

    #[test]
    fn silent_upstreams_are_a_warning_that_says_how_long_the_time_is_good_without_them() {
        let mut status = sample();
        let second = status.upstreams[0].clone();
        status.upstreams.push(second);
        let warning = |status: &Status| Health::of(status).warnings;
        status.upstreams[0].unanswered = 3;
        assert_eq!(warning(&status), Vec::<String>::new(), "one that answers is enough");
        // One of their requests is always under way.
        (status.upstreams[0].unanswered, status.upstreams[1].unanswered) = (2, 2);
        assert_eq!(warning(&status), Vec::<String>::new());
        (status.upstreams[0].unanswered, status.upstreams[1].unanswered) = (3, 3);
        (status.upstreams[0].when_s, status.upstreams[1].when_s) = (Some(4000.0), Some(2000.0));
        // The sample's daemon runs at 22:14:20 UTC.
        assert_eq!(
            warning(&status),
            [
                "no upstream answers, the latest answer came 33 min ago: do not restart the daemon, because holdover is \
              good for about 2 h more (until 00:14 UTC)"
            ]
        );
        assert!(Health::of(&status).healthy, "clients do not notice it yet");
        status.clock.synchronised = false;
        assert_eq!(warning(&status), ["no upstream answers, the latest answer came 33 min ago"]);
        status.upstreams[0].unanswered = 0;
        status.upstreams[0].trouble = Some("its name cannot be resolved".into());
        assert_eq!(warning(&status).len(), 1, "it cannot be asked");
    }
}
