//! The status page in a browser: it says what is so, at once, to everybody.
//!
//! Its pictures are left in `target/tmp`.

use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testlab::wire::request;
use testlab::{Lab, Server, not_run, tool};

use crate::browser::Browser;
use crate::{LISTEN, LOCAL, ask};

/// IPv6 clients may ask as often as they like, others are limited.
const CONFIG: &str = "interfaces = [\"lan0\"]\n[access]\nunlimited = [\"fd77::/64\"]\n[clock]\n";
const SCREENS: [(&str, u32, u32, &str); 3] =
    [("light", 1000, 700, "light"), ("dark", 1000, 700, "dark"), ("phone", 390, 800, "dark")];
/// In which a change has to be on the page.
const SOON: Duration = Duration::from_secs(2);
/// Whoever is busy with something else may be late; not every time.
const ATTEMPTS: u32 = 3;

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn the_page_shows_what_the_server_does_and_what_becomes_of_it_within_two_seconds() {
    let Some(program) = tool("chromium-headless-shell").or_else(|| tool("chromium")) else {
        return not_run("no chromium is there");
    };
    let lab = Lab::up(&[]);
    let server = lab.server(&format!("{CONFIG}{LOCAL}"), &[]);
    ask(&lab, "fd77::1", 4, 700);
    ask(&lab, "fd77::1", 3, 300);
    let mut browser = Browser::start(&lab, "server", &program);
    browser.open(&format!("http://{LISTEN}/"));
    browser.wait_until("document.getElementById('headline').textContent === 'Serving good time'");
    browser.wait_until("document.getElementById('total-answered').textContent === '1\\u202f000'");
    assert!(browser.text("versions").contains("NTP 4\t0\t700\t70.0 %"), "{}", browser.text("versions"));
    assert!(browser.text("interfaces").contains("lan0\tnative\t10.77.0.1"), "{}", browser.text("interfaces"));

    for figure in ["plot-requests", "plot-clock"] {
        let labels = format!("document.querySelectorAll('#{figure} .y span').length >= 2");
        browser.wait_until(&labels);
    }
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(browser.text("host"), host.trim());
    assert!(browser.text("as-of").contains("as of "), "{}", browser.text("as-of"));
    for part in ["error bound", "horizon"] {
        assert!(browser.text("clock").contains(part), "{}", browser.text("clock"));
    }

    shows_floods(&lab, &mut browser);
    shows_a_clock_gone_bad(&lab, &server, &mut browser);
    is_for_everybody(&mut browser);
    browser.evaluate("document.activeElement.blur()");
    take_pictures(&mut browser, "page");
    assert!(browser.complaints.is_empty(), "{:#?}", browser.complaints);

    drop(server);
    browser.wait_until("document.getElementById('headline').textContent === 'No word from the server'");
}

/// On all screens.
pub(crate) fn take_pictures(browser: &mut Browser, name: &str) {
    for (screen, width, height, scheme) in SCREENS {
        browser.show_on(width, height, scheme);
        browser.wait_until("document.documentElement.scrollWidth <= window.innerWidth");
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{screen}.png"));
        fs::write(&path, browser.picture()).unwrap();
        println!("picture: {}", path.display());
    }
}

/// Makes a change until the page shows it soon enough; `undo` brings the page back for another attempt.
pub(crate) fn is_shown_soon(
    browser: &mut Browser,
    what: &str,
    change: impl Fn(),
    expression: &str,
    undo: impl Fn(&mut Browser),
) {
    for attempt in 1..=ATTEMPTS {
        let start = Instant::now();
        change();
        browser.wait_until(expression);
        let late = start.elapsed();
        println!("{what}: on the page after {late:?}");
        if late < SOON {
            return;
        }
        assert!(attempt < ATTEMPTS, "{what} was on the page after {late:?} only");
        undo(browser);
    }
}

fn shows_floods(lab: &Lab, browser: &mut Browser) {
    let refused = "Number(document.getElementById('rate-refused').textContent.replace('\\u202f', ''))";
    is_shown_soon(
        browser,
        "a flood",
        || flood(lab, "10.77.0.1", 2000),
        &format!("{refused} > 100"),
        |browser| browser.wait_until(&format!("{refused} === 0")),
    );
    assert!(browser.text("verdicts").contains("dropped: over its rate"), "{}", browser.text("verdicts"));
    // Still a good server: a note, and no alarm.
    flood(lab, "10.77.0.1", 4000);
    browser.wait_until("document.getElementById('notes').textContent.includes('limits are at work')");
    browser.wait_until("document.getElementById('verdict').className === 'good'");
}

fn shows_a_clock_gone_bad(lab: &Lab, server: &Server<'_>, browser: &mut Browser) {
    let is = |text: &str| format!("document.getElementById('headline').textContent === '{text}'");
    let (good, bad) = (is("Serving good time"), is("NOT serving good time"));
    let reload = |clock: &str| {
        lab.file("server.toml", &format!("{CONFIG}{clock}"));
        server.signal(Signal::SIGHUP);
    };
    is_shown_soon(
        browser,
        "a clock gone bad",
        || reload("max_error_ms = 1\n"),
        &bad,
        |browser| {
            reload(LOCAL);
            browser.wait_until(&good);
        },
    );
    assert!(browser.text("reasons").contains("not synchronised"), "{}", browser.text("reasons"));
    assert!(browser.text("clock").contains("leap 3, stratum 0"), "{}", browser.text("clock"));
    reload(LOCAL);
    browser.wait_until(&good);
}

/// By keyboard and screen reader.
fn is_for_everybody(browser: &mut Browser) {
    let nodes = browser.accessible();
    let has = |role: &str, name: &str| {
        let found = nodes.iter().any(|(its_role, its_name)| its_role == role && its_name.contains(name));
        assert!(found, "no {role} `{name}` in {nodes:#?}");
    };
    has("heading", "Serving good time");
    has("status", "");
    has("image", "Packets a second over the last hour");
    has("image", "Error bound over the last hour");
    has("table", "Where the program answers");
    has("columnheader", "Verdict");
    has("rowheader", "NTP 4");
    let mut focused = Vec::new();
    for _ in 0..6 {
        browser.press("Tab");
        focused.push(browser.evaluate("document.activeElement.getAttribute('href')"));
    }
    assert!(focused.contains(&"/metrics".into()), "the keyboard does not get to the links: {focused:?}");
}

/// Sends without waiting for answers.
pub(crate) fn flood(lab: &Lab, server: &str, often: u64) {
    lab.inside("client", || {
        let any = if server.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.connect((server, 123)).unwrap();
        for cookie in 1..=often {
            // What does not fit into a queue is lost.
            let _lost = socket.send(&request(4, cookie));
        }
    });
}
