//! One machine, many processes: a node kept in an SQLite file.

mod fences;
#[cfg(unix)]
mod files;
mod list;
mod listeners;
#[cfg(unix)]
mod machine;
mod process;
mod queue;
mod room;
mod schema;
mod store;
#[cfg(test)]
mod tests;
mod watch;
mod worker;

use std::fmt;
use std::future::ready;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};

use tokio::sync::oneshot;

use self::listeners::Listeners;
use self::worker::{Job, Worker};
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
/// The file cannot tell anybody of a grant: as long as somebody of this process waits in the queue, the thread looks at a
/// counter of the file's changes every 1 to 10 ms, or every 50 ms where no queue has moved for 10 s. Whoever waits in a
/// process that has ended is skipped at once where that process can be seen, which those of one container can; otherwise
/// when its place is not renewed in time.
///
/// The file and the two that SQLite puts beside it (`-wal`, `-shm`) belong to one user, with mode 0600, unless
/// [`shared_with`](Self::shared_with) says otherwise. Symbolic links to the file are not followed.
///
/// Before it grants, the node has room on the disk for renewals (some 1.3 MB), so a disk that gets full ends no lock. Not
/// on file systems that write each change to a new place (btrfs, ZFS).
///
/// **Not for** files on a network: SQLite's locking does not hold there, and machines do not share a clock. Processes
/// in containers may share a file as long as they share the kernel's boot time (no time namespaces).
pub struct SqliteNode {
    site: Site,
    /// Where the thread takes its orders; started with the first.
    to_worker: Mutex<Option<mpsc::Sender<Job>>>,
    listeners: Arc<Listeners>,
    clock: Arc<dyn Clock>,
}

/// Which users may use a store, and so take and release its locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sharing {
    /// The file's owner: mode 0600.
    Owner,
    /// The owner and the file's group: mode 0660. Put the file into a directory of that group with mode 2770, so that all
    /// three files get the group.
    Group,
    /// All users of the machine: mode 0666.
    All,
}

/// Where a store is, and who may use it.
#[derive(Clone, Debug)]
struct Site {
    path: PathBuf,
    access: Access,
    /// True for the store of all users of this machine, whose directory is created and checked too.
    is_of_machine: bool,
}

/// The mode of a store's files.
#[derive(Clone, Copy, Debug)]
enum Access {
    /// 0600 for new files; an older file that its owner lets others write stays as it is.
    Private,
    /// This mode, for files that exist too.
    Shared(u32),
}

/// The directory and the file of the store of all users of this machine.
const MACHINE: &str = "/run/lock/redsync";
const MACHINE_FILE: &str = "locks.db";

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
        Self::on(Site { path, access: Access::Private, is_of_machine: false }, clock)
    }

    /// The store of all users of this machine, on Linux: `/run/lock/redsync/locks.db`. It is created by the first who asks
    /// it something, with its directory, and is gone when the machine starts anew.
    ///
    /// All users of the machine can take and release each other's locks in it, and can damage it. They cannot make another
    /// user's process write to a file elsewhere; of the user who created the directory that holds only where
    /// `fs.protected_hardlinks` is 1, and root takes the directory over when it uses the store.
    #[cfg(unix)]
    pub fn for_all_users() -> Self {
        let path = Path::new(MACHINE).join(MACHINE_FILE);
        Self::on(Site { path, access: Access::Shared(0o666), is_of_machine: true }, SystemClock)
    }

    /// Lets these users use the store. The mode is set for new files and for those that are there, if this user may do
    /// that, whatever the umask.
    ///
    /// Without this, new files have mode 0600. Files of former versions that others may read, but not write, get it too:
    /// who may read a file can block the store.
    #[must_use]
    pub fn shared_with(mut self, sharing: Sharing) -> Self {
        self.site.access = Access::Shared(match sharing {
            Sharing::Owner => 0o600,
            Sharing::Group => 0o660,
            Sharing::All => 0o666,
        });
        self
    }

    /// The file's path, absolute.
    pub fn path(&self) -> &Path {
        &self.site.path
    }

    fn on(site: Site, clock: impl Clock) -> Self {
        Self { site, to_worker: Mutex::new(None), listeners: Arc::default(), clock: Arc::new(clock) }
    }

    /// The version of SQLite that is built in, such as `3.50.2`.
    pub fn engine_version() -> &'static str {
        rusqlite::version()
    }

    /// Has the node's thread take `step`. Dropped before its turn comes, it is not taken.
    fn ask<'a, T: Send + 'static>(
        &'a self,
        step: impl FnOnce(&mut Worker) -> Result<T, NodeFault> + Send + 'static,
    ) -> Answer<'a, T> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            self.job(Box::new(move |worker| {
                if !reply.is_closed() {
                    let _ = reply.send(step(worker));
                }
            }))?;
            answer.await.unwrap_or_else(|_| Err(NodeFault::nonsense("the store's thread ended")))
        })
    }

    fn job(&self, job: Job) -> Result<(), NodeFault> {
        let mut to_worker = self.to_worker.lock().unwrap_or_else(PoisonError::into_inner);
        let job = match &*to_worker {
            None => job,
            Some(sender) => match sender.send(job) {
                Ok(()) => return Ok(()),
                Err(mpsc::SendError(job)) => job,
            },
        };
        let (sender, jobs) = mpsc::channel::<Job>();
        let worker = Worker::new(self.site.clone(), Arc::clone(&self.listeners), Arc::clone(&self.clock));
        // The thread ends when the node is dropped and its last order is done.
        std::thread::Builder::new()
            .name("redsync-sqlite".into())
            .spawn(move || worker.serve(&jobs))
            .map_err(|error| {
                NodeFault::unreachable("cannot start a thread for the store").with_source(error)
            })?;
        let _ = sender.send(job);
        *to_worker = Some(sender);
        Ok(())
    }
}

impl Node for SqliteNode {
    fn identity(&self) -> Answer<'_, String> {
        self.ask(|worker| worker.store.identity())
    }

    fn uptime(&self) -> Answer<'_, Uptime> {
        // The file outlives the processes, and a reboot ends the holders with their leases.
        Box::pin(ready(Ok(Uptime::Unbroken)))
    }

    fn health_warnings(&self) -> Answer<'_, Vec<String>> {
        Box::pin(ready(Ok(Vec::new())))
    }

    fn acquire<'a>(&'a self, claim: &'a Claim) -> Answer<'a, Acquired> {
        let claim = claim.clone();
        self.ask(move |worker| worker.store.acquire(&claim))
    }

    fn extend<'a>(&'a self, claim: &'a Claim, if_free: IfFree) -> Answer<'a, Extended> {
        let claim = claim.clone();
        self.ask(move |worker| worker.store.extend(&claim, if_free))
    }

    fn enter<'a>(&'a self, client: &'a ClientId, places: &'a [Place]) -> Answer<'a, Entered> {
        let (client, places) = (client.clone(), places.to_vec());
        self.ask(move |worker| worker.enter(&client, &places))
    }

    fn yield_lease<'a>(&'a self, client: &'a ClientId, place: &'a Place) -> Answer<'a, Entered> {
        let (client, place) = (client.clone(), place.clone());
        self.ask(move |worker| worker.yield_lease(&client, place))
    }

    fn release<'a>(
        &'a self,
        name: &'a LockName,
        token: &'a Token,
        succession: Succession,
    ) -> Answer<'a, Released> {
        let (name, token) = (name.clone(), token.clone());
        self.ask(move |worker| worker.release(name, token, succession))
    }

    fn inspect<'a>(&'a self, name: &'a LockName) -> Answer<'a, Look> {
        let name = name.clone();
        self.ask(move |worker| worker.store.inspect(&name))
    }

    fn list<'a>(&'a self, search: &'a Search, from: &'a str) -> Answer<'a, Page> {
        let (search, from) = (search.clone(), from.to_owned());
        self.ask(move |worker| worker.store.list(&search, &from))
    }

    fn listen(&self, client: &ClientId, listener: Weak<dyn Listener>) {
        self.listeners.listen(client, listener);
    }
}

impl fmt::Display for SqliteNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sqlite://{}", self.site.path.display())
    }
}

impl fmt::Debug for SqliteNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SqliteNode({self})")
    }
}
