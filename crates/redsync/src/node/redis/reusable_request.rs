//! Carries requests through the redis crate, one at a time.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value};

use super::client::Command;

/// Carries one request at a time, and is used again for the next.
///
/// The redis crate's future for a request is over a kilobyte large. To box one for each request means to copy it around and
/// to ask the allocator for so much; this makes one, which takes request after request. Dropped, it gives up what is under
/// way.
pub(super) struct ReusableRequest {
    exchanged: Arc<Mutex<Exchanged>>,
    /// Never completes.
    under_way: Pin<Box<dyn Future<Output = Infallible> + Send>>,
}

/// What it was given, and what it brought back.
#[derive(Default)]
struct Exchanged {
    request: Option<Command>,
    reply: Option<RedisResult<Value>>,
}

impl ReusableRequest {
    pub(super) fn new(mut connection: MultiplexedConnection) -> Self {
        let exchanged = Arc::<Mutex<Exchanged>>::default();
        let given = Arc::clone(&exchanged);
        let under_way = Box::pin(async move {
            loop {
                let request =
                    poll_fn(|_| lock(&given).request.take().map_or(Poll::Pending, Poll::Ready)).await;
                let reply = connection.send_packed_command(request.as_redis()).await;
                lock(&given).reply = Some(reply);
            }
        });
        Self { exchanged, under_way }
    }

    /// Gives it something to carry. It must have nothing under way.
    pub(super) fn give(&self, request: Command) {
        lock(&self.exchanged).request = Some(request);
    }

    /// Sends what it was given once, and completes with the reply.
    pub(super) fn poll_reply(&mut self, context: &mut Context<'_>) -> Poll<RedisResult<Value>> {
        match self.under_way.as_mut().poll(context) {
            Poll::Pending => lock(&self.exchanged).reply.take().map_or(Poll::Pending, Poll::Ready),
        }
    }
}

fn lock(exchanged: &Mutex<Exchanged>) -> MutexGuard<'_, Exchanged> {
    exchanged.lock().unwrap_or_else(PoisonError::into_inner)
}
