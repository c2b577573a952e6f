//! What servers say, and what goes wrong between, in this library's words.

use std::error::Error;

use redis::{ErrorKind, RedisError, Value};

use super::client::Reply;
use crate::node::{FaultKind, NodeFault};

/// Whatever goes wrong before a request is sent leaves it unapplied.
pub(super) fn connect_fault(error: RedisError) -> NodeFault {
    if let Some(code) = error.code()
        && !matches!(error.kind(), ErrorKind::Io)
    {
        // A server may quote what it was sent, the password too: only what is known not to is passed on.
        const HARMLESS: [&str; 6] = ["WRONGPASS", "NOAUTH", "NOPERM", "LOADING", "MASTERDOWN", "DENIED"];
        if HARMLESS.contains(&code) {
            return refused(code, error.detail().unwrap_or_default(), error.clone());
        }
        let message =
            "the server refused the first words of the conversation; Redis 6 or later is needed, with HELLO";
        return NodeFault::refused(code, format!("{message} ({code})"));
    }
    if matches!(error.kind(), ErrorKind::AuthenticationFailed) {
        return NodeFault::refused("WRONGPASS", "wrong user or password");
    }
    let cause = cause_of(&error);
    let hint = match cause.contains("CertificateRequired") {
        true => "; give it a client certificate: cert=FILE&key=FILE",
        false => "",
    };
    NodeFault::unreachable(format!("cannot connect: {cause}{hint}")).with_source(error)
}

pub(super) fn disconnect_fault(error: RedisError) -> NodeFault {
    NodeFault::disconnected(format!("the connection broke: {}", cause_of(&error))).with_source(error)
}

/// The innermost cause in plain words, without the operating system's error number.
fn cause_of(error: &RedisError) -> String {
    let mut innermost: &dyn Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let text = innermost.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    match letters.next() {
        // Not where the second is a capital, too: such a word stays as it is.
        Some(first)
            if !letters
                .clone()
                .next()
                .is_some_and(|second| first.is_uppercase() && second.is_uppercase()) =>
        {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

fn refused(code: &str, detail: &str, error: RedisError) -> NodeFault {
    let said = format!("{code} {detail}");
    let said = said.trim();
    let message = match code {
        "WRONGTYPE" => format!("the key of this name holds something else than a lock ({said})"),
        "READONLY" => format!("this server is a read-only replica; name its primary instead ({said})"),
        "OOM" => format!("the server is out of memory ({said})"),
        "LOADING" => format!("the server is still loading its data ({said})"),
        "NOAUTH" => format!("the server wants a password ({said})"),
        "WRONGPASS" => format!("wrong user or password ({said})"),
        "NOPERM" => format!("the user lacks a permission ({said})"),
        _ if said.contains("user executing the script") => format!("the user lacks a permission ({said})"),
        "MISCONF" => format!("the server cannot write to its disk ({said})"),
        _ => format!("the server refused ({said})"),
    };
    NodeFault::refused(code, message).with_source(error)
}

/// The text of an answer to INFO; nothing where the server refuses it.
pub(super) fn text(answer: redis::RedisResult<Value>) -> Result<String, NodeFault> {
    match answer.map_err(disconnect_before_use).and_then(reply_from) {
        Ok(Reply::Text(text)) => Ok(String::from_utf8_lossy(&text).into_owned()),
        Ok(_) => Ok(String::new()),
        Err(fault) if fault.kind() == FaultKind::Refused => Ok(String::new()),
        Err(fault) => Err(fault),
    }
}

/// A connection that broke before it carried any request.
fn disconnect_before_use(error: RedisError) -> NodeFault {
    NodeFault::unreachable(format!("the connection broke: {}", cause_of(&error))).with_source(error)
}

pub(super) fn reply_from(value: Value) -> Result<Reply, NodeFault> {
    match value {
        Value::Nil => Ok(Reply::Nil),
        Value::Int(number) => Ok(Reply::Int(number)),
        Value::Boolean(yes) => Ok(Reply::Int(yes.into())),
        Value::BulkString(bytes) => Ok(Reply::Text(bytes)),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Ok(Reply::Text(text.into_bytes())),
        Value::Okay => Ok(Reply::Text(b"OK".to_vec())),
        Value::Array(values) | Value::Set(values) => {
            Ok(Reply::Array(values.into_iter().map(reply_from).collect::<Result<_, _>>()?))
        }
        Value::ServerError(error) => {
            let code = error.code().to_owned();
            // Some errors quote the whole command, and with it the token.
            let detail = error.details().unwrap_or_default();
            match detail.split_once(", with args") {
                Some((said, _)) => {
                    Err(NodeFault::refused(&*code, format!("the server refused ({code} {said})")))
                }
                None => Err(refused(&code, detail, RedisError::from(error.clone()))),
            }
        }
        other => Err(NodeFault::nonsense(format!("the server sent {other:?}"))),
    }
}
