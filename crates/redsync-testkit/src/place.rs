//! Where server directories are made, and how to tell them from others.

use std::path::PathBuf;

/// What the path of every server directory begins with.
pub(crate) fn prefix() -> PathBuf {
    parent().join(NAME_PREFIX)
}

/// The system's temporary directory, unless a unix socket in it would have too long a path.
pub(crate) fn parent() -> PathBuf {
    let configured = std::env::temp_dir();
    if configured.is_absolute() && configured.as_os_str().len() <= LONGEST_PARENT {
        configured
    } else {
        PathBuf::from("/tmp")
    }
}

pub(crate) const NAME_PREFIX: &str = "redsync-testkit-";

/// Linux allows 107 bytes for the path of a unix socket; the names below the parent need some 35.
const LONGEST_PARENT: usize = 70;
