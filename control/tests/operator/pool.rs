//! The pool's check, score and proof of ownership.

use std::time::Duration;

use control::tools::pool::monitor_check::{CheckSchedule, check};
use control::tools::pool::score::{CheckFinding, score_effect};
use serde_json::Value;

use crate::double::Behaviour::{Kiss, NotAServer, OffsetMs, ReceivedAfterSent, Silent, Stratum, WrongOrigin};
use crate::double::{ntp_server, web_server};
use crate::{EX_NOINPUT, EX_UNAVAILABLE, EX_USAGE, pooltime};

const HASTE: CheckSchedule =
    CheckSchedule { samples: 3, gap: Duration::from_millis(1), timeout: Duration::from_millis(500) };
/// What a busy machine may add to an offset.
const TOLERANCE: f64 = 0.02;

#[test]
fn each_fault_of_a_server_has_the_monitors_step_and_cap() {
    let offset = |ms: f64, slope: f64, constant: f64| slope * ms / 1_000.0 + constant;
    for (behaviour, samples, step, cap) in [
        (Silent, 3, -5.0, None),
        (WrongOrigin, 3, -5.0, None),
        (ReceivedAfterSent, 3, -5.0, None),
        (NotAServer, 3, -5.0, None),
        (Kiss(*b"RATE"), 1, -3.5, None),
        (Kiss(*b"DENY"), 1, -10.0, Some(-50.0)),
        (Kiss(*b"RSTR"), 1, -10.0, Some(-50.0)),
        (Stratum(0), 1, -2.0, Some(5.0)),
        (Stratum(16), 1, -4.0, None),
        (Stratum(9), 3, -4.0, None),
        (OffsetMs(0), 3, 1.0, None),
        (OffsetMs(10), 3, 1.0, None),
        (OffsetMs(30), 3, offset(30.0, -6.667, 1.167), None),
        (OffsetMs(-80), 3, offset(80.0, -6.667, 1.167), None),
        (OffsetMs(200), 3, offset(200.0, -2.308, 0.731), None),
        (OffsetMs(-900), 3, -2.0, None),
        (OffsetMs(4_000), 3, -4.0, Some(-20.0)),
    ] {
        let checked = check(ntp_server(behaviour), HASTE);
        let effect = score_effect(&checked.best().finding);
        assert_eq!(checked.samples.len(), samples, "{behaviour:?}: {checked:?}");
        assert!((effect.step - step).abs() < TOLERANCE, "{behaviour:?}: {effect:?}, not {step}");
        assert_eq!(effect.cap, cap, "{behaviour:?}");
    }
}

#[test]
fn a_reply_that_is_thrown_away_says_why() {
    for (behaviour, why) in [
        (WrongOrigin, "origin"),
        (ReceivedAfterSent, "received after it was sent"),
        (NotAServer, "mode"),
        (Silent, "no answer"),
    ] {
        let checked = check(ntp_server(behaviour), CheckSchedule { samples: 1, ..HASTE });
        assert_eq!(checked.best().finding, CheckFinding::NoResponse);
        let failure = checked.best().failure.as_deref().unwrap();
        assert!(failure.contains(why), "{behaviour:?}: {failure}");
    }
}

#[test]
fn a_good_server_is_forecast_ten_points_after_fourteen_checks() {
    let port = ntp_server(OffsetMs(1)).port().to_string();
    let said = pooltime(&["pool", "check", "-4", "--port", &port, "localhost"]).expect_success();
    assert!(said.starts_with("localhost 127.0.0.1: stratum 2, offset +0.00"), "{said}");
    assert!(said.contains("(3 of 3 requests answered)"), "{said}");
    assert!(said.contains("forecast: 10 points after 14 checks, 20.0 in the end"), "{said}");
    assert!(said.contains("not a public address"), "{said}");
}

#[test]
fn watching_plots_the_score_and_is_polite() {
    let port = ntp_server(Kiss(*b"DENY")).port().to_string();
    let watch = ["pool", "check", "--watch", "--checks", "1", "--port", &port, "127.0.0.1"];
    let output = pooltime(&watch);
    assert!(output.stdout.contains("step -10.000, and the score at most -50"), "{output:#?}");
    assert!(output.stdout.contains("    10 |-") && output.stdout.contains("   -50 |*"), "{output:#?}");
    let said = output.expect_code(EX_UNAVAILABLE);
    assert!(said.contains("the pool would not hand this server out") && said.contains("doctor"), "{said}");

    let said = pooltime(&[&watch[..], &["--every", "10s"]].concat()).expect_code(EX_USAGE);
    assert!(said.contains("at least 60s"), "{said}");
}

#[test]
fn a_check_for_programs_has_every_figure() {
    let port = ntp_server(Stratum(9)).port().to_string();
    let output = pooltime(&["pool", "check", "--json", "--port", &port, "127.0.0.1"]);
    let checks: Value = serde_json::from_str(&output.stdout).unwrap();
    let check = &checks["checks"][0];
    assert_eq!((&check["stratum"], &check["step"]), (&9.into(), &Value::from(-4.0)), "{check}");
    assert_eq!((&check["stratum_may_join"], &check["checks_to_join"]), (&false.into(), &Value::Null));
    assert_eq!(check["samples"].as_array().unwrap().len(), 3);
    output.expect_code(EX_UNAVAILABLE);
}

#[test]
fn the_published_score_is_read_from_the_pools_page() {
    const PAGE: &str = r#"{"history": [
        {"ts": 1700000000, "offset": 0.001, "step": 1, "score": 9.7, "monitor_id": 24},
        {"ts": 1700000900, "offset": 0.001, "step": 1, "score": 10.2, "monitor_id": 24}
    ], "monitors": [
        {"id": 24, "name": "recentmedian", "type": "score", "ts": "", "score": 10.2, "status": "active"}
    ], "server": {"ip": "192.0.2.1"}}"#;
    let base = web_server("/scores/192.0.2.1/json?monitor=*&limit=200", 200, PAGE);
    let said = pooltime(&["pool", "score", "--base", &base, "192.0.2.1"]).expect_success();
    assert!(
        said.starts_with("192.0.2.1: score 10.2, in the pool\n") && said.contains("    10 |**"),
        "{said}"
    );
    let json = pooltime(&["pool", "score", "--json", "--base", &base, "192.0.2.1"]).expect_success();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["score"], &json["history"][1]["score"]), (&10.2.into(), &10.2.into()));

    let said = pooltime(&["pool", "score", "--base", &base, "192.0.2.2"]).expect_code(EX_UNAVAILABLE);
    assert!(said.contains("404") && said.contains("never added"), "{said}");
    let wrong = web_server("/scores/192.0.2.1/json?monitor=*&limit=200", 200, "<html>");
    let said = pooltime(&["pool", "score", "--base", &wrong, "192.0.2.1"]).expect_code(65);
    assert!(said.contains("is not the page of scores"), "{said}");
}

#[test]
fn the_proof_of_ownership_is_shown_and_on_request_made_from_the_address_itself() {
    for (address, flag, validation) in
        [("192.0.2.1", "-4", "validate4.ntppool.dev"), ("2001:db8::1", "-6", "validate6.ntppool.dev")]
    {
        let said = pooltime(&["pool", "verify", address]).expect_success();
        assert!(said.contains(validation) && said.contains(&format!("curl {flag}")), "{said}");
    }
    let said = pooltime(&["pool", "verify", "--now", "192.0.2.1"]).expect_code(EX_NOINPUT);
    assert!(said.contains("192.0.2.1 is not an address of this host"), "{said}");

    let base = web_server("/p/", 200, "asked from {FROM}\x1b[31m\n");
    let url = format!("{base}/p/");
    // An address of loopback that the kernel would not have chosen.
    let said = pooltime(&["pool", "verify", "--now", "--url", &url, "127.0.0.77"]).expect_success();
    assert_eq!(said, "asked from 127.0.0.77[31m\n");
    let elsewhere = format!("{base}/elsewhere");
    let said = pooltime(&["pool", "verify", "--now", "--url", &elsewhere, "127.0.0.1"]);
    assert!(said.expect_code(EX_UNAVAILABLE).contains("--url"));
}

#[test]
fn why_the_score_fell_is_asked_of_a_daemon_and_says_so_without_one() {
    let lost = ["--instance", "no-such-instance", "pool", "why", "192.0.2.1"];
    let said = pooltime(&lost).expect_code(EX_UNAVAILABLE);
    assert!(
        said.contains("no daemon runs") && said.contains("what became of the monitors' probes"),
        "{said}"
    );
    let said = pooltime(&["pool", "why", "--scores", "/nowhere.json"]).expect_code(66);
    assert!(said.contains("/nowhere.json: No such file"), "{said}");
    let said = pooltime(&["pool", "why", "--scores", "a", "--base", "b"]).expect_code(64);
    assert!(said.contains("cannot be used with"), "{said}");
}
