//! One machine, many processes: a node kept in an SQLite file.

mod store;

use std::fmt;
use std::future::ready;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, mpsc};

use tokio::sync::oneshot;

use self::store::Store;
use super::{Acquired, Answer, Claim, Extended, Holder, IfFree, Node, NodeFault, Released, Uptime};
use crate::protocol::{LockName, Token};

/// A node that keeps its leases in an SQLite file, which many processes of one machine share. The embedded default of
/// the `redsync` command.
///
/// A process that is killed at any moment, with -9 too, leaves a file that the others go on with; its leases run out.
/// All processes read one clock, the machine's boot time clock, and a reboot voids all leases, since their holders are
/// gone. Each request is one short transaction, made on a thread of the node's own.
///
/// **Not for** files on a network: SQLite's locking does not hold there, and machines do not share a clock. Processes
/// in containers may share a file as long as they share the kernel's boot time (no time namespaces).
pub struct SqliteNode {
    path: PathBuf,
    /// Where the thread takes its orders; started with the first.
    desk: Mutex<Option<mpsc::Sender<Order>>>,
}

type Order = Box<dyn FnOnce(&mut Store) + Send>;

impl SqliteNode {
    /// The node kept in the file at `path`. Nothing is opened until it is first asked something; the file is made then,
    /// its directory is not.
    pub fn new(path: impl AsRef<Path>) -> Self {
        // The file is opened late, and again when it was replaced: a change of directory must not move it.
        let path = std::path::absolute(path.as_ref()).unwrap_or_else(|_| path.as_ref().to_owned());
        Self { path, desk: Mutex::new(None) }
    }

    /// Has the node's thread take `step`. Dropped before its turn comes, it is not taken.
    fn ask<'a, T: Send + 'static>(
        &'a self,
        step: impl FnOnce(&mut Store) -> Result<T, NodeFault> + Send + 'static,
    ) -> Answer<'a, T> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            self.order(Box::new(move |store| {
                if !reply.is_closed() {
                    let _ = reply.send(step(store));
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
        let mut store = Store::at(self.path.clone());
        // The thread ends when the node is dropped and its last order is done.
        std::thread::Builder::new()
            .name("redsync-sqlite".into())
            .spawn(move || orders.into_iter().for_each(|order| order(&mut store)))
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
        self.ask(Store::identity)
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
        self.ask(move |store| store.acquire(&claim))
    }

    fn extend<'a>(&'a self, claim: &'a Claim, if_free: IfFree) -> Answer<'a, Extended> {
        let claim = claim.clone();
        self.ask(move |store| store.extend(&claim, if_free))
    }

    fn release<'a>(&'a self, name: &'a LockName, token: &'a Token) -> Answer<'a, Released> {
        let (name, token) = (name.clone(), token.clone());
        self.ask(move |store| store.release(&name, &token))
    }

    fn inspect<'a>(&'a self, name: &'a LockName) -> Answer<'a, Option<Holder>> {
        let name = name.clone();
        self.ask(move |store| store.inspect(&name))
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
