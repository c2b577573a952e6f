//! What the server's user may do: what cannot be released must not be granted.
//!
//! A user may be allowed to set the lease and not to delete it. So before the first grant to a user that the URL names, one
//! script looks at all commands and keys that a lock needs. That is one round trip for each beginning of a name, such as
//! `orders:` of `orders:42`: the patterns of permissions end there. Where a server denies something all the same, the same
//! script says what is missing.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{LazyLock, Mutex, PoisonError};

use super::account::Account;
use super::client::{Command, Reply};
use super::keys::Keys;
use super::replies::is_denial;
use super::{RedisNode, Server, scripts};
use crate::node::{Applied, NodeFault, Remedy};
use crate::protocol::LockName;
use crate::protocol::words::clean;

/// The beginnings of names on which all is permitted that locks need, with fences or without.
#[derive(Default)]
pub(super) struct Permitted(Mutex<HashSet<(String, bool)>>);

impl Permitted {
    fn contains(&self, name: &LockName, is_fenced: bool) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.contains(&(beginning(name), is_fenced))
    }

    fn insert(&self, name: &LockName, is_fenced: bool) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Names of one program rarely begin in many ways.
        if known.len() >= MOST {
            known.clear();
        }
        known.insert((beginning(name), is_fenced));
    }

    fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

const MOST: usize = 1_000;

/// Up to the last colon, or all of it.
fn beginning(name: &LockName) -> String {
    let name = name.as_str();
    name.rfind(':').map_or(name, |at| &name[..=at]).to_owned()
}

impl RedisNode {
    /// Whether [`permit`](Self::permit) has to be asked before the lock is granted.
    pub(super) fn needs_permit(&self, name: &LockName, is_fenced: bool) -> bool {
        self.account().names_a_user() && !self.permitted.contains(name, is_fenced || self.gives_fences())
    }

    /// Whether releases name the fence's counter, also of locks without one.
    fn gives_fences(&self) -> bool {
        self.has_fences.load(Ordering::Relaxed)
    }

    /// Fails where the user lacks a permission that the lock needs.
    ///
    /// Cancel safe: nothing is changed on the server.
    pub(super) async fn permit(&self, name: &LockName, is_fenced: bool) -> Result<(), NodeFault> {
        let is_fenced = is_fenced || self.gives_fences();
        match self.missing(name, is_fenced).await {
            Ok(missing) if missing.is_empty() => {
                self.permitted.insert(name, is_fenced);
                Ok(())
            }
            Ok(missing) => Err(self.lacks(name, &missing)),
            // Where the script is denied, so is the release; and whatever else fails keeps the server from granting.
            Err(fault) => Err(fault),
        }
    }

    /// `fault`; and where the server denies something, what is missing.
    pub(super) async fn explained(&self, name: &LockName, fault: NodeFault) -> NodeFault {
        if !is_denied(&fault) {
            return fault;
        }
        self.permitted.forget();
        match self.missing(name, true).await {
            Ok(missing) if !missing.is_empty() => {
                let told = self.lacks(name, &missing);
                if fault.applied() == Applied::Unknown { told.perhaps_applied() } else { told }
            }
            _ => fault,
        }
    }

    async fn missing(&self, name: &LockName, is_fenced: bool) -> Result<Vec<String>, NodeFault> {
        let keys = Keys::of(name);
        let fence = if is_fenced { keys.fence() } else { ["", "", ""] };
        let arguments = [keys.lease(), keys.queue(), fence, keys.none()];
        let with_arguments =
            |command: Command| arguments.iter().fold(command, |command, key| command.joined(key));
        let reply = self.evaluate(&scripts::PERMITTED, &[], with_arguments).await;
        match reply? {
            Reply::Array(missing) => Ok(missing
                .into_iter()
                .filter_map(|rule| match rule {
                    Reply::Text(rule) => Some(String::from_utf8_lossy(&rule).into_owned()),
                    _ => None,
                })
                .collect()),
            reply => Err(super::unexpected("the script that looks at permissions", &reply)),
        }
    }

    /// Names the rules to add.
    fn lacks(&self, name: &LockName, missing: &[String]) -> NodeFault {
        let keys = Keys::of(name);
        let queue = format!("~{}", keys.queue().concat());
        let beside = queue.strip_suffix("line").unwrap_or(&queue);
        let mut rules: Vec<String> = Vec::new();
        for rule in missing {
            let rule = if rule.starts_with(beside) { format!("{beside}*") } else { rule.clone() };
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        let rules = clean(&rules.join(" "), 600);
        let user = self.account().user();
        let message = format!(
            "user {user} lacks permissions that this lock needs, to be released too (NOPERM); add: ACL SETUSER {user} {rules}"
        );
        NodeFault::refused("NOPERM", message).with_remedy(Remedy::Access)
    }

    fn account(&self) -> &Account {
        static NOBODY: LazyLock<Account> = LazyLock::new(Account::default);
        match &self.server {
            Server::Link(link) => link.account(),
            Server::Client { .. } => &NOBODY,
        }
    }
}

fn is_denied(fault: &NodeFault) -> bool {
    is_denial(fault.code().unwrap_or_default(), &fault.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_beginning_share_what_is_permitted() {
        let of = |name: &str| beginning(&LockName::new(name).unwrap());
        assert_eq!(of("orders:42"), "orders:");
        assert_eq!(of("shop:orders:42"), "shop:orders:");
        assert_eq!(of("nightly"), "nightly");
        assert_eq!(of("{orders:42}"), "{orders:");
    }
}
