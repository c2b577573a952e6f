//! Patterns of names, as Redis has them.

use super::{InvalidOption, LockName};
use alloc::format;
use alloc::string::String;

/// A pattern that names are held against, as the commands `KEYS` and `SCAN` of Redis do it, byte by byte:
///
/// | written | matches |
/// | --- | --- |
/// | `*` | any text, the empty one too |
/// | `?` | one byte |
/// | `[abc]`, `[a-c]`, `[^abc]` | one byte out of these, or none of these |
/// | `\` and a character | that character |
///
/// All else stands for itself. The whole name has to match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// The longest pattern, in bytes.
    pub const MAX_BYTES: usize = 2 * LockName::MAX_BYTES;

    /// Takes `text` as a pattern.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`] when it is empty or longer than [`Pattern::MAX_BYTES`].
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidOption> {
        let text = text.into();
        match text.len() {
            0 => Err(InvalidOption::new("pattern", "it is empty; * matches every name")),
            bytes if bytes > Self::MAX_BYTES => Err(InvalidOption::new(
                "pattern",
                format!("it has {bytes} bytes; the most is {}", Self::MAX_BYTES),
            )),
            _ => Ok(Self(text)),
        }
    }

    /// The pattern of every name: `*`.
    pub fn everything() -> Self {
        Self("*".into())
    }

    /// The pattern's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the whole of `name` matches.
    pub fn matches(&self, name: &str) -> bool {
        let (mut pattern, mut name) = (self.0.as_bytes(), name.as_bytes());
        // Where the last star was met: what follows it, and the name as it was left to it. It may take more of the name; those
        // before it need not, since it can take all that they could.
        let mut star: Option<(&[u8], &[u8])> = None;
        loop {
            if let [b'*', rest @ ..] = pattern {
                pattern = rest;
                star = Some((rest, name));
                continue;
            }
            if let Some((byte, rest_of_name)) = name.split_first() {
                if let Some(rest) = after_one(pattern, *byte) {
                    (pattern, name) = (rest, rest_of_name);
                    continue;
                }
            } else if pattern.is_empty() {
                return true;
            }
            match star {
                Some((after, [_, rest @ ..])) => {
                    (pattern, name) = (after, rest);
                    star = Some((after, rest));
                }
                Some((_, [])) | None => return false,
            }
        }
    }
}

/// What is left of a pattern, which does not begin with a star, after the part that stands for `byte`; nothing where its first
/// part does not.
fn after_one(pattern: &[u8], byte: u8) -> Option<&[u8]> {
    let (matches, rest) = match pattern {
        [] => return None,
        [b'?', rest @ ..] => (true, rest),
        [b'[', set @ ..] => in_set(set, byte),
        [b'\\', escaped, rest @ ..] => (*escaped == byte, rest),
        [plain, rest @ ..] => (*plain == byte, rest),
    };
    matches.then_some(rest)
}

/// Whether a set, whose `[` was read, has `byte`; and what follows the set. One without an end goes on to the pattern's.
fn in_set(set: &[u8], byte: u8) -> (bool, &[u8]) {
    let (is_negated, mut set) = match set {
        [b'^', rest @ ..] => (true, rest),
        set => (false, set),
    };
    let mut has_it = false;
    let rest = loop {
        set = match set {
            [] => break set,
            [b']', rest @ ..] => break rest,
            [b'\\', escaped, rest @ ..] => {
                has_it |= *escaped == byte;
                rest
            }
            [first, b'-', last, rest @ ..] => {
                has_it |= (*first.min(last)..=*first.max(last)).contains(&byte);
                rest
            }
            [plain, rest @ ..] => {
                has_it |= *plain == byte;
                rest
            }
        };
    };
    (has_it != is_negated, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_they_do_in_redis() {
        let cases = [
            ("*", "", true),
            ("*", "orders:42", true),
            ("orders:*", "orders:", true),
            ("orders:*", "order:42", false),
            ("*:42", "orders:42", true),
            ("o*r*s", "orders", true),
            ("o*x*s", "orders", false),
            ("a*b*c", "aXbXcXbXc", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("na??ve", "naïve", true),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("[a-]", "-", false),
            ("[a-]", "^", true),
            ("[]", "]", false),
            ("[^]", "x", true),
            ("[ab", "b", true),
            (r"\*", "*", true),
            (r"\*", "x", false),
            (r"[\]]", "]", true),
            (r"a\", r"a\", true),
            (r"\a", "a", true),
            ("plain", "plain", true),
            ("plain", "plains", false),
        ];
        for (pattern, name, matches) in cases {
            assert_eq!(Pattern::new(pattern).unwrap().matches(name), matches, "{pattern} {name}");
        }
    }

    #[test]
    fn a_pattern_of_many_stars_takes_no_time() {
        let pattern = Pattern::new("a*".repeat(500) + "b").unwrap();
        assert!(!pattern.matches(&"a".repeat(LockName::MAX_BYTES)));
    }

    #[test]
    fn a_pattern_is_neither_empty_nor_too_long() {
        assert!(Pattern::new("").unwrap_err().to_string().contains("* matches every name"));
        assert!(Pattern::new("p".repeat(2049)).unwrap_err().to_string().contains("2049 bytes"));
        assert_eq!(Pattern::everything(), Pattern::new("*").unwrap());
    }
}
