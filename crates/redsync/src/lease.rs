//! A lock's lease as a value: to print, to store, to hand to another process.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::node::Claim;
use crate::protocol::{Expiry, Fence, InvalidOption, LockName, Token};

/// A held lock as a value: its name, its token and its expiry. Whoever has it can
/// [adopt](crate::Mutex::adopt), extend and release the lock, from any process and any machine.
///
/// It carries no time: clocks of different machines cannot be compared. Whether the lock is still held is found out
/// by asking the nodes, which adopting does.
///
/// Where a request was still under way when the guard was [let go of](crate::Guard::into_lease), the lease says so, and whoever
/// adopts it believes no more than that leaves.
///
/// [`Display`](fmt::Display) and [`FromStr`] give and take one line without blanks or shell characters, such as
/// `redsync:8000:orders%3A42:5f1c…@web-2%3A311`: expiry in milliseconds, name, token, percent-encoded; and the fence, where
/// there is one. With the feature `serde` it is (de)serialised as that line.
///
/// A lease is as good as the lock: keep it from those who should not release it. It has one user at a time: where one
/// holder goes on with its guard while another extends by the lease, each believes only what it asked for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    name: LockName,
    token: Token,
    expiry: Expiry,
    /// A request was under way when the lease was written, and may be applied after any of its next user's. It lets the lease
    /// last for no longer than this.
    pending_expiry: Option<Expiry>,
    fence: Option<Fence>,
}

impl Lease {
    pub(crate) fn new(
        claim: &Claim,
        expiry: Expiry,
        pending_expiry: Option<Expiry>,
        fence: Option<Fence>,
    ) -> Self {
        Self { name: claim.name.clone(), token: claim.token.clone(), expiry, pending_expiry, fence }
    }

    /// A lease from its parts: for a lock that another library took, whose token is the key's value. Go's redsync:
    /// `WithValue`.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`] when a part is not what a lock can have.
    pub fn from_parts(
        name: impl AsRef<str>,
        token: impl AsRef<str>,
        expiry: Duration,
    ) -> Result<Self, InvalidOption> {
        let (name, token, expiry) = (LockName::new(name)?, Token::from_text(token)?, Expiry::new(expiry)?);
        Ok(Self { name, token, expiry, pending_expiry: None, fence: None })
    }

    /// The same lease, of a lock that was taken with this fence.
    #[must_use]
    pub fn with_fence(self, fence: Fence) -> Self {
        Self { fence: Some(fence), ..self }
    }

    /// The lock's name.
    pub fn name(&self) -> &LockName {
        &self.name
    }

    /// The token that holds.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// The lock's fence, if it was [taken with one](crate::Mutex::fenced).
    pub const fn fence(&self) -> Option<Fence> {
        self.fence
    }

    pub(crate) const fn pending_expiry(&self) -> Option<Expiry> {
        self.pending_expiry
    }

    /// How long the lease is extended for each time.
    pub fn expiry(&self) -> Duration {
        self.expiry.as_duration()
    }
}

const PREFIX: &str = "redsync:";

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, token) = (Encoded(self.name.as_str()), Encoded(self.token.as_str()));
        write!(f, "{PREFIX}{}", self.expiry.as_millis())?;
        if let Some(pending_expiry) = self.pending_expiry {
            write!(f, "/{}", pending_expiry.as_millis())?;
        }
        write!(f, ":{name}:{token}")?;
        self.fence.map_or(Ok(()), |fence| write!(f, ":{fence}"))
    }
}

/// A text that is no lease, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidLease {
    reason: String,
}

impl fmt::Display for InvalidLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid lease: {}", self.reason)
    }
}

impl std::error::Error for InvalidLease {}

impl FromStr for Lease {
    type Err = InvalidLease;

    fn from_str(text: &str) -> Result<Self, InvalidLease> {
        let refuse = |reason: &str| InvalidLease { reason: reason.to_owned() };
        let Some(parts) = text.trim().strip_prefix(PREFIX) else {
            return Err(refuse(
                "it does not begin with \"redsync:\", as the line that `redsync lock` prints does",
            ));
        };
        let mut parts = parts.split(':');
        let (Some(millis), Some(name), Some(token), fence, None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(refuse(
                "it does not have three parts or four after \"redsync:\"; was the line cut off?",
            ));
        };
        let (millis, pending_expiry) = match millis.split_once('/') {
            Some((millis, pending_expiry)) => (millis, Some(pending_expiry)),
            None => (millis, None),
        };
        let number = |text: &str| {
            let millis = text.parse().map_err(|_| refuse("its expiry is not a number of milliseconds"))?;
            Ok(Duration::from_millis(millis))
        };
        let decode = |part: &str| decoded(part).ok_or_else(|| refuse("its percent-encoding is broken"));
        let invalid = |invalid: InvalidOption| InvalidLease { reason: invalid.to_string() };
        let lease = Self::from_parts(decode(name)?, decode(token)?, number(millis)?).map_err(invalid)?;
        let pending_expiry =
            pending_expiry.map(|text| Expiry::new(number(text)?).map_err(invalid)).transpose()?;
        // Not quoted: where a colon of the name was not encoded, the token stands in the fence's place.
        let no_fence = |_| refuse("its last part, the fence, is not a number from 1 to 2^53 - 1");
        let fence = fence.map(str::parse).transpose().map_err(no_fence)?;
        Ok(Self { pending_expiry, fence, ..lease })
    }
}

/// Text with everything but letters, digits and `-._~@` percent-encoded. RFC 3986 §2.1.
struct Encoded<'a>(&'a str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~@".contains(&byte) {
                write!(f, "{}", char::from(byte))?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(feature = "serde")]
impl serde::Serialize for Lease {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Lease {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_lease_is_one_line_that_a_shell_leaves_alone() {
        let lease = Lease::from_parts("orders 42:$(rm)", "5f1c@web-2:311", Duration::from_secs(8)).unwrap();
        assert_eq!(lease.to_string(), "redsync:8000:orders%2042%3A%24%28rm%29:5f1c@web-2%3A311");
    }

    #[test]
    fn what_is_no_lease_is_refused_with_a_reason() {
        let message = |text: &str| text.parse::<Lease>().unwrap_err().to_string();
        assert!(message("").contains("does not begin with \"redsync:\""));
        assert!(message("redsync:8000:name").contains("cut off"));
        assert!(message("redsync:soon:name:token").contains("milliseconds"));
        assert!(message("redsync:8000:na%2:token").contains("percent-encoding"));
        assert!(message("redsync:8000::token").contains("invalid name: it is empty"));
        assert!(message("redsync:0:name:token").contains("invalid expiry"));
        assert_eq!(
            message("redsync:8000:na:me:token"),
            "invalid lease: its last part, the fence, is not a number from 1 to 2^53 - 1"
        );
    }

    proptest! {
        #[test]
        fn every_lease_survives_being_written_and_read(
            name in ".{1,60}", token in ".{1,60}", millis in 1_u64..1 << 53, pending_expiry in prop::option::of(1_u64..1 << 53),
            fence in prop::option::of(1_u64..1 << 53),
        ) {
            let expiry = |millis| Expiry::new(Duration::from_millis(millis)).unwrap();
            let lease = Lease::from_parts(name, token, Duration::from_millis(millis)).unwrap();
            let fence = fence.map(|fence| Fence::new(fence).unwrap());
            let lease = Lease { pending_expiry: pending_expiry.map(expiry), fence, ..lease };
            let line = lease.to_string();
            prop_assert!(line.bytes().all(|b| b.is_ascii_graphic()));
            prop_assert_eq!(line.parse::<Lease>().unwrap(), lease);
        }
    }
}
