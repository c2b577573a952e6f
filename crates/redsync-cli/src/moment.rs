//! Points in time, in words.

use std::time::Duration;

use redsync::{Clock, SystemClock};

use crate::duration::in_words;

/// Milliseconds since 1970, by this machine's wall clock: to be shown, and to say how long ago something was.
pub(crate) fn now_in_millis() -> u64 {
    SystemClock.wall_micros() / 1_000
}

/// `3 min 2 s ago (2026-07-29T10:03:20Z)`, of milliseconds since 1970 by the clock of another machine.
pub(crate) fn ago(since: u64, now: u64) -> String {
    let utc = utc(since);
    match since.checked_sub(now) {
        Some(ahead) if ahead > CLOCKS_DIFFER => format!("at {utc} by its clock, which is ahead of this one"),
        _ => format!("{} ago ({utc})", elapsed(since, now)),
    }
}

/// `3 min 2 s`.
pub(crate) fn elapsed(since: u64, now: u64) -> String {
    in_words(Duration::from_millis(now.saturating_sub(since)))
}

/// RFC 3339, to the second, in UTC.
pub(crate) fn utc(millis: u64) -> String {
    let (days, seconds) = (millis / 86_400_000, millis / 1_000 % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Year, month and day of a number of days since 1970 began.
fn date(days: u64) -> (u64, u64, u64) {
    let (mut year, mut left) = (1970, days);
    // The calendar repeats every 400 years.
    year += left / DAYS_IN_400_YEARS * 400;
    left %= DAYS_IN_400_YEARS;
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if left < length {
            break;
        }
        left -= length;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

const fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

const DAYS_IN_400_YEARS: u64 = 146_097;

/// By how many milliseconds the clocks of two machines may differ without a word.
const CLOCKS_DIFFER: u64 = 2_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_utc() {
        // As `date -u -d @SECONDS` tells them.
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_785_312_345, "2026-07-29T08:05:45Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (13_574_563_200, "2400-02-29T00:00:00Z"),
        ] {
            assert_eq!(utc(seconds * 1_000), text);
        }
    }

    #[test]
    fn what_was_is_told_by_how_long_ago() {
        let now = 1_785_312_345_678;
        assert_eq!(ago(now - 182_000, now), "3 min 2 s ago (2026-07-29T08:02:43Z)");
        assert_eq!(ago(now + 900, now), "0 s ago (2026-07-29T08:05:46Z)");
        let ahead = ago(now + 60_000, now);
        assert_eq!(ahead, "at 2026-07-29T08:06:45Z by its clock, which is ahead of this one");
    }
}
