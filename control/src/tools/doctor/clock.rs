//! The clock: whether something keeps the kernel's, and whether the served one is good and fresh.

use std::net::{Ipv4Addr, SocketAddr};

use nix::libc;
use responder::udp::NTP_PORT;

use super::finding::Finding;
use crate::config::{ClockConfig, ClockSource};
use crate::instance::Instance;
use crate::service_manager::{self, Verb};
use crate::status::{Clock, Status};
use crate::sys::Adjtimex;
use crate::sys::kernel_clock::{KernelClock as _, Machine};
use crate::sys::port_owner::{self, Holder};
use crate::timekeeping::keeper::ask::Asker;
use crate::timekeeping::keeper::{Claim, Keeper, chronyd};
use crate::timekeeping::kernel_steering;

/// The facts about the clock.
#[derive(Clone, Debug)]
struct Facts<'a> {
    instance: &'a Instance,
    config: &'a ClockConfig,
    kernel: Option<Adjtimex>,
    /// Another program that steers the kernel's clock.
    keeper: Option<Holder>,
    /// What the keeper says, if it answers otherwise than by NTP.
    claim: Option<Claim>,
    /// Whether this server's daemon holds port 123.
    holds_port: bool,
    /// The served clock, if there is one.
    served: Option<&'a Clock>,
    /// Whether a daemon publishes the served clock.
    running: bool,
}

/// Examines the kernel's clock, and the served one if there is a status.
pub(super) fn examine(instance: &Instance, config: &ClockConfig, status: Option<&Status>) -> Vec<Finding> {
    let daemon = status.and_then(|status| Some(status.daemon.as_ref()?.pid));
    let holder = |table| port_owner::of_port(table, NTP_PORT).map(|holder| holder.pid);
    let holds_port = daemon.is_some() && holder("udp") == daemon;
    // At a port of its own this server would be asked about itself.
    let servers = [SocketAddr::from((Ipv4Addr::LOCALHOST, NTP_PORT))];
    let servers = if holds_port { &[] } else { &servers[..] };
    judge(&Facts {
        instance,
        config,
        kernel: Machine.discipline().ok(),
        keeper: kernel_steering::rival(),
        claim: (config.source == ClockSource::System).then(|| Asker::new(servers).ask()).flatten(),
        holds_port,
        served: status.map(|status| &status.clock),
        running: status.is_some_and(|status| status.daemon.is_some()),
    })
}

fn judge(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(kernel(facts));
    findings.extend(keeper(facts));
    findings.extend(served(facts));
    findings
}

/// Examines the kernel's clock, if the served time depends on it.
fn kernel(facts: &Facts<'_>) -> Option<Finding> {
    let Facts { config, kernel, keeper, claim, .. } = facts;
    let kernel = kernel.as_ref()?;
    let synchronised = kernel.status & libc::STA_UNSYNC == 0 && kernel.state != libc::TIME_ERROR;
    let steered_here = config.source == ClockSource::Upstream && config.steer;
    Some(match (config.source, keeper) {
        (ClockSource::Upstream, Some(keeper)) if steered_here => Finding::problem(
            "clock-rival",
            format!("{keeper} steers the kernel's clock, and `clock.steer` tells this server to steer it too"),
        )
        .why("two programs that steer one clock fight each other, so the daemon refuses to start")
        .fix(keeper.command_to_end_it())
        .advice("`steer = false` in `[clock]` leaves the kernel's clock to it"),
        (ClockSource::Upstream, _) => {
            let state = if synchronised { "synchronised" } else { "not synchronised" };
            Finding::ok("kernel-clock", format!("the kernel's clock is {state}; the served time does not depend on it"))
        }
        (ClockSource::System, keeper) if synchronised => {
            let keeper = keeper.as_ref().map_or_else(String::new, |keeper| format!(" by {keeper}"));
            #[expect(clippy::cast_precision_loss, reason = "for showing")]
            let error_s = kernel.max_error_us as f64 / 1e6;
            Finding::ok("kernel-clock", format!("the kernel's clock is synchronised{keeper}, error bound {error_s:.6} s"))
        }
        (ClockSource::System, _) if claim.is_some_and(|claim| claim.synchronised && claim.needs_no_kernel()) => {
            Finding::note("kernel-clock", "chronyd says that the clock is synchronised, and the kernel does not")
                .why(
                    "chronyd's word is enough while it answers; when it ends, answers declare the clock unsynchronised at \
                     once",
                )
                .advice("`rtcsync` in chronyd's configuration makes it report to the kernel")
        }
        (ClockSource::System, _) if served_all_the_same(facts) => {
            Finding::note("kernel-clock", "the kernel's clock is not synchronised, but is served anyway")
                .why("the daemon is configured to do so (`clock.local_stratum`), or takes its time from elsewhere")
        }
        (ClockSource::System, Some(keeper)) => {
            Finding::problem("kernel-clock", format!("{keeper} runs, but the kernel's clock is not synchronised"))
                .why("the served time is the kernel's (`clock.source = \"system\"`), so answers declare it unsynchronised")
                .advice(
                    "`chronyc tracking` and `chronyc sources`, or `ntpq -p`, tell what it waits for; with chronyd, \
                     `rtcsync` in its configuration makes it report to the kernel",
                )
        }
        (ClockSource::System, None) => {
            Finding::problem("kernel-clock", "the kernel's clock is not synchronised, and no time daemon is running")
                .why("the served time is the kernel's (`clock.source = \"system\"`), so answers declare it unsynchronised")
                .fix("apt-get install chrony")
                .advice("let this server ask upstreams itself: `source = \"upstream\"` in `[clock]`, and `pooltime-xdp upstream probe NAME...`")
        }
    })
}

/// Examines whether the keeper of a mirrored clock can be asked how good its time is.
fn keeper(facts: &Facts<'_>) -> Option<Finding> {
    const UNKNOWN: &str =
        "stratum and reference are those of the configuration, so clients cannot see a loop";
    let Facts { config, keeper, claim, holds_port, .. } = facts;
    if config.source != ClockSource::System {
        return None;
    }
    match (claim, keeper) {
        (Some(Claim { keeper: Keeper::SilentTimesyncd, .. }), _) => Some(
            Finding::warning("keeper", "systemd-timesyncd keeps the clock, but has not told how good its time is")
                .why(format!(
                    "it may be off by 10 s for all that is known, and `clock.max_error_ms` is {}",
                    config.max_error_ms
                ))
                .advice("it is asked over D-Bus by `busctl`: see `timedatectl show-timesync`, or install chrony in its place"),
        ),
        (Some(claim), _) => Some(Finding::ok("keeper", format!("the clock's keeper answers: {}", claim.keeper))),
        (None, Some(keeper)) if keeper.name == "chronyd" => Some(
            Finding::warning(
                "keeper",
                format!("{keeper} keeps the clock, but its command socket does not answer to this user"),
            )
            .why(UNKNOWN)
            .advice(format!(
                "chronyd answers any local user at UDP port {} of 127.0.0.1 and ::1 unless its configuration has \
                 `cmdport 0`; {} is for root and chronyd's user alone",
                chronyd::PORT,
                chronyd::SOCKET
            )),
        ),
        (None, Some(keeper)) if *holds_port => Some(
            Finding::warning("keeper", format!("{keeper} keeps the clock, but this server holds port {NTP_PORT}, at which it would answer"))
                .why(UNKNOWN)
                .advice(format!(
                    "start this server after the keeper: with systemd, `After=` and the unit of {} in a drop-in of {}; then \
                     restart both",
                    keeper.unit.as_deref().unwrap_or(&keeper.name),
                    facts.instance.unit()
                )),
        ),
        (None, _) => None,
    }
}

fn served_all_the_same(facts: &Facts<'_>) -> bool {
    let good = |clock: &Clock| clock.synchronised && facts.running;
    facts.config.local_stratum.is_some() || facts.served.is_some_and(good)
}

/// Examines what clients receive.
fn served(facts: &Facts<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(stratum) = facts.config.local_stratum {
        findings.push(
            Finding::warning(
                "local-stratum",
                format!(
                    "`clock.local_stratum = {stratum}` serves the clock whether or not it is synchronised"
                ),
            )
            .why("this is for laboratories and isolated networks, never for the pool")
            .advice(format!(
                "remove the line from the configuration, then run `{}`",
                service_manager::command(facts.instance, Verb::Reload)
            )),
        );
    }
    let Some(clock) = facts.served else { return findings };
    if let Some(reason) = &clock.reason {
        findings.push(
            Finding::problem("served-clock", format!("answers declare the clock unsynchronised: {reason}"))
                .why("clients turn to other servers, and the pool stops handing this one out"),
        );
    } else if let Some(limit) = clock.error_limit_s.filter(|limit| clock.error_bound_s > *limit) {
        findings.push(
            Finding::problem(
                "served-clock",
                format!("the error bound is {:.6} s, above the limit of {limit} s", clock.error_bound_s),
            )
            .why("answers will declare the clock unsynchronised"),
        );
    } else {
        findings.push(Finding::ok(
            "served-clock",
            format!(
                "served as synchronised: stratum {}, reference {}, error bound {:.6} s, horizon in {:.1} s",
                clock.stratum, clock.reference, clock.error_bound_s, clock.horizon_s
            ),
        ));
    }
    // The pool does not accept a server above stratum 5.
    if clock.synchronised && clock.stratum > 5 {
        findings.push(
            Finding::warning("stratum", format!("the stratum is {}", clock.stratum))
                .why("the pool accepts strata 1 to 5"),
        );
    }
    if facts.running && clock.inherited && clock.synchronised {
        findings.push(
            Finding::note(
                "served-inherited",
                format!(
                    "the daemon was started anew and serves the line of the daemon before it, which is good for {:.0} s more",
                    clock.horizon_s.max(0.0)
                ),
            )
            .why("its upstreams have not agreed on the time yet; clients do not notice the restart")
            .advice("wait and look again; if this lasts, the findings about the upstreams say what is in the way"),
        );
    } else if facts.running && clock.is_late() {
        findings.push(
            Finding::problem(
                "daemon-hangs",
                format!("the daemon hangs: it published the clock {:.1} s ago", clock.age_s),
            )
            .why(format!("answers stay synchronised for {:.0} s", clock.horizon_s.max(0.0)))
            .fix(service_manager::command(facts.instance, Verb::Restart)),
        );
    } else if !facts.running && clock.synchronised {
        findings.push(
            Finding::problem("daemon-gone", "the program is attached, but no daemon is running")
                .why(format!("answers stay synchronised for {:.0} s", clock.horizon_s.max(0.0)))
                .fix(service_manager::command(facts.instance, Verb::Start)),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::sample;
    use crate::timekeeping::keeper::timesyncd::claim_of_silence;
    use crate::tools::doctor::finding::Severity::{Note, Ok, Problem, Warning};
    use crate::tools::doctor::finding::{ids, only};

    const KERNEL: Adjtimex = Adjtimex {
        state: libc::TIME_OK,
        status: libc::STA_PLL,
        max_error_us: 1500,
        estimated_error_us: 100,
        offset_ns: 0,
        time_constant: 2,
        frequency_scaled_ppm: 0,
        tick_us: 10_000,
        tai_offset_s: 37,
    };
    const UNSYNCHRONISED: Adjtimex = Adjtimex { state: libc::TIME_ERROR, status: libc::STA_UNSYNC, ..KERNEL };

    fn instance() -> Instance {
        Instance::new(None).unwrap()
    }

    fn chronyd() -> Holder {
        Holder { name: "chronyd".into(), pid: 7, unit: Some("chrony.service".into()) }
    }

    fn of_kernel(config: &ClockConfig, kernel: Adjtimex, keeper: Option<Holder>) -> Finding {
        let facts = Facts {
            instance: &instance(),
            config,
            kernel: Some(kernel),
            keeper,
            claim: None,
            holds_port: false,
            served: None,
            running: false,
        };
        judge(&facts).into_iter().next().unwrap()
    }

    #[test]
    fn a_system_clock_is_good_if_somebody_keeps_it() {
        let config = ClockConfig::default();
        assert_eq!(of_kernel(&config, KERNEL, Some(chronyd())).severity, Ok);
        let nobody = of_kernel(&config, UNSYNCHRONISED, None);
        assert!(nobody.severity == Problem && nobody.fix.is_some(), "{nobody:?}");
        let waiting = of_kernel(&config, UNSYNCHRONISED, Some(chronyd()));
        assert!(waiting.severity == Problem && waiting.what.contains("chronyd"), "{waiting:?}");
    }

    #[test]
    fn a_chronyd_that_tells_the_kernel_nothing_is_believed_and_told_of() {
        let claim = Claim { keeper: Keeper::Chronyd, reference_id: Some(1), ..claim_of_silence(&KERNEL, 0) };
        let found = |claim: Claim, kernel| {
            judge(&Facts {
                instance: &instance(),
                config: &ClockConfig::default(),
                kernel: Some(kernel),
                keeper: Some(chronyd()),
                claim: Some(claim),
                holds_port: false,
                served: None,
                running: false,
            })
        };
        let without = found(claim, UNSYNCHRONISED);
        let finding = only(&without, "kernel-clock");
        assert!(
            finding.severity == Note && finding.advice.as_ref().unwrap().contains("rtcsync"),
            "{finding:?}"
        );
        assert_eq!(only(&found(claim, KERNEL), "kernel-clock").severity, Ok);
        for doubtful in [
            Claim { synchronised: false, ..claim },
            Claim { reference_id: Some(protocol::reference::LOCAL), ..claim },
        ] {
            assert_eq!(only(&found(doubtful, UNSYNCHRONISED), "kernel-clock").severity, Problem);
        }
    }

    #[test]
    fn a_keeper_that_cannot_be_asked_is_told_of_with_what_it_takes() {
        let found = |keeper: Option<&str>, claim: Option<Keeper>, holds_port| {
            let claim = claim.map(|keeper| Claim { keeper, ..claim_of_silence(&KERNEL, 0) });
            let keeper = keeper.map(|name| Holder { name: name.into(), ..chronyd() });
            let (instance, config) = (instance(), ClockConfig::default());
            let facts = Facts {
                instance: &instance,
                config: &config,
                kernel: None,
                keeper,
                claim,
                holds_port,
                served: None,
                running: false,
            };
            judge(&facts)
        };
        let silent = found(Some("chronyd"), None, false);
        assert!(only(&silent, "keeper").advice.as_ref().unwrap().contains("cmdport 0"), "{silent:?}");
        let late = found(Some("ntpd"), None, true);
        assert!(only(&late, "keeper").advice.as_ref().unwrap().contains("After="), "{late:?}");
        let unknown = found(Some("systemd-timesyn"), Some(Keeper::SilentTimesyncd), false);
        assert!(only(&unknown, "keeper").why.as_ref().unwrap().contains("10 s"), "{unknown:?}");
        assert_eq!(ids(&found(Some("chronyd"), Some(Keeper::Chronyd), true)), [("keeper", Ok)]);
        assert_eq!(found(Some("ptp4l"), None, false), []);
        assert_eq!(found(None, None, true), []);
    }

    #[test]
    fn an_unsynchronised_clock_that_is_served_by_configuration_is_no_problem_of_its_own() {
        let config = ClockConfig { local_stratum: Some(10), ..ClockConfig::default() };
        let facts = Facts {
            instance: &instance(),
            config: &config,
            kernel: Some(UNSYNCHRONISED),
            keeper: None,
            claim: None,
            holds_port: false,
            served: None,
            running: false,
        };
        assert_eq!(ids(&judge(&facts)), [("kernel-clock", Note), ("local-stratum", Warning)]);
    }

    #[test]
    fn two_that_would_steer_one_clock_are_a_problem_and_two_of_which_one_does_are_none() {
        let steering = ClockConfig { source: ClockSource::Upstream, ..ClockConfig::default() };
        let rival = of_kernel(&steering, KERNEL, Some(chronyd()));
        assert_eq!(
            (rival.id, rival.fix.as_deref()),
            ("clock-rival", Some("systemctl disable --now chrony.service"))
        );
        let private = ClockConfig { steer: false, ..steering };
        assert_eq!(of_kernel(&private, UNSYNCHRONISED, Some(chronyd())).severity, Ok);
    }

    fn of_served(spoil: impl Fn(&mut Status)) -> Vec<Finding> {
        let (mut status, config) = (sample(), ClockConfig::default());
        spoil(&mut status);
        let running = status.daemon.is_some();
        judge(&Facts {
            instance: &instance(),
            config: &config,
            kernel: None,
            keeper: None,
            claim: None,
            holds_port: false,
            served: Some(&status.clock),
            running,
        })
    }

    #[test]
    fn what_clients_are_told_is_judged_by_its_quality_and_its_age() {
        assert_eq!(ids(&of_served(|_| {})), [("served-clock", Ok)]);
        let bad = of_served(|status| status.clock.reason = Some("no majority".into()));
        assert!(only(&bad, "served-clock").what.contains("no majority"));
        assert_eq!(
            only(&of_served(|status| status.clock.error_bound_s = 2.0), "served-clock").severity,
            Problem
        );
        assert_eq!(only(&of_served(|status| status.clock.stratum = 6), "stratum").severity, Warning);
        let hanging = of_served(|status| status.clock.age_s = 3.0);
        assert!(only(&hanging, "daemon-hangs").fix.is_some());
        assert!(only(&of_served(|status| status.daemon = None), "daemon-gone").fix.is_some());
        let inherited = of_served(|status| (status.clock.age_s, status.clock.inherited) = (3.0, true));
        assert_eq!(ids(&inherited), [("served-clock", Ok), ("served-inherited", Note)]);
        assert!(
            inherited.iter().all(|found| found.fix.is_none()),
            "nothing is to be restarted: {inherited:?}"
        );
    }

    #[test]
    fn a_clock_that_is_served_whether_it_is_good_or_not_is_warned_of() {
        let config = ClockConfig { local_stratum: Some(10), ..ClockConfig::default() };
        let facts = Facts {
            instance: &instance(),
            config: &config,
            kernel: None,
            keeper: None,
            claim: None,
            holds_port: false,
            served: None,
            running: false,
        };
        assert_eq!(ids(&judge(&facts)), [("local-stratum", Warning)]);
    }
}
