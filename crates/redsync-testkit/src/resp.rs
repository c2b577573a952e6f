//! As much of RESP2 as a control channel needs.

use std::fmt;
use std::io::{self, BufRead, Read};

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The null bulk string or null array: no such key.
    Nil,
    /// An integer.
    Int(i64),
    /// A bulk string; bytes that are not UTF-8 are replaced.
    Text(String),
    /// A simple string, such as `OK`.
    Status(String),
    /// An array of replies.
    Array(Vec<Reply>),
    /// An error with its code, such as `WRONGTYPE Operation against …`.
    Error(String),
}

impl Reply {
    /// The text of a bulk string or a status.
    ///
    /// # Panics
    ///
    /// When the reply is of another kind.
    #[track_caller]
    pub fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Status(text) => text,
            other => panic!("expected a text, the server answered {other:?}"),
        }
    }

    /// The number of an integer reply.
    ///
    /// # Panics
    ///
    /// When the reply is of another kind.
    #[track_caller]
    pub fn int(&self) -> i64 {
        match self {
            Self::Int(number) => *number,
            other => panic!("expected an integer, the server answered {other:?}"),
        }
    }

    /// The elements of an array.
    ///
    /// # Panics
    ///
    /// When the reply is of another kind.
    #[track_caller]
    pub fn array(&self) -> &[Reply] {
        match self {
            Self::Array(elements) => elements,
            other => panic!("expected an array, the server answered {other:?}"),
        }
    }

    /// The message of an error; `None` for every other reply.
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::Error(message) => Some(message),
            _ => None,
        }
    }

    /// Whether there was nothing to answer with.
    pub fn is_nil(&self) -> bool {
        matches!(self, Self::Nil)
    }

    /// Reads one reply.
    pub(crate) fn read(input: &mut impl BufRead) -> io::Result<Self> {
        let line = read_line(input)?;
        let Some((kind, rest)) = line.split_at_checked(1) else {
            return Err(malformed(&line));
        };
        let number = || rest.parse::<i64>().map_err(|_| malformed(&line));
        match kind {
            "+" => Ok(Self::Status(rest.to_owned())),
            "-" => Ok(Self::Error(rest.to_owned())),
            ":" => Ok(Self::Int(number()?)),
            "$" | "*" => match (kind, usize::try_from(number()?)) {
                (_, Err(_)) => Ok(Self::Nil), // A length of -1.
                ("$", Ok(length)) => read_bulk(input, length),
                (_, Ok(length)) => {
                    Ok(Self::Array((0..length).map(|_| Self::read(input)).collect::<Result<_, _>>()?))
                }
            },
            _ => Err(malformed(&line)),
        }
    }
}

/// As `redis-cli` shows it, on one line.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nil => f.write_str("(nil)"),
            Self::Int(number) => write!(f, "(integer) {number}"),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Status(status) => f.write_str(status),
            Self::Error(message) => write!(f, "(error) {message}"),
            Self::Array(elements) => {
                f.write_str("[")?;
                for (index, element) in elements.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", " };
                    write!(f, "{separator}{element}")?;
                }
                f.write_str("]")
            }
        }
    }
}

/// A command as an array of bulk strings.
pub(crate) fn encode(command: &[&str]) -> Vec<u8> {
    let mut wire = format!("*{}\r\n", command.len());
    for argument in command {
        wire.push_str(&format!("${}\r\n{argument}\r\n", argument.len()));
    }
    wire.into_bytes()
}

fn read_bulk(input: &mut impl BufRead, length: usize) -> io::Result<Reply> {
    let mut bytes = vec![0; length + 2];
    input.read_exact(&mut bytes)?;
    bytes.truncate(length);
    Ok(Reply::Text(String::from_utf8_lossy(&bytes).into_owned()))
}

fn read_line(input: &mut impl BufRead) -> io::Result<String> {
    let mut bytes = Vec::new();
    input.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut bytes)?;
    if !bytes.ends_with(b"\r\n") {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
    }
    bytes.truncate(bytes.len() - 2);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn malformed(line: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not RESP2: {line:?}"))
}

/// An error's line can carry a script's message; nothing a test asks for is longer.
const LONGEST_LINE: u64 = 1 << 20;
