//! The first bytes that came on a connection, from which a person can be told what answered.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The first bytes of one connection. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct FirstBytes(Arc<Mutex<Vec<u8>>>);

impl FirstBytes {
    pub(super) const KEPT: usize = 64;

    /// `stream`, whose first bytes are kept here.
    pub(super) fn of<S>(&self, stream: S) -> Overheard<S> {
        Overheard { stream, first: Some(self.clone()) }
    }

    pub(super) fn read(&self) -> Vec<u8> {
        self.lock().clone()
    }

    /// Puts what came on another connection in their place.
    #[cfg(feature = "tls")]
    pub(super) fn replace(&self, bytes: Vec<u8>) {
        *self.lock() = bytes;
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream whose first bytes are kept.
pub(super) struct Overheard<S> {
    stream: S,
    /// Until enough has come.
    first: Option<FirstBytes>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Overheard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        if let Some(first) = &self.first {
            let mut kept = first.lock();
            let room = FirstBytes::KEPT.saturating_sub(kept.len());
            let new = buffer.filled().get(before..).unwrap_or_default();
            kept.extend(new.iter().take(room));
            let is_full = kept.len() >= FirstBytes::KEPT;
            drop(kept);
            if is_full {
                self.first = None;
            }
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Overheard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
