//! A Redis client of your own under redsync: here one over a plain socket.
//!
//! ```sh
//! cargo run -p redsync --example own_client -- 127.0.0.1:6379
//! ```

use std::fmt;
use std::future::ready;
use std::sync::Arc;

use redsync::{Answer, Client, Command, Messages, Node, NodeFault, RedisNode, Redsync, Reply};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

#[allow(dead_code, reason = "a test borrows the client, and has a main of its own")]
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:6379".into());
    let node: Arc<dyn Node> = Arc::new(RedisNode::with_client(PlainClient::connect(&address).await?));
    let redsync = Redsync::new([node])?;

    let guard = redsync.mutex("own-client").lock().await?;
    println!("held for {:?} by {}", guard.remaining(), guard.token());
    guard.unlock().await?;
    Ok(())
}

/// One socket, and a task that sends what it is given in the order of the calls and reads the replies.
///
/// Kept small: it does not reconnect. It keeps the two promises that matter, though: nothing is sent twice, and a caller
/// who gives up does not shift the replies of the others.
#[derive(Debug)]
pub(crate) struct PlainClient {
    address: String,
    requests: mpsc::UnboundedSender<Request>,
}

type Request = (Vec<u8>, oneshot::Sender<Result<Reply, NodeFault>>);

impl PlainClient {
    /// Connects to `host:port`.
    pub(crate) async fn connect(address: &str) -> std::io::Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let (requests, queue) = mpsc::unbounded_channel();
        tokio::spawn(converse(BufReader::new(socket), queue));
        Ok(Self { address: address.to_owned(), requests })
    }
}

impl Client for PlainClient {
    fn execute(&self, command: Command) -> Answer<'_, Reply> {
        let mut bytes = format!("*{}\r\n", command.parts().len()).into_bytes();
        for part in command.parts() {
            bytes.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
            bytes.extend_from_slice(part);
            bytes.extend_from_slice(b"\r\n");
        }
        let (reply, answer) = oneshot::channel();
        let sent = self.requests.send((bytes, reply));
        Box::pin(async move {
            // The task is gone, so the request was never sent.
            sent.map_err(|_| NodeFault::unreachable("the connection is closed"))?;
            // The task ended with the request in its hands: it may have been applied.
            answer.await.unwrap_or_else(|_| Err(NodeFault::disconnected("the connection broke")))
        })
    }

    /// This one speaks RESP2 on one socket, which cannot be told anything. Whoever waits asks again, twenty times a second.
    fn subscribe<'a>(&'a self, _channel: &'a str, _messages: Messages) -> Answer<'a, bool> {
        Box::pin(ready(Ok(false)))
    }
}

impl fmt::Display for PlainClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

async fn converse(mut socket: BufReader<TcpStream>, mut queue: mpsc::UnboundedReceiver<Request>) {
    while let Some((bytes, reply)) = queue.recv().await {
        if socket.write_all(&bytes).await.is_err() {
            return;
        }
        // Read also when the caller has gone, so that the next caller gets the next reply.
        let Ok(read) = read_reply(&mut socket).await else { return };
        let _ = reply.send(read);
    }
}

/// A reply of the server, or its error; an I/O error ends the conversation.
async fn read_reply(socket: &mut BufReader<TcpStream>) -> std::io::Result<Result<Reply, NodeFault>> {
    let mut line = String::new();
    if socket.read_line(&mut line).await? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let line = line.trim_end();
    let Some((kind, rest)) = line.split_at_checked(1) else {
        return Err(std::io::ErrorKind::InvalidData.into());
    };
    let number = || rest.parse::<i64>().map_err(|_| std::io::ErrorKind::InvalidData);
    Ok(match kind {
        "+" => Ok(Reply::Text(rest.into())),
        ":" => Ok(Reply::Int(number()?)),
        "-" => {
            let code = rest.split(' ').next().unwrap_or_default();
            Err(NodeFault::refused(code, rest))
        }
        "$" => match usize::try_from(number()?) {
            Err(_) => Ok(Reply::Nil),
            Ok(length) => {
                let mut bytes = vec![0; length + 2];
                socket.read_exact(&mut bytes).await?;
                bytes.truncate(length);
                Ok(Reply::Text(bytes))
            }
        },
        "*" => {
            let mut list = Vec::new();
            for _ in 0..number()?.max(0) {
                match Box::pin(read_reply(socket)).await? {
                    Ok(reply) => list.push(reply),
                    Err(fault) => return Ok(Err(fault)),
                }
            }
            Ok(Reply::Array(list))
        }
        _ => return Err(std::io::ErrorKind::InvalidData.into()),
    })
}
