//! Looks at the guest's kernel clock from the host several times a second.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::agent::{Look, PORT, now_ns};
use crate::truth::Truth;

const INTERVAL: Duration = Duration::from_millis(200);
/// Later than this nothing comes.
const ANSWER: Duration = Duration::from_millis(900);

/// What the guest's kernel clock was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KernelSample {
    pub(crate) at: Instant,
    /// How far it was ahead of the truth.
    pub(crate) error_s: f64,
    /// How far that may be off.
    pub(crate) uncertainty_s: f64,
    pub(crate) is_synchronised: bool,
    /// The kernel's own error bound.
    pub(crate) max_error_s: f64,
    /// TAI - UTC as the kernel has it.
    pub(crate) tai_offset_s: i32,
}

impl KernelSample {
    /// Whether the kernel says that it has the time, and is further off than it says.
    pub(crate) fn is_wrong(&self) -> bool {
        self.is_synchronised && self.least_error_s() > self.max_error_s
    }

    /// The error that it has for sure.
    pub(crate) fn least_error_s(&self) -> f64 {
        (self.error_s.abs() - self.uncertainty_s).max(0.0)
    }
}

/// Asks in the background until it is dropped.
pub(crate) struct Probe {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    end: AtomicBool,
    samples: Mutex<Vec<KernelSample>>,
}

impl Probe {
    pub(crate) fn start(guest: &str, truth: Truth) -> std::io::Result<Self> {
        let guest: SocketAddr = format!("{guest}:{PORT}").parse().expect("an address");
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(ANSWER))?;
        let shared = Arc::<Shared>::default();
        let asking = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let mut number = 0_u64;
            while !asking.end.load(Ordering::Relaxed) {
                number += 1;
                let began = Instant::now();
                if let Some(sample) = ask(&socket, guest, truth, &number.to_string()) {
                    asking.samples.lock().unwrap().push(sample);
                }
                thread::sleep(INTERVAL.saturating_sub(began.elapsed()));
            }
        });
        Ok(Self { shared, thread: Some(thread) })
    }

    /// All that was seen so far.
    pub(crate) fn samples(&self) -> Vec<KernelSample> {
        self.shared.samples.lock().unwrap().clone()
    }

    /// The surest of the samples since a moment.
    pub(crate) fn surest_since(&self, since: Instant) -> Option<KernelSample> {
        let samples = self.shared.samples.lock().unwrap();
        let recent = samples.iter().filter(|sample| sample.at >= since);
        recent.min_by(|one, other| one.uncertainty_s.total_cmp(&other.uncertainty_s)).copied()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.shared.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _told_by_the_thread = thread.join();
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "differences of at most decades, and of microseconds where it matters"
)]
fn ask(socket: &UdpSocket, guest: SocketAddr, truth: Truth, cookie: &str) -> Option<KernelSample> {
    let (at, sent_ns) = (Instant::now(), now_ns());
    socket.send_to(cookie.as_bytes(), guest).ok()?;
    let mut buffer = [0; 256];
    while at.elapsed() < ANSWER {
        let length = socket.recv(&mut buffer).ok()?;
        let received_ns = now_ns();
        let Some(look) = Look::parse(std::str::from_utf8(&buffer[..length]).ok()?, cookie) else { continue };
        let ahead_s = (look.before_ns - sent_ns + look.after_ns - received_ns) as f64 / 2e9;
        return Some(KernelSample {
            at,
            error_s: truth.error_s(ahead_s, at, Instant::now()),
            uncertainty_s: (received_ns - sent_ns) as f64 / 2e9,
            is_synchronised: look.is_synchronised,
            max_error_s: look.max_error_us as f64 / 1e6,
            tai_offset_s: look.tai_offset_s,
        });
    }
    None
}
