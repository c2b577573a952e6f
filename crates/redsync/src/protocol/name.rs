//! What a lock is called.

use std::fmt;
use std::sync::Arc;

use super::InvalidOption;

/// The name of a lock: any non-empty text of up to 1 KiB. On a server it is the key, as it stands.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockName(Arc<str>);

impl LockName {
    /// The longest name, in bytes.
    pub const MAX_BYTES: usize = 1024;

    /// Takes `name` as a lock's name.
    ///
    /// # Errors
    ///
    /// [`InvalidOption`] when it is empty or longer than [`LockName::MAX_BYTES`].
    pub fn new(name: impl AsRef<str>) -> Result<Self, InvalidOption> {
        let name = name.as_ref();
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
}
