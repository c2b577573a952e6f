//! Bounded random tests of what servers say: replies, INFO, errors, pushes. `scripts/fuzz` runs them for long.

use std::collections::VecDeque;
use std::fmt;
use std::future::ready;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use redis::{ErrorKind, RedisError, Value};
use redsync_testkit::fuzz;

use super::account::Account;
use super::*;
use crate::node::Grant;
use crate::protocol::{Expiry, Round};

/// A server that says what it was told to, and then nothing more.
#[derive(Debug)]
struct Says(Mutex<VecDeque<Result<Reply, NodeFault>>>);

impl Client for Says {
    fn execute(&self, _: Command) -> Answer<'_, Reply> {
        let said = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        Box::pin(ready(said.unwrap_or_else(|| Err(NodeFault::disconnected("it says no more")))))
    }

    fn subscribe<'a>(&'a self, _: &'a str, _: Messages) -> Answer<'a, bool> {
        Box::pin(ready(Ok(true)))
    }
}

impl fmt::Display for Says {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("redis://fuzz")
    }
}

/// What comes of `answer`, which waits for nothing. People may see it.
fn now<T: fmt::Debug>(answer: Answer<'_, T>) -> Option<T> {
    match pin!(answer).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(told)) => {
            let _ = format!("{told:?}");
            Some(told)
        }
        Poll::Ready(Err(fault)) => {
            let _ = format!("{fault} {fault:?}");
            None
        }
        Poll::Pending => panic!("it waits, with all answers there"),
    }
}

/// Asks for everything, of a server that answers each request with all of `replies`, in this order.
fn ask_everything(replies: &VecDeque<Result<Reply, NodeFault>>) {
    let node = || RedisNode::with_client(Says(Mutex::new(replies.clone())));
    let name = LockName::new("orders").unwrap();
    let token = Token::from_text("5f1c@web-2:311").unwrap();
    let plain = Claim::new(name.clone(), token.clone(), Expiry::new(Duration::from_secs(8)).unwrap());
    let fenced = plain.clone().fenced(Proposal::new(Fence::MIN, Proposal::DEFAULT_RETENTION));
    let client = ClientId::random();
    for claim in [&plain, &fenced] {
        now(node().acquire(claim));
        now(node().extend(claim, IfFree::Retake));
        let place = Place::new(claim.clone(), Ticket::from_micros(1), Round::new(1));
        now(node().yield_lease(&client, &place));
        let places = [place.clone(), place];
        if let Some(entered) = now(node().enter(&client, &places)) {
            assert_eq!(entered.places.len(), places.len());
        }
    }
    now(node().release(&name, &token, Succession::HandOver));
    if let Some(look) = now(node().inspect(&name)) {
        let shown =
            look.holder.iter().map(ToString::to_string).chain(look.queue.iter().map(ToString::to_string));
        for shown in shown {
            assert!(!shown.chars().any(char::is_control), "{shown:?}");
        }
    }
    now(node().identity());
    now(node().uptime());
    now(node().health_warnings());
}

/// The input as bytes on the wire, and as the description of a tree of values.
#[test]
fn replies() {
    fuzz("replies", include_str!("../../fuzz/replies.txt"), |input| {
        let mut parser = redis::Parser::new();
        let mut rest = input;
        let mut replies = VecDeque::new();
        while let Ok(value) = parser.parse_value(&mut rest) {
            replies.push_back(replies::reply_from(value, &Account::default()));
            if rest.is_empty() || replies.len() > 8 {
                break;
            }
        }
        if !replies.is_empty() {
            ask_everything(&replies);
        }

        let (mut rest, mut replies) = (input, VecDeque::new());
        while !rest.is_empty() && replies.len() < 4 {
            replies.push_back(replies::reply_from(value(&mut rest, 4), &Account::default()));
        }
        ask_everything(&replies);
    });
}

/// A value that `bytes` describe.
fn value(bytes: &mut &[u8], depth: u32) -> Value {
    let mut next = || {
        let (&first, rest) = bytes.split_first().unwrap_or((&0, &[]));
        *bytes = rest;
        first
    };
    let (kind, size) = (next() % 13, next());
    match kind {
        0 => Value::Nil,
        1 => Value::Int(i64::from(size.cast_signed())),
        2 => Value::Int(i64::MIN >> (size % 64)),
        3 => Value::Int(i64::MAX >> (size % 64)),
        4 | 5 => {
            let text = &bytes[..bytes.len().min(size.into())];
            *bytes = &bytes[text.len()..];
            Value::BulkString(text.to_vec())
        }
        6 => Value::SimpleString(size.to_string()),
        7 => Value::Okay,
        8 => Value::Double(f64::from(size) / 0.0),
        9 => Value::Boolean(size > 127),
        10 => Value::Map(vec![(Value::Nil, Value::Int(size.into()))]),
        _ if depth == 0 => Value::Nil,
        _ => Value::Array((0..size % 8).map(|_| value(bytes, depth - 1)).collect()),
    }
}

/// Three answers to INFO, apart by an empty line.
#[test]
fn facts() {
    fuzz("facts", include_str!("../../fuzz/facts.txt"), |input| {
        let text = String::from_utf8_lossy(input);
        let answers = text.splitn(3, "\n\n").map(|text| Ok(Reply::Text(text.as_bytes().to_vec())));
        let replies: VecDeque<_> = answers.collect();
        let node =
            RedisNode::with_client(Says(Mutex::new(replies.iter().chain(&replies).cloned().collect())));
        now(node.uptime());
        now(node.health_warnings());
        now(RedisNode::with_client(Says(Mutex::new(replies))).identity());
    });
}

/// What is wrong with a connection, in the words of a server, of the operating system or of a library.
#[test]
fn faults() {
    fuzz("faults", include_str!("../../fuzz/faults.txt"), |input| {
        let text = String::from_utf8_lossy(input).into_owned();
        let line = format!("-{}\r\n", text.replace(['\r', '\n'], " "));
        let errors = || {
            let kinds = [ErrorKind::Io, ErrorKind::AuthenticationFailed, ErrorKind::Client, ErrorKind::Parse];
            let of_kinds = kinds.map(|kind| RedisError::from((kind, "it failed", text.clone())));
            let refused = match redis::parse_redis_value(line.as_bytes()) {
                Ok(Value::ServerError(error)) => Some(RedisError::from(error)),
                _ => None,
            };
            let io = RedisError::from(std::io::Error::other(text.clone()));
            of_kinds.into_iter().chain([io]).chain(refused)
        };
        for error in errors() {
            let fault = replies::connect_fault(&error, &[], false, &Account::default());
            let _ = format!("{fault} {fault:?}");
        }
        for error in errors() {
            let fault = replies::disconnect_fault(&error);
            let _ = format!("{fault} {fault:?}");
        }
        // Whoever sees the token has the lock; some servers quote what they were sent.
        let said = line.trim_start_matches('-').trim_end();
        let quoting = format!("-ERR unknown {said}, with args beginning with: 'hunter2'\r\n");
        let fault = redis::parse_redis_value(quoting.as_bytes())
            .ok()
            .and_then(|said| replies::reply_from(said, &Account::default()).err());
        assert!(fault.is_none_or(|fault| !fault.to_string().contains("hunter2")), "{quoting}");
    });
}

/// Keeps the last grant.
#[derive(Debug, Default)]
struct Hears(Mutex<Option<Grant>>);

impl Listener for Hears {
    fn granted(&self, grant: Grant) {
        *self.0.lock().unwrap() = Some(grant);
    }

    fn freed(&self, name: LockName) {
        assert!(!name.as_str().is_empty());
    }

    fn interrupted(&self) {}
}

#[test]
fn pushes() {
    let (pushes, client, hears) = (Pushes::default(), ClientId::random(), Arc::new(Hears::default()));
    let listener: Arc<dyn Listener> = hears.clone();
    pushes.listen(&client, Arc::downgrade(&listener));
    let channel = keys::channel(&client);
    fuzz("pushes", include_str!("../../fuzz/pushes.txt"), |input| {
        let heard = |payload: &[u8]| {
            pushes.message(&channel, payload);
            hears.0.lock().unwrap().take()
        };
        if let Some(grant) = heard(input) {
            let Grant { name, token, round, fence, .. } = &grant;
            let (round, fence) = (round.as_u32(), fence.map_or(0, Fence::as_u64));
            let length = token.as_str().len();
            let again = heard(format!("{round}:{fence}:{length}:{token}{name}").as_bytes());
            assert_eq!(again, Some(grant));
        }
        // As a channel's name, it reaches nobody else.
        pushes.message(&String::from_utf8_lossy(input), b"freed:orders");
    });
}
