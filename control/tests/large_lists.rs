//! Access lists as long as they may be: whatever is done to them, the clock is published as if they were empty.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use control::serving::xdp::Datapath;
use control::sys::kernel_clock::monotonic_ns;
use nix::sys::signal::Signal;
use responder::layout::LIST_ENTRIES;
use testlab::{CONFIG, Lab, Server};

/// The published line is never older than this: it is published four times a second.
const OLDEST: Duration = Duration::from_millis(500);

/// As many entries of either family as a list may have, in `first.0.0.0/8` and `first:0:0::/16`.
fn full_list(first: u8) -> String {
    let mut text = String::new();
    for number in 0..u32::try_from(LIST_ENTRIES).unwrap() {
        let (high, low) = (number >> 12, number & 0xfff);
        writeln!(text, "{first}.{}.{}.{}", high, low >> 4, (low & 15) << 4).unwrap();
        writeln!(text, "24{first:02}:{high:x}:{low:x}::/48").unwrap();
    }
    text
}

/// Watches the published line while things are done.
struct Watch<'a> {
    server: &'a Server<'a>,
    oldest_ns: &'a AtomicU64,
    failed: Vec<String>,
}

impl Watch<'_> {
    /// Does a thing, and takes note where the line got too old meanwhile.
    fn during(&mut self, what: &str, work: impl FnOnce(&Server<'_>)) {
        self.oldest_ns.store(0, Ordering::Relaxed);
        let start = Instant::now();
        work(self.server);
        let took = start.elapsed();
        std::thread::sleep(OLDEST);
        let oldest = Duration::from_nanos(self.oldest_ns.load(Ordering::Relaxed));
        let line =
            format!("{what}: {took:.2?}, the published line was up to {:.2} s old", oldest.as_secs_f64());
        println!("{line}");
        if oldest > OLDEST {
            self.failed.push(line);
        }
    }
}

/// Runs `work` beside a thread that reads the published line every few milliseconds.
fn watching(server: &Server<'_>, work: impl FnOnce(&mut Watch<'_>)) {
    let (oldest_ns, done) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut datapath = Datapath::open(&server.paths()).unwrap().unwrap();
            while !done.load(Ordering::Relaxed) {
                datapath.reread().unwrap();
                let base_ns = datapath.clock().monotonic_base_ns;
                let age_ns = monotonic_ns().unwrap().saturating_sub(base_ns);
                oldest_ns.fetch_max(age_ns, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(3));
            }
        });
        let mut watch = Watch { server, oldest_ns: &oldest_ns, failed: Vec::new() };
        // The sampler ends whatever becomes of the work.
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&mut watch)));
        done.store(true, Ordering::Relaxed);
        if let Err(panic) = worked {
            std::panic::resume_unwind(panic);
        }
        assert!(watch.failed.is_empty(), "{:#?}", watch.failed);
    });
}

/// Reloads a configuration with another rate, and waits until that is in force: the log tells of the same thing only once
/// in a while.
fn reload(lab: &Lab, server: &Server<'_>, rate: u32, access: &str) {
    lab.file("server.toml", &format!("{CONFIG}[limits]\nrate = {rate}\n{access}"));
    let start = Instant::now();
    server.signal(Signal::SIGHUP);
    while server.status().limits.unwrap().rate != rate {
        assert!(!server.log().contains("not reloaded"), "{}", server.log());
        assert!(start.elapsed() < Duration::from_mins(1), "the reload does not end");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
#[ignore = "needs root: scripts/test runs it"]
fn a_million_prefixes_of_each_family_never_hold_up_the_clock() {
    let lab = Lab::up(&[]);
    let list = lab.file("list", &full_list(11));
    let server = lab.server(CONFIG, &[]);
    let entries = || server.status().limits.unwrap().access_entries;
    watching(&server, |watch| {
        let access = format!("[access]\nfiles = [{list:?}]\n");
        watch.during("a full list is loaded", |server| reload(&lab, server, 20, &access));
        assert_eq!(entries(), 2 * LIST_ENTRIES);

        watch.during("`limit` for one of them", |server| {
            server.command(&["limit", "11.0.0.16"]).expect_success();
        });
        watch.during("`access remove`", |server| {
            server.command(&["access", "remove", "11.0.0.16"]).expect_success();
        });
        watch.during("an entry that ends by itself", |server| {
            server.command(&["limit", "2411:0:7::/48", "--for", "1s"]).expect_success();
            std::thread::sleep(Duration::from_millis(1500));
        });
        watch.during("`deny` for one more than there is room for", |server| {
            let said = server.command(&["deny", "12.0.0.1"]).expect_code(71);
            assert!(said.contains("12.0.0.1/32"), "{said}");
        });
        assert_eq!(entries(), 2 * LIST_ENTRIES);

        lab.file("list", &full_list(12));
        watch.during("every entry becomes another", |server| reload(&lab, server, 21, &access));
        assert_eq!(entries(), 2 * LIST_ENTRIES);

        watch.during("all entries go", |server| reload(&lab, server, 22, ""));
        assert_eq!(entries(), 0);
        watch.during("`deny` for the only one", |server| {
            server.command(&["deny", "12.0.0.1"]).expect_success();
        });
        assert_eq!(entries(), 1);
    });
}
