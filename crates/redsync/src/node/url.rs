//! Node URLs: from a line of configuration to a node.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use super::{MemoryNode, Node};
use crate::clock::Clock;

/// A node URL that cannot be used, and why. Shows no password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidUrl {
    url: String,
    reason: String,
}

impl InvalidUrl {
    pub(crate) fn new(url: &str, reason: impl Into<String>) -> Self {
        Self { url: redacted(url), reason: reason.into() }
    }
}

impl fmt::Display for InvalidUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid node URL {:?}: {}", self.url, self.reason)
    }
}

impl std::error::Error for InvalidUrl {}

/// `url` without user, password and parameters, for messages. Where a careless password makes it doubtful what is
/// what, nothing but the scheme is shown.
pub fn redacted(url: &str) -> String {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) if !scheme.contains(['@', ':', '?']) => (format!("{scheme}://"), rest),
        _ => (String::new(), url),
    };
    // After a # nothing is certain, not even the host: it may be part of a password that was not encoded.
    if rest.contains('#') {
        return format!("{scheme}…");
    }
    let parameters = rest.find('?').unwrap_or(rest.len());
    // The last @ ends the password, whatever characters a careless one holds.
    let shown = match rest.rfind('@') {
        Some(at) if at > parameters => None,
        Some(at) => Some(&rest[at + 1..parameters]),
        None => Some(&rest[..parameters]),
    };
    // A host may be followed by a port; what else stands there could be the password of a URL that lacks its host.
    let is_plain = |shown: &&str| {
        let host = shown.split('/').next().unwrap_or_default();
        let port = host.rsplit_once(']').map_or(host, |(_, port)| port).split_once(':');
        port.is_none_or(|(host_or_none, port)| {
            let has_host = !host_or_none.is_empty() || host.contains(']');
            has_host && port.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    match shown.filter(is_plain) {
        Some(shown) => format!("{scheme}{shown}"),
        None => format!("{scheme}…"),
    }
}

/// The node that `url` names. Nothing is connected to yet.
///
/// # Errors
///
/// [`InvalidUrl`] when the URL is not understood, or names a kind of node that this build leaves out.
pub(crate) fn open(url: &str, clock: &Arc<dyn Clock>) -> Result<Arc<dyn Node>, InvalidUrl> {
    let url = url.trim();
    let scheme = url.split(':').next().filter(|scheme| scheme.len() < url.len());
    match scheme.map(str::to_ascii_lowercase).as_deref() {
        Some("memory") => memory(url, clock),
        Some("sqlite") => sqlite(url),
        Some("redis" | "rediss" | "valkey" | "valkeys" | "redis+unix" | "valkey+unix") => redis(url),
        Some(other) if url.contains("://") => {
            Err(InvalidUrl::new(url, format!("{other}:// is no kind of node; {KINDS}")))
        }
        _ => Err(InvalidUrl::new(url, format!("it has no scheme; {KINDS}"))),
    }
}

const KINDS: &str = "use redis://HOST, rediss://HOST, valkey://HOST, redis+unix:///PATH or sqlite:///PATH";

/// `memory:` is a store of its own each time; `memory:NAME` is one store for the whole process.
fn memory(url: &str, clock: &Arc<dyn Clock>) -> Result<Arc<dyn Node>, InvalidUrl> {
    static NAMED: LazyLock<Mutex<HashMap<String, MemoryNode>>> = LazyLock::new(Mutex::default);
    let name = &url["memory:".len()..];
    if name.starts_with('/') {
        return Err(InvalidUrl::new(url, "write memory: or memory:NAME, without slashes"));
    }
    if name.is_empty() {
        return Ok(Arc::new(MemoryNode::named(None, Arc::clone(clock))));
    }
    let mut named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
    let node = named
        .entry(name.to_owned())
        .or_insert_with(|| MemoryNode::named(Some(name), Arc::new(crate::clock::SystemClock)));
    Ok(Arc::new(node.clone()))
}

/// `sqlite:///PATH`, or `sqlite:///PATH?mode=0660` for a store that users share.
#[cfg(feature = "sqlite")]
fn sqlite(url: &str) -> Result<Arc<dyn Node>, InvalidUrl> {
    use super::{Sharing, SqliteNode};

    let rest = url["sqlite:".len()..].strip_prefix("//").unwrap_or_default();
    let (path, parameters) = rest.split_once('?').map_or((rest, None), |(path, rest)| (path, Some(rest)));
    if !path.starts_with('/') || path.len() == 1 {
        return Err(InvalidUrl::new(
            url,
            "write sqlite:// and an absolute path: sqlite:///var/lib/app/locks.db",
        ));
    }
    let mut node = SqliteNode::new(path);
    if let Some(parameters) = parameters {
        let Some(mode) = parameters.strip_prefix("mode=") else {
            return Err(InvalidUrl::new(url, "the only parameter of sqlite:// is mode, as in ?mode=0660"));
        };
        node = node.shared_with(match mode.strip_prefix('0').unwrap_or(mode) {
            "600" => Sharing::Owner,
            "660" => Sharing::Group,
            "666" => Sharing::All,
            _ => {
                return Err(InvalidUrl::new(
                    url,
                    "its mode must be 0600, 0660 or 0666: who uses a store reads and writes it",
                ));
            }
        });
    }
    Ok(Arc::new(node))
}

#[cfg(not(feature = "sqlite"))]
fn sqlite(url: &str) -> Result<Arc<dyn Node>, InvalidUrl> {
    Err(InvalidUrl::new(url, "this build has no SQLite nodes; turn on the feature `sqlite`"))
}

#[cfg(feature = "redis")]
fn redis(url: &str) -> Result<Arc<dyn Node>, InvalidUrl> {
    Ok(Arc::new(super::RedisNode::open(url)?))
}

#[cfg(not(feature = "redis"))]
fn redis(url: &str) -> Result<Arc<dyn Node>, InvalidUrl> {
    Err(InvalidUrl::new(url, "this build has no Redis nodes; turn on the feature `redis`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    fn refused(url: &str) -> String {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        open(url, &clock).unwrap_err().to_string()
    }

    #[test]
    fn no_part_of_a_password_is_ever_shown() {
        for url in [
            "redis://:hunter2@db.example/0",
            "redis://user:hunter2@db.example",
            "redis://:hun@ter2hunter2@db.example",
            "redis://:hunter2/#?@db.example",
            "redis+unix:///run/redis.sock?password=hunter2",
            "http://:hunter2@db.example",
            ":hunter2@db.example:6379",
            "redis://:hunter2@",
            "redis://:hunter2@db.example:notaport",
            "redis://:hunter2",
            "redis://user:hunter2",
            "redis://user:hunter2/0",
            "redis://ann:12/hunter2@127.0.0.1",
            "redis://ann:12?hunter2@127.0.0.1",
            "redis://ann:12#hunter2@127.0.0.1",
            "redis+unix:///run/redis.sock?password=p@hunter2&colour=red",
        ] {
            let shown = redacted(url);
            assert!(!shown.contains("hunter2"), "{url} is shown as {shown}");
        }
        assert_eq!(redacted("redis://user:hunter2@db.example:7000/2"), "redis://db.example:7000/2");
        assert_eq!(redacted("redis://u:p@[::1]:7000"), "redis://[::1]:7000");
        assert_eq!(redacted("redis://[::1]"), "redis://[::1]");
        assert_eq!(redacted("redis+unix:///run/redis.sock?password=p"), "redis+unix:///run/redis.sock");
        assert_eq!(redacted("sqlite:///var/lib/locks.db"), "sqlite:///var/lib/locks.db");
    }

    #[test]
    fn urls_that_name_no_node_are_refused_with_what_would_do() {
        assert!(
            refused("db.example:6379").contains("it has no scheme; use redis://HOST"),
            "{}",
            refused("x")
        );
        assert!(refused("").contains("it has no scheme"));
        assert!(refused("http://db.example").contains("http:// is no kind of node"));
        assert!(refused("memory://x").contains("without slashes"));
        assert!(refused("sqlite:relative.db").contains("absolute path"));
        assert!(refused("sqlite://relative.db").contains("absolute path"));
        assert!(refused("sqlite:///locks.db?mod=0660").contains("as in ?mode=0660"));
        for mode in ["", "0640", "0777", "rw", "00660", "0o660", "1660", "0660&x=1"] {
            assert!(
                refused(&format!("sqlite:///locks.db?mode={mode}")).contains("0600, 0660 or 0666"),
                "{mode}"
            );
        }
        assert!(refused("redis://").contains("names no host"), "{}", refused("redis://"));
        assert!(refused("redis://h:99999").contains("port"), "{}", refused("redis://h:99999"));
        assert!(refused("redis://h/first").contains("database number"), "{}", refused("redis://h/first"));
        assert!(
            refused("redis://h/?colour=red").contains("takes no parameters"),
            "{}",
            refused("redis://h/?c=d")
        );
        assert!(refused("rediss://h/?ca=/no/such/file").contains("/no/such/file"));
    }

    #[test]
    fn a_named_memory_is_one_store_and_unnamed_ones_are_not() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let label = |url: &str| open(url, &clock).unwrap().to_string();
        assert_eq!(label("memory:shared"), "memory:shared");
        assert_ne!(label("memory:"), label("memory:"));
    }
}
