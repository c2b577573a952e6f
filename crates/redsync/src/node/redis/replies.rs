//! What servers say, and what goes wrong between, in this library's words.

use std::error::Error;
use std::io;
use std::sync::Arc;

use redis::{RedisError, Value};

use super::account::Account;
use super::client::Reply;
use crate::node::{FaultKind, NodeFault, Remedy};
use crate::protocol::words::clean;

/// Whatever goes wrong before a request is sent leaves it unapplied. `first` is what came on the connection, if it stood.
pub(super) fn connect_fault(error: &RedisError, first: &[u8], has_tls: bool, account: &Account) -> NodeFault {
    // An error reply to HELLO or SELECT comes wrapped in words of the redis crate, but its line is there as it was said.
    if let Some((code, detail)) = error_line(first) {
        return refused(&code, &detail, account);
    }
    if let Some(code) = error.code() {
        return refused(code, error.detail().unwrap_or_default(), account);
    }
    if let Some(what) = stranger(first, has_tls, account) {
        return NodeFault::unreachable(format!("cannot connect: {what}")).with_remedy(Remedy::Node);
    }
    if is_wordless(error, first) && !has_tls {
        let hint =
            "the server closed the connection without a word; it may want TLS (rediss://), or be no Redis";
        return unreachable(&format!("cannot connect: {hint}"), error, account);
    }
    unreachable(&format!("cannot connect: {}", cause_of(error)), error, account)
}

/// A socket that could not be opened, or on which TLS could not be agreed on.
pub(super) fn socket_fault(error: &io::Error, first: &[u8], has_tls: bool, account: &Account) -> NodeFault {
    if let Some(what) = stranger(first, has_tls, account) {
        return NodeFault::unreachable(format!("cannot connect: {what}")).with_remedy(Remedy::Node);
    }
    unreachable_by_io("cannot connect", error, account)
}

/// Whether the server closed the connection and had said nothing.
pub(super) fn is_wordless(error: &RedisError, first: &[u8]) -> bool {
    first.is_empty() && error.is_connection_dropped()
}

pub(super) fn speaks_tls_fault() -> NodeFault {
    NodeFault::unreachable(format!("cannot connect: {SPEAKS_TLS}")).with_remedy(Remedy::Node)
}

const SPEAKS_TLS: &str = "the server speaks TLS: write rediss:// in place of redis://";

fn unreachable(message: &str, error: &RedisError, account: &Account) -> NodeFault {
    match io_cause(error) {
        Some(io) if tls_failed(io) => unreachable_by_io("cannot connect", io, account),
        _ => NodeFault::unreachable(account.blank(message)),
    }
}

fn unreachable_by_io(what: &str, error: &io::Error, account: &Account) -> NodeFault {
    let cause = in_plain_words(&error.to_string());
    let cause = account.blank(&cause);
    #[cfg(feature = "tls")]
    if let Some(failure) = super::tls::Failure::of(error) {
        use super::tls::Failure;
        let (hint, remedy) = match failure {
            Failure::Distrusted(hint) => (hint, Remedy::Node),
            Failure::Refused(hint) => (hint, Remedy::Access),
            Failure::NoTls => {
                ("; it does not speak TLS: write redis://, or name its port for TLS", Remedy::Node)
            }
        };
        return NodeFault::unreachable(format!("{what}: {cause}{hint}")).with_remedy(remedy);
    }
    let fault = NodeFault::unreachable(format!("{what}: {cause}"));
    match error.raw_os_error() {
        // The system's words, not the server's.
        Some(number) => fault.with_source(io::Error::from_raw_os_error(number)),
        None => fault,
    }
}

#[cfg(feature = "tls")]
fn tls_failed(error: &io::Error) -> bool {
    super::tls::Failure::of(error).is_some()
}

#[cfg(not(feature = "tls"))]
const fn tls_failed(_: &io::Error) -> bool {
    false
}

pub(super) fn disconnect_fault(error: &RedisError) -> NodeFault {
    let fault = NodeFault::disconnected(format!("the connection broke: {}", cause_of(error)));
    match io_cause(error).and_then(io::Error::raw_os_error) {
        Some(number) => fault.with_source(io::Error::from_raw_os_error(number)),
        None => fault,
    }
}

/// The failure of input or output below `error`, if one is there.
fn io_cause(error: &RedisError) -> Option<&io::Error> {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(present) = cause {
        // The redis crate keeps it behind a pointer of its own.
        let shared = present.downcast_ref::<Arc<dyn Error + Send + Sync>>();
        let present = shared.map_or(present, |shared| &**shared as &(dyn Error + 'static));
        if let Some(io) = present.downcast_ref::<io::Error>() {
            return Some(io);
        }
        cause = present.source();
    }
    None
}

/// The innermost cause in plain words, without the operating system's error number.
fn cause_of(error: &RedisError) -> String {
    let mut innermost: &dyn Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    in_plain_words(&innermost.to_string())
}

fn in_plain_words(text: &str) -> String {
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    match letters.next() {
        Some(first) if !first.is_uppercase() || !letters.as_str().starts_with(char::is_uppercase) => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

/// The error reply that `first` begins with, if it does: its code and the rest of its line, or as much of it as is there.
fn error_line(first: &[u8]) -> Option<(String, String)> {
    let line = first.strip_prefix(b"-")?;
    let end = line.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
    // The whole line comes with the error, if it came.
    let line = String::from_utf8_lossy(&line[..end?]).into_owned();
    let (code, detail) = line.split_once(' ').unwrap_or((&line, ""));
    Some((code.to_owned(), detail.to_owned()))
}

/// What answered, if it is no Redis.
fn stranger(first: &[u8], has_tls: bool, account: &Account) -> Option<String> {
    const NO_REDIS: &str = "name the host and port of a Redis or Valkey server";
    let begins = |with: &str| first.starts_with(with.as_bytes());
    Some(match first {
        [] => return None,
        [0x15 | 0x16, 0x03, ..] if has_tls => return None,
        [0x15 | 0x16, 0x03, ..] => SPEAKS_TLS.to_owned(),
        [b'+' | b'-', ..] if has_tls => {
            "the server does not speak TLS: write redis://, or name its port for TLS".to_owned()
        }
        _ if begins("HTTP/") || begins("<") => {
            format!("a web server answers there, and no Redis; {NO_REDIS}")
        }
        _ if begins("SSH-") => format!("an SSH server answers there, and no Redis; {NO_REDIS}"),
        _ if begins("ERROR\r\n") => {
            format!("what answers there is no Redis, but may be memcached; {NO_REDIS}")
        }
        // The first bytes of replies in RESP2 and RESP3.
        [
            b'+' | b'-' | b':' | b'$' | b'*' | b'_' | b'%' | b'~' | b'#' | b',' | b'(' | b'=' | b'!' | b'>'
            | b'|',
            ..,
        ] => {
            return None;
        }
        _ if has_tls => "the server does not speak TLS, and is no Redis".to_owned(),
        _ => {
            let said = String::from_utf8_lossy(first);
            let said = clean(&account.blank(said.trim_end()), 40);
            format!("what answers there is no Redis (it said \"{said}\"); {NO_REDIS}")
        }
    })
}

/// An error reply.
pub(super) fn refused(code: &str, detail: &str, account: &Account) -> NodeFault {
    // Some errors quote the whole command, and with it the token or the password.
    let detail = detail.split_once(", with args").map_or(detail, |(said, _)| said);
    // Enough to look through; the rest is not shown.
    let most = detail.char_indices().nth(1_000).map_or(detail.len(), |(at, _)| at);
    let said = format!("{code} {}", account.blank(&detail[..most]));
    let said = clean(said.trim(), SAID);
    let user = account.user();
    let is_unknown = detail.to_ascii_lowercase().starts_with("unknown command");
    let (message, remedy) = match code {
        "WRONGTYPE" => ("the key of this name holds something else than a lock".to_owned(), None),
        "READONLY" => ("this server is a read-only replica; name its primary instead".to_owned(), None),
        "OOM" => ("the server is out of memory".to_owned(), None),
        "LOADING" => ("the server is still loading its data".to_owned(), None),
        "MISCONF" => ("the server cannot write to its disk".to_owned(), None),
        "NOAUTH" => (
            "the server wants a password; write it in the URL: redis://USER:PASSWORD@HOST".to_owned(),
            Some(Remedy::Access),
        ),
        "WRONGPASS" => ("wrong user or password".to_owned(), Some(Remedy::Access)),
        "DENIED" => (
            "the server lets no other machine in; give it a password, or turn protected-mode off".to_owned(),
            Some(Remedy::Access),
        ),
        _ if is_denial(code, detail) => {
            let missing = denied_command(detail).map_or_else(String::new, |command| {
                format!(" to run '{command}'; let it: ACL SETUSER {user} +{command}")
            });
            (format!("user {user} lacks a permission{missing}"), Some(Remedy::Access))
        }
        "MOVED" => (
            format!("this server is a member of a cluster, and another member keeps this name; {INDEPENDENT}"),
            Some(Remedy::Node),
        ),
        // For a moment, while a slot moves or a primary is voted for; or for ever, where no cluster was made.
        "ASK" | "TRYAGAIN" | "CLUSTERDOWN" => {
            (format!("this server is a member of a cluster that cannot serve this name now; {INDEPENDENT}"), None)
        }
        "CROSSSLOT" => {
            (format!("this server is a member of a cluster; {INDEPENDENT}"), Some(Remedy::Node))
        }
        _ if detail.contains("max number of clients") => (
            "the server has no room for one more client; raise its maxclients, or close connections".to_owned(),
            None,
        ),
        _ if detail.contains("DB index") => (
            "the server has no database of the number in the URL; take a smaller one, or none".to_owned(),
            Some(Remedy::Node),
        ),
        _ if detail.starts_with("SELECT is not allowed") => (
            "this server is a member of a cluster, which has database 0 alone; take the number out of the URL"
                .to_owned(),
            Some(Remedy::Node),
        ),
        "NOPROTO" => ("Redis 6 or later is needed".to_owned(), Some(Remedy::Node)),
        _ if is_unknown && detail.to_ascii_uppercase().contains("HELLO") => {
            ("Redis 6 or later is needed".to_owned(), Some(Remedy::Node))
        }
        _ if is_unknown => {
            ("the server lacks a command that locks need; is it a Redis or Valkey?".to_owned(), Some(Remedy::Node))
        }
        _ => ("the server refused".to_owned(), None),
    };
    let fault = NodeFault::refused(code, format!("{message} ({said})"));
    match remedy {
        Some(remedy) => fault.with_remedy(remedy),
        None => fault,
    }
}

/// So much of a server's words is passed on, in characters.
const SAID: usize = 200;

const INDEPENDENT: &str =
    "name one server that is in no cluster, or several that are independent of each other";

/// Whether a server says that its user may not do something. Within scripts, some versions give it no code of its own.
pub(super) fn is_denial(code: &str, detail: &str) -> bool {
    code == "NOPERM"
        || detail.contains("user executing the script")
        || detail.contains("ACL failure in script")
}

/// `set` of `… no permissions to run the 'set' command`.
fn denied_command(detail: &str) -> Option<&str> {
    let (_, rest) = detail.split_once("run the '")?;
    let (command, _) = rest.split_once('\'')?;
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "|-_.".contains(letter);
    (command.len() < 40 && command.chars().all(is_plain)).then_some(command)
}

/// The text of an answer to INFO; nothing where the server refuses it.
pub(super) fn text(answer: redis::RedisResult<Value>, account: &Account) -> Result<String, NodeFault> {
    match answer.map_err(|error| disconnect_before_use(&error)).and_then(|value| reply_from(value, account)) {
        Ok(Reply::Text(text)) => Ok(String::from_utf8_lossy(&text).into_owned()),
        Ok(_) => Ok(String::new()),
        Err(fault) if fault.kind() == FaultKind::Refused => Ok(String::new()),
        Err(fault) => Err(fault),
    }
}

/// A connection that broke before it carried any request.
fn disconnect_before_use(error: &RedisError) -> NodeFault {
    NodeFault::unreachable(format!("the connection broke: {}", cause_of(error)))
}

pub(super) fn reply_from(value: Value, account: &Account) -> Result<Reply, NodeFault> {
    match value {
        Value::Nil => Ok(Reply::Nil),
        Value::Int(number) => Ok(Reply::Int(number)),
        Value::Boolean(yes) => Ok(Reply::Int(yes.into())),
        Value::BulkString(bytes) => Ok(Reply::Text(bytes)),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Ok(Reply::Text(text.into_bytes())),
        Value::Okay => Ok(Reply::Text(b"OK".to_vec())),
        Value::Array(values) | Value::Set(values) => Ok(Reply::Array(
            values.into_iter().map(|value| reply_from(value, account)).collect::<Result<_, _>>()?,
        )),
        Value::ServerError(error) => Err(refused(error.code(), error.details().unwrap_or_default(), account)),
        other => Err(NodeFault::nonsense(account.blank(&format!("the server sent {other:?}")))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: &str, detail: &str) -> String {
        let account = Account::new(Some("ann"), Some("hunter2"), None);
        refused(code, detail, &account).to_string()
    }

    #[test]
    fn a_servers_words_are_passed_on_without_the_password_and_the_command_they_quote() {
        assert_eq!(
            said("WRONGPASS", "'hunter2' is wrong"),
            "wrong user or password (WRONGPASS '***' is wrong)"
        );
        assert_eq!(
            said("ERR", "unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `ann`, `hunter2`"),
            "Redis 6 or later is needed (ERR unknown command `HELLO`)"
        );
        let long = said("ERR", &"x".repeat(3_000_000));
        assert!(long.len() < 300, "{}", long.len());
        assert_eq!(said("ERR", "a\u{1b}[2J\u{7}\nb"), r"the server refused (ERR a\u{1b}[2J\u{7}\nb)");
    }

    #[test]
    fn a_command_that_is_denied_is_named_with_the_rule_that_allows_it() {
        let text = said("NOPERM", "User ann has no permissions to run the 'script|load' command");
        assert!(text.contains("ACL SETUSER ann +script|load ("), "{text}");
        let text = said("NOPERM", "no permissions to run the 'x\u{1b}y' command");
        assert!(!text.contains("ACL SETUSER"), "{text}");
    }

    #[test]
    fn what_passes_by_itself_needs_no_remedy() {
        let account = Account::default();
        for code in
            ["LOADING", "MASTERDOWN", "READONLY", "CLUSTERDOWN", "TRYAGAIN", "ASK", "OOM", "MISCONF", "BUSY"]
        {
            assert_eq!(refused(code, "for a moment", &account).remedy(), None, "{code}");
        }
        assert_eq!(refused("ERR", "max number of clients reached", &account).remedy(), None);
    }
}
