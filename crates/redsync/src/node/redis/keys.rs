//! The names of what is kept on a server for one lock, all of it in one slot of a cluster.
//!
//! Each key beside the lease contains a part that no lock's name may contain ([`LockName::RESERVED`]). So no lock is another
//! lock's queue or counter.

use crate::node::ClientId;
use crate::protocol::LockName;

/// The keys of one lock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keys<'a> {
    name: &'a str,
    is_tagged: bool,
}

/// A key in parts, to be written one after the other: keys are made anew for each request.
pub(super) type Key<'a> = [&'a str; 3];

impl<'a> Keys<'a> {
    pub(super) fn of(name: &'a LockName) -> Self {
        Self { name: name.as_str(), is_tagged: has_tag(name.as_str()) }
    }

    /// The lease itself: the lock's name.
    pub(super) const fn lease(self) -> Key<'a> {
        [self.name, "", ""]
    }

    /// A sorted set, ticket → token, and what is known of the waiter.
    pub(super) const fn queue(self) -> Key<'a> {
        self.beside("}:redsync:line", ":redsync:tagged:line")
    }

    /// A number: the counter of the lock's fences.
    pub(super) const fn fence(self) -> Key<'a> {
        self.beside("}:redsync:fence", ":redsync:tagged:fence")
    }

    /// In the same slot, and nothing is ever kept there.
    pub(super) const fn none(self) -> Key<'a> {
        self.beside("}:redsync:none", ":redsync:tagged:none")
    }

    /// Names that have a hash tag of their own keep it; all others become one. The two kinds end differently, or a lock
    /// named `{a}` would share its queue with one named `a`.
    ///
    /// A name with a `}` and without a tag, such as `a}b`, cannot be made one; see [`is_split`].
    const fn beside(self, after_name: &'static str, after_tagged: &'static str) -> Key<'a> {
        match self.is_tagged {
            true => ["", self.name, after_tagged],
            false => ["{", self.name, after_name],
        }
    }
}

/// The channel on which a client is told of its grants.
pub(super) fn channel(client: &ClientId) -> String {
    format!("{CHANNELS}{client}")
}

/// The same in a cluster, where messages of scripts stay within a slot: one for each lock.
pub(super) fn channel_in_slot(client: &ClientId, name: &LockName) -> String {
    let [before, name, after] = Keys::of(name).beside("}:redsync:", ":redsync:tagged:");
    format!("{before}{name}{after}{CHANNELS}{client}")
}

/// The client whose channel it is, if it is one.
pub(super) fn client_of(channel: &str) -> Option<&str> {
    channel.rsplit_once(CHANNELS).map(|(_, client)| client)
}

const CHANNELS: &str = "redsync:grants:";

/// Whether a key is not a lock's but kept beside one.
pub(super) fn is_helper(key: &str) -> bool {
    key.contains("}:redsync:") || key.contains(":redsync:tagged:")
}

/// Whether a cluster would have what is kept beside the lease in another slot.
pub(super) fn is_split(name: &LockName) -> bool {
    name.as_str().as_bytes().contains(&b'}') && !has_tag(name.as_str())
}

/// Whether only a part of the key decides on its slot: what stands between the first `{` and the next `}`, if anything
/// does. Redis Cluster specification, "Hash tags".
fn has_tag(key: &str) -> bool {
    // Names are short, and this is asked for each request.
    let mut rest = key.bytes().skip_while(|byte| *byte != b'{').skip(1);
    let is_empty = rest.next().is_none_or(|first| first == b'}');
    !is_empty && rest.any(|byte| byte == b'}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn queue(name: &str) -> String {
        Keys::of(&LockName::new(name).unwrap()).queue().concat()
    }

    /// What a cluster hashes of a key.
    fn hashed(key: &str) -> &str {
        let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
        tag.filter(|tag| !tag.is_empty()).unwrap_or(key)
    }

    #[test]
    fn all_keys_of_a_lock_are_in_one_slot() {
        for name in ["orders", "{orders}", "a{b}c", "{", "a{b", "{x}{y}", "{a}{}"] {
            let named = LockName::new(name).unwrap();
            let keys = Keys::of(&named);
            assert_eq!(keys.lease().concat(), name);
            for key in [keys.queue(), keys.fence(), keys.none()] {
                assert_eq!(hashed(&key.concat()), hashed(name), "{name}");
            }
            let channel = channel_in_slot(&ClientId::random(), &named);
            assert_eq!(hashed(&channel), hashed(name), "{name}");
        }
    }

    #[test]
    fn names_that_no_tag_fits_are_known() {
        for (name, split) in [("a}b", true), ("job:{}", true), ("a", false), ("{a}}", false), ("a{b", false)]
        {
            let name = LockName::new(name).unwrap();
            assert_eq!(is_split(&name), split, "{name:?}");
            assert_eq!(hashed(&queue(name.as_str())) != hashed(name.as_str()), split, "{name:?}");
        }
    }

    #[test]
    fn no_two_locks_share_a_line() {
        assert_ne!(queue("a"), queue("{a}"));
    }

    /// Names made of the parts of keys.
    fn names() -> impl Strategy<Value = String> {
        const PARTS: &[&str] = &[
            "a",
            "b",
            "{",
            "}",
            ":",
            "redsync",
            ":redsync:",
            "}:redsync:",
            ":redsync:tagged:",
            "tagged",
            "line",
            "fence",
            "grants",
        ];
        prop::collection::vec(prop::sample::select(PARTS), 1..8).prop_map(|parts| parts.concat())
    }

    /// All that a server keeps for a lock beside its lease, and the channel of its grants.
    fn beside(name: &LockName) -> [String; 3] {
        let keys = Keys::of(name);
        let channel = channel_in_slot(&ClientId::random(), name);
        [keys.queue().concat(), keys.fence().concat(), channel]
    }

    proptest! {
        #[test]
        fn no_name_that_is_accepted_is_a_key_beside_another_lock((one, other) in (names(), names())) {
            let Ok(one) = LockName::new(one) else { return Ok(()) };
            for key in beside(&one) {
                prop_assert!(LockName::new(&key).is_err(), "{key} is beside {one}");
                if let Ok(other) = LockName::new(&other)
                    && other != one
                {
                    prop_assert!(!beside(&other).contains(&key), "{key} is beside {one} and {other}");
                }
            }
        }
    }

    #[test]
    fn keys_are_called_after_their_lock() {
        let (plain, tagged) = (LockName::new("orders:42").unwrap(), LockName::new("{orders}:42").unwrap());
        assert_eq!(Keys::of(&plain).queue().concat(), "{orders:42}:redsync:line");
        assert_eq!(Keys::of(&plain).fence().concat(), "{orders:42}:redsync:fence");
        assert_eq!(Keys::of(&tagged).queue().concat(), "{orders}:42:redsync:tagged:line");
    }

    #[test]
    fn a_channel_names_its_client() {
        let (client, name) = (ClientId::random(), LockName::new("redsync:grants:x").unwrap());
        assert_eq!(client_of(&channel(&client)), Some(client.as_str()));
        assert_eq!(client_of(&channel_in_slot(&client, &name)), Some(client.as_str()));
    }
}
