//! What a lock is called.

use alloc::format;
use alloc::sync::Arc;
use core::fmt;

use super::InvalidOption;

/// The name of a lock: any non-empty text of up to 1 KiB without a [reserved part](LockName::RESERVED). On a server it is the
/// key, as it stands.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockName(Arc<str>);

impl LockName {
    /// The longest name, in bytes.
    pub const MAX_BYTES: usize = 1024;

    /// What no name may contain. Servers keep the queue and the fence counter of a lock beside it, under keys with these
    /// parts; a lock of such a name would overwrite them.
    pub const RESERVED: [&'static str; 2] = ["}:redsync:", ":redsync:tagged:"];

    /// Takes `name` as a lock's name.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`] when it is empty, longer than [`LockName::MAX_BYTES`], or contains one of [`LockName::RESERVED`].
    pub fn new(name: impl AsRef<str>) -> Result<Self, InvalidOption> {
        let name = name.as_ref();
        if let Some(part) = Self::RESERVED.iter().find(|part| name.contains(**part)) {
            let reason = format!(
                "it contains {part:?}; under such keys a server keeps the queue and the fence counter of another lock"
            );
            return Err(InvalidOption::new("name", reason));
        }
        match name.len() {
            0 => Err(InvalidOption::new("name", "it is empty")),
            bytes if bytes > Self::MAX_BYTES => Err(InvalidOption::new(
                "name",
                format!("it has {bytes} bytes; the most is {}", Self::MAX_BYTES),
            )),
            _ => Ok(Self(name.into())),
        }
    }

    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name as it is; quote it yourself where it stands in a sentence.
impl fmt::Display for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl AsRef<str> for LockName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_neither_empty_nor_longer_than_a_kibibyte() {
        assert_eq!(LockName::new("").unwrap_err().to_string(), "invalid name: it is empty");
        let message = LockName::new("n".repeat(1025)).unwrap_err().to_string();
        assert_eq!(message, "invalid name: it has 1025 bytes; the most is 1024");
        assert!(LockName::new("n".repeat(1024)).is_ok());
    }

    #[test]
    fn a_name_that_other_locks_use_for_their_own_keys_is_refused_with_the_reason() {
        for (name, part) in [
            ("{x}:redsync:line", "}:redsync:"),
            ("{x}:redsync:fence", "}:redsync:"),
            ("{a}:1:redsync:tagged:line", ":redsync:tagged:"),
            ("{x}:redsync:redsync:grants:1", "}:redsync:"),
        ] {
            let message = LockName::new(name).unwrap_err().to_string();
            let said = format!(
                "invalid name: it contains {part:?}; under such keys a server keeps the queue and the fence counter of another lock"
            );
            assert_eq!(message, said, "{name}");
        }
        for name in
            ["redsync:line", "x:redsync:fence", "{x}:redsync", "redsync:tagged:line", "redsync:grants:x"]
        {
            assert!(LockName::new(name).is_ok(), "{name}");
        }
    }
}
