//! The daemon's view of its upstreams: which ones it follows, and which ones it does not believe.

use super::finding::Finding;
use crate::status::kernel_clock::Treatment;
use crate::status::sources::{Peer, Tally};
use crate::status::{Discipline, Status};

/// Examines the status of a daemon that takes its time from upstreams.
pub(super) fn examine(status: &Status) -> Vec<Finding> {
    let Some(discipline) = &status.clock.discipline else { return Vec::new() };
    let mut findings: Vec<_> = steering(discipline).into_iter().collect();
    findings.extend(status.silence().map(|what| {
        Finding::warning("upstreams-silent", what)
            .why("the served error bound grows until it reaches its limit; a daemon that is started anew has nothing to hold over")
            .advice(
                "mend the way to the upstreams: outbound UDP port 123, routes, name servers; the findings about the firewall \
                 say what of it is in the way here",
            )
    }));
    // Without a majority no upstream counts as false; the finding about the clock reports that.
    if status.clock.synchronised {
        let disbelieved = status.upstreams.iter().filter(|peer| peer.tally == Tally::Falseticker);
        findings.extend(disbelieved.map(false_one));
        findings.push(followed(discipline));
    }
    findings
}

fn false_one(peer: &Peer) -> Finding {
    let offset = peer.offset_s.map_or_else(String::new, |offset_s| format!(", {offset_s:+.6} s off"));
    Finding::warning("upstream-false", format!("upstream {} is a falseticker{offset}", peer.name))
        .why("the others agree on a time that it excludes, so it is not followed and its vote is lost")
        .advice("if this lasts, replace it: `pooltime-xdp upstream probe NAME...` ranks candidates")
}

fn followed(discipline: &Discipline) -> Finding {
    let Discipline { selected, upstreams, .. } = discipline;
    let reference = discipline.system_peer.as_deref().unwrap_or("none");
    let what = format!("{selected} of {upstreams} upstreams are followed, system peer {reference}");
    if *selected > 1 || *upstreams == 1 {
        return Finding::ok("following", what);
    }
    Finding::warning("following", what)
        .why("nothing can tell when it is wrong")
        .advice("`pooltime-xdp peers --json` shows why the others are not followed")
}

fn steering(discipline: &Discipline) -> Option<Finding> {
    let clock = &discipline.kernel_clock;
    let finding = Finding::warning("steering", clock.warning()?);
    Some(match clock.treatment {
        Treatment::Stopped => finding
            .why("the served time is still right, but nothing disciplines the clock that other programs on this host use")
            .advice("fix that, then restart the daemon; `steer = false` in `[clock]` leaves the clock to others permanently"),
        Treatment::Waiting => finding
            .why("the served time is right, but other programs on this host see a wrong one; one upstream's word is not enough for a step")
            .advice("`pooltime-xdp peers` shows which upstreams do not answer or do not agree"),
        Treatment::Slewed | Treatment::Steered | Treatment::LeftAlone => finding
            .why("the served time is right, but other programs on this host see a wrong one until the slew has ended; steps are allowed at the start only")
            .advice("wait; `clock.makestep` allows steps later, too"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::kernel_clock::KernelClockStatus;
    use crate::status::sample;
    use crate::tools::doctor::finding::Severity::{Ok, Warning};
    use crate::tools::doctor::finding::{ids, only};

    fn judged(spoil: impl Fn(&mut Status)) -> Vec<Finding> {
        let mut status = sample();
        spoil(&mut status);
        examine(&status)
    }

    #[test]
    fn upstreams_that_are_followed_are_counted_and_falsetickers_named() {
        assert_eq!(ids(&judged(|_| {})), [("following", Ok)]);
        let lonely = judged(|status| status.clock.discipline.as_mut().unwrap().upstreams = 4);
        assert_eq!(only(&lonely, "following").severity, Warning);
        let accused = |synchronised| {
            judged(|status| {
                status.upstreams[0].tally = Tally::Falseticker;
                status.clock.synchronised = synchronised;
            })
        };
        let findings = accused(true);
        assert!(
            only(&findings, "upstream-false")
                .what
                .contains("ntp1.example.net is a falseticker, +0.000012 s off")
        );
        assert_eq!(accused(false), []);
    }

    #[test]
    fn upstreams_that_fall_silent_are_a_warning_against_a_restart() {
        let findings = judged(|status| status.upstreams[0].unanswered = 5);
        let found = only(&findings, "upstreams-silent");
        assert!(found.severity == Warning && found.fix.is_none(), "{found:?}");
        assert!(found.what.contains("do not restart the daemon") && found.what.contains("2 h"), "{found:?}");
    }

    #[test]
    fn a_clock_that_is_off_or_not_steered_any_more_is_told_with_the_reason() {
        let stopped = judged(|status| {
            let clock = &mut status.clock.discipline.as_mut().unwrap().kernel_clock;
            *clock = KernelClockStatus {
                treatment: Treatment::Stopped,
                stopped_because: Some("another program".into()),
                ..KernelClockStatus::default()
            };
        });
        assert!(only(&stopped, "steering").what.ends_with("another program"));
        let slewed = judged(|status| {
            let clock = &mut status.clock.discipline.as_mut().unwrap().kernel_clock;
            *clock = KernelClockStatus {
                treatment: Treatment::Slewed,
                slew_ppm: 500.0,
                ..KernelClockStatus::default()
            };
        });
        assert!(only(&slewed, "steering").what.contains("slewed at +500 ppm"));
    }
}
