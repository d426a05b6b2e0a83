//! Waiting for a condition with a deadline.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// The deadline of everything that tests wait for. It is long enough for a busy machine, and only a failing test
/// waits until it passes.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How many times as long as on real hardware everything takes on this machine: `$POOLTIME_SLOWNESS`, or 1.
/// `scripts/vm test` sets it, because there a CPU may be emulated.
///
/// # Panics
///
/// If it is set to anything but a number from 1 to 100.
pub fn slowness() -> u32 {
    static FACTOR: LazyLock<u32> = LazyLock::new(|| {
        let Some(set) = std::env::var_os("POOLTIME_SLOWNESS") else { return 1 };
        let factor =
            set.to_str().and_then(|set| set.parse().ok()).filter(|factor| (1..=100).contains(factor));
        factor.unwrap_or_else(|| panic!("POOLTIME_SLOWNESS is {}, and not 1 to 100", set.display()))
    });
    *FACTOR
}

/// [`PATIENCE`], on this machine.
pub fn patience() -> Duration {
    PATIENCE * slowness()
}

/// Calls `ask` until it returns something, and returns that. It panics with `what` after [`patience`].
#[track_caller]
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < patience(), "waited {:?} for {what}", patience());
        std::thread::sleep(Duration::from_millis(20));
    }
}
