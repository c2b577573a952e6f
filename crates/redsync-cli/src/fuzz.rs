//! Bounded random tests of what people and pipes give to the command. `scripts/fuzz` runs them for long.

use std::time::Duration;

use redsync_testkit::fuzz;

use crate::{duration, lease_commands};

#[test]
fn durations() {
    fuzz("durations", include_str!("fuzz/durations.txt"), |input| {
        let text = String::from_utf8_lossy(input);
        match duration::parse(&text) {
            Ok(duration) => {
                assert!(!duration.is_zero());
                assert!(!duration::in_words(duration).is_empty());
                assert_eq!(duration::parse(&spelled(duration)), Ok(duration), "{}", spelled(duration));
            }
            Err(reason) => assert!(!reason.is_empty()),
        }
    });
}

/// A duration as people may write it: `1h2m3.000000004s`.
fn spelled(duration: Duration) -> String {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{hours}h{minutes}m{seconds}.{nanos:09}s")
}

/// The line that `unlock -` and `extend -` read.
#[test]
fn lease_lines() {
    fuzz("lease lines", include_str!("fuzz/lease_lines.txt"), |input| {
        let line = String::from_utf8_lossy(input);
        match lease_commands::lease_in(&line) {
            Ok(lease) => assert_eq!(lease.to_string().parse(), Ok(lease)),
            // Whoever has the token has the lock.
            Err(failure) => assert!(!format!("{failure:?}").contains("hunter2"), "{failure:?}"),
        }
    });
}
