//! What runs in the guest: it shows the kernel's clock and discipline to the host, and changes them when told to.

use std::net::UdpSocket;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use control::sys::{ClockChange, adjtimex, change_clock};
use libc::STA_UNSYNC;

use crate::Result;

/// Where the host asks.
pub(crate) const PORT: u16 = 9124;
/// Units of adjtimex's frequency in a ppm.
const SCALE: f64 = 65_536.0;
/// Without a correction.
pub(crate) const PLAIN_TICK_US: i64 = 10_000;

#[derive(Subcommand)]
pub(crate) enum Job {
    /// Answers the host's questions for the clock, for ever.
    Serve,
    /// Steps the clock.
    Step {
        #[arg(allow_hyphen_values = true)]
        seconds: f64,
    },
    /// Sets the kernel's rate: ppm and microseconds in a tick.
    Rate {
        #[arg(allow_hyphen_values = true)]
        ppm: f64,
        tick_us: i64,
    },
    /// Leaves a kernel clock that nobody has touched, but for its time.
    Reset,
}

pub(crate) fn run(job: &Job) -> Result<()> {
    let change = match job {
        Job::Serve => return serve(),
        Job::Step { seconds } => {
            ClockChange { step_ns: Some(whole(seconds * 1e9)), ..ClockChange::default() }
        }
        Job::Rate { ppm, tick_us } => {
            ClockChange { rate: Some((whole(ppm * SCALE), *tick_us)), ..ClockChange::default() }
        }
        Job::Reset => {
            change_clock(&ClockChange { end_slews: true, ..ClockChange::default() })?;
            ClockChange {
                rate: Some((0, PLAIN_TICK_US)),
                status: Some(STA_UNSYNC),
                errors_us: Some((16_000_000, 16_000_000)),
                ..ClockChange::default()
            }
        }
    };
    Ok(change_clock(&change)?)
}

#[expect(clippy::cast_possible_truncation, reason = "of at most decades")]
fn whole(value: f64) -> i64 {
    value.round() as i64
}

/// What the guest's kernel said of its clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// Since 1970, before and after.
    pub(crate) before_ns: i128,
    pub(crate) after_ns: i128,
    pub(crate) is_synchronised: bool,
    pub(crate) max_error_us: i64,
    pub(crate) tai_offset_s: i32,
}

fn serve() -> Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", PORT))?;
    let mut buffer = [0; 64];
    loop {
        let (length, host) = socket.recv_from(&mut buffer)?;
        let before = now_ns();
        let kernel = adjtimex()?;
        let cookie = String::from_utf8_lossy(&buffer[..length]);
        let said = format!(
            "{cookie} {before} {} {} {} ",
            i32::from(kernel.status & STA_UNSYNC == 0),
            kernel.max_error_us,
            kernel.tai_offset_s
        );
        let _lost = socket.send_to(format!("{said}{}", now_ns()).as_bytes(), host);
    }
}

impl Look {
    /// The answer to the question with this cookie.
    pub(crate) fn parse(text: &str, cookie: &str) -> Option<Self> {
        let mut words = text.split(' ');
        if words.next() != Some(cookie) {
            return None;
        }
        let before_ns = words.next()?.parse().ok()?;
        let is_synchronised = words.next()? == "1";
        let max_error_us = words.next()?.parse().ok()?;
        let tai_offset_s = words.next()?.parse().ok()?;
        Some(Self {
            before_ns,
            is_synchronised,
            max_error_us,
            tai_offset_s,
            after_ns: words.next()?.parse().ok()?,
        })
    }
}

/// The system clock, in ns since 1970.
pub(crate) fn now_ns() -> i128 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    since.as_nanos().cast_signed()
}
