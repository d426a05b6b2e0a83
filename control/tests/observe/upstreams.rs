//! A server with upstreams, as Grafana and the page show it.
//!
//! The pictures in `docs` were made by this test, with `POOLTIME_PICTURE_MINUTES` of load before, for the plots to have
//! something to show.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use testlab::upstreams::{UPSTREAMS, Upstreams, address, give_addresses};
use testlab::{Lab, not_run, tool, wait_for};

use crate::browser::Browser;
use crate::page::{flood, is_shown_soon, take_pictures};
use crate::prometheus::{Prometheus, fill_the_dashboard};
use crate::{LISTEN, ask};

const CONFIG: &str = "interfaces = [\"lan0\"]\n[access]\nunlimited = [\"fd77::/64\"]\n[limits]\nquota = \"4 TB\"\n\
                      [metrics]\nshow_sources = true\n[clock]\nsource = \"upstream\"\nsteer = false\n";

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn upstreams_are_on_the_page_and_every_expression_of_the_dashboard_has_data() {
    let tools =
        [tool("chronyd"), tool("prometheus"), tool("chromium-headless-shell").or_else(|| tool("chromium"))];
    let [Some(chronyd), Some(prometheus), Some(chromium)] = tools else {
        return not_run("chronyd, prometheus or chromium is not there");
    };
    let lab = Lab::up(&[]);
    let mut config = CONFIG.to_owned();
    give_addresses(&lab, UPSTREAMS);
    for address in (0..UPSTREAMS).map(address) {
        writeln!(config, "[[upstream]]\naddress = \"{address}\"\nminpoll = 3\nmaxpoll = 3").unwrap();
    }
    let mut upstreams = Upstreams::start(&lab, &chronyd);
    let server = lab.server(&config, &[]);
    let prometheus = Prometheus::start(&lab, prometheus.to_str().unwrap());
    let mut browser = Browser::start(&lab, "server", &chromium);
    browser.open(&format!("http://{LISTEN}/"));
    browser.wait_until("document.getElementById('headline').textContent === 'Serving good time'");
    browser.wait_until("document.querySelectorAll('#upstreams tbody tr').length === 4");
    browser.wait_until("document.querySelector('#upstreams th.system').textContent.startsWith('* ')");
    prometheus.expect("up", 1);
    flood(&lab, "10.77.0.1", 2000);
    fill_the_dashboard(&lab, &prometheus);
    prometheus.expect("sum(pooltime_upstream_selected)", UPSTREAMS.into());
    prometheus.expect("sum(pooltime_upstream_system_peer)", 1);
    prometheus.expect("sum(pooltime_clock_reference_info{source=\"upstream\"})", 1);
    browser.wait_until("document.getElementById('sources').innerText.includes('10.77.0.2')");

    make_load(&lab);
    take_pictures(&mut browser, "upstreams");

    upstreams.end();
    let cut = || server.status().upstreams.iter().all(|peer| peer.trouble.is_some());
    wait_for("the cut to be noticed", || cut().then_some(()));
    let alarms = "document.querySelectorAll('#upstreams td.alarm').length === 4";
    is_shown_soon(&mut browser, "a cut of all upstreams", || (), alarms, |_| ());
    browser.wait_until("document.getElementById('verdict').className === 'amber'");
    let notes = browser.text("notes");
    assert!(notes.contains("do not restart the daemon") && notes.contains("holdover is good for"), "{notes}");
    let health = server.command(&["health"]).expect_success();
    assert!(health.contains("no upstream answers"), "{health}");
    prometheus.expect("pooltime_upstreams_silent", 1);
    take_pictures(&mut browser, "silent-upstreams");
}

/// For the plots: ups and downs, and an abuser every now and then.
fn make_load(lab: &Lab) {
    let minutes = std::env::var("POOLTIME_PICTURE_MINUTES").ok().and_then(|minutes| minutes.parse().ok());
    let end = Instant::now() + Duration::from_mins(minutes.unwrap_or(0));
    let mut round = 0_u64;
    while Instant::now() < end {
        round += 1;
        let wave = 30 + round % 100 + if round % 300 < 40 { 60 } else { 0 };
        ask(lab, "fd77::1", if round.is_multiple_of(4) { 3 } else { 4 }, wave);
        ask(lab, "10.77.0.1", 4, 1);
        if round % 240 < 30 {
            flood(lab, "10.77.0.1", 25);
        }
        std::thread::sleep(Duration::from_millis(250));
    }
}
