//! `pool check`: the check that the pool's monitor makes of servers, once or repeatedly.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use responder::udp::NTP_PORT;
use serde_json::json;

use super::monitor_check::{Check, MONITOR_SCHEDULE, check};
use super::plot;
use super::score::{CheckFinding, JOINING_SCORE, ScoreEffect, score_effect};
use crate::error::{Code, Error, Result};
use crate::net::address::is_public;
use crate::output::{print_line, print_versioned_json, print_versioned_json_line, seconds};
use crate::serving::limits::duration;
use crate::tools::resolve::{FamilyArguments, resolve};

/// A check has three requests, which no server minds once per minute.
const LEAST_INTERVAL: Duration = Duration::from_mins(1);
/// Number of points on the plot.
const PLOT_WIDTH: usize = 72;

/// Arguments of `pool check`.
#[derive(clap::Args, Debug)]
pub(crate) struct CheckArguments {
    /// Names or addresses of servers
    #[arg(required = true, value_name = "HOST")]
    servers: Vec<String>,
    #[command(flatten)]
    family: FamilyArguments,
    /// Port to ask; the pool knows only this one
    #[arg(long, default_value_t = NTP_PORT)]
    port: u16,
    /// Go on checking, and plot the score as it would develop from 0
    #[arg(long)]
    watch: bool,
    /// With --watch: from one check to the next, at least 60s
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = duration, requires = "watch")]
    every: Duration,
    /// With --watch: end after so many checks
    #[arg(long, value_name = "N", requires = "watch")]
    checks: Option<u32>,
    /// As JSON; with --watch a line a check
    #[arg(long)]
    json: bool,
}

/// One address of a server.
struct Target {
    server: String,
    address: SocketAddr,
    scores: Vec<f64>,
}

/// Checks servers and prints the results. Fails if the pool would not accept one of them.
pub(super) fn run(arguments: &CheckArguments) -> Result<()> {
    if arguments.watch && arguments.every < LEAST_INTERVAL {
        return Err(Error::new(
            Code::Usage,
            "--every must be at least 60s: other people pay for the traffic",
        ));
    }
    let mut targets = Vec::new();
    for server in &arguments.servers {
        for address in resolve(server, arguments.port, &arguments.family)? {
            targets.push(Target { server: server.clone(), address, scores: Vec::new() });
        }
    }
    let mut rounds = if arguments.watch { arguments.checks.unwrap_or(u32::MAX) } else { 1 };
    loop {
        let begun = Instant::now();
        let good = round(&mut targets, arguments)?;
        rounds = rounds.saturating_sub(1);
        if rounds == 0 {
            return if good {
                Ok(())
            } else {
                Err(Error::new(Code::Unavailable, "the pool would not hand this server out")
                    .remedy("`pooltime-xdp doctor` on the server looks for the cause"))
            };
        }
        thread::sleep(arguments.every.saturating_sub(begun.elapsed()));
    }
}

/// Checks all targets at the same time. Returns whether the pool would hand out all of them.
fn round(targets: &mut [Target], arguments: &CheckArguments) -> Result<bool> {
    let checks: Vec<Check> = thread::scope(|scope| {
        let running: Vec<_> =
            targets.iter().map(|target| scope.spawn(|| check(target.address, MONITOR_SCHEDULE))).collect();
        running.into_iter().map(|thread| thread.join().expect("a check does not panic")).collect()
    });
    let mut good = true;
    let mut lines = Vec::new();
    for (target, check) in targets.iter_mut().zip(&checks) {
        let effect = score_effect(&check.best().finding);
        target.scores.push(effect.apply(target.scores.last().copied().unwrap_or_default()));
        good &= check.best().finding.may_join() && effect.checks_to_join().is_some();
        if arguments.json {
            lines.push(describe_json(target, check, &effect));
        } else {
            print_line(format_args!("{}", describe(target, check, &effect)))?;
            if arguments.watch {
                print_line(format_args!("{}", plot::draw(&target.scores, PLOT_WIDTH)))?;
            }
        }
    }
    if arguments.json && arguments.watch {
        lines.iter().try_for_each(print_versioned_json_line)?;
    } else if arguments.json {
        print_versioned_json(&serde_json::json!({ "checks": lines }))?;
    }
    Ok(good)
}

fn describe(target: &Target, check: &Check, effect: &ScoreEffect) -> String {
    let address = target.address.ip();
    let name =
        if target.server == address.to_string() { String::new() } else { format!("{} ", target.server) };
    let best = check.best();
    let round_trip = best
        .round_trip_ns
        .map_or_else(String::new, |round_trip_ns| format!(", round trip {:.6} s", seconds(round_trip_ns)));
    let answered = check.samples.iter().filter(|sample| sample.finding != CheckFinding::NoResponse).count();
    let mut lines = vec![format!(
        "{name}{address}: {}{round_trip} ({answered} of {} requests answered)",
        best.finding,
        check.samples.len()
    )];
    lines.extend(best.failure.clone());
    let cap = effect.cap.map_or_else(String::new, |cap| format!(", and the score at most {cap}"));
    lines.push(format!("step {:+.3}{cap}: {}", effect.step, effect.reason));
    lines.push(match effect.checks_to_join() {
        Some(checks) => format!(
            "forecast: {JOINING_SCORE} points after {checks} checks, {:.1} in the end",
            effect.limit()
        ),
        None => format!(
            "forecast: {:.1} in the end, never the {JOINING_SCORE} that the pool requires",
            effect.limit()
        ),
    });
    if let [_, .., score] = target.scores[..] {
        lines.push(format!("score {score:.1} after {} checks from 0", target.scores.len()));
    }
    if matches!(best.finding, CheckFinding::Time { .. }) && !best.finding.may_join() {
        lines.push("the pool accepts strata 1 to 5".into());
    }
    if !is_public(address) {
        lines.push("not a public address: the pool would not accept it".into());
    }
    lines.join("\n  ")
}

fn describe_json(target: &Target, check: &Check, effect: &ScoreEffect) -> serde_json::Value {
    let best = check.best();
    let samples: Vec<_> = check
        .samples
        .iter()
        .map(|sample| {
            json!({
                "finding": sample.finding.to_string(),
                "round_trip_s": sample.round_trip_ns.map(seconds),
                "failure": sample.failure,
            })
        })
        .collect();
    let (stratum, offset_s) = match best.finding {
        CheckFinding::Time { stratum, .. } => (Some(stratum), Some(best.finding.offset_s())),
        CheckFinding::BadStratum(stratum) => (Some(stratum), None),
        _ => (None, None),
    };
    json!({
        "server": target.server,
        "address": target.address.ip().to_string(),
        "public_address": is_public(target.address.ip()),
        "samples": samples,
        "finding": best.finding.to_string(),
        "stratum": stratum,
        "stratum_may_join": best.finding.may_join(),
        "offset_s": offset_s,
        "step": effect.step,
        "cap": effect.cap,
        "reason": effect.reason,
        "score_in_the_end": effect.limit(),
        "checks_to_join": effect.checks_to_join(),
        "score": target.scores.last(),
        "checks": target.scores.len(),
    })
}
