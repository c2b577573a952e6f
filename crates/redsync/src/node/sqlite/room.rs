//! Room on the disk for renewals.
//!
//! A lease is renewed by appending pages to the log (`-wal`), which are copied to the database later. On a full disk neither
//! file can grow. So before a lease is granted, the log has [`LOG_ROOM`] bytes on disk, and the database has free pages
//! that are on disk too. When the log reaches its end on a full disk, it is copied to the database and starts anew at its
//! front.
//!
//! This reserves nothing on file systems that write each change to a new place (btrfs, ZFS), nor where `fallocate` is unknown,
//! nor all of `-shm` where blocks are smaller than 4 KiB.

#[cfg(unix)]
use std::path::Path;

use rusqlite::Connection;

use super::store::Store;
#[cfg(unix)]
use super::store::unusable;
use crate::node::NodeFault;

/// What the log has on disk at least: far more than the requests of one expiry write.
#[cfg(any(target_os = "linux", target_os = "android"))]
const LOG_ROOM: u64 = 256 * (4_096 + 24) + 32;

/// The log is copied to the database after so many pages. A process that opens the file alone reads the log whole, so it
/// is kept short.
pub(super) const LOG_PAGES: u32 = 128;

/// Free pages in the database: at least, and how much text is written and deleted to get more.
const FREE_LEAST: i64 = 16;
const FILLING: usize = 64 * 4_096;

impl Store {
    /// Ensures that leases can be renewed though the disk gets full. Costs next to nothing where that is so already.
    pub(super) fn make_room(&mut self) -> Result<(), NodeFault> {
        let free: i64 = self.read(|connection, _| {
            connection.prepare_cached("PRAGMA freelist_count")?.query_row([], |row| row.get(0))
        })?;
        if free >= FREE_LEAST && self.has_room() {
            return Ok(());
        }
        self.reserve_log()?;
        if free < FREE_LEAST {
            // Pages that were never written are not on disk. So they are filled, copied to the database, and freed.
            self.change(|change| {
                let fill = "INSERT OR REPLACE INTO redsync_meta VALUES ('room', ?1)";
                change.transaction.execute(fill, [" ".repeat(FILLING)]).map(drop)
            })?;
            self.copy_log()?;
            self.change(|change| {
                change.transaction.execute("DELETE FROM redsync_meta WHERE key = 'room'", []).map(drop)
            })?;
        } else if !self.is_on_disk()? {
            self.copy_log()?;
        }
        self.note_room();
        Ok(())
    }

    /// True if no page of the database is in the log alone: those would have to be appended to the file.
    fn is_on_disk(&mut self) -> Result<bool, NodeFault> {
        let needed: i64 = self.read(|connection, _| {
            connection.query_row(
                "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size",
                [],
                |row| row.get(0),
            )
        })?;
        Ok(std::fs::metadata(self.file()).is_ok_and(|file| file.len() >= needed.cast_unsigned()))
    }

    fn copy_log(&mut self) -> Result<(), NodeFault> {
        self.read(|connection, _| copy(connection, "PASSIVE"))
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn reserve_log(&mut self) -> Result<(), NodeFault> {
        let log = super::files::beside(self.file(), "-wal");
        reserve(&log).map_err(|error| {
            super::files::fault(error, |error| match error.kind() {
                std::io::ErrorKind::StorageFull => format!("the disk that {} is on is full", log.display()),
                _ => format!("{} cannot be extended: {error}", log.display()),
            })
        })
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn reserve_log(&mut self) -> Result<(), NodeFault> {
        Ok(())
    }
}

/// Refuses a full disk whose blocks are smaller than 4 KiB.
///
/// SQLite extends `-shm`, which it maps, by one byte in each 4 KiB. The rest of these may be holes; when they are
/// written to on a full disk, the kernel ends the process by SIGBUS.
#[cfg(unix)]
pub(super) fn refuse_holes(path: &Path) -> Result<(), NodeFault> {
    const PAGE: u64 = 4_096;
    const SHARED_MEMORY: u64 = 64 * 1_024;
    let Some(disk) = path.parent().and_then(|directory| rustix::fs::statvfs(directory).ok()) else {
        return Ok(());
    };
    let is_root = rustix::process::geteuid().is_root();
    let free = if is_root { disk.f_bfree } else { disk.f_bavail };
    if (1..PAGE).contains(&disk.f_frsize) && disk.f_blocks > 0 && free * disk.f_frsize < SHARED_MEMORY {
        return Err(unusable("FULL", format!("the disk that {} is on is full", path.display())));
    }
    Ok(())
}

/// Copies the log to the database. RESTART waits for readers, and lets the next change start at the log's front.
pub(super) fn copy(connection: &Connection, how: &str) -> rusqlite::Result<()> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({how})"), [], |_| Ok(()))
}

/// Gives the log its room on disk. SQLite ignores what follows the last change in the log.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn reserve(log: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::MetadataExt;

    use rustix::fs::{FallocateFlags, Mode, OFlags};
    use rustix::io::Errno;

    const BLOCK: u64 = 512;
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = std::fs::symlink_metadata(log)?;
    if found.len() >= LOG_ROOM && found.blocks() * BLOCK >= LOG_ROOM {
        return Ok(());
    }
    // SQLite's locks are on the other two files: closing this one drops none.
    let file = rustix::fs::open(log, flags, Mode::empty())?;
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, LOG_ROOM) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
        other => Ok(other?),
    }
}
