//! One TCP connection of a client, of which a test sees every turn.

use std::io::{self, BufReader, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::resp::{self, Reply};

/// A connection that stays, to a server or to a [`Proxy`](crate::Proxy) before one. It does not authenticate
/// itself.
///
/// Sending and receiving are apart, so that requests can be pipelined and a reply can fail to come. For commands
/// that just have to work there is [`RedisServer::command`](crate::RedisServer::command).
#[derive(Debug)]
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects to `127.0.0.1:PORT`.
    ///
    /// # Errors
    ///
    /// Those of [`TcpStream::connect`].
    pub fn connect(address: impl ToSocketAddrs) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends a command and does not wait for the reply.
    ///
    /// # Errors
    ///
    /// When the connection is broken, or when nobody reads from it and 2 s have passed.
    pub fn send(&mut self, command: &[&str]) -> io::Result<()> {
        self.stream.get_mut().write_all(&resp::encode(command))
    }

    /// Waits for the next reply, or for a message the server published.
    ///
    /// # Errors
    ///
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) when nothing comes in `timeout`, which is longer than zero;
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) when the connection was closed;
    /// [`ConnectionReset`](io::ErrorKind::ConnectionReset) when it was reset. After the first, the connection is
    /// still of use unless half a reply had come.
    pub fn receive_within(&mut self, timeout: Duration) -> io::Result<Reply> {
        self.stream.get_ref().set_read_timeout(Some(timeout))?;
        Reply::read(&mut self.stream)
    }

    /// Sends a command and waits up to 2 s for the next reply.
    ///
    /// # Errors
    ///
    /// Those of [`send`](Self::send) and [`receive_within`](Self::receive_within).
    pub fn ask(&mut self, command: &[&str]) -> io::Result<Reply> {
        self.send(command)?;
        self.receive_within(PATIENCE)
    }
}

const PATIENCE: Duration = Duration::from_secs(2);
