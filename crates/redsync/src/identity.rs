//! Who asks for a lock: labels and tokens of this process.

use rand::Rng;

use crate::protocol::{OwnerLabel, Token};

/// A token that no attempt has had before, with `owner`'s label at its end.
///
/// Its 20 random bytes come from a cryptographic generator of this thread. Go's redsync: `genValue`.
pub fn random_token(owner: &OwnerLabel) -> Token {
    Token::new(random_bytes(), owner)
}

/// The same, of a holder that asks at `unix_millis`, milliseconds since 1970, and says whether it is going to renew its lease.
/// See [`Token::drawn`].
pub fn drawn_token(owner: &OwnerLabel, unix_millis: u64, renews: bool) -> Token {
    Token::drawn(random_bytes(), owner, unix_millis, renews)
}

fn random_bytes() -> [u8; Token::RANDOM_BYTES] {
    let mut random = [0; Token::RANDOM_BYTES];
    rand::rng().fill_bytes(&mut random);
    random
}

/// `host:pid` of this process, where characters that a label may not hold become `-`.
pub fn this_process() -> OwnerLabel {
    OwnerLabel::of_process(&host_name(), std::process::id())
}

#[cfg(unix)]
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn host_name() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_else(|_| "host".into())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn tokens_never_repeat() {
        let owner = OwnerLabel::new("web-2:311").unwrap();
        let tokens: HashSet<Token> = (0..10_000).map(|_| random_token(&owner)).collect();
        assert_eq!(tokens.len(), 10_000);
    }

    #[test]
    fn the_label_of_this_process_ends_with_its_number() {
        assert!(this_process().as_str().ends_with(&format!(":{}", std::process::id())));
    }
}
