//! The file: its schema, and each request as one transaction.

use std::path::PathBuf;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior};

use crate::clock::{Clock, SystemClock};
use crate::node::{Acquired, Claim, Extended, Holder, IfFree, NodeFault, Released, TimeLeft};
use crate::protocol::{LockName, Token};

/// The file at a path, opened when it is needed.
pub(super) struct Store {
    path: PathBuf,
    /// What sets this boot of the machine apart from others.
    boot: Result<String, NodeFault>,
    opened: Option<Opened>,
}

struct Opened {
    connection: Connection,
    /// Which file the connection has open, to notice when another has taken its place.
    file: Option<FileId>,
}

type FileId = (u64, u64);

/// A lease that stands.
struct Standing {
    token: String,
    left: Duration,
}

impl Store {
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path, boot: boot_id(), opened: None }
    }

    pub(super) fn identity(&mut self) -> Result<String, NodeFault> {
        let identity = self.read(|connection| {
            connection
                .query_row("SELECT value FROM redsync_meta WHERE key = 'identity'", [], |row| row.get(0))
        });
        identity.map(|identity: String| format!("sqlite {identity}"))
    }

    pub(super) fn acquire(&mut self, claim: &Claim) -> Result<Acquired, NodeFault> {
        // Taken is found out by reading, which blocks nobody: pollers do not slow the holder's release down.
        if let Some(holder) = self.inspect(&claim.name)?
            && holder.token() != claim.token.as_str()
        {
            return Ok(Acquired::Taken(holder));
        }
        self.change(|change| match change.standing(&claim.name)? {
            Some(lease) if lease.token != claim.token.as_str() => Ok(Acquired::Taken(lease.holder())),
            _ => change.grant(claim).map(|()| Acquired::Granted),
        })
    }

    pub(super) fn extend(&mut self, claim: &Claim, if_free: IfFree) -> Result<Extended, NodeFault> {
        self.change(|change| match (change.standing(&claim.name)?, if_free) {
            (Some(lease), _) if lease.token != claim.token.as_str() => {
                Ok(Extended::HeldByAnother(lease.holder()))
            }
            (Some(_), _) => change.grant(claim).map(|()| Extended::Extended),
            (None, IfFree::Retake) => change.grant(claim).map(|()| Extended::Retaken),
            (None, IfFree::Leave) => Ok(Extended::NotHeld),
        })
    }

    pub(super) fn release(&mut self, name: &LockName, token: &Token) -> Result<Released, NodeFault> {
        self.change(|change| match change.standing(name)? {
            Some(lease) if lease.token != token.as_str() => Ok(Released::HeldByAnother(lease.holder())),
            Some(_) => change.end(name).map(|()| Released::Released),
            None => Ok(Released::NotHeld),
        })
    }

    pub(super) fn inspect(&mut self, name: &LockName) -> Result<Option<Holder>, NodeFault> {
        let boot = self.boot.clone()?;
        self.read(|connection| Ok(standing(connection, name, &boot)?.map(Standing::holder)))
    }

    fn read<T>(&mut self, step: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, NodeFault> {
        let path = self.path.clone();
        step(self.connection()?).map_err(|error| fault(&path, error))
    }

    /// One transaction, which has the file for itself from its beginning: time is read inside, so that what it decides
    /// stands when it is written.
    fn change<T>(&mut self, step: impl FnOnce(&Change<'_>) -> rusqlite::Result<T>) -> Result<T, NodeFault> {
        let (path, boot) = (self.path.clone(), self.boot.clone()?);
        let connection = self.connection()?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate);
        let change = Change { transaction: transaction.map_err(|error| fault(&path, error))?, boot };
        let done = step(&change).map_err(|error| fault(&path, error))?;
        // A commit that failed may be found in the file all the same.
        change.transaction.commit().map_err(|error| fault(&path, error).perhaps_applied())?;
        Ok(done)
    }

    /// The connection, made first where there is none, and made anew where another file has taken its file's place.
    fn connection(&mut self) -> Result<&mut Connection, NodeFault> {
        if self.opened.as_ref().is_some_and(|opened| opened.file != file_id(&self.path)) {
            self.opened = None;
        }
        let opened = match self.opened.take() {
            Some(opened) => opened,
            None => self.open()?,
        };
        Ok(&mut self.opened.insert(opened).connection)
    }

    fn open(&self) -> Result<Opened, NodeFault> {
        let boot = self.boot.clone()?;
        if let Some(directory) = self.path.parent().filter(|directory| !directory.is_dir()) {
            return Err(NodeFault::unreachable(format!("there is no directory {}", directory.display())));
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let open = || {
            let mut connection = Connection::open_with_flags(&self.path, flags)?;
            let file = file_id(&self.path);
            connection.busy_handler(Some(wait_for_others))?;
            // The last process to leave need not write the log back: with short-lived processes each would be that one.
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            // WAL: a killed process leaves nothing to repair, and reading never blocks. In WAL, NORMAL cannot corrupt
            // the file; what a power failure may undo are leases, which a reboot voids anyway.
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "NORMAL")?;
            let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
            if version > SCHEMA_VERSION {
                return Ok((connection, version, file));
            }
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            if version < SCHEMA_VERSION {
                transaction.execute_batch(SCHEMA)?;
            }
            // What has run out is skipped wherever it is met; here it is swept up.
            let run_out = "DELETE FROM redsync_leases WHERE ends <= ?1 OR boot <> ?2";
            transaction.execute(run_out, (now_nanos(), &boot))?;
            transaction.commit()?;
            Ok((connection, version, file))
        };
        let end = SystemClock.now() + OPEN_PATIENCE;
        let (connection, version, file) = loop {
            match open() {
                // Two processes that make the file at once: changing to WAL does not wait for its turn.
                Err(error) if is_busy(&error) && SystemClock.now() < end => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                // Another file took its place while it was opened: what was opened is nobody's store.
                Ok((_, _, file)) if file != file_id(&self.path) && SystemClock.now() < end => {}
                other => break other.map_err(|error| fault(&self.path, error))?,
            }
        };
        if version > SCHEMA_VERSION {
            return Err(NodeFault::refused(
                "SCHEMA",
                format!(
                    "the store was made by a newer redsync (format {version}); this one knows {SCHEMA_VERSION}"
                ),
            ));
        }
        Ok(Opened { connection, file })
    }
}

/// A transaction under way.
struct Change<'a> {
    transaction: Transaction<'a>,
    boot: String,
}

impl Change<'_> {
    fn standing(&self, name: &LockName) -> rusqlite::Result<Option<Standing>> {
        standing(&self.transaction, name, &self.boot)
    }

    fn grant(&self, claim: &Claim) -> rusqlite::Result<()> {
        let now = now_nanos();
        let expiry = i64::try_from(claim.expiry.as_duration().as_nanos()).unwrap_or(i64::MAX);
        self.transaction
            .prepare_cached(
                "INSERT OR REPLACE INTO redsync_leases (name, token, granted, ends, boot) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute((claim.name.as_str(), claim.token.as_str(), now, now.saturating_add(expiry), &self.boot))
            .map(drop)
    }

    fn end(&self, name: &LockName) -> rusqlite::Result<()> {
        self.transaction
            .prepare_cached("DELETE FROM redsync_leases WHERE name = ?1")?
            .execute([name.as_str()])
            .map(drop)
    }
}

impl Standing {
    fn holder(self) -> Holder {
        Holder::new(self.token, TimeLeft::For(self.left))
    }
}

/// The lease on `name`, if one stands: of this boot, and not over.
fn standing(connection: &Connection, name: &LockName, boot: &str) -> rusqlite::Result<Option<Standing>> {
    let lease = connection
        .prepare_cached("SELECT token, granted, ends FROM redsync_leases WHERE name = ?1 AND boot = ?2")?
        .query_row((name.as_str(), boot), |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
        })
        .optional()?;
    let now = now_nanos();
    // A lease from the future is one from before a reboot, on systems that do not name their boots.
    let stands = lease.filter(|(_, granted, ends)| *granted <= now && now < *ends);
    Ok(stands
        .map(|(token, _, ends)| Standing { token, left: Duration::from_nanos((ends - now).unsigned_abs()) }))
}

fn now_nanos() -> i64 {
    i64::try_from(SystemClock.now().as_nanos()).unwrap_or(i64::MAX)
}

/// A process that cannot tell this boot from others would take standing leases for those of an earlier one.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn boot_id() -> Result<String, NodeFault> {
    const FILE: &str = "/proc/sys/kernel/random/boot_id";
    let id = std::fs::read_to_string(FILE).map_err(|error| {
        NodeFault::refused("BOOT", format!("the store needs {FILE} to know old leases, and cannot read it"))
            .with_source(error)
    })?;
    Ok(id.trim().to_owned())
}

/// Systems that do not name their boots have the clock alone, which starts anew with each.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn boot_id() -> Result<String, NodeFault> {
    Ok(String::new())
}

#[cfg(unix)]
fn file_id(path: &std::path::Path) -> Option<FileId> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

#[cfg(not(unix))]
fn file_id(_: &std::path::Path) -> Option<FileId> {
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

fn fault(path: &std::path::Path, error: rusqlite::Error) -> NodeFault {
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
        Some(ErrorCode::CannotOpen) => ("CANTOPEN", format!("{file} cannot be opened")),
        Some(ErrorCode::PermissionDenied) => ("PERM", format!("there is no permission to use {file}")),
        Some(ErrorCode::SystemIoFailure) => {
            ("IOERR", format!("reading or writing {file} failed: is the disk full?"))
        }
        _ => ("SQLITE", format!("the store {file} failed: {error}")),
    };
    NodeFault::refused(code, message).with_source(error)
}

const BUSY_TRIES: i32 = 1_000;

/// How long opening is tried again, when others keep the file.
const OPEN_PATIENCE: Duration = Duration::from_secs(2);

const SCHEMA_VERSION: i64 = 1;

/// `granted` and `ends` are nanoseconds of the boot time clock, `boot` the boot they belong to.
const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS redsync_meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
INSERT OR IGNORE INTO redsync_meta VALUES ('identity', lower(hex(randomblob(16))));
CREATE TABLE IF NOT EXISTS redsync_leases (
    name TEXT PRIMARY KEY,
    token TEXT NOT NULL,
    granted INTEGER NOT NULL,
    ends INTEGER NOT NULL,
    boot TEXT NOT NULL
) STRICT, WITHOUT ROWID;
PRAGMA user_version = 1;
";
