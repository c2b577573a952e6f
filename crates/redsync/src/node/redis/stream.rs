//! The byte stream to a server: TCP, TLS over TCP, or a unix socket.
//!
//! The redis crate would make one itself, and then read whatever the server sends into memory. Here a
//! [`ReplyLimit`] reads along and ends a stream whose server sends more than an honest one does.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use redis::io::tcp::socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::address::Place;
use super::reply_limit::ReplyLimit;

/// A stream whose replies are limited.
pub(super) struct Stream {
    way: Way,
    limit: ReplyLimit,
    excess: Excess,
}

/// Whether a stream was ended because of its replies. The redis crate passes the reason on to one request only.
#[derive(Clone, Debug, Default)]
pub(super) struct Excess(Arc<AtomicBool>);

impl Excess {
    pub(super) fn has_happened(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

enum Way {
    Tcp(TcpStream),
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
}

impl Stream {
    /// Resolves the name anew and connects.
    pub(super) async fn open(place: &Place) -> io::Result<Self> {
        let way = match place {
            Place::Tcp { host, port } => Way::Tcp(connect(host, *port).await?),
            #[cfg(feature = "tls")]
            Place::Tls { host, port, config } => {
                let name = rustls::pki_types::ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
                Way::Tls(Box::new(connector.connect(name, connect(host, *port).await?).await?))
            }
            #[cfg(unix)]
            Place::Unix(path) => Way::Unix(tokio::net::UnixStream::connect(path).await?),
            #[cfg(not(unix))]
            Place::Unix(_) => return Err(io::Error::other("this system has no unix sockets")),
        };
        Ok(Self { way, limit: ReplyLimit::default(), excess: Excess::default() })
    }

    pub(super) fn excess(&self) -> Excess {
        self.excess.clone()
    }
}

/// Connects to the first of the name's addresses that answers.
async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut addresses = tokio::net::lookup_host((host, port)).await?.take(MOST_ADDRESSES);
    let (first, second) = (addresses.next(), addresses.next());
    let stream = match (first, second) {
        (None, _) => return Err(io::Error::other("no address found for host")),
        (Some(only), None) => TcpStream::connect(only).await?,
        (Some(first), Some(second)) => first_to_answer([first, second].into_iter().chain(addresses)).await?,
    };
    configure(&stream)?;
    Ok(stream)
}

async fn first_to_answer(addresses: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    let mut connecting = JoinSet::new();
    for address in addresses {
        connecting.spawn(TcpStream::connect(address));
    }
    let mut failure = io::Error::other("no address found for host");
    while let Some(connected) = connecting.join_next().await {
        match connected.map_err(io::Error::other) {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) | Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Small packets go out at once; a peer that vanished is noticed by the kernel within seconds even when nobody asks.
fn configure(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(5))
        .with_interval(Duration::from_secs(2))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    socket.set_tcp_user_timeout(Some(Duration::from_secs(5)))?;
    Ok(())
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { way, limit, excess } = self.get_mut();
        let before = buffer.filled().len();
        let read = match way {
            Way::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            #[cfg(feature = "tls")]
            Way::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
            #[cfg(unix)]
            Way::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        if let Poll::Ready(Ok(())) = read
            && let Err(error) = limit.read(&buffer.filled()[before..])
        {
            // The redis crate must not see what it would set memory aside for.
            buffer.set_filled(before);
            excess.0.store(true, Ordering::Relaxed);
            return Poll::Ready(Err(error));
        }
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().way {
            Way::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            #[cfg(feature = "tls")]
            Way::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
            #[cfg(unix)]
            Way::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().way {
            Way::Tcp(stream) => Pin::new(stream).poll_flush(context),
            #[cfg(feature = "tls")]
            Way::Tls(stream) => Pin::new(stream).poll_flush(context),
            #[cfg(unix)]
            Way::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().way {
            Way::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            #[cfg(feature = "tls")]
            Way::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            #[cfg(unix)]
            Way::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// How many of a name's addresses are tried.
const MOST_ADDRESSES: usize = 8;
