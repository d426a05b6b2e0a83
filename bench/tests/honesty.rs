//! Whether `pooltime-bench load` tells the truth: it is let loose on servers with known faults, by every generator.

mod program;

use std::net::UdpSocket;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use program::{BENCH, LINK_GENERATORS, bench};
use serde_json::Value;
use testlab::{Lab, Output};

/// What a server does to an answer before it is sent: how many times it sends it.
type Spoil = fn(number: u64, request: &[u8], answer: &mut Vec<u8>) -> u32;

/// An NTP server with a fault, on a thread of its own.
struct Server {
    /// One at a time: tests that take each other's CPU would measure each other.
    _alone: MutexGuard<'static, ()>,
    address: String,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(spoil: Spoil) -> Self {
        Self::on(UdpSocket::bind("127.0.0.1:0").unwrap(), spoil)
    }

    fn on(socket: UdpSocket, spoil: Spoil) -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        // For the moments in which the thread has no CPU: what is lost there would be this test's fault.
        let _as_much_as_allowed =
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBuf, &(4 << 20));
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || serve(&socket, spoil, &stopped));
        Self { _alone: alone, address, stop, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panic_is_shown_already = thread.join();
        }
    }
}

fn serve(socket: &UdpSocket, spoil: Spoil, stop: &AtomicBool) {
    let mut buffer = [0; 256];
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
        let request = &buffer[..length];
        let now = ntp_now().to_be_bytes();
        let mut answer = vec![0; 48];
        answer[0] = request[0] & 0x38 | 4;
        answer[1] = 2;
        answer[24..32].copy_from_slice(request.get(40..48).unwrap_or(&[0; 8]));
        answer[32..40].copy_from_slice(&now);
        answer[40..48].copy_from_slice(&now);
        for _ in 0..spoil(number, request, &mut answer) {
            let _client_may_be_gone = socket.send_to(&answer, client);
        }
        number += 1;
    }
}

fn ntp_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let fraction = (u64::from(now.subsec_nanos()) << 32) / 1_000_000_000;
    (now.as_secs() + 2_208_988_800) << 32 | fraction
}

/// A generator, and the link on which it meets the servers: loopback, if there is none.
struct Setting<'a> {
    generator: &'a str,
    lab: Option<&'a Lab>,
}

impl Setting<'_> {
    fn server(&self, spoil: Spoil) -> Server {
        match self.lab {
            None => Server::start(spoil),
            Some(lab) => {
                Server::on(lab.inside("server", || UdpSocket::bind("10.77.0.1:123").unwrap()), spoil)
            }
        }
    }

    /// What `load` prints.
    fn load(&self, server: &Server, arguments: &[&str]) -> String {
        let all = ["load", &server.address, "--generator", self.generator, "--workers", "1"];
        let more = ["--warm-up", "0s", "--timeout", "200ms", "--shared-clock"];
        let arguments = [&all[..], &more, arguments].concat();
        let output = match self.lab {
            None => Output::of(Command::new(BENCH).args(arguments)),
            Some(lab) => bench(lab, &arguments),
        };
        assert!(output.stderr.is_empty(), "{output:#?}");
        output.expect_success()
    }

    /// Runs a load on a server with this fault: the only step of its results.
    fn step(&self, spoil: Spoil, rate: &str, duration: &str) -> Value {
        self.profiled("normal", spoil, rate, duration)
    }

    fn profiled(&self, profile: &str, spoil: Spoil, rate: &str, duration: &str) -> Value {
        let arguments = ["--json", "--profile", profile, "--rate", rate, "--duration", duration];
        let printed = self.load(&self.server(spoil), &arguments);
        let report: Value = serde_json::from_str(&printed).unwrap();
        let step = report["steps"][0].clone();
        println!("{}: {step}", self.generator);
        assert!(number(&step, "sent") > 0, "{step}");
        step
    }
}

fn number(step: &Value, name: &str) -> u64 {
    step[name].as_u64().unwrap_or_else(|| panic!("no {name} in {step}"))
}

/// Each rule as a test of its own, of sockets on loopback and of all generators on a link.
macro_rules! rules {
    ($($rule:ident),* $(,)?) => {
        mod sockets_on_loopback {
            $(#[test]
            fn $rule() {
                super::$rule(&super::Setting { generator: "socket", lab: None });
            })*
        }

        mod all_generators_on_a_link {
            $(#[test]
            #[ignore = "needs root: scripts/test runs it"]
            fn $rule() {
                let lab = super::Lab::bare();
                for generator in super::LINK_GENERATORS.iter().chain(&["socket"]) {
                    super::$rule(&super::Setting { generator, lab: Some(&lab) });
                }
            })*
        }
    };
}

rules!(
    a_right_server_has_nothing_lost_and_nothing_wrong,
    one_percent_dropped_is_one_percent_lost,
    what_is_lost_in_one_go_is_told_from_what_is_lost_all_the_time,
    a_millisecond_of_delay_is_seen_in_round_trip_and_residence,
    a_wrong_origin_is_named_and_the_request_counts_as_lost,
    each_wrong_field_is_named,
    a_receive_time_after_the_answer_came_is_outside_the_window,
    duplicates_are_not_answers,
    kisses_are_counted_apart,
    answers_after_the_time_out_are_late_and_lost,
    a_rate_that_cannot_be_sent_is_called_the_generators_limit,
    an_answer_longer_than_its_request_is_named,
    answers_to_malformed_requests_are_named_and_silence_is_right,
    long_requests_are_as_long_as_asked_for,
    the_top_of_the_hour_has_as_many_requests_as_its_shape_says,
);

fn a_right_server_has_nothing_lost_and_nothing_wrong(with: &Setting<'_>) {
    let step = with.step(|_, _, _| 1, "2000", "500ms");
    assert_eq!(number(&step, "sent") + number(&step, "unsent"), 1000);
    assert_eq!(number(&step, "answered"), number(&step, "sent"), "{step}");
    for name in ["lost", "late", "invalid", "kisses", "duplicates"] {
        assert_eq!(number(&step, name), 0, "{name}");
    }
    let offset_ns = step["offset_ns"]["mean"].as_f64().unwrap();
    assert!(offset_ns.abs() < 1e6, "{offset_ns}");
}

fn one_percent_dropped_is_one_percent_lost(with: &Setting<'_>) {
    let step = with.step(|number, _, _| u32::from(number % 100 != 99), "10k", "1s");
    let (sent, lost) = (number(&step, "sent"), number(&step, "lost"));
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let percent = 100.0 * lost as f64 / sent as f64;
    assert!((percent - 1.0).abs() <= 0.05, "{percent} % of {sent}");
}

fn what_is_lost_in_one_go_is_told_from_what_is_lost_all_the_time(with: &Setting<'_>) {
    // A tenth in either case: of the time, or of the requests.
    let deaf: Spoil = |number, _, _| u32::from(!(1000..1200).contains(&number));
    let careless: Spoil = |number, _, _| u32::from(number % 10 != 9);
    let [in_one_go, all_the_time] = [deaf, careless].map(|spoil| {
        let step = with.step(spoil, "4000", "500ms");
        let course = |what: &str| step["course"][what].as_array().unwrap().clone();
        let windows = course("sent").into_iter().zip(course("answered"));
        let answered_all = |(sent, answered): &(Value, Value)| sent == answered;
        let (good, bad): (Vec<_>, Vec<_>) = windows.partition(answered_all);
        let percent = number(&step, "lost") * 100 / number(&step, "sent");
        assert!((9..=11).contains(&percent), "{step}");
        (good.len(), bad.len())
    });
    assert!(in_one_go.0 >= 45 && in_one_go.1 <= 8, "{in_one_go:?}");
    assert!(all_the_time.0 <= 6 && all_the_time.1 >= 45, "{all_the_time:?}");
}

fn a_millisecond_of_delay_is_seen_in_round_trip_and_residence(with: &Setting<'_>) {
    let delay: Spoil = |_, _, answer| {
        thread::sleep(Duration::from_millis(1));
        answer[40..48].copy_from_slice(&ntp_now().to_be_bytes());
        1
    };
    let step = with.step(delay, "200", "500ms");
    for name in ["round_trip_ns", "residence_ns"] {
        let (least, median) = (number(&step[name], "min"), number(&step[name], "p50"));
        assert!(least >= 970_000 && median < 3_000_000, "{name}: {least} {median}");
    }
}

fn a_wrong_origin_is_named_and_the_request_counts_as_lost(with: &Setting<'_>) {
    let wrong: Spoil = |number, _, answer| {
        if number % 10 == 0 {
            answer[31] ^= 1;
        }
        1
    };
    let step = with.step(wrong, "2000", "300ms");
    let wrong = number(&step["faults"], "origin");
    assert_eq!(wrong, number(&step, "sent").div_ceil(10), "{step}");
    assert_eq!(number(&step, "lost"), wrong);
}

fn each_wrong_field_is_named(with: &Setting<'_>) {
    // Each answer has another fault, in turn.
    let wrong: Spoil = |number, _, answer| {
        match number % 7 {
            0 => answer[40..48].fill(0),
            1 => answer[32..40].copy_from_slice(&(ntp_now() + (1 << 30)).to_be_bytes()),
            2 => answer[32..40].copy_from_slice(&(ntp_now() - (1 << 30)).to_be_bytes()),
            3 => answer[0] = answer[0] & 0x38 | 5,
            4 => answer[0] ^= 0x38,
            5 => answer[0] |= 0xc0,
            _ => answer[1] = 16,
        }
        1
    };
    let step = with.step(wrong, "1000", "500ms");
    let of_turns =
        |turns: &[u64]| turns.iter().map(|turn| (number(&step, "sent") + 6 - turn) / 7).sum::<u64>();
    for (name, turns) in [
        ("zero_transmit", &[0][..]),
        ("receive_after_transmit", &[1]),
        ("outside_window", &[2]),
        ("mode", &[3]),
        ("version", &[4]),
        ("unsynchronised", &[5, 6]),
    ] {
        assert_eq!(number(&step["faults"], name), of_turns(turns), "{name}: {step}");
    }
    assert_eq!((number(&step, "answered"), number(&step, "lost")), (0, 0), "{step}");
}

fn a_receive_time_after_the_answer_came_is_outside_the_window(with: &Setting<'_>) {
    // By 100 ms, with the transmit time as late: nothing but the clock shows it.
    let ahead: Spoil = |_, _, answer| {
        let later = (ntp_now() + (1 << 32) / 10).to_be_bytes();
        answer[32..40].copy_from_slice(&later);
        answer[40..48].copy_from_slice(&later);
        1
    };
    let step = with.step(ahead, "500", "200ms");
    assert_eq!(number(&step["faults"], "outside_window"), number(&step, "sent"), "{step}");
}

fn duplicates_are_not_answers(with: &Setting<'_>) {
    let step = with.step(|_, _, _| 3, "1000", "300ms");
    assert_eq!(number(&step, "answered"), number(&step, "sent"));
    // Those of the last request may come after the end.
    assert!(number(&step, "duplicates") >= 2 * number(&step, "sent") - 8, "{step}");
}

fn kisses_are_counted_apart(with: &Setting<'_>) {
    let kiss: Spoil = |_, _, answer| {
        answer[0] |= 0xc0;
        answer[1] = 0;
        answer[12..16].copy_from_slice(b"RATE");
        1
    };
    // Otherwise the limit that shows in them is a failure.
    let arguments = ["--json", "--rate", "500", "--duration", "200ms", "--max-loss", "100%"];
    let report: Value = serde_json::from_str(&with.load(&with.server(kiss), &arguments)).unwrap();
    let step = &report["steps"][0];
    assert_eq!(number(step, "kisses"), number(step, "sent"));
    assert_eq!((number(step, "invalid"), number(step, "lost")), (0, 0));
}

fn answers_after_the_time_out_are_late_and_lost(with: &Setting<'_>) {
    let slow: Spoil = |number, _, _| {
        if number == 0 {
            thread::sleep(Duration::from_millis(500));
        }
        1
    };
    let step = with.step(slow, "100", "600ms");
    // Those sent in the first 300 ms have waited for longer than 200 ms.
    assert!((10..=35).contains(&number(&step, "late")), "{step}");
    assert_eq!(number(&step, "lost"), number(&step, "late"), "{step}");
}

fn a_rate_that_cannot_be_sent_is_called_the_generators_limit(with: &Setting<'_>) {
    let table = with.load(&with.server(|_, _, _| 1), &["--rate", "5M", "--duration", "300ms"]);
    assert!(table.contains("the generator's limit, not the server's"), "{}: {table}", with.generator);
}

fn an_answer_longer_than_its_request_is_named(with: &Setting<'_>) {
    let longer: Spoil = |_, _, answer| {
        answer.extend([0; 4]);
        1
    };
    let step = with.step(longer, "500", "100ms");
    assert_eq!(number(&step["faults"], "longer_than_request"), number(&step, "sent"), "{step}");
    assert_eq!(number(&step, "answered"), 0, "{step}");
}

fn answers_to_malformed_requests_are_named_and_silence_is_right(with: &Setting<'_>) {
    // Wrong checksums and lengths do not get as far as to the socket of a server.
    let step = with.profiled("malformed:20%", |_, _, _| 1, "2000", "200ms");
    assert_eq!(number(&step, "answered"), number(&step, "sent"), "{step}");
    let malformed = number(&step, "malformed");
    let answered = ["short", "mode"].map(|flaw| number(&step["faults"], &format!("answered_{flaw}")));
    assert!(answered.iter().all(|answers| answers * 6 > malformed), "{step}");
    assert_eq!(answered.iter().sum::<u64>(), number(&step, "invalid"), "{step}");
    let silent: Spoil = |_, request, _| u32::from(request.len() == 48 && request[0] & 7 == 3);
    let step = with.profiled("malformed:20%", silent, "2000", "200ms");
    assert!(number(&step, "malformed") > 0, "{step}");
    assert_eq!((number(&step, "invalid"), number(&step, "lost")), (0, 0), "{step}");
}

fn long_requests_are_as_long_as_asked_for(with: &Setting<'_>) {
    let whole: Spoil =
        |_, request, _| u32::from(request.len() == 48 + 28 && request[48..52] == [0xf0, 0, 0, 28]);
    let step = with.profiled("long:7", whole, "500", "100ms");
    assert_eq!(number(&step, "answered"), number(&step, "sent"), "{step}");
}

fn the_top_of_the_hour_has_as_many_requests_as_its_shape_says(with: &Setting<'_>) {
    // Nine times more for an eighth of the time, and half of that in the mean for three eighths.
    let step = with.profiled("top-of-hour", |_, _, _| 1, "500", "400ms");
    let due = number(&step, "sent") + number(&step, "unsent");
    assert!((740..=780).contains(&due), "{step}");
    assert_eq!(number(&step, "answered"), number(&step, "sent"), "{step}");
}

#[test]
fn profiles_that_make_no_sense_are_refused_by_name() {
    for (arguments, named) in [
        (&["load", "127.0.0.1", "--profile", "odd"][..], "top-of-hour[:FACTOR]"),
        (&["load", "127.0.0.1", "--profile", "hot-source"], "--clients and --source-net"),
        (&["load", "127.0.0.1", "--profile", "spoofed"], "--source-net"),
        (&["find-max", "127.0.0.1", "--profile", "top-of-hour"], "use load"),
        (&["load", "127.0.0.1", "--rate", "1M", "--profile", "top-of-hour"], "above the cap"),
    ] {
        let output = Command::new(BENCH).args(arguments).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{error}");
        assert!(error.contains(named), "{error}");
    }
    let sockets = ["load", "127.0.0.1", "--profile", "spoofed", "--source-net", "127.0.0.0/16"];
    let output = Command::new(BENCH).args(sockets).args(["--generator", "socket"]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(69) && error.contains("other generators take"), "{error}");
}

#[test]
fn a_terminal_shows_how_far_it_has_come_and_a_program_is_told_results_only() {
    let server = Server::start(|_, _, _| 1);
    // A terminal of its own, as standard output and standard error.
    let terminal = |options: &str| {
        let load = format!("{BENCH} load {} --duration 600ms --warm-up 0s {options}", server.address);
        let mut script = Command::new("script");
        let output = script.args(["-qec", &load, "/dev/null"]).env("TERM", "xterm").output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let (bar, json) = (terminal(""), terminal("--json"));
    assert!(bar.contains("step 1 of 1: 1000/s") && bar.contains("answered"), "{bar}");
    assert!(serde_json::from_str::<Value>(&json).is_ok(), "{json}");
}

#[test]
fn nothing_listening_is_said_to_be_so() {
    let unused = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = Command::new(BENCH)
        .args(["load", &unused.to_string(), "--rate", "100", "--duration", "300ms", "--warm-up", "0s"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(69));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("nothing listens") && error.contains(&unused.to_string()), "{error}");
}

#[test]
fn sockets_send_from_the_ports_that_are_named() {
    let taken = UdpSocket::bind("0.0.0.0:0").unwrap().local_addr().unwrap().port();
    let server = Server::start(|_, _, _| 1);
    let load = |options: &[&str]| {
        let arguments = ["load", &server.address, "--duration", "100ms", "--warm-up", "0s", "--workers", "1"];
        Command::new(BENCH).args(arguments).args(options).output().unwrap()
    };
    let from = format!("{taken}-{}", taken.saturating_add(3));
    let held = UdpSocket::bind(("0.0.0.0", taken)).unwrap();
    let error = String::from_utf8_lossy(&load(&["--source-ports", &from]).stderr).into_owned();
    assert!(error.contains(&format!("cannot send from port {taken}")), "{error}");
    drop(held);
    assert!(load(&["--source-ports", &taken.to_string(), "--sockets", "1"]).status.success());
}

#[test]
fn the_public_internet_is_not_sent_to() {
    // 192.0.2.0/24 is for documentation: nothing is there, and nothing is sent.
    let output = Command::new(BENCH).args(["load", "192.0.2.1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--i-own-this-server"));
}

#[test]
fn caps_hold_unless_lifted() {
    for arguments in [&["--rate", "6M"][..], &["--rate", "1000..2M", "--duration", "60s"]] {
        let output = Command::new(BENCH).args(["load", "127.0.0.1:9"]).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("--uncapped"));
    }
}

#[test]
fn results_come_as_csv_as_a_page_and_as_ntpperf_has_them() {
    let server = Server::start(|_, _, _| 1);
    let page = std::env::temp_dir().join(format!("pooltime-bench-{}.html", std::process::id()));
    let run = |arguments: &[&str]| {
        let output = Command::new(BENCH)
            .args(["load", &server.address, "--rate", "100..400", "--step", "2"])
            .args(["--duration", "200ms", "--warm-up", "0s", "--timeout", "200ms"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let csv = run(&["--csv", "--html", page.to_str().unwrap()]);
    assert_eq!(csv.lines().count(), 4, "{csv}");
    let columns = |line: &str| line.split(',').count();
    assert!(csv.lines().all(|line| columns(line) == columns(csv.lines().next().unwrap())), "{csv}");
    let html = std::fs::read_to_string(&page).unwrap();
    std::fs::remove_file(&page).unwrap();
    // Loss and round trips by rate, and of a step: histogram, percentiles and course.
    assert_eq!(html.matches("<svg").count(), 5);
    assert!(!html.contains("http://") && !html.contains("https://"), "self-contained");
    let ntpperf = run(&["--format", "ntpperf"]);
    assert!(ntpperf.contains("rate   clients |  lost invalid   basic  xleave |"), "{ntpperf}");
    assert!(ntpperf.lines().last().unwrap().starts_with("400      "), "{ntpperf}");
}

/// The command, with a server whose faults are these and short steps.
fn run(spoil: Spoil, arguments: &[&str]) -> Output {
    let server = Server::start(spoil);
    let (command, options) = arguments.split_first().unwrap();
    let quick = ["--duration", "200ms", "--warm-up", "0s", "--timeout", "100ms", "--workers", "1"];
    Output::of(Command::new(BENCH).args([*command, &server.address]).args(quick).args(options))
}

/// A kiss of death in place of an answer.
const REFUSE: Spoil = |number, _, answer| {
    if number > 4 {
        answer[0] |= 0xc0;
        answer[1] = 0;
        answer[12..16].copy_from_slice(b"RATE");
    }
    1
};

#[test]
fn a_rate_limit_is_named_with_the_way_out_and_not_taken_for_what_the_server_can_do() {
    let output = run(REFUSE, &["find-max", "--rate", "200..2000"]);
    assert_eq!(output.code(), Some(1), "{output:#?}");
    for words in ["rate limit of the server", "--clients", "allow ADDRESS --unlimited"] {
        let said = output.stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains(words), "no `{words}` in {output:#?}");
    }
    assert!(!output.stdout.contains("Highest rate"), "{output:#?}");
    let output = run(REFUSE, &["load", "--rate", "200"]);
    assert!(output.stdout.contains("kisses of death"), "{output:#?}");
    assert!(
        output.code() == Some(1) && output.stderr.contains("of the limit and not of the server"),
        "{output:#?}"
    );
    run(REFUSE, &["load", "--rate", "200", "--max-loss", "100%"]).expect_success();
}

#[test]
fn silence_and_thresholds_that_are_missed_are_no_success() {
    let output = run(|_, _, _| 0, &["load", "--rate", "200"]);
    assert!(output.code() == Some(1) && output.stderr.contains("all requests were lost"), "{output:#?}");
    let slow: Spoil = |_, _, _| {
        thread::sleep(Duration::from_millis(3));
        1
    };
    let output = run(slow, &["load", "--rate", "100", "--max-p99", "1ms"]);
    assert!(output.code() == Some(1) && output.stderr.contains("--max-p99 is 1.0ms"), "{output:#?}");
    let half: Spoil = |number, _, _| u32::from(number % 2 == 0);
    let output = run(half, &["load", "--rate", "100", "--max-loss", "1%"]);
    assert!(output.code() == Some(1) && output.stderr.contains("--max-loss is 1 %"), "{output:#?}");
    run(|_, _, _| 1, &["load", "--rate", "100", "--max-loss", "1%", "--max-p99", "90ms"]).expect_success();
}

#[test]
fn files_are_tried_before_the_load_and_written_beside_what_is_printed() {
    let nowhere = run(|_, _, _| 1, &["load", "--rate", "100", "--html", "/nowhere/page.html"]);
    assert_eq!(nowhere.code(), Some(74), "{nowhere:#?}");
    assert!(nowhere.stdout.is_empty() && nowhere.stderr.contains("/nowhere/page.html"), "{nowhere:#?}");
    let file = std::env::temp_dir().join(format!("pooltime-bench-{}.json", std::process::id()));
    let table =
        run(|_, _, _| 1, &["load", "--rate", "100", "--json-file", file.to_str().unwrap()]).expect_success();
    let report: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(table.contains("answered") && report["steps"].as_array().unwrap().len() == 1, "{table}");
    assert!(report["command_line"].as_str().unwrap().contains("--json-file"), "{report}");
    for line in table.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn an_interrupted_load_has_results_until_then() {
    let server = Server::start(|_, _, _| 1);
    let load = Command::new(BENCH)
        .args(["load", &server.address, "--rate", "500", "--duration", "60s", "--warm-up", "0s", "--json"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(1500));
    let pid = nix::unistd::Pid::from_raw(load.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let output = load.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let step = &report["steps"][0];
    assert!(number(step, "answered") > 100 && number(step, "lost") == 0, "{step}");
    let rate = step["sent_rate"].as_f64().unwrap();
    assert!((400.0..600.0).contains(&rate), "of the time until then: {rate}");
}

#[test]
fn no_line_of_help_is_wider_than_80_columns() {
    for command in [
        &["-h"][..],
        &["load", "-h"],
        &["load", "--help"],
        &["find-max", "--help"],
        &["compare", "--help"],
        &["cost", "--help"],
    ] {
        let help = Output::of(Command::new(BENCH).args(command)).expect_success();
        for line in help.lines() {
            assert!(line.chars().count() <= 80, "{command:?}: {line}");
        }
    }
}

#[test]
fn find_max_finds_what_a_server_takes() {
    // 2 ms for each answer: 500 a second, whatever is asked for.
    let server = Server::start(|_, _, _| {
        thread::sleep(Duration::from_millis(2));
        1
    });
    let output = Command::new(BENCH)
        .args(["find-max", &server.address, "--rate", "50..5000", "--loss", "5%"])
        .args(["--duration", "500ms", "--timeout", "50ms", "--warm-up", "0s", "--json"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let conclusion = report["conclusion"].as_str().unwrap();
    let rate: f64 =
        conclusion.split("lost: ").nth(1).unwrap().split(' ').next().unwrap().parse().expect(conclusion);
    assert!((150.0..700.0).contains(&rate), "{conclusion}");
}
