//! A connection for what the server tells, in RESP2, and a thread that reads it.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use redsync::{Messages, NodeFault};
use tokio::sync::oneshot;

/// What is subscribed to on one connection.
pub(super) struct Subscriptions {
    socket: UnixStream,
    channels: Arc<Mutex<HashMap<String, Channel>>>,
}

struct Channel {
    messages: Messages,
    /// Who waits for the server's word that the channel is subscribed to.
    confirmed: Option<oneshot::Sender<()>>,
}

impl Subscriptions {
    /// Connects to the unix socket of a URL, and starts to read.
    pub(super) fn over(url: &str) -> io::Result<Self> {
        let path = url.trim_start_matches("redis+unix://");
        let socket = UnixStream::connect(path)?;
        let channels = Arc::<Mutex<HashMap<String, Channel>>>::default();
        let (reader, known) = (BufReader::new(socket.try_clone()?), Arc::clone(&channels));
        std::thread::spawn(move || read_on(reader, &known));
        Ok(Self { socket, channels })
    }

    pub(super) async fn add(&self, channel: &str, messages: Messages) -> Result<bool, NodeFault> {
        let (confirmed, confirmation) = oneshot::channel();
        {
            let mut channels = self.channels.lock().unwrap();
            channels.insert(channel.to_owned(), Channel { messages, confirmed: Some(confirmed) });
            let command = format!("*2\r\n$9\r\nSUBSCRIBE\r\n${}\r\n{channel}\r\n", channel.len());
            (&self.socket)
                .write_all(command.as_bytes())
                .map_err(|error| NodeFault::disconnected("the socket broke").with_source(error))?;
        }
        let broken = |_| NodeFault::disconnected("the socket broke");
        confirmation.await.map(|()| true).map_err(broken)
    }
}

impl Drop for Subscriptions {
    fn drop(&mut self) {
        // Ends the reading thread.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// Until the connection ends: `subscribe CHANNEL COUNT` and `message CHANNEL PAYLOAD`.
fn read_on(mut socket: BufReader<UnixStream>, channels: &Mutex<HashMap<String, Channel>>) {
    while let Ok([kind, channel, payload]) = read_push(&mut socket) {
        let mut channels = channels.lock().unwrap();
        let Some(channel) = channels.get_mut(&*String::from_utf8_lossy(&channel)) else { continue };
        match &*kind {
            b"subscribe" => drop(channel.confirmed.take().map(|confirmed| confirmed.send(()))),
            b"message" => channel.messages.message(&payload),
            _ => {}
        }
    }
    channels.lock().unwrap().values().for_each(|channel| channel.messages.interrupted());
}

/// An array of three: bulk strings, and perhaps a number at its end.
fn read_push(socket: &mut BufReader<UnixStream>) -> io::Result<[Vec<u8>; 3]> {
    let mut line = String::new();
    let mut parts = [const { Vec::new() }; 3];
    socket.read_line(&mut line)?;
    if line != "*3\r\n" {
        return Err(io::ErrorKind::InvalidData.into());
    }
    for part in &mut parts {
        line.clear();
        socket.read_line(&mut line)?;
        if let Some(length) = line.strip_prefix('$') {
            let length: usize = length.trim_end().parse().map_err(|_| io::ErrorKind::InvalidData)?;
            part.resize(length + 2, 0);
            socket.read_exact(part)?;
            part.truncate(length);
        }
    }
    Ok(parts)
}
