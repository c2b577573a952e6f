//! Waiting for events instead of sleeping.

use std::thread;
use std::time::{Duration, Instant};

/// Polls `condition` every few milliseconds until it is true.
///
/// # Panics
///
/// When `deadline` has passed and the condition is still false. The message says `what` was waited for, so phrase
/// it as the event: `wait_until("the lease expires", …)`.
#[track_caller]
pub fn wait_until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    // Read the clock before the condition: a slow machine gets one look after the deadline too.
    loop {
        let late = began.elapsed() >= deadline;
        if condition() {
            return;
        }
        assert!(!late, "waited {deadline:?} in vain until {what}");
        thread::sleep(POLL_INTERVAL);
    }
}

const POLL_INTERVAL: Duration = Duration::from_millis(3);
