//! What the server tells by itself, and who hears it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OnceCell;

use super::keys;
use crate::node::{ClientId, Grant, Listener, NodeFault};
use crate::protocol::{Fence, LockName, Round, Token};

/// Who is told of what the server publishes.
#[derive(Debug, Default)]
pub(super) struct Pushes(Mutex<HashMap<ClientId, Weak<dyn Listener>>>);

impl Pushes {
    pub(super) fn listen(&self, client: &ClientId, listener: Weak<dyn Listener>) {
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|_, listener| listener.strong_count() > 0);
        listeners.insert(client.clone(), listener);
    }

    /// A message came on a channel.
    pub(super) fn message(&self, channel: &str, payload: &[u8]) {
        let Some(client) = keys::client_of(channel) else { return };
        let listener = {
            let listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            listeners.get(client).and_then(Weak::upgrade)
        };
        if let (Some(listener), Some(message)) = (listener, std::str::from_utf8(payload).ok().and_then(parse))
        {
            match message {
                Message::Granted(grant) => listener.granted(grant),
                Message::Freed(name) => listener.freed(name),
            }
        }
    }

    /// Messages may have been missed.
    pub(super) fn interrupted(&self) {
        let listeners: Vec<Arc<dyn Listener>> = {
            let listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            listeners.values().filter_map(Weak::upgrade).collect()
        };
        listeners.iter().for_each(|listener| listener.interrupted());
    }
}

enum Message {
    Granted(Grant),
    Freed(LockName),
}

/// `freed:NAME`, or `ROUND:FENCE:LENGTH:TOKENNAME`, where the token has that many bytes, and the fence is 0 where there is none.
fn parse(text: &str) -> Option<Message> {
    let (first, rest) = text.split_once(':')?;
    if first == "freed" {
        return LockName::new(rest).ok().map(Message::Freed);
    }
    let (fence, rest) = rest.split_once(':')?;
    let (length, rest) = rest.split_once(':')?;
    let (token, name) = rest.split_at_checked(length.parse().ok()?)?;
    let (token, name) = (Token::from_text(token).ok()?, LockName::new(name).ok()?);
    let fence = Some(fence).filter(|fence| *fence != "0").map(str::parse::<Fence>).transpose().ok()?;
    Some(Message::Granted(Grant::new(name, token, Round::new(first.parse().ok()?)).fenced(fence)))
}

/// What one connection is subscribed to.
#[derive(Debug, Default)]
pub(super) struct Channels(Mutex<HashMap<Box<str>, Arc<OnceCell<bool>>>>);

impl Channels {
    /// Subscribes unless that is done already, and says whether it could be.
    pub(super) async fn subscribe<F: Future<Output = Result<bool, NodeFault>>>(
        &self,
        channel: &str,
        subscribing: impl FnOnce() -> F,
    ) -> Result<bool, NodeFault> {
        let subscribed = {
            let mut channels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match channels.get(channel) {
                Some(subscribed) => Arc::clone(subscribed),
                None => Arc::clone(channels.entry(channel.into()).or_default()),
            }
        };
        subscribed.get_or_try_init(subscribing).await.copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_is_read_whatever_its_token_and_name_hold() {
        let Some(Message::Granted(grant)) = parse("7:0:5:a:b:cna:me") else { panic!("it is one") };
        assert_eq!((grant.token.as_str(), grant.name.as_str()), ("a:b:c", "na:me"));
        assert_eq!((grant.round, grant.fence), (Round::new(7), None));
        let Some(Message::Granted(grant)) = parse("7:12:1:tn") else { panic!("it is one") };
        assert_eq!(grant.fence, Fence::new(12).ok());
        assert!(matches!(parse("freed:x:y"), Some(Message::Freed(name)) if name.as_str() == "x:y"));
    }

    #[test]
    fn what_is_no_message_is_none() {
        for text in [
            "",
            "7",
            "7:5",
            "7:0:5",
            "7:0:9:token",
            "x:0:1:tn",
            "7:0:1:t",
            "freed:",
            "7:0:1:éa",
            "7:x:1:tn",
            "7:-1:1:tn",
        ] {
            assert!(parse(text).is_none(), "{text}");
        }
    }
}
