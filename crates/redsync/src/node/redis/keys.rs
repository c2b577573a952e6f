//! The names of what is kept on a server for one lock, all of it in one slot of a cluster.

use crate::node::ClientId;
use crate::protocol::LockName;

/// What is kept beside the lease, whose key is the name itself.
#[derive(Debug)]
pub(super) struct Keys {
    /// All in one text: they are made for each release.
    all: String,
    line: usize,
    waiters: usize,
}

impl Keys {
    pub(super) fn of(name: &LockName) -> Self {
        const LINE: &str = "line";
        const WAITERS: &str = "waiters";
        let (before, after) = around(name);
        let each = before.len() + name.as_str().len() + after.len();
        let mut all = String::with_capacity(3 * each + LINE.len() + WAITERS.len() + FENCE.len());
        for kind in [LINE, WAITERS, FENCE] {
            for part in [before, name.as_str(), after, kind] {
                all.push_str(part);
            }
        }
        Self { all, line: each + LINE.len(), waiters: 2 * each + LINE.len() + WAITERS.len() }
    }

    /// The counter alone, for requests that have nothing to do with the line.
    pub(super) fn fence_of(name: &LockName) -> String {
        let (before, after) = around(name);
        [before, name.as_str(), after, FENCE].concat()
    }

    /// A sorted set, ticket → token.
    pub(super) fn line(&self) -> &str {
        &self.all[..self.line]
    }

    /// A hash, token → what is known of the waiter.
    pub(super) fn waiters(&self) -> &str {
        &self.all[self.line..self.waiters]
    }

    /// A number: the counter of the lock's fences.
    pub(super) fn fence(&self) -> &str {
        &self.all[self.waiters..]
    }
}

/// The channel on which a client is told of its grants.
pub(super) fn channel(client: &ClientId) -> String {
    format!("{CHANNELS}{client}")
}

/// The same in a cluster, where messages of scripts stay within a slot: one for each lock.
pub(super) fn channel_in_slot(client: &ClientId, name: &LockName) -> String {
    let (before, after) = around(name);
    format!("{before}{name}{after}{CHANNELS}{client}")
}

/// The client whose channel it is, if it is one.
pub(super) fn client_of(channel: &str) -> Option<&str> {
    channel.rsplit_once(CHANNELS).map(|(_, client)| client)
}

const FENCE: &str = "fence";

const CHANNELS: &str = "redsync:grants:";

/// Names that have a hash tag of their own keep it; all others become one. The two kinds end differently, or a lock named
/// `{a}` would share its line with one named `a`.
///
/// A name with a `}` and without a tag, such as `a}b`, cannot be made one; see [`is_split`].
fn around(name: &LockName) -> (&'static str, &'static str) {
    match has_tag(name.as_str()) {
        true => ("", ":redsync:tagged:"),
        false => ("{", "}:redsync:"),
    }
}

/// Whether a cluster would have what is kept beside the lease in another slot.
pub(super) fn is_split(name: &LockName) -> bool {
    name.as_str().contains('}') && !has_tag(name.as_str())
}

/// Whether only a part of the key decides on its slot: what stands between the first `{` and the next `}`, if anything
/// does. Redis Cluster specification, "Hash tags".
fn has_tag(key: &str) -> bool {
    let Some((_, rest)) = key.split_once('{') else { return false };
    rest.find('}').is_some_and(|length| length > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(name: &str) -> Keys {
        Keys::of(&LockName::new(name).unwrap())
    }

    /// What a cluster hashes of a key.
    fn hashed(key: &str) -> &str {
        let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
        tag.filter(|tag| !tag.is_empty()).unwrap_or(key)
    }

    #[test]
    fn all_keys_of_a_lock_are_in_one_slot() {
        for name in ["orders", "{orders}", "a{b}c", "{", "a{b", "{x}{y}", "{a}{}"] {
            let keys = keys(name);
            assert_eq!(hashed(keys.line()), hashed(name), "{name}");
            assert_eq!(hashed(keys.waiters()), hashed(name), "{name}");
            assert_eq!(hashed(keys.fence()), hashed(name), "{name}");
            assert_eq!(Keys::fence_of(&LockName::new(name).unwrap()), keys.fence());
            let channel = channel_in_slot(&ClientId::random(), &LockName::new(name).unwrap());
            assert_eq!(hashed(&channel), hashed(name), "{name}");
        }
    }

    #[test]
    fn names_that_no_tag_fits_are_known() {
        for (name, split) in [("a}b", true), ("job:{}", true), ("a", false), ("{a}}", false), ("a{b", false)]
        {
            let name = LockName::new(name).unwrap();
            assert_eq!(is_split(&name), split, "{name:?}");
            assert_eq!(hashed(Keys::of(&name).line()) != hashed(name.as_str()), split, "{name:?}");
        }
    }

    #[test]
    fn no_two_locks_share_a_line() {
        assert_ne!(keys("a").line(), keys("{a}").line());
        assert_eq!(keys("orders:42").line(), "{orders:42}:redsync:line");
        assert_eq!(keys("{orders}:42").waiters(), "{orders}:42:redsync:tagged:waiters");
        assert_eq!(keys("orders:42").fence(), "{orders:42}:redsync:fence");
    }

    #[test]
    fn a_channel_names_its_client() {
        let (client, name) = (ClientId::random(), LockName::new("redsync:grants:x").unwrap());
        assert_eq!(client_of(&channel(&client)), Some(client.as_str()));
        assert_eq!(client_of(&channel_in_slot(&client, &name)), Some(client.as_str()));
    }
}
