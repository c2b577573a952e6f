//! Which locks are held: the server's keys a few at a time, by `SCAN`.

use super::client::{Command, Reply};
use super::keys::{Key, Keys, is_helper};
use super::{RedisNode, fence_at, holder_with_time, scripts, unexpected};
use crate::node::{Listed, NodeFault, Page, Search};
use crate::protocol::{LockName, Token};

impl RedisNode {
    /// One step of a `SCAN`, and a look at the keys that it found. No step keeps the server for longer than a millisecond or so.
    pub(super) async fn page(&self, search: &Search, from: &str) -> Result<Page, NodeFault> {
        let cursor = if from.is_empty() { BEGINNING } else { from };
        let scan = Command::new("SCAN").arg(cursor).arg("MATCH").arg(search.pattern.as_str());
        let reply = self.execute(scan.arg("COUNT").number(COUNT).arg("TYPE").arg("string")).await?;
        let (next, names) = scanned(&reply).ok_or_else(|| unexpected("SCAN", &reply))?;
        let mut page = Page::new(Vec::new(), (next != BEGINNING).then_some(next));
        // A server may give more keys than it was asked for.
        for names in names.chunks(LOOKED_AT) {
            let keys: Vec<Key<'_>> = names
                .iter()
                .map(Keys::of)
                .flat_map(|keys| [keys.lease(), keys.queue(), keys.fence()])
                .collect();
            let reply = self.evaluate(&scripts::LIST, &keys, |command: Command| {
                command.number(Token::MAX_BYTES as u64).number(search.others.into())
            });
            let reply = reply.await?;
            let found = listed(&reply, names).ok_or_else(|| unexpected("the list script", &reply))?;
            page.locks.extend(found);
        }
        Ok(page)
    }
}

/// `{cursor, {key, …}}`. Keys that no lock can have for a name are left out.
fn scanned(reply: &Reply) -> Option<(String, Vec<LockName>)> {
    let Reply::Array(parts) = reply else { return None };
    let [Reply::Text(cursor), Reply::Array(keys)] = parts.as_slice() else { return None };
    let name = |key: &Reply| match key {
        Reply::Text(key) => LockName::new(std::str::from_utf8(key).ok().filter(|key| !is_helper(key))?).ok(),
        _ => None,
    };
    Some((String::from_utf8(cursor.clone()).ok()?, keys.iter().filter_map(name).collect()))
}

/// `{number, holder, milliseconds left, how many wait, where the counter stands, …}`.
fn listed(reply: &Reply, names: &[LockName]) -> Option<Vec<Listed>> {
    let Reply::Array(parts) = reply else { return None };
    let listed = |parts: &[Reply]| match parts {
        [Reply::Int(number), holder @ Reply::Text(_), left, Reply::Int(waiting), Reply::Int(counter)] => {
            let name = names.get(usize::try_from(*number).ok()?.checked_sub(1)?)?;
            let holder = holder_with_time(&[holder.clone(), left.clone()]).ok()?;
            let lock = Listed::new(name.clone(), holder, u64::try_from(*waiting).ok()?);
            Some(lock.fenced(fence_at(*counter)))
        }
        _ => None,
    };
    parts.chunks(5).map(listed).collect()
}

/// Both a scan's first cursor and, in an answer, the sign of its end.
const BEGINNING: &str = "0";

/// How many keys a scan goes over for one page, about.
const COUNT: u64 = 500;

/// How many of those whose names match are looked at in one step.
const LOOKED_AT: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_no_locks_names_are_left_out() {
        let keys =
            [b"a".as_slice(), b"{a}:redsync:fence", b"{a}b:redsync:tagged:line", b"\xff", b"", &[b'n'; 1025]];
        let keys = keys.iter().map(|key| Reply::Text(key.to_vec())).collect();
        let reply = Reply::Array(vec![Reply::Text(b"18446744073709551615".to_vec()), Reply::Array(keys)]);
        let (cursor, names) = scanned(&reply).unwrap();
        assert_eq!(cursor, "18446744073709551615");
        assert_eq!(names, [LockName::new("a").unwrap()]);
    }
}
