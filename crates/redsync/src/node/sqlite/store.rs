//! The file: how it is opened, and each request as one transaction.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior};

use super::fences::micros;
use super::listeners::Listeners;
use super::process::Process;
use super::{Site, room, schema};
use crate::clock::{Clock, SystemClock};
use crate::node::place::at_its_end;
use crate::node::{Acquired, Claim, Extended, Holder, IfFree, NodeFault, Remedy, TimeLeft};
use crate::protocol::{Expiry, Fence, LockName};

/// The file at a path, opened when it is needed.
pub(super) struct Store {
    site: Site,
    /// What sets this boot of the machine apart from others.
    boot: Result<String, NodeFault>,
    process: Process,
    /// Who of this process can be told of a grant.
    listeners: Arc<Listeners>,
    pub(super) clock: Arc<dyn Clock>,
    opened: Option<Opened>,
    /// How many times a file was opened.
    pub(super) openings: u64,
}

struct Opened {
    connection: Connection,
    /// Where the file is, without symbolic links.
    path: PathBuf,
    /// Which file the connection has open, to notice when another has taken its place.
    file: Option<FileId>,
    /// True once renewals are certain to find room on the disk.
    has_room: bool,
}

type FileId = (u64, u64);

/// A lease that stands.
pub(super) struct Standing {
    pub(super) token: String,
    left: Duration,
}

/// Another than the former one means that another connection changed the file, or that it is another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) openings: u64,
    data: i64,
}

impl Store {
    pub(super) fn at(site: Site, listeners: Arc<Listeners>, clock: Arc<dyn Clock>) -> Self {
        Self { site, boot: boot_id(), process: Process::this(), listeners, clock, opened: None, openings: 0 }
    }

    pub(super) fn identity(&mut self) -> Result<String, NodeFault> {
        let identity = self.read(|connection, _| {
            connection
                .query_row("SELECT value FROM redsync_meta WHERE key = 'identity'", [], |row| row.get(0))
        });
        identity.map(|identity: String| format!("sqlite {identity}"))
    }

    pub(super) fn acquire(&mut self, claim: &Claim) -> Result<Acquired, NodeFault> {
        // Taken is found out by reading, which blocks nobody: pollers do not slow the holder's release down.
        if let Some(holder) = self.holder(&claim.name)?
            && holder.token() != claim.token.as_str()
        {
            return Ok(Acquired::Taken(holder));
        }
        self.make_room()?;
        self.change(|change| match change.standing(&claim.name)? {
            Some(lease) if lease.token != claim.token.as_str() => Ok(Some(Acquired::Taken(lease.holder()))),
            standing => {
                let fence = match (claim.fence, change.fence(&claim.name)?) {
                    (None, _) => None,
                    (Some(proposal), Some(_)) if standing.is_some() => change.keep(&claim.name, proposal)?,
                    (Some(proposal), _) => match change.count_grant(&claim.name, proposal)? {
                        Some(fence) => Some(fence),
                        None => return Ok(None),
                    },
                };
                // A request that was held up does not shorten what was extended since.
                if standing.is_none_or(|lease| lease.left < claim.expiry.as_duration()) {
                    change.grant(claim)?;
                }
                Ok(Some(Acquired::Granted(fence)))
            }
        })?
        .ok_or_else(at_its_end)
    }

    pub(super) fn extend(&mut self, claim: &Claim, if_free: IfFree) -> Result<Extended, NodeFault> {
        self.change(|change| {
            let had_it = match (change.standing(&claim.name)?, if_free) {
                (Some(lease), _) if lease.token != claim.token.as_str() => {
                    return Ok(Extended::HeldByAnother(lease.holder()));
                }
                (None, IfFree::Leave) => return Ok(Extended::NotHeld),
                (standing, _) => standing.is_some(),
            };
            let fence = match claim.fence {
                Some(proposal) => change.raise(&claim.name, proposal)?,
                None => None,
            };
            change.grant(claim)?;
            Ok(if had_it { Extended::Extended(fence) } else { Extended::Retaken })
        })
    }

    /// Costs next to nothing.
    pub(super) fn version(&mut self) -> Result<Version, NodeFault> {
        let data = self.read(|connection, _| {
            connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
        })?;
        Ok(Version { openings: self.openings, data })
    }

    fn holder(&mut self, name: &LockName) -> Result<Option<Holder>, NodeFault> {
        let clock = Arc::clone(&self.clock);
        self.read(|connection, boot| {
            Ok(standing(connection, name, boot, || now_nanos(&*clock))?.map(Standing::holder))
        })
    }

    /// Reads, which blocks nobody. The step is told which boot this is.
    pub(super) fn read<T>(
        &mut self,
        step: impl FnOnce(&Connection, &str) -> rusqlite::Result<T>,
    ) -> Result<T, NodeFault> {
        let (path, boot) = (self.site.path.clone(), self.boot.clone()?);
        step(self.connection()?, &boot).map_err(|error| fault(&path, error))
    }

    /// One transaction, which has the file for itself from its beginning: time is read inside, so that what it decides
    /// stands when it is written.
    pub(super) fn change<T>(
        &mut self,
        step: impl Fn(&Change<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, NodeFault> {
        match self.try_change(&step) {
            // The log is at the end of what it has on disk.
            Err(fault) if matches!(fault.code(), Some("FULL" | "IOERR")) => {
                match self.read(|connection, _| room::copy(connection, "RESTART")) {
                    Ok(()) => self.try_change(&step),
                    Err(_) => Err(fault),
                }
            }
            done => done,
        }
    }

    fn try_change<T>(&mut self, step: &impl Fn(&Change<'_>) -> rusqlite::Result<T>) -> Result<T, NodeFault> {
        let (path, boot) = (self.site.path.clone(), self.boot.clone()?);
        let (process, listeners) = (self.process, Arc::clone(&self.listeners));
        let clock = Arc::clone(&self.clock);
        let connection = self.connection()?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = transaction.map_err(|error| fault(&path, error))?;
        let now = now_nanos(&*clock);
        let change = Change { transaction, boot, process, listeners, clock, now };
        let done = step(&change).map_err(|error| fault(&path, error))?;
        // A commit that failed may be found in the file all the same.
        change.transaction.commit().map_err(|error| fault(&path, error).perhaps_applied())?;
        Ok(done)
    }

    /// The connection, made first where there is none, and made anew where another file has taken its file's place.
    fn connection(&mut self) -> Result<&mut Connection, NodeFault> {
        if self.opened.as_ref().is_some_and(|opened| opened.file != file_id(&opened.path)) {
            self.opened = None;
        }
        let opened = match self.opened.take() {
            Some(opened) => opened,
            None => {
                let opened = self.open()?;
                self.openings += 1;
                opened
            }
        };
        Ok(&mut self.opened.insert(opened).connection)
    }

    /// The open file, or where it is to be.
    pub(super) fn file(&self) -> &Path {
        self.opened.as_ref().map_or(&self.site.path, |opened| &opened.path)
    }

    pub(super) fn has_room(&self) -> bool {
        self.opened.as_ref().is_some_and(|opened| opened.has_room)
    }

    pub(super) fn note_room(&mut self) {
        if let Some(opened) = &mut self.opened {
            opened.has_room = true;
        }
    }

    fn open(&self) -> Result<Opened, NodeFault> {
        let boot = self.boot.clone()?;
        #[cfg(unix)]
        if self.site.is_of_machine {
            super::machine::ensure(&self.clock)?;
        }
        let open = || {
            let (mut connection, path) = self.connect()?;
            let file = file_id(&path);
            let version =
                self.set_up(&mut connection, &boot).map_err(|error| Obstacle::Error(path.clone(), error))?;
            Ok((Opened { connection, path, file, has_room: false }, version))
        };
        // Others who have the file keep to the machine's time, whatever leases are counted by.
        let end = SystemClock.now() + OPEN_PATIENCE;
        let (opened, version) = loop {
            match open() {
                // Two processes that make the file at once: changing to WAL does not wait for its turn.
                Err(Obstacle::Error(_, error)) if is_busy(&error) && SystemClock.now() < end => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                // The file was removed after it was created.
                Err(Obstacle::Error(path, _)) if file_id(&path).is_none() && SystemClock.now() < end => {}
                // Another file took its place while it was opened: what was opened is nobody's store.
                Ok((opened, _)) if opened.file != file_id(&opened.path) && SystemClock.now() < end => {}
                Err(Obstacle::Fault(fault)) => return Err(fault),
                Err(Obstacle::Error(path, error)) => return Err(fault(&path, error)),
                Ok(opened) => break opened,
            }
        };
        if version > schema::VERSION {
            let known = schema::VERSION;
            return Err(NodeFault::refused(
                "SCHEMA",
                format!("the store was made by a newer redsync (format {version}); this one knows {known}"),
            )
            .with_remedy(Remedy::Store));
        }
        Ok(opened)
    }

    #[cfg(unix)]
    fn connect(&self) -> Result<(Connection, PathBuf), Obstacle> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let _opening = super::files::opening();
        let path = super::files::prepare(&self.site.path, self.site.access)
            .and_then(|path| room::refuse_holes(&path).map(|()| path))
            .map_err(Obstacle::Fault)?;
        match Connection::open_with_flags(&path, flags) {
            Ok(connection) => Ok((connection, path)),
            Err(error) => Err(Obstacle::Error(path, error)),
        }
    }

    #[cfg(not(unix))]
    fn connect(&self) -> Result<(Connection, PathBuf), Obstacle> {
        let path = self.site.path.clone();
        if let Some(directory) = path.parent().filter(|directory| !directory.is_dir()) {
            return Err(Obstacle::Fault(no_directory(directory)));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        match Connection::open_with_flags(&path, flags) {
            Ok(connection) => Ok((connection, path)),
            Err(error) => Err(Obstacle::Error(path, error)),
        }
    }

    /// Makes a new connection ready, and says which format the file has.
    fn set_up(&self, connection: &mut Connection, boot: &str) -> rusqlite::Result<i64> {
        connection.busy_handler(Some(wait_for_others))?;
        // The last process to leave need not write the log back: with short-lived processes each would be that one.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        // What other users wrote into a shared file is data: nothing in it is run that could reach beyond the file.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        // WAL: a killed process leaves nothing to repair, and reading never blocks. In WAL, NORMAL cannot corrupt
        // the file; what a power failure may undo are leases, which a reboot voids anyway, and the last fences, which the
        // time of day makes up for.
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "wal_autocheckpoint", room::LOG_PAGES)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        let (now, wall) = (now_nanos(&*self.clock), micros(self.clock.wall_micros()));
        match schema::prepare(connection, boot, now, wall) {
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
                room::copy(connection, "RESTART")?;
                schema::prepare(connection, boot, now, wall)
            }
            done => done,
        }
    }
}

/// Why a file could not be opened.
enum Obstacle {
    Fault(NodeFault),
    /// SQLite's error at this path.
    Error(PathBuf, rusqlite::Error),
}

/// A transaction under way.
pub(super) struct Change<'a> {
    pub(super) transaction: Transaction<'a>,
    pub(super) boot: String,
    pub(super) process: Process,
    pub(super) listeners: Arc<Listeners>,
    pub(super) clock: Arc<dyn Clock>,
    /// Nanoseconds of the boot time clock.
    pub(super) now: i64,
}

impl Change<'_> {
    pub(super) fn standing(&self, name: &LockName) -> rusqlite::Result<Option<Standing>> {
        standing(&self.transaction, name, &self.boot, || self.now)
    }

    pub(super) fn grant(&self, claim: &Claim) -> rusqlite::Result<()> {
        self.let_hold(&claim.name, claim.token.as_str(), nanos(claim.expiry), None, None)
    }

    /// Writes a lease; with the round of its place and its fence, where its holder is to be told of them.
    pub(super) fn let_hold(
        &self,
        name: &LockName,
        token: &str,
        expiry: i64,
        round: Option<u32>,
        fence: Option<Fence>,
    ) -> rusqlite::Result<()> {
        self.transaction
            .prepare_cached(
                "INSERT OR REPLACE INTO redsync_leases (name, token, granted, ends, boot, round, fence)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute((
                name.as_str(),
                token,
                self.now,
                self.after(expiry),
                &self.boot,
                round,
                fence.map(|fence| fence.as_u64().cast_signed()),
            ))
            .map(drop)
    }

    pub(super) fn end(&self, name: &LockName) -> rusqlite::Result<()> {
        self.transaction
            .prepare_cached("DELETE FROM redsync_leases WHERE name = ?1")?
            .execute([name.as_str()])
            .map(drop)
    }

    /// When what lasts for `expiry` nanoseconds from now on is over.
    pub(super) fn after(&self, expiry: i64) -> i64 {
        self.now.saturating_add(expiry)
    }
}

impl Standing {
    pub(super) fn holder(self) -> Holder {
        Holder::new(self.token, TimeLeft::For(self.left))
    }
}

/// The lease on `name`, if one stands: of this boot, and not over.
pub(super) fn standing(
    connection: &Connection,
    name: &LockName,
    boot: &str,
    now: impl FnOnce() -> i64,
) -> rusqlite::Result<Option<Standing>> {
    let lease = connection
        .prepare_cached("SELECT token, granted, ends FROM redsync_leases WHERE name = ?1 AND boot = ?2")?
        .query_row((name.as_str(), boot), |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
        })
        .optional()?;
    // After the lease was read: it may have been granted just before.
    let now = now();
    // A lease from the future is one from before a reboot, on systems that do not name their boots.
    let stands = lease.filter(|(_, granted, ends)| *granted <= now && now < *ends);
    Ok(stands
        .map(|(token, _, ends)| Standing { token, left: Duration::from_nanos((ends - now).unsigned_abs()) }))
}

pub(super) fn now_nanos(clock: &dyn Clock) -> i64 {
    i64::try_from(clock.now().as_nanos()).unwrap_or(i64::MAX)
}

pub(super) fn nanos(expiry: Expiry) -> i64 {
    i64::try_from(expiry.as_duration().as_nanos()).unwrap_or(i64::MAX)
}

/// A process that cannot tell this boot from others would take standing leases for those of an earlier one.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn boot_id() -> Result<String, NodeFault> {
    const FILE: &str = "/proc/sys/kernel/random/boot_id";
    let id = std::fs::read_to_string(FILE).map_err(|error| {
        NodeFault::refused("BOOT", format!("the store needs {FILE} to know old leases, and cannot read it"))
            .with_source(error)
            .with_remedy(Remedy::Store)
    })?;
    Ok(id.trim().to_owned())
}

/// Systems that do not name their boots have the clock alone, which starts anew with each.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn boot_id() -> Result<String, NodeFault> {
    Ok(String::new())
}

#[cfg(unix)]
fn file_id(path: &Path) -> Option<FileId> {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

#[cfg(not(unix))]
fn file_id(_: &Path) -> Option<FileId> {
    None
}

/// SQLite asks this when another process has the file: transactions here take far less than a millisecond.
fn wait_for_others(tries: i32) -> bool {
    std::thread::sleep(Duration::from_micros(if tries < 10 { 200 } else { 2_000 }));
    tries < BUSY_TRIES
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn fault(path: &Path, error: rusqlite::Error) -> NodeFault {
    let file = path.display();
    let (code, message) = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            ("BUSY", format!("another process has kept {file} locked for seconds"))
        }
        Some(ErrorCode::DiskFull) => ("FULL", format!("the disk that {file} is on is full")),
        Some(ErrorCode::NotADatabase) => ("NOTADB", format!("{file} is some other file, not a lock store")),
        Some(ErrorCode::DatabaseCorrupt) => {
            ("CORRUPT", format!("{file} is damaged; remove it when no lock is held"))
        }
        Some(ErrorCode::ReadOnly) => ("READONLY", format!("{file} may not be written to")),
        Some(ErrorCode::CannotOpen) => match hint(path) {
            Some(hint) => ("CANTOPEN", format!("{file} cannot be opened: {hint}")),
            None => ("CANTOPEN", format!("{file} cannot be opened")),
        },
        Some(ErrorCode::PermissionDenied) => ("PERM", format!("there is no permission to use {file}")),
        Some(ErrorCode::SystemIoFailure) => {
            ("IOERR", format!("reading or writing {file} failed: is the disk full?"))
        }
        _ => ("SQLITE", format!("the store {file} failed: {error}")),
    };
    match code {
        // Others let go of the file by themselves; what SQLite has no name for may pass too.
        "BUSY" | "SQLITE" => NodeFault::refused(code, message),
        _ => unusable(code, message),
    }
    .with_source(error)
}

/// The store refuses until a person has changed something.
pub(super) fn unusable(code: &str, message: impl Into<String>) -> NodeFault {
    NodeFault::refused(code, message).with_remedy(Remedy::Store)
}

pub(super) fn no_directory(directory: &Path) -> NodeFault {
    NodeFault::unreachable(format!("there is no directory {}; make it", directory.display()))
        .with_remedy(Remedy::Store)
}

#[cfg(unix)]
fn hint(path: &Path) -> Option<String> {
    super::files::hint(path)
}

#[cfg(not(unix))]
fn hint(_: &Path) -> Option<String> {
    None
}

const BUSY_TRIES: i32 = 1_000;

/// How long opening is tried again, when others keep the file.
const OPEN_PATIENCE: Duration = Duration::from_secs(2);

/// More than there are different ones.
const STATEMENTS: usize = 32;
