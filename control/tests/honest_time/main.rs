//! The served time is never further off than the answers claim, whatever the upstreams do: the real daemon, upstreams
//! that behave as they are told, and the oracle, which checks every answer against the truth.
//!
//! The kernel's clock is left alone. It is the truth.

mod coarse;
mod dead;
mod liars;
mod loops;

use std::net::IpAddr;
use std::thread::{self, sleep};
use std::time::Duration;

use protocol::reference_id;
use testlab::fake_upstream::{Conduct, FakeUpstream, Following, Reply, Script};
use testlab::oracle::{Oracle, Verdict};
use testlab::{Lab, Server};

/// Requests a second of the oracle in each play.
const RATE: u32 = 50;
/// Keys of each upstream that make a short test of what takes hours otherwise.
const SHORT_POLLS: &str = "minpoll = 3\nmaxpoll = 3\n";
/// The interval that they make.
const POLL: Duration = Duration::from_secs(8);
/// In which a first contact is over: four answers, 2 s apart, and some to spare.
const BURST: Duration = Duration::from_secs(10);
/// As near to the truth as is asked for on a busy machine.
const NEAR_S: f64 = 0.005;

type NamedPlay = (String, Box<dyn FnOnce() + Send>);

/// A daemon in a lab, under the oracle.
struct Play<'lab> {
    server: Server<'lab>,
    oracle: Oracle,
}

impl<'lab> Play<'lab> {
    /// Starts the oracle and the daemon. The phase "ready" begins when the daemon is.
    fn begin(lab: &'lab Lab, config: &str) -> Self {
        let oracle = Oracle::start(lab, RATE);
        let server = lab.server(config, &[]);
        oracle.phase("ready");
        Self { server, oracle }
    }

    /// Names what comes now, and lets it go on for so long.
    fn phase(&self, name: &str, time: Duration) {
        self.oracle.phase(name);
        sleep(time);
    }

    /// Waits for an answer that is synchronised: longer than the daemon waits for a majority to speak.
    fn wait_until_synchronised(&self) {
        const PATIENCE: Duration = Duration::from_secs(30);
        let end = self.oracle.elapsed() + PATIENCE;
        while !self.oracle.latest().is_some_and(|answer| answer.is_synchronised()) {
            assert!(self.oracle.elapsed() < end, "no synchronised answer\n{}", self.oracle.so_far());
            sleep(Duration::from_millis(20));
        }
    }

    /// Ends it with the oracle's verdict, which must be that no answer was wrong. If not, and if what is asked of the
    /// verdict is not so, the log is told, too.
    fn end(self, ask: impl FnOnce(&Verdict)) {
        let verdict = self.oracle.stop();
        verdict.assert_never_wrong();
        println!("{verdict}");
        ask(&verdict);
        drop(self.server);
    }
}

/// The configuration of a daemon that follows these upstreams and leaves the kernel's clock alone.
fn config(clock: &str, upstream: &str, addresses: &[IpAddr]) -> String {
    let upstreams =
        addresses.iter().map(|address| format!("[[upstream]]\naddress = \"{address}\"\n{upstream}"));
    format!(
        "interfaces = [\"lan0\"]\n[limits]\nenabled = false\n[clock]\nsource = \"upstream\"\nsteer = false\n{clock}\n{}",
        upstreams.collect::<String>()
    )
}

/// Where the upstream of this number is.
fn address(number: usize) -> IpAddr {
    testlab::upstreams::address(u8::try_from(number).unwrap()).parse().unwrap()
}

/// Starts upstreams with these conducts, and tells where they are.
fn upstreams(
    lab: &Lab,
    scripts: impl IntoIterator<Item = impl Into<Script>>,
) -> (Vec<FakeUpstream>, Vec<IpAddr>) {
    let running: Vec<_> = scripts
        .into_iter()
        .enumerate()
        .map(|(number, script)| FakeUpstream::start(lab, address(number), script))
        .collect();
    let addresses = running.iter().map(FakeUpstream::address).collect();
    (running, addresses)
}

fn vanish(upstreams: &[FakeUpstream]) {
    for upstream in upstreams {
        upstream.vanish();
    }
}

/// Plays of the same time at the same time, each with its own lab. Those that fail are named in the end.
fn side_by_side<'scope, P: FnOnce() + Send + 'scope>(plays: impl IntoIterator<Item = (String, P)>) {
    let failed: Vec<String> = thread::scope(|scope| {
        let start = |(name, play): (String, P)| {
            let thread = thread::Builder::new().name(name.clone()).spawn_scoped(scope, play).unwrap();
            (name, thread)
        };
        let running: Vec<_> = plays.into_iter().map(start).collect();
        running.into_iter().filter_map(|(name, thread)| thread.join().err().map(|_told| name)).collect()
    });
    assert!(failed.is_empty(), "these plays failed: {failed:#?}");
}

/// The latest answers are synchronised and near to the truth.
#[track_caller]
fn expect_near(verdict: &Verdict) {
    verdict.expect(verdict.right() > 0, "synchronised answers in the end");
    let far = verdict.synchronised().find(|answer| answer.offset_s.abs() > NEAR_S + answer.uncertainty_s);
    if let Some(far) = far {
        verdict.expect(false, &format!("no answer to be far from the truth, as this one is:\n{far}"));
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn without_news_from_a_real_source_nothing_gets_better() {
    // Each takes a minute or more and most of it is waiting.
    side_by_side(dead::plays().into_iter().chain(loops::plays()));
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn two_that_agree_are_followed_within_three_seconds() {
    for count in [2, 4] {
        let lab = Lab::up(&[]);
        let (_running, addresses) = upstreams(&lab, vec![Conduct::exact(); count]);
        let play = Play::begin(&lab, &config("", "", &addresses));
        sleep(Duration::from_secs(4));
        play.end(|verdict| {
            let first = verdict.first_synchronised().map(|answer| answer.at);
            let latest = verdict.beginning("ready") + Duration::from_secs(3);
            verdict.expect(first.is_some_and(|first| first <= latest), "a synchronised answer within 3 s");
            let unsynchronised = verdict
                .after(first.unwrap_or_default())
                .answers
                .iter()
                .any(|answer| !answer.is_synchronised());
            verdict.expect(!unsynchronised, "all answers from then on to be synchronised");
        });
    }
}
