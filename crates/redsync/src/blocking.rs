//! The same interface for programs without async.
//!
//! One thread runs the connections and the background work; the calls here hand it their question and wait. They may be
//! used anywhere, inside of an async runtime too, though there they block the thread they are called on. All is here that
//! the async interface has.
//!
//! ```
//! use redsync::blocking::Redsync;
//!
//! # fn main() -> Result<(), redsync::Error> {
//! let redsync = Redsync::connect(["memory:"])?;
//! let guard = redsync.mutex("orders:42").lock()?;
//! // … what must not be done twice …
//! guard.unlock()?;
//! # Ok(()) }
//! ```

mod fenced;

use std::fmt;
use std::future::Future;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

pub use self::fenced::{FencedGuard, FencedMutex};
use crate::error::Error;
use crate::guard::Guard as AsyncGuard;
use crate::inspection::{HealthWarning, Inspection};
use crate::lease::Lease;
use crate::listing::Listing;
use crate::lost::{Lost, LostSignal};
use crate::mutex::Mutex as AsyncMutex;
use crate::node::{Holder, IntoNode, Search};
use crate::options::{LockOptions, option_methods};
use crate::protocol::{Expiry, Fence, Instant, LockName, Token};
use crate::redsync::{Builder, Redsync as AsyncRedsync};

/// Locks over one node, or over N independent ones. The blocking form of [`redsync::Redsync`](crate::Redsync).
///
/// Cheap to clone. When the last clone, mutex and guard are gone, the thread finishes what it was given, for up to a
/// second, and ends.
#[derive(Clone)]
pub struct Redsync {
    redsync: AsyncRedsync,
    thread: Arc<RuntimeThread>,
}

impl Redsync {
    /// Connects to the nodes that `urls` name; see [`redsync::Redsync::connect`](crate::Redsync::connect).
    ///
    /// # Errors
    ///
    /// As there, and [`Error::Runtime`] when the thread cannot be started.
    pub fn connect<U: AsRef<str>>(urls: impl IntoIterator<Item = U>) -> Result<Self, Error> {
        let mut builder = AsyncRedsync::builder();
        for url in urls {
            builder = builder.url(url.as_ref());
        }
        let redsync = Self::build(builder)?;
        redsync.check_nodes()?;
        Ok(redsync)
    }

    /// Locks over `nodes`; see [`redsync::Redsync::new`](crate::Redsync::new).
    ///
    /// # Errors
    ///
    /// As there, and [`Error::Runtime`] when the thread cannot be started.
    pub fn new<N: IntoNode>(nodes: impl IntoIterator<Item = N>) -> Result<Self, Error> {
        Self::build(nodes.into_iter().fold(AsyncRedsync::builder(), Builder::node))
    }

    /// What `builder` describes, in blocking form.
    ///
    /// # Errors
    ///
    /// As [`Builder::build`], and [`Error::Runtime`] when the thread cannot be started.
    pub fn build(builder: Builder) -> Result<Self, Error> {
        let redsync = builder.build()?;
        let thread = RuntimeThread::start(redsync.clone())?;
        Ok(Self { redsync, thread: Arc::new(thread) })
    }

    /// The lock called `name`.
    pub fn mutex(&self, name: impl Into<String>) -> Mutex {
        Mutex { mutex: self.redsync.mutex(name), thread: Arc::clone(&self.thread) }
    }

    /// Takes over a held lock; see [`redsync::Redsync::adopt`](crate::Redsync::adopt).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn adopt(&self, lease: &Lease) -> Result<Guard, Error> {
        self.mutex(lease.name().as_str()).expiry(lease.expiry()).adopt(lease)
    }

    /// Says who holds a lock; see [`redsync::Redsync::inspect`](crate::Redsync::inspect).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn inspect(&self, name: impl AsRef<str>) -> Result<Inspection, Error> {
        let (redsync, name) = (self.redsync.clone(), name.as_ref().to_owned());
        self.thread.wait_for(async move { redsync.inspect(name).await })
    }

    /// Says which locks are held; see [`redsync::Redsync::list`](crate::Redsync::list).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn list(&self, search: &Search) -> Result<Listing, Error> {
        let (redsync, search) = (self.redsync.clone(), search.clone());
        self.thread.wait_for(async move { redsync.list(&search).await })
    }

    /// Waits until the background has finished what was given to it before; see
    /// [`redsync::Redsync::drain`](crate::Redsync::drain).
    pub fn drain(&self, within: Duration) -> bool {
        let redsync = self.redsync.clone();
        self.thread.wait_for(async move { Ok(redsync.drain(within).await) }).unwrap_or(false)
    }

    /// Ends the background work; see [`redsync::Redsync::shutdown`](crate::Redsync::shutdown).
    pub fn shutdown(&self) -> bool {
        let redsync = self.redsync.clone();
        self.thread.wait_for(async move { Ok(redsync.shutdown().await) }).unwrap_or(false)
    }

    /// What makes nodes unfit to hold locks; see [`redsync::Redsync::health_warnings`](crate::Redsync::health_warnings).
    ///
    /// # Errors
    ///
    /// [`Error::Runtime`] when the thread has ended.
    pub fn health_warnings(&self) -> Result<Vec<HealthWarning>, Error> {
        let redsync = self.redsync.clone();
        self.thread.wait_for(async move { redsync.health_warnings().await })
    }

    /// Asks every node who it is; see [`redsync::Redsync::check_nodes`](crate::Redsync::check_nodes).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn check_nodes(&self) -> Result<(), Error> {
        let redsync = self.redsync.clone();
        self.thread.wait_for(async move { redsync.check_nodes().await })
    }
}

impl fmt::Debug for Redsync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.redsync.fmt(f)
    }
}

/// A lock by name. The blocking form of [`redsync::Mutex`](crate::Mutex), with the same options.
#[derive(Clone)]
pub struct Mutex {
    pub(crate) mutex: AsyncMutex,
    thread: Arc<RuntimeThread>,
}

option_methods!(Mutex, mutex.options);

impl Mutex {
    /// The lock's name, as given.
    pub fn name(&self) -> &str {
        self.mutex.name()
    }

    /// The same lock with `options` in place of those it had.
    #[must_use]
    pub fn with(mut self, options: LockOptions) -> Self {
        self.mutex = self.mutex.with(options);
        self
    }

    /// Takes the lock, waiting for it as long as the options say; see [`redsync::Mutex::lock`](crate::Mutex::lock).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn lock(&self) -> Result<Guard, Error> {
        let mutex = self.mutex.clone();
        self.guard(async move { mutex.lock().await })
    }

    /// As [`lock`](Mutex::lock), until `cancel` completes; see [`redsync::Mutex::lock_unless`](crate::Mutex::lock_unless).
    /// `cancel` is polled on redsync's thread: the receiving half of a channel will do, whose sending half another thread has.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn lock_unless(&self, cancel: impl Future<Output = ()> + Send + 'static) -> Result<Guard, Error> {
        let mutex = self.mutex.clone();
        self.guard(async move { mutex.lock_unless(cancel).await })
    }

    /// Takes the lock if it is free; see [`redsync::Mutex::try_lock`](crate::Mutex::try_lock).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn try_lock(&self) -> Result<Option<Guard>, Error> {
        let mutex = self.mutex.clone();
        let guard = self.thread.wait_for(async move { mutex.try_lock().await })?;
        Ok(guard.map(|guard| self.held(guard)))
    }

    /// Takes over a held lock; see [`redsync::Mutex::adopt`](crate::Mutex::adopt).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn adopt(&self, lease: &Lease) -> Result<Guard, Error> {
        let (mutex, lease) = (self.mutex.clone(), lease.clone());
        self.guard(async move { mutex.adopt(&lease).await })
    }

    /// Releases a lock by its lease; see [`redsync::Mutex::release`](crate::Mutex::release).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn release(&self, lease: &Lease) -> Result<(), Error> {
        let (mutex, lease) = (self.mutex.clone(), lease.clone());
        self.thread.wait_for(async move { mutex.release(&lease).await })
    }

    /// Takes the lock away from its holder; see [`redsync::Mutex::force_unlock`](crate::Mutex::force_unlock).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn force_unlock(&self, holder: &Holder) -> Result<Option<Fence>, Error> {
        let (mutex, holder) = (self.mutex.clone(), holder.clone());
        self.thread.wait_for(async move { mutex.force_unlock(&holder).await })
    }

    fn guard(
        &self,
        locking: impl Future<Output = Result<AsyncGuard, Error>> + Send + 'static,
    ) -> Result<Guard, Error> {
        self.thread.wait_for(locking).map(|guard| self.held(guard))
    }

    fn held(&self, guard: AsyncGuard) -> Guard {
        Guard { guard, thread: Arc::clone(&self.thread) }
    }
}

impl fmt::Debug for Mutex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.mutex.fmt(f)
    }
}

/// A held lock. The blocking form of [`redsync::Guard`](crate::Guard); dropping it releases in the background.
#[must_use = "a guard that is dropped releases its lock"]
pub struct Guard {
    // Dropped in this order: the guard's release needs the thread.
    guard: AsyncGuard,
    thread: Arc<RuntimeThread>,
}

impl Guard {
    /// The lock's name.
    pub fn name(&self) -> &LockName {
        self.guard.name()
    }

    /// This acquisition's token.
    pub fn token(&self) -> &Token {
        self.guard.token()
    }

    /// The instant up to which the guard is certainly exclusive.
    pub fn valid_until(&self) -> Instant {
        self.guard.valid_until()
    }

    /// Whether the guard is exclusive now, by this side's clock alone.
    pub fn is_valid(&self) -> bool {
        self.guard.is_valid()
    }

    /// How long the guard will stay exclusive if it is not extended.
    pub fn remaining(&self) -> Duration {
        self.guard.remaining()
    }

    /// Completes when the guard is no longer exclusive; see [`redsync::Guard::lost`](crate::Guard::lost). A future, for
    /// whatever executor there is (but on other systems than Linux and Android, it needs tokio's); without one, ask [`is_valid`](Guard::is_valid) before each step, or set
    /// [`on_lost`](Mutex::on_lost).
    pub fn lost(&self) -> LostSignal {
        self.guard.lost()
    }

    /// Does `work` on this thread if the guard is exclusive, and says whether it still was when `work` had ended. The blocking
    /// form of [`redsync::Guard::run`](crate::Guard::run).
    ///
    /// **A closure cannot be interrupted.** Unlike the future that the async form drops, `work` goes on when the lock is lost,
    /// until it looks at the [`LostSignal`] that it is given. Call [`check`](LostSignal::check) before each step that must not
    /// be done twice, and give what may block (a request, a query) a timeout below [`remaining`](Guard::remaining). The
    /// look is at this side's clock alone and takes less than a microsecond.
    ///
    /// ```
    /// use redsync::Lost;
    /// use redsync::blocking::Redsync;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let rows = 1..=3;
    /// # let write = |_| ();
    /// let redsync = Redsync::connect(["memory:"])?;
    /// let guard = redsync.mutex("report").lock()?;
    /// let written = guard.run(|lost| {
    ///     let mut written = 0;
    ///     for row in rows {
    ///         lost.check()?; // leaves the closure if the lock is lost
    ///         write(row);
    ///         written += 1;
    ///     }
    ///     Ok::<_, Lost>(written)
    /// })??;
    /// assert_eq!(written, 3);
    /// guard.unlock()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Lost`] when the guard was lost already, and then `work` is not begun; or when it was lost by the time that `work`
    /// ended, and then what `work` returned is dropped.
    pub fn run<T>(&self, work: impl FnOnce(&LostSignal) -> T) -> Result<T, Lost> {
        let lost = self.lost();
        lost.check()?;
        let output = work(&lost);
        lost.check().map(|()| output)
    }

    /// The guard's lease.
    pub fn lease(&self) -> Lease {
        self.guard.lease()
    }

    /// Lets the leases last for the expiry from now on; see [`redsync::Guard::extend`](crate::Guard::extend).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn extend(&self) -> Result<(), Error> {
        self.extend_by(self.guard.leases().config.claim.expiry.as_duration())
    }

    /// Lets the leases last for `expiry` from now on; see [`redsync::Guard::extend_by`](crate::Guard::extend_by).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn extend_by(&self, expiry: Duration) -> Result<(), Error> {
        let (leases, expiry) = (self.guard.leases(), Expiry::new(expiry)?);
        self.thread.wait_for(async move { leases.extend(expiry).await })
    }

    /// Releases the lock, and says whether it was held until now; see [`redsync::Guard::unlock`](crate::Guard::unlock).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn unlock(self) -> Result<(), Error> {
        let Self { guard, thread } = self;
        thread.wait_for(guard.unlock())
    }

    /// Lets go of the lock without releasing it; see [`redsync::Guard::into_lease`](crate::Guard::into_lease).
    pub fn into_lease(self) -> Lease {
        self.guard.into_lease()
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.guard.fmt(f)
    }
}

/// The thread that the connections and the background work live on.
struct RuntimeThread {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl RuntimeThread {
    /// How long the end of the thread may take, so that releases under way are still sent.
    const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

    fn start(redsync: AsyncRedsync) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Error::Runtime { reason: error.to_string() })?;
        let handle = runtime.handle().clone();
        redsync.live_in(handle.clone());
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("redsync".into()).spawn(move || {
            runtime.block_on(async move {
                // The sender is only ever dropped or used to say the same: it is time to end.
                let _ = stopped.await;
                redsync.drain(Self::SHUTDOWN_TIMEOUT).await;
            });
        });
        let thread = thread.map_err(|error| Error::Runtime { reason: error.to_string() })?;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Has `future` run on the thread, and waits for what comes of it.
    fn wait_for<T: Send + 'static>(
        &self,
        future: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let is_own =
            self.thread.as_ref().is_some_and(|thread| thread.thread().id() == std::thread::current().id());
        if is_own {
            let reason =
                "this is redsync's own thread, which cannot wait for itself (a function given to on_lost?)";
            return Err(Error::Runtime { reason: reason.into() });
        }
        let (reply, answer) = mpsc::sync_channel(1);
        self.handle.spawn(async move {
            let _ = reply.send(future.await);
        });
        let ended = || Error::Runtime { reason: "redsync's thread ended".into() };
        answer.recv().unwrap_or_else(|_| Err(ended()))
    }
}

impl Drop for RuntimeThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) =
            self.thread.take().filter(|thread| thread.thread().id() != std::thread::current().id())
        {
            let _ = thread.join();
        }
    }
}
