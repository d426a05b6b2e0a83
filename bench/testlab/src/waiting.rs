//! Waiting for a condition with a deadline.

use std::time::{Duration, Instant};

/// The deadline of everything that tests wait for. It is long enough for a busy machine, and only a failing test
/// waits until it passes.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Calls `ask` until it returns something, and returns that. It panics with `what` after [`PATIENCE`].
#[track_caller]
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
