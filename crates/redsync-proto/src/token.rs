//! Who holds: the owner's unique id, new for every attempt.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::fmt::{self, Write};

use super::InvalidOption;

/// The owner's unique id for one attempt at a lock. On a server it is the key's value.
///
/// A token belongs to one attempt and is never used again: a late packet of an old attempt can then harm nobody.
/// [`Token::drawn`] makes `DIGITS.TIME@LABEL`, or `DIGITS.TIMEr@LABEL` where the holder is going to renew its lease: 20 random
/// bytes in 40 hexadecimal digits, the time in milliseconds since 1970 in 9 digits of base 36, and the owner's label. So a
/// plain `GET` shows who holds. Go's redsync: `genValue`, `Mutex.Value`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(Arc<str>);

impl Token {
    /// The longest token, in bytes.
    pub const MAX_BYTES: usize = 512;

    /// How many random bytes a token has.
    pub const RANDOM_BYTES: usize = 20;

    /// A token of these random bytes, with `owner`'s label at its end, and neither of the facts of [`drawn`](Token::drawn).
    /// A caller draws new bytes for each attempt.
    pub fn new(random: [u8; Self::RANDOM_BYTES], owner: &OwnerLabel) -> Self {
        Self::assembled(random, None, owner)
    }

    /// A token of these random bytes, drawn at `unix_millis`, milliseconds since 1970 by the wall clock. `renews` says
    /// whether its holder is going to renew its lease until it releases the lock.
    ///
    /// Both are told by [`Holder::since`](crate::Holder::since) and [`Holder::renews`](crate::Holder::renews). They are there
    /// to be shown, and decide nothing. A time after the year 5000 is cut.
    pub fn drawn(
        random: [u8; Self::RANDOM_BYTES],
        owner: &OwnerLabel,
        unix_millis: u64,
        renews: bool,
    ) -> Self {
        Self::assembled(random, Some(Facts { since: unix_millis, renews }), owner)
    }

    fn assembled(random: [u8; Self::RANDOM_BYTES], facts: Option<Facts>, owner: &OwnerLabel) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut digits = [[0_u8; 2]; Self::RANDOM_BYTES];
        for (pair, byte) in digits.iter_mut().zip(random) {
            *pair = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
        }
        let digits =
            core::str::from_utf8(digits.as_flattened()).unwrap_or_else(|_| unreachable!("digits are text"));
        let mut text = String::with_capacity(digits.len() + Facts::MOST_BYTES + 1 + owner.0.len());
        text.push_str(digits);
        if let Some(facts) = facts {
            facts.write(&mut text);
        }
        text.push('@');
        text.push_str(&owner.0);
        Self(text.into())
    }

    /// Takes `text` as a token: one of your own making, or one made elsewhere.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`] when it is empty or longer than [`Token::MAX_BYTES`].
    pub fn from_text(text: impl AsRef<str>) -> Result<Self, InvalidOption> {
        let text = text.as_ref();
        match text.len() {
            0 => Err(InvalidOption::new("token", "it is empty, as a key that nobody owns would be")),
            bytes if bytes > Self::MAX_BYTES => Err(InvalidOption::new(
                "token",
                format!("it has {bytes} bytes; the most is {}", Self::MAX_BYTES),
            )),
            _ => Ok(Self(text.into())),
        }
    }

    /// The token's text, as the server keeps it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The owner's label at the token's end, if it has one.
    pub fn owner(&self) -> Option<&str> {
        owner_in(&self.0)
    }
}

/// The owner's label in a token's text, whoever made the token.
pub fn owner_in(token: &str) -> Option<&str> {
    token.split_once('@').map(|(_, owner)| owner).filter(|owner| !owner.is_empty())
}

/// What a token says beside its owner's label: nothing where another library made it, or a former version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// When it was drawn: milliseconds since 1970 by the wall clock of whoever drew it.
    pub since: u64,
    /// Whether its holder renews its lease.
    pub renews: bool,
}

/// The facts in a token's text. What is written in another way is text like any other.
pub fn facts_in(token: &str) -> Option<Facts> {
    let (random, said) = token.split_once('@')?.0.split_once('.')?;
    let (time, mark) = said.split_at_checked(Facts::TIME_DIGITS)?;
    let is_written_here = random.len() == 2 * Token::RANDOM_BYTES
        && time.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
    let renews = match mark {
        "" => false,
        "r" => true,
        _ => return None,
    };
    let since = u64::from_str_radix(time, Facts::RADIX).ok()?;
    is_written_here.then_some(Facts { since, renews })
}

impl Facts {
    const RADIX: u32 = 36;

    /// All of them are written: an `r` that follows could else be one more.
    const TIME_DIGITS: usize = 9;

    /// A point, the time, and an `r`.
    const MOST_BYTES: usize = 1 + Self::TIME_DIGITS + 1;

    fn write(self, text: &mut String) {
        let mut digits = ['0'; Self::TIME_DIGITS];
        let mut rest = self.since.min(u64::from(Self::RADIX).pow(Self::TIME_DIGITS as u32) - 1);
        for digit in digits.iter_mut().rev() {
            let value = (rest % u64::from(Self::RADIX)) as u32;
            *digit = char::from_digit(value, Self::RADIX).unwrap_or('0');
            rest /= u64::from(Self::RADIX);
        }
        text.push('.');
        text.extend(digits);
        if self.renews {
            text.push('r');
        }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Who locks, in words for people: `host:pid` unless set. Printable, without blanks, up to 128 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerLabel(Arc<str>);

impl OwnerLabel {
    /// The longest label, in bytes.
    pub const MAX_BYTES: usize = 128;

    /// Takes `text` as a label.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`] when it is empty, longer than [`OwnerLabel::MAX_BYTES`], or holds blanks or control
    /// characters, which would make status lines ambiguous.
    pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidOption> {
        let text = text.as_ref();
        if text.is_empty() {
            return Err(InvalidOption::new("owner", "it is empty"));
        }
        if text.len() > Self::MAX_BYTES {
            let reason = format!("it has {} bytes; the most is {}", text.len(), Self::MAX_BYTES);
            return Err(InvalidOption::new("owner", reason));
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            let reason = format!("{text:?} holds blanks or control characters");
            return Err(InvalidOption::new("owner", reason));
        }
        Ok(Self(text.into()))
    }

    /// `host:pid`, where characters that a label may not hold become `-`.
    pub fn of_process(host: &str, pid: u32) -> Self {
        let mut text: String = host
            .chars()
            .map(|c| if c.is_control() || c.is_whitespace() { '-' } else { c })
            .scan(0, |bytes, c| {
                *bytes += c.len_utf8();
                (*bytes <= Self::MAX_BYTES - 16).then_some(c)
            })
            .collect();
        let _ = write!(text, ":{pid}");
        Self(text.into())
    }

    /// The label's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_its_bytes_in_digits_and_its_owner() {
        let owner = OwnerLabel::new("web-2:311").unwrap();
        let token = Token::new([0xa5; 20], &owner);
        assert_eq!(token.owner(), Some("web-2:311"));
        assert_eq!(token.as_str().len(), 40 + 1 + 9);
    }

    #[test]
    fn tokens_of_other_libraries_have_no_owner() {
        let foreign = Token::from_text("q1Zx+/b4u0r3o0B3m9nD3A==").unwrap();
        assert_eq!(foreign.owner(), None);
    }

    #[test]
    fn a_token_says_when_it_was_drawn_and_whether_its_holder_renews() {
        let owner = OwnerLabel::new("web-2:311").unwrap();
        for since in [0, 1, 1_785_312_345_678, 36_u64.pow(8) - 1, 36_u64.pow(8), 36_u64.pow(9) - 1] {
            for renews in [false, true] {
                let token = Token::drawn([0xa5; 20], &owner, since, renews);
                assert_eq!(facts_in(token.as_str()), Some(Facts { since, renews }), "{token}");
                assert_eq!(token.owner(), Some("web-2:311"));
            }
        }
        let far = Token::drawn([0xa5; 20], &owner, u64::MAX, true);
        assert_eq!(facts_in(far.as_str()), Some(Facts { since: 36_u64.pow(9) - 1, renews: true }));
        let spelt = Token::drawn([0xa5; 20], &owner, 1_785_312_345_678, true);
        assert_eq!(&spelt.as_str()[40..], ".0ms5svia6r@web-2:311");
    }

    #[test]
    fn facts_that_are_written_in_another_way_are_text() {
        let digits = "0123456789abcdef0123456789abcdef01234567";
        for said in [
            "",
            ".",
            ".0ms6emw7",
            ".0ms6emw7yx",
            ".0ms6emw7yrr",
            ".0MS6EMW7Y",
            ".0ms6e w7y",
            ".+ms6emw7y",
            ".ñms6emw7",
            "0.0ms6emw7y",
        ] {
            let token = format!("{digits}{said}@web-2:311");
            assert_eq!(facts_in(&token), None, "{token}");
            assert_eq!(owner_in(&token), Some("web-2:311"));
        }
        assert_eq!(facts_in(&format!("{digits}.0ms6emw7yr")), None);
    }

    #[test]
    fn nonsense_is_refused_with_a_reason() {
        assert!(Token::from_text("").unwrap_err().to_string().contains("empty"));
        assert!(Token::from_text("t".repeat(513)).unwrap_err().to_string().contains("513 bytes"));
        assert!(OwnerLabel::new("").is_err());
        let message = OwnerLabel::new("two words").unwrap_err().to_string();
        assert_eq!(message, "invalid owner: \"two words\" holds blanks or control characters");
    }

    #[test]
    fn every_process_has_a_label_that_a_label_may_be() {
        for host in ["web-2", "a host\nof two lines", &"h".repeat(300), ""] {
            let label = OwnerLabel::of_process(host, 311);
            assert_eq!(OwnerLabel::new(label.as_str()).unwrap(), label);
            assert!(label.as_str().ends_with(":311"));
        }
    }
}
