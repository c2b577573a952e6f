//! A server that answers what a test wants it to.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// A TCP server on 127.0.0.1 that grants everything to everybody, as far as it does not lie.
///
/// Dropping it closes its port and all connections.
#[derive(Debug)]
pub struct Liar {
    port: u16,
    state: Arc<State>,
}

/// What a command asks for, as far as a liar can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The first words: `HELLO`.
    Hello,
    /// Who the server is: `INFO`.
    Info,
    /// The lease, with a fence or without.
    Acquire,
    /// A place in the queue.
    Enter,
    /// A longer lease.
    Extend,
    /// The end of the lease.
    Release,
    /// A look at the lock.
    Inspect,
    /// Anything else.
    Other,
}

/// What the liar answers.
#[derive(Clone, Debug)]
pub enum Lie {
    /// These bytes.
    Reply(Vec<u8>),
    /// The first of these, and then the second again and again, for ever.
    Endless(Vec<u8>, Vec<u8>),
}

#[derive(Debug, Default)]
struct State {
    is_over: AtomicBool,
    requests: AtomicUsize,
    connections: AtomicUsize,
    streams: Mutex<Vec<TcpStream>>,
}

impl Liar {
    /// Starts one that answers to each command what `lie` gives, or where that gives nothing, what an honest server would.
    #[track_caller]
    pub fn start(lie: impl Fn(Stage, &[String]) -> Option<Lie> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .unwrap_or_else(|error| panic!("cannot listen on a free port: {error}"));
        let port = listener.local_addr().map_or(0, |address| address.port());
        let (state, lie) = (Arc::<State>::default(), Arc::new(lie));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.is_over.load(Ordering::Acquire) {
                    return;
                }
                shared.connections.fetch_add(1, Ordering::Relaxed);
                if let Ok(stream) = stream.try_clone() {
                    shared.streams.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
                }
                let (shared, lie) = (Arc::clone(&shared), Arc::clone(&lie));
                // It ends with its connection.
                thread::spawn(move || serve(stream, port, &shared, &*lie));
            }
        });
        Self { port, state }
    }

    /// `redis://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// How many commands it has been sent.
    pub fn requests(&self) -> usize {
        self.state.requests.load(Ordering::Relaxed)
    }

    /// How many connections were made to it.
    pub fn connections(&self) -> usize {
        self.state.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::Release);
        for stream in self.state.streams.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Its thread waits for a connection.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(
    stream: TcpStream,
    port: u16,
    state: &State,
    lie: &(dyn Fn(Stage, &[String]) -> Option<Lie> + Send + Sync),
) -> Option<()> {
    let mut requests = BufReader::new(stream.try_clone().ok()?);
    let mut replies = stream;
    loop {
        let command = command(&mut requests).ok()?;
        state.requests.fetch_add(1, Ordering::Relaxed);
        let stage = stage(&command);
        match lie(stage, &command) {
            None => replies.write_all(&honest(stage, &command, port)).ok()?,
            Some(Lie::Reply(reply)) => replies.write_all(&reply).ok()?,
            Some(Lie::Endless(first, then)) => {
                replies.write_all(&first).ok()?;
                let then = then.repeat((64 * 1024 / then.len().max(1)).max(1));
                loop {
                    replies.write_all(&then).ok()?;
                }
            }
        }
    }
}

fn command(requests: &mut impl BufRead) -> io::Result<Vec<String>> {
    let mut words = Vec::new();
    for _ in 0..number_in_queue(requests)? {
        let length = number_in_queue(requests)?;
        let mut word = vec![0; length + 2];
        requests.read_exact(&mut word)?;
        word.truncate(length);
        words.push(String::from_utf8_lossy(&word).into_owned());
    }
    Ok(words)
}

fn number_in_queue(requests: &mut impl BufRead) -> io::Result<usize> {
    let mut line = String::new();
    requests.read_line(&mut line)?;
    let number = line.trim_end().get(1..).and_then(|text| text.parse().ok());
    number.ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn stage(command: &[String]) -> Stage {
    let word = |at: usize| command.get(at).map_or("", String::as_str);
    let keys = || word(2).parse::<usize>().unwrap_or_default();
    match (word(0), command.len()) {
        ("HELLO", _) => Stage::Hello,
        ("INFO", _) => Stage::Info,
        ("SET", _) => Stage::Acquire,
        ("EVAL" | "EVALSHA", words) => match (keys(), words.saturating_sub(3 + keys())) {
            (1, 2) | (2, 4) => Stage::Acquire,
            (1 | 2, 5) => Stage::Extend,
            (3, 8..) => Stage::Enter,
            (3, 1) if word(6).parse::<u64>().is_ok() => Stage::Inspect,
            _ => Stage::Release,
        },
        _ => Stage::Other,
    }
}

fn honest(stage: Stage, command: &[String], port: u16) -> Vec<u8> {
    let text = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    let last = |from_end: usize| {
        let at = command.len().checked_sub(from_end);
        at.and_then(|at| command.get(at)).cloned().unwrap_or_default()
    };
    let reply = match stage {
        Stage::Hello => format!("%2\r\n{}{}{}:3\r\n", text("server"), text("redis"), text("proto")),
        Stage::Info => match last(1).as_str() {
            "server" => text(&format!("run_id:{port:040}\r\nuptime_in_seconds:1000000\r\n")),
            "replication" => text(&format!("role:master\r\nmaster_replid:{port:040}\r\n")),
            _ => text("maxmemory:0\r\n"),
        },
        // The counter stands where it was proposed to.
        Stage::Acquire if command.len() == 9 => format!(":{}\r\n", last(2)),
        Stage::Acquire => "_\r\n".to_owned(),
        Stage::Extend if last(2) != "0" => format!(":-{}\r\n", last(2)),
        Stage::Extend | Stage::Release => ":1\r\n".to_owned(),
        // To the first of those who ask.
        Stage::Enter => {
            let word = |at: usize| command.get(at).cloned().unwrap_or_default();
            let mut reply = format!("*4\r\n{}:{}\r\n", text(&word(8)), word(9));
            reply.push_str(&format!(":{}\r\n:-{}\r\n", word(10), word(12)));
            reply
        }
        Stage::Inspect => "*4\r\n_\r\n:0\r\n:0\r\n:0\r\n".to_owned(),
        Stage::Other => match command.first().map(String::as_str) {
            Some("SUBSCRIBE") => format!(">3\r\n{}{}:1\r\n", text("subscribe"), text(&last(1))),
            Some("SCRIPT") => text("0000000000000000000000000000000000000000"),
            _ => "+OK\r\n".to_owned(),
        },
    };
    reply.into_bytes()
}
