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
use super::first_bytes::{FirstBytes, Overheard};
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
    Tcp(Overheard<TcpStream>),
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::client::TlsStream<Overheard<TcpStream>>>),
    #[cfg(unix)]
    Unix(Overheard<tokio::net::UnixStream>),
}

impl Stream {
    /// Resolves the name anew and connects. What is read at first is kept in `first`: in TLS, what comes before it is
    /// decrypted.
    pub(super) async fn open(place: &Place, first: &FirstBytes) -> io::Result<Self> {
        let way = match place {
            Place::Tcp { host, port } => Way::Tcp(first.of(connect(host, *port).await?)),
            #[cfg(feature = "tls")]
            Place::Tls { host, port, name, config } => {
                let stream = connect(host, *port).await?;
                let peer = stream.peer_addr()?;
                let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
                tokio::select! {
                    biased;
                    secured = connector.connect(name.clone(), first.of(stream)) => Way::Tls(Box::new(secured?)),
                    said = said_without_tls(peer) => {
                        first.replace(said);
                        return Err(io::Error::other("the server does not answer in TLS"));
                    }
                }
            }
            #[cfg(unix)]
            Place::Unix(path) => Way::Unix(first.of(tokio::net::UnixStream::connect(path).await?)),
            #[cfg(not(unix))]
            Place::Unix(_) => return Err(io::Error::other("this system has no unix sockets")),
        };
        Ok(Self { way, limit: ReplyLimit::default(), excess: Excess::default() })
    }

    pub(super) fn excess(&self) -> Excess {
        self.excess.clone()
    }
}

/// What a server says that has not answered a TLS handshake, if it is one that takes commands without TLS: such a server
/// waits for the end of what it takes for a line. Never completes for others.
#[cfg(feature = "tls")]
async fn said_without_tls(peer: SocketAddr) -> Vec<u8> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let ask = async {
        tokio::time::sleep(SILENT_HANDSHAKE).await;
        let mut stream = TcpStream::connect(peer).await?;
        stream.write_all(b"PING\r\n").await?;
        let mut said = vec![0; FirstBytes::KEPT];
        let length = stream.read(&mut said).await?;
        said.truncate(length);
        io::Result::Ok(said)
    };
    match ask.await {
        // An answer or an error of Redis.
        Ok(said) if said.starts_with(b"+") || said.starts_with(b"-") => said,
        _ => std::future::pending().await,
    }
}

/// Whether a server that closes connections without a word answers a TLS handshake: Redis does so on its port for TLS.
#[cfg(feature = "tls")]
pub(super) async fn speaks_tls(place: &Place) -> bool {
    let Place::Tcp { host, port } = place else { return false };
    let shaking_hands = async {
        let (first, config) = (FirstBytes::default(), super::tls::trusting_nobody().ok()?);
        let name = rustls::pki_types::ServerName::try_from(host.clone()).ok()?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        // It fails in any case: what matters is how it was answered.
        let _ = connector.connect(name, first.of(connect(host, *port).await.ok()?)).await;
        Some(matches!(first.read().as_slice(), [0x15 | 0x16, 0x03, ..]))
    };
    matches!(tokio::time::timeout(PROBE, shaking_hands).await, Ok(Some(true)))
}

#[cfg(not(feature = "tls"))]
pub(super) async fn speaks_tls(_: &Place) -> bool {
    false
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

/// After a handshake was unanswered for so long, the server is asked without TLS beside it.
#[cfg(feature = "tls")]
const SILENT_HANDSHAKE: Duration = Duration::from_secs(1);

/// How long a handshake may take that is only to show whether the server speaks TLS.
#[cfg(feature = "tls")]
const PROBE: Duration = Duration::from_secs(1);

/// How many of a name's addresses are tried.
const MOST_ADDRESSES: usize = 8;
