//! One machine, many processes: a node kept in an SQLite file.

mod clerk;
mod fences;
mod line;
mod list;
mod listeners;
mod process;
mod schema;
mod store;
#[cfg(test)]
mod tests;
mod watch;

use std::fmt;
use std::future::ready;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};

use tokio::sync::oneshot;

use self::clerk::{Clerk, Order};
use self::listeners::Listeners;
use super::{
    Acquired, Answer, Claim, ClientId, Entered, Extended, IfFree, Listener, Look, Node, NodeFault, Page,
    Place, Released, Search, Succession, Uptime,
};
use crate::clock::{Clock, SystemClock};
use crate::protocol::{LockName, Token};

/// A node that keeps its leases in an SQLite file, which many processes of one machine share. The embedded default of
/// the `redsync` command.
///
/// A process that is killed at any moment, with -9 too, leaves a file that the others go on with; its leases run out.
/// All processes read one clock, the machine's boot time clock, and a reboot voids all leases, since their holders are
/// gone. Each request is one short transaction, made on a thread of the node's own.
///
/// The file cannot tell anybody of a grant: as long as somebody of this process waits in line, the thread looks at a
/// counter of the file's changes every 1 to 10 ms, or every 50 ms where no line has moved for 10 s. Whoever waits in a
/// process that has ended is skipped at once where that process can be seen, which those of one container can; otherwise
/// when its place is not renewed in time.
///
/// **Not for** files on a network: SQLite's locking does not hold there, and machines do not share a clock. Processes
/// in containers may share a file as long as they share the kernel's boot time (no time namespaces).
pub struct SqliteNode {
    path: PathBuf,
    /// Where the thread takes its orders; started with the first.
    desk: Mutex<Option<mpsc::Sender<Order>>>,
    listeners: Arc<Listeners>,
    clock: Arc<dyn Clock>,
}

impl SqliteNode {
    /// The node kept in the file at `path`. Nothing is opened until it is first asked something; the file is made then,
    /// its directory is not.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self::with_clock(path, SystemClock)
    }

    /// The same on the given clock, for tests: all who have the file open must read the same clock, and no two changes may
    /// fall on the same instant, since those who wait are told of what came after the last they were told of.
    pub fn with_clock(path: impl AsRef<Path>, clock: impl Clock) -> Self {
        // The file is opened late, and again when it was replaced: a change of directory must not move it.
        let path = std::path::absolute(path.as_ref()).unwrap_or_else(|_| path.as_ref().to_owned());
        Self { path, desk: Mutex::new(None), listeners: Arc::default(), clock: Arc::new(clock) }
    }

    /// The version of SQLite that is built in, such as `3.50.2`.
    pub fn engine_version() -> &'static str {
        rusqlite::version()
    }

    /// Has the node's thread take `step`. Dropped before its turn comes, it is not taken.
    fn ask<'a, T: Send + 'static>(
        &'a self,
        step: impl FnOnce(&mut Clerk) -> Result<T, NodeFault> + Send + 'static,
    ) -> Answer<'a, T> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            self.order(Box::new(move |clerk| {
                if !reply.is_closed() {
                    let _ = reply.send(step(clerk));
                }
            }))?;
            answer.await.unwrap_or_else(|_| Err(NodeFault::nonsense("the store's thread ended")))
        })
    }

    fn order(&self, order: Order) -> Result<(), NodeFault> {
        let mut desk = self.desk.lock().unwrap_or_else(PoisonError::into_inner);
        let order = match &*desk {
            None => order,
            Some(sender) => match sender.send(order) {
                Ok(()) => return Ok(()),
                Err(mpsc::SendError(order)) => order,
            },
        };
        let (sender, orders) = mpsc::channel::<Order>();
        let clerk = Clerk::new(self.path.clone(), Arc::clone(&self.listeners), Arc::clone(&self.clock));
        // The thread ends when the node is dropped and its last order is done.
        std::thread::Builder::new()
            .name("redsync-sqlite".into())
            .spawn(move || clerk.serve(&orders))
            .map_err(|error| {
                NodeFault::unreachable("cannot start a thread for the store").with_source(error)
            })?;
        let _ = sender.send(order);
        *desk = Some(sender);
        Ok(())
    }
}

impl Node for SqliteNode {
    fn identity(&self) -> Answer<'_, String> {
        self.ask(|clerk| clerk.store.identity())
    }

    fn uptime(&self) -> Answer<'_, Uptime> {
        // The file outlives the processes, and a reboot ends the holders with their leases.
        Box::pin(ready(Ok(Uptime::Unbroken)))
    }

    fn concerns(&self) -> Answer<'_, Vec<String>> {
        Box::pin(ready(Ok(Vec::new())))
    }

    fn acquire<'a>(&'a self, claim: &'a Claim) -> Answer<'a, Acquired> {
        let claim = claim.clone();
        self.ask(move |clerk| clerk.store.acquire(&claim))
    }

    fn extend<'a>(&'a self, claim: &'a Claim, if_free: IfFree) -> Answer<'a, Extended> {
        let claim = claim.clone();
        self.ask(move |clerk| clerk.store.extend(&claim, if_free))
    }

    fn enter<'a>(&'a self, client: &'a ClientId, places: &'a [Place]) -> Answer<'a, Entered> {
        let (client, places) = (client.clone(), places.to_vec());
        self.ask(move |clerk| clerk.enter(&client, &places))
    }

    fn yield_lease<'a>(&'a self, client: &'a ClientId, place: &'a Place) -> Answer<'a, Entered> {
        let (client, place) = (client.clone(), place.clone());
        self.ask(move |clerk| clerk.yield_lease(&client, place))
    }

    fn release<'a>(
        &'a self,
        name: &'a LockName,
        token: &'a Token,
        succession: Succession,
    ) -> Answer<'a, Released> {
        let (name, token) = (name.clone(), token.clone());
        self.ask(move |clerk| clerk.release(name, token, succession))
    }

    fn inspect<'a>(&'a self, name: &'a LockName) -> Answer<'a, Look> {
        let name = name.clone();
        self.ask(move |clerk| clerk.store.inspect(&name))
    }

    fn list<'a>(&'a self, search: &'a Search, from: &'a str) -> Answer<'a, Page> {
        let (search, from) = (search.clone(), from.to_owned());
        self.ask(move |clerk| clerk.store.list(&search, &from))
    }

    fn listen(&self, client: &ClientId, listener: Weak<dyn Listener>) {
        self.listeners.listen(client, listener);
    }
}

impl fmt::Display for SqliteNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sqlite://{}", self.path.display())
    }
}

impl fmt::Debug for SqliteNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SqliteNode({self})")
    }
}
