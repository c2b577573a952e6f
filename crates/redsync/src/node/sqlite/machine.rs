//! The store of all users of this machine: a directory in `/run/lock`.
//!
//! Who creates the store makes a directory under another name, with all files in it, and renames it: a directory by the right
//! name is complete. All users may write the files. Only the directory's owner may replace them, so no other user can put a
//! link there that makes SQLite write elsewhere. Root takes the directory over, and then only root may replace them.
//! The directory is neither sticky nor writable by all: `fs.protected_regular` does not apply to it.

use std::fs::{self, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Gid, Mode, OFlags, Uid};

use super::files::{create_directory, fault, rename_to_new};
use super::listeners::Listeners;
use super::store::{Store, unusable};
use super::{Access, MACHINE, MACHINE_FILE, Site};
use crate::clock::Clock;
use crate::node::NodeFault;

/// Creates the store if there is none, and refuses a directory that any user could have prepared.
pub(super) fn ensure(clock: &Arc<dyn Clock>) -> Result<(), NodeFault> {
    let directory = Path::new(MACHINE);
    let base = directory.parent().unwrap_or(directory);
    check_base(base)?;
    let mut full = 0;
    for _ in 0..TRIES {
        match fs::symlink_metadata(directory) {
            Ok(found) => return admit(directory, &found),
            Err(error) if error.kind() == ErrorKind::NotFound => match create(base, directory, clock) {
                // Where many begin at once, their drafts may fill a small disk. All but one are removed again.
                Err(fault) if matches!(fault.code(), Some("FULL" | "IOERR")) && full < FULL_TRIES => {
                    full += 1;
                    std::thread::sleep(Duration::from_millis(rand::random_range(5..50)));
                }
                created => created?,
            },
            Err(error) => {
                return Err(refused(directory, &format!("cannot be used: {error}")).with_source(error));
            }
        }
    }
    Err(refused(directory, "was removed again and again"))
}

fn check_base(base: &Path) -> Result<(), NodeFault> {
    let found = match fs::metadata(base) {
        Ok(found) if found.is_dir() => found,
        _ => {
            let shown = base.display();
            return Err(unusable(
                "CANTOPEN",
                format!(
                    "there is no directory {shown} for the store of all users; create it as root \
                     (install -d -m 1777 {shown}), or name a shared file: --node 'sqlite:///PATH?mode=0660'"
                ),
            ));
        }
    };
    let may_others_replace = found.mode() & 0o022 != 0 && found.mode() & 0o1000 == 0;
    if found.uid() != 0 || may_others_replace {
        return Err(refused(
            base,
            "must belong to root, and be sticky if others may write to it (mode 1777)",
        ));
    }
    Ok(())
}

/// Accepts a directory that only its owner can change; this user's own one is corrected, and root takes over that of a user.
fn admit(directory: &Path, found: &Metadata) -> Result<(), NodeFault> {
    if !found.is_dir() {
        return Err(refused(directory, "is no directory; remove it as root"));
    }
    let me = rustix::process::geteuid();
    let is_closed = found.mode() & 0o7777 == OPEN_TO_ALL;
    if is_closed && (found.uid() == me.as_raw() || !me.is_root()) {
        return Ok(());
    }
    if me.is_root() || found.uid() == me.as_raw() {
        return take_over(directory, found).map_err(|error| {
            let message = |error: &io::Error| format!("{} cannot be made safe: {error}", directory.display());
            fault(error, message)
        });
    }
    Err(refused(
        directory,
        "may be changed by other users; correct that as root: redsync status --machine NAME",
    ))
}

fn take_over(directory: &Path, found: &Metadata) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::open(directory, flags, Mode::empty())?;
    let opened = rustix::fs::fstat(&handle)?;
    if (opened.st_dev, opened.st_ino) != (found.dev(), found.ino()) {
        return Err(io::Error::other("another directory took its place"));
    }
    if rustix::process::geteuid().is_root() {
        rustix::fs::fchown(&handle, Some(Uid::ROOT), Some(Gid::ROOT))?;
    }
    rustix::fs::fchmod(&handle, Mode::from_raw_mode(OPEN_TO_ALL))?;
    // Its former owner may have moved it away before.
    let present = fs::symlink_metadata(directory)?;
    match (present.dev(), present.ino()) == (found.dev(), found.ino()) {
        true => Ok(()),
        false => Err(io::Error::other("another directory took its place")),
    }
}

/// Creates the whole store, or leaves it to another process that was faster.
fn create(base: &Path, directory: &Path, clock: &Arc<dyn Clock>) -> Result<(), NodeFault> {
    let draft = base.join(format!(".redsync-{:016x}", rand::random::<u64>()));
    create_directory(&draft).map_err(|error| {
        let advice = match error.kind() {
            ErrorKind::PermissionDenied => {
                "; only root may create the store here: run `redsync status --machine NAME` as root after each start of \
                 the machine"
            }
            _ => "",
        };
        fault(error, |error| format!("{} cannot be created: {error}{advice}", directory.display()))
    })?;
    let created = fill(&draft, clock).and_then(|()| {
        fs::set_permissions(&draft, Permissions::from_mode(OPEN_TO_ALL))
            .and_then(|()| rename_to_new(&draft, directory))
            .or_else(|error| match error.kind() {
                ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty => fs::remove_dir_all(&draft),
                _ => Err(error),
            })
            .map_err(|error| {
                fault(error, |error| format!("{} cannot be created: {error}", directory.display()))
            })
    });
    if created.is_err() {
        let _ = fs::remove_dir_all(&draft);
    }
    created
}

/// Creates the three files.
fn fill(directory: &Path, clock: &Arc<dyn Clock>) -> Result<(), NodeFault> {
    let site = Site { path: directory.join(MACHINE_FILE), access: ALL_MAY_WRITE, is_of_machine: false };
    let mut store = Store::at(site, Arc::<Listeners>::default(), Arc::clone(clock));
    store.make_room()
}

fn refused(directory: &Path, reason: &str) -> NodeFault {
    unusable("CANTOPEN", format!("{} {reason}", directory.display()))
}

/// All may enter, and only the owner may create and remove files.
const OPEN_TO_ALL: u32 = 0o755;

const ALL_MAY_WRITE: Access = Access::Shared(0o666);

/// Each try ends unless the directory was created or removed by another process meanwhile.
const TRIES: u32 = 100;

/// How often a full disk is tried again: its worker thread waits for half a second in all.
const FULL_TRIES: u32 = 20;
