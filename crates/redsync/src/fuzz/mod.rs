//! Bounded random tests of whatever reads text from outside. `scripts/fuzz` runs them for long.
//!
//! Those for what servers say are in `node/redis/fuzz.rs`.

use std::error::Error;
use std::sync::Arc;

use redsync_testkit::fuzz;

use crate::clock::{Clock, SystemClock};
use crate::lease::Lease;
use crate::node;
use crate::protocol::{Fence, LockName, OwnerLabel, Token};

/// What the corpus has where a secret stands.
const SECRET: &str = "hunter2";

#[test]
fn leases() {
    fuzz("leases", include_str!("leases.txt"), |input| {
        let text = String::from_utf8_lossy(input);
        match text.parse::<Lease>() {
            Ok(lease) => {
                let line = lease.to_string();
                assert!(line.bytes().all(|byte| byte.is_ascii_graphic()), "{line}");
                assert_eq!(line.parse::<Lease>(), Ok(lease));
            }
            // Whoever has the token has the lock.
            Err(error) => assert!(!error.to_string().contains(SECRET), "{error}"),
        }
    });
}

#[test]
fn names_tokens_labels_and_fences() {
    fuzz("names", include_str!("names.txt"), |input| {
        let text = String::from_utf8_lossy(input);
        if let Ok(name) = LockName::new(&text) {
            assert_eq!(LockName::new(name.as_str()), Ok(name.clone()));
            assert!(!name.as_str().is_empty() && name.as_str().len() <= LockName::MAX_BYTES);
        }
        if let Ok(token) = Token::from_text(&text) {
            assert_eq!(Token::from_text(token.as_str()), Ok(token.clone()));
            assert!(token.owner().is_none_or(|owner| token.as_str().ends_with(owner)));
        }
        let holder = node::Holder::new(text.clone(), node::TimeLeft::Unknown).to_string();
        assert!(!holder.chars().any(char::is_control), "{holder:?}");
        if let Ok(label) = OwnerLabel::new(&text) {
            assert_eq!(OwnerLabel::new(label.as_str()), Ok(label));
        }
        if let Ok(fence) = text.parse::<Fence>() {
            assert_eq!(fence.to_string().parse(), Ok(fence));
            assert_eq!(Fence::try_from(i64::from(fence)), Ok(fence));
        }
    });
}

/// The input stands in the place of a password, beside one that is known, and of a whole URL.
#[test]
fn urls() {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let mut dear = 0_u32;
    fuzz("urls", include_str!("urls.txt"), |input| {
        let text = String::from_utf8_lossy(input);
        // Names of stores are kept for as long as the process lives, and TLS reads the system's certificates each time.
        let lower = text.trim().to_ascii_lowercase();
        let is_dear = ["memory:", "rediss:", "valkeys:"].iter().any(|scheme| lower.starts_with(scheme));
        dear += u32::from(is_dear);
        if is_dear && !dear.is_multiple_of(1_000) {
            node::redacted(&text);
            return;
        }
        let _ = shown(&text, &clock);

        // A # is accepted wherever it stands.
        if text.contains('#') {
            return;
        }
        let (before, after) = text.split_at(text.floor_char_boundary(text.len() / 2));
        for url in [
            format!("redis://ann:{before}{SECRET}{after}@db.example:7000/2"),
            format!("redis://:{SECRET}{text}@db.example"),
            // What stands before a colon is a scheme, whatever it is.
            format!("{}://ann:{SECRET}{after}@db.example", before.replace(':', "")),
            format!("redis+unix:///run/redis.sock?password={before}{SECRET}{after}"),
            format!("redis+unix:///run/redis.sock?password={SECRET}&user={text}"),
        ] {
            let shown = shown(&url, &clock);
            assert!(!shown.contains(SECRET), "{url:?} is shown as {shown}");
        }
    });
}

/// All that people may see of `url`.
fn shown(url: &str, clock: &Arc<dyn Clock>) -> String {
    let opened = match node::open(url, clock) {
        Ok(node) => format!("{node} {node:?}"),
        Err(error) => {
            assert!(error.source().is_none(), "or it is to be looked at, too");
            format!("{error} {error:?}")
        }
    };
    format!("{} {opened}", node::redacted(url))
}
