//! Limits what one reply of a server may cost.
//!
//! It reads along with the redis crate, as much as is needed to tell where a reply ends: types, lengths and counts. A
//! length or count that is announced is counted at once, so that nothing is set aside for what never comes.

use std::io;

/// What one reply may cost: its bytes, and [`ELEMENT`] for each of its elements. The longest honest reply is a look at
/// a hundred waiters, of some 100 kB.
const MOST: u64 = 1 << 20;

/// What an element of an array costs in memory, however short it is on the wire.
const ELEMENT: u64 = 64;

/// How deep arrays may be nested. No reply to this library is nested deeper than three.
const DEPTH: usize = 8;

/// Where in a reply the server is, and what the reply has cost so far.
#[derive(Debug, Default)]
pub(super) struct ReplyLimit {
    at: At,
    cost: u64,
    /// How many elements are still to come, for each array that has begun; the innermost last.
    open: [u64; DEPTH],
    depth: usize,
}

/// What the next byte is.
#[derive(Clone, Copy, Debug, Default)]
enum At {
    /// The type of an element.
    #[default]
    Type,
    /// A queue, up to its queue feed, which counts after a carriage return only. Where a count or a length stands in it: which,
    /// and what was read of it.
    Queue { number: Option<Number>, is_returned: bool },
    /// The rest of a text of known length, its queue's end included.
    Text(u64),
}

#[derive(Clone, Copy, Debug)]
struct Number {
    kind: u8,
    is_negative: bool,
    value: u64,
}

impl ReplyLimit {
    /// Reads along.
    ///
    /// # Errors
    ///
    /// When a reply costs too much. Nothing more is to be read then.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while let Some((&byte, rest)) = bytes.split_first() {
            match self.at {
                At::Type => {
                    self.spend(1)?;
                    self.at = At::Queue { number: Number::of(byte), is_returned: false };
                    bytes = rest;
                }
                At::Queue { number, is_returned } => {
                    let length = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
                    let (queue, after) = bytes.split_at(length);
                    self.spend(queue.len() as u64 + 1)?;
                    let number = number.map(|number| number.and(queue));
                    let is_returned = queue.last().map_or(is_returned, |last| *last == b'\r');
                    match after.split_first() {
                        Some((_, rest)) if is_returned => {
                            bytes = rest;
                            self.line_ended(number)?;
                        }
                        // A queue feed by itself is a part of the queue.
                        Some((_, rest)) => {
                            bytes = rest;
                            self.at = At::Queue { number, is_returned: false };
                        }
                        None => {
                            bytes = after;
                            self.at = At::Queue { number, is_returned };
                        }
                    }
                }
                At::Text(left) => {
                    // Paid for when it was announced.
                    let taken = left.min(bytes.len() as u64);
                    bytes = &bytes[usize::try_from(taken).unwrap_or(bytes.len())..];
                    self.at = At::Text(left - taken);
                    if left == taken {
                        self.element_ended();
                    }
                }
            }
        }
        Ok(())
    }

    fn line_ended(&mut self, number: Option<Number>) -> io::Result<()> {
        let Some(Number { kind, is_negative, value }) = number else {
            self.element_ended();
            return Ok(());
        };
        if is_negative || (value == 0 && !matches!(kind, b'$' | b'=' | b'!' | b'|')) {
            // Of these, -1 stands for nothing; of the others, it is nonsense that the redis crate takes for a length.
            if is_negative && !matches!(kind, b'$' | b'*' | b'~' | b'>') {
                return Err(too_large());
            }
            self.element_ended();
            return Ok(());
        }
        match kind {
            b'$' | b'=' | b'!' => {
                self.spend(value)?;
                self.at = At::Text(value + 2);
            }
            _ => {
                let elements = match kind {
                    b'%' => value.saturating_mul(2),
                    // Attributes stand before what they belong to.
                    b'|' => value.saturating_mul(2).saturating_add(1),
                    _ => value,
                };
                self.spend(elements.saturating_mul(ELEMENT))?;
                let open = self.open.get_mut(self.depth).ok_or_else(too_large)?;
                *open = elements;
                self.depth += 1;
                self.at = At::Type;
            }
        }
        Ok(())
    }

    /// An element is complete, and with it perhaps the array around it, and so on.
    fn element_ended(&mut self) {
        self.at = At::Type;
        while self.depth > 0 {
            let open = &mut self.open[self.depth - 1];
            *open -= 1;
            if *open > 0 {
                return;
            }
            self.depth -= 1;
        }
        self.cost = 0;
    }

    fn spend(&mut self, cost: u64) -> io::Result<()> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > MOST { Err(too_large()) } else { Ok(()) }
    }
}

impl Number {
    /// What the queue of an element of this type says a number of, if it does.
    const fn of(kind: u8) -> Option<Self> {
        match kind {
            b'$' | b'=' | b'!' | b'*' | b'~' | b'>' | b'%' | b'|' => {
                Some(Self { kind, is_negative: false, value: 0 })
            }
            _ => None,
        }
    }

    /// The number with more of its digits. The redis crate refuses what is no number.
    fn and(mut self, text: &[u8]) -> Self {
        for byte in text {
            match byte {
                b'-' => self.is_negative = true,
                b'0'..=b'9' => {
                    self.value = self.value.saturating_mul(10).saturating_add(u64::from(byte - b'0'));
                }
                _ => {}
            }
        }
        self
    }
}

/// What became of a server that sends too much, in words.
pub(super) const TOO_LARGE: &str = "the server sent a reply that is larger than any to a request of ours (more than 1 MiB); is it a Redis \
                         server?";

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, TOO_LARGE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads `text`, cut into pieces of `size` bytes, and says whether it was within the limit, and whole.
    fn read(text: &[u8], size: usize) -> Result<bool, String> {
        let mut limit = ReplyLimit::default();
        for piece in text.chunks(size) {
            limit.read(piece).map_err(|error| error.to_string())?;
        }
        Ok(matches!(limit.at, At::Type) && limit.depth == 0 && limit.cost == 0)
    }

    #[test]
    fn the_end_of_each_kind_of_reply_is_found_however_it_is_cut() {
        let replies = [
            "+OK\r\n",
            "-ERR no\r\n",
            ":-12\r\n",
            "$5\r\na\r\nbc\r\n",
            "$0\r\n\r\n",
            "$-1\r\n",
            "_\r\n",
            ",1.5\r\n",
            "#t\r\n",
            "(123\r\n",
            "!3\r\nERR\r\n",
            "=5\r\ntxt:a\r\n",
            "*0\r\n",
            "*-1\r\n",
            "*3\r\n:1\r\n*2\r\n+a\r\n$1\r\nb\r\n_\r\n",
            "%1\r\n+a\r\n*1\r\n:1\r\n",
            "~2\r\n:1\r\n:2\r\n",
            "|1\r\n+ttl\r\n:3\r\n:7\r\n",
            "|0\r\n:7\r\n",
            ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n",
        ];
        for size in [1, 2, 3, 7, 1000] {
            for reply in replies {
                assert_eq!(read(reply.as_bytes(), size), Ok(true), "{reply:?} by {size}");
                assert_eq!(
                    read(&reply.as_bytes()[..reply.len() - 1], size),
                    Ok(false),
                    "{reply:?} cut short"
                );
            }
            assert_eq!(read(replies.concat().as_bytes(), size), Ok(true), "by {size}");
        }
    }

    #[test]
    fn what_is_announced_counts_before_it_comes() {
        for header in [
            "$2147483648\r\n",
            "*16385\r\n",
            "*9223372036854775807\r\n",
            "%99999999999999999999999\r\n",
            "|9223372036854775807\r\n",
            "=-1\r\n",
            "!-5\r\n",
            "%-1\r\n",
        ] {
            assert!(read(header.as_bytes(), 4).is_err(), "{header:?}");
        }
        assert!(read(b"$1048000\r\n", 4).is_ok());
    }

    #[test]
    fn what_never_ends_is_ended() {
        assert!(read(&[b'+'; 2 << 20], 4096).is_err(), "an endless line");
        assert!(read(&b"+a\n".repeat(1 << 19), 4096).is_err(), "line feeds alone end no line");
        assert!(read(&b"*1\r\n".repeat(DEPTH + 1), 4096).is_err(), "endless nesting");
        assert!(read(&b"*1000\r\n".repeat(3), 4096).is_ok());
        let many = [b"*1000\r\n".as_slice(), &b"*1000\r\n".repeat(1000)].concat();
        assert!(read(&many, 4096).is_err());
    }

    #[test]
    fn many_replies_within_the_limit_are_within_the_limit() {
        let reply = [b"$100000\r\n".as_slice(), &[b'x'; 100_000], b"\r\n"].concat();
        assert_eq!(read(&reply.repeat(30), 4096), Ok(true));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, size in 1_usize..9) {
            let _ = read(&bytes, size);
        }

        #[test]
        fn no_reply_makes_it_panic(text in "[$*%|>=!~:+_0-9\r\n-]{0,60}", size in 1_usize..9) {
            let _ = read(text.as_bytes(), size);
        }
    }
}
