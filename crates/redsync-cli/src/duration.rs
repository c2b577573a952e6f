//! Durations as people write them and read them.

use std::time::Duration;

/// Reads `500ms`, `8s`, `1.5s`, `10m`, `1m30s`, `1h`. A number needs its unit: `8` could mean anything.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    match parse_or_zero(text)? {
        Duration::ZERO => Err("it is zero; the least is 1ms".into()),
        duration => Ok(duration),
    }
}

/// As [`parse`], for an option where nothing is something: `0s`.
pub(crate) fn parse_or_zero(text: &str) -> Result<Duration, String> {
    let mut total = Duration::ZERO;
    let mut last_unit = u64::MAX;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(format!("it is empty; {SPELLING}"));
    }
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(number_end);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        if number.is_empty() {
            return Err(format!("{rest:?} does not begin with a number; {SPELLING}"));
        }
        let nanos = match unit {
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "" => {
                return Err(format!(
                    "{number} has no unit; write {number}s for seconds, or {number}ms, {number}m, {number}h"
                ));
            }
            _ => return Err(format!("{unit:?} is no unit; {SPELLING}")),
        };
        if nanos >= last_unit {
            return Err(format!("its units are not in order; {SPELLING}"));
        }
        last_unit = nanos;
        let part =
            times(number, nanos).ok_or_else(|| format!("{number:?} is no number that fits; {SPELLING}"))?;
        // As long as one number may be.
        let sum = total.checked_add(part).filter(|sum| u64::try_from(sum.as_nanos()).is_ok());
        total = sum.ok_or_else(|| format!("it is too long; {SPELLING}"))?;
        rest = after;
    }
    Ok(total)
}

const SPELLING: &str = "write 500ms, 8s, 1.5s, 10m, 1h or 1m30s";

/// A decimal number times a unit of so many nanoseconds. Digits beyond the nanosecond are cut off.
fn times(number: &str, nanos: u64) -> Option<Duration> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole: u64 = whole.parse().ok()?;
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let billionths: u64 = if fraction.bytes().all(|b| b.is_ascii_digit()) {
        digits.parse().ok()?
    } else {
        return None;
    };
    let fraction = u128::from(billionths) * u128::from(nanos) / 1_000_000_000;
    let all = u128::from(whole) * u128::from(nanos) + fraction;
    u64::try_from(all).ok().map(Duration::from_nanos)
}

/// A time for people: `0.4 s`, `6.2 s`, `45 s`, `2 min 5 s`, `3 h 10 min`, `12 days`.
pub(crate) fn in_words(duration: Duration) -> String {
    let tenths = duration.as_millis().div_ceil(100);
    let seconds = duration.as_secs();
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match seconds {
        0..10 if !tenths.is_multiple_of(10) => format!("{}.{} s", tenths / 10, tenths % 10),
        0..10 => format!("{} s", tenths / 10),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..172_800 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{} days", hours / 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        let millis = |text: &str| parse(text).map(|duration| duration.as_millis());
        assert_eq!(millis("500ms"), Ok(500));
        assert_eq!(millis("8s"), Ok(8_000));
        assert_eq!(millis("1.5s"), Ok(1_500));
        assert_eq!(millis("10m"), Ok(600_000));
        assert_eq!(millis("1h"), Ok(3_600_000));
        assert_eq!(millis("1m30s"), Ok(90_000));
        assert_eq!(millis("1h2m3s4ms"), Ok(3_723_004));
        assert_eq!(parse("0.5ms"), Ok(Duration::from_micros(500)));
        assert_eq!(parse_or_zero("0s"), Ok(Duration::ZERO));
    }

    #[test]
    fn what_is_not_clear_is_refused_with_the_right_spelling() {
        let refused = |text: &str| parse(text).unwrap_err();
        assert!(refused("8").contains("8 has no unit; write 8s"));
        assert!(refused("1m30").contains("30 has no unit; write 30s"));
        assert!(refused("0s").contains("zero"));
        assert!(refused("0m0s").contains("zero"));
        assert!(refused("8sec").contains("\"sec\" is no unit; write 500ms"));
        assert!(refused("30s1m").contains("order"));
        assert!(refused("1s1s").contains("order"));
        assert!(refused("5124095h214748365ms").contains("too long"));
        for text in ["", "s", "-1s", "1.2.3s", ".s", "1,5s", "99999999999999999999h", "9999999999h", "8 s"] {
            assert!(refused(text).contains("write 500ms"), "{text:?}: {}", refused(text));
        }
    }

    #[test]
    fn times_are_told_to_the_precision_that_matters() {
        let words = |millis| in_words(Duration::from_millis(millis));
        assert_eq!(words(40), "0.1 s");
        assert_eq!(words(6_200), "6.2 s");
        assert_eq!(words(6_000), "6 s");
        assert_eq!(words(45_900), "45 s");
        assert_eq!(words(125_000), "2 min 5 s");
        assert_eq!(words(11_400_000), "3 h 10 min");
        assert_eq!(words(12 * 86_400_000), "12 days");
    }
}
