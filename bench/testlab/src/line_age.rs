//! Watches how old the published line of the clock gets while things are done to a server.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use control::serving::xdp::Datapath;
use control::sys::kernel_clock::monotonic_ns;

use crate::server::Server;

/// The published line is never older than this: it is published four times a second.
const OLDEST: Duration = Duration::from_millis(500);

/// Watches the published line while things are done.
pub struct Watch<'a> {
    server: &'a Server<'a>,
    oldest_ns: &'a AtomicU64,
    failed: Vec<String>,
}

impl Watch<'_> {
    /// Does a thing, and takes note where the line got too old meanwhile.
    pub fn during<T>(&mut self, what: &str, work: impl FnOnce(&Server<'_>) -> T) -> T {
        self.oldest_ns.store(0, Ordering::Relaxed);
        let start = Instant::now();
        let done = work(self.server);
        let took = start.elapsed();
        std::thread::sleep(OLDEST);
        let oldest = Duration::from_nanos(self.oldest_ns.load(Ordering::Relaxed));
        let line =
            format!("{what}: {took:.2?}, the published line was up to {:.2} s old", oldest.as_secs_f64());
        println!("{line}");
        if oldest > OLDEST {
            self.failed.push(line);
        }
        done
    }
}

/// Runs `work` beside a thread that reads the published line every few milliseconds.
pub fn watching(server: &Server<'_>, work: impl FnOnce(&mut Watch<'_>)) {
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
