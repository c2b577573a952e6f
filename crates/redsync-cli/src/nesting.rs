//! The locks that redsync commands around this one hold.
//!
//! Who waits for one of them, while its holder waits for the command to end, waits for ever. Each `run` adds its lock to
//! an environment variable. A process may outlive the lock under which it was started and keep the variable, so that the
//! nodes decide: the holder's token is still the one in the variable, or it is not.

use std::env;

use redsync::{LockName, Token};
use serde_json::{Value, json};

use crate::exit::Exit;
use crate::nodes::Fleet;
use crate::report::Failure;

/// The innermost lock, for the command itself.
pub(crate) const NAME: &str = "REDSYNC_NAME";
pub(crate) const TOKEN: &str = "REDSYNC_TOKEN";

/// All of them, outermost first: a JSON array of pairs, `[["nightly","<token>"],…]`.
pub(crate) const HELD: &str = "REDSYNC_HELD";

/// Locks under which this process runs: names and tokens, outermost first.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Enclosing(Vec<(String, String)>);

impl Enclosing {
    pub(crate) fn from_environment() -> Self {
        let held = env::var(HELD).map(|held| Self::parse(&held)).unwrap_or_default();
        let innermost = env::var(NAME).ok().zip(env::var(TOKEN).ok());
        held.with(innermost)
    }

    /// What cannot be read is left out: it was not written by redsync, and costs no more than the check.
    fn parse(text: &str) -> Self {
        let pairs: Vec<Value> = serde_json::from_str(text).unwrap_or_default();
        let pair = |pair: &Value| {
            let text = |index: usize| pair.get(index).and_then(Value::as_str).map(str::to_owned);
            text(0).zip(text(1))
        };
        Self(pairs.iter().filter_map(pair).collect())
    }

    fn with(mut self, pair: Option<(String, String)>) -> Self {
        if let Some(pair) = pair.filter(|pair| !self.0.contains(pair)) {
            self.0.push(pair);
        }
        self
    }

    /// The variable's value for a command that also holds this lock.
    pub(crate) fn and(self, name: &LockName, token: &Token) -> String {
        let pairs = self.with(Some((name.as_str().to_owned(), token.as_str().to_owned()))).0;
        // The kernel limits the length of one variable to 128 KiB, and a name's to no more than 1 KiB.
        let first = pairs.len().saturating_sub(MOST);
        json!(pairs.get(first..).unwrap_or_default()).to_string()
    }

    fn has(&self, name: &str, token: &str) -> bool {
        self.0.iter().any(|(n, t)| n == name && t == token)
    }
}

/// Refuses to wait for a lock that a redsync around this one holds on these nodes.
pub(crate) async fn refuse_deadlock(fleet: &Fleet, name: &str) -> Result<(), Failure> {
    let enclosing = Enclosing::from_environment();
    if !enclosing.0.iter().any(|(held, _)| held == name) {
        return Ok(());
    }
    // Where nodes do not answer, the attempt itself says so.
    let Ok(looked) = fleet.redsync.inspect(name).await else { return Ok(()) };
    match looked.holder() {
        Some(holder) if enclosing.has(name, holder.token()) => Err(Failure::new(
            Exit::Usage,
            "would_deadlock",
            format!(
                "lock {name:?} is held by the redsync that runs this command: waiting for it would deadlock (see `redsync run --help` on REDSYNC_HELD)"
            ),
        )),
        _ => Ok(()),
    }
}

/// Deeper nesting loses the outermost locks.
const MOST: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn enclosing(pairs: &[(&str, &str)]) -> Enclosing {
        Enclosing(pairs.iter().map(|(name, token)| ((*name).to_owned(), (*token).to_owned())).collect())
    }

    #[test]
    fn names_of_any_text_are_read_as_they_were_written() {
        let name = LockName::new("a,b=\"c\"]\n[\u{1f512}").unwrap();
        let token = Token::from_text("t@web-1:7").unwrap();
        let written = enclosing(&[("outer", "o")]).and(&name, &token);
        assert_eq!(Enclosing::parse(&written), enclosing(&[("outer", "o"), (name.as_str(), "t@web-1:7")]));
    }

    #[test]
    fn what_redsync_did_not_write_is_left_out() {
        for text in ["", "[", "{}", "[1]", "[[\"a\"]]", "[[\"a\",1]]"] {
            assert_eq!(Enclosing::parse(text), Enclosing::default(), "{text}");
        }
    }

    #[test]
    fn the_deepest_nesting_fits_into_one_variable() {
        // JSON writes six bytes for each of these.
        let name = LockName::new("\u{1}".repeat(1024)).unwrap();
        let mut written = "[]".to_owned();
        for number in 0..100 {
            let token = Token::from_text(number.to_string()).unwrap();
            written = Enclosing::parse(&written).and(&name, &token);
        }
        assert!(written.len() < 120_000, "{}", written.len());
        assert!(Enclosing::parse(&written).has(name.as_str(), "99"));
    }
}
