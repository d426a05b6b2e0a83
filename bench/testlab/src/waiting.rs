//! Waiting for a condition, with a deadline.

use std::time::{Duration, Instant};

/// Long enough for anything on a machine that is busy with something else; nothing waits for it in vain but
/// a test that fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks until there is an answer.
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
