//! The files of a store on Unix: who may use them, and what is refused.
//!
//! SQLite keeps three files: the database, `-wal` and `-shm`. It gives the other two the mode of the database. A user who may
//! only read one of them can block the store with a shared lock on that file, so mode 0600 is the default.
//!
//! SQLite is given a path without symbolic links and does not create the database itself: a file that exists is checked
//! before it is opened, and a new one has its mode before others see it.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Display, Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

use super::Access;
use super::store::{no_directory, unusable};
use crate::node::NodeFault;

/// Held while a database file is created and opened.
///
/// POSIX drops all locks of a process on a file when the process closes any descriptor of that file. So no thread may
/// close a descriptor of a database that SQLite has already opened in this process.
pub(super) fn opening() -> MutexGuard<'static, ()> {
    static OPENING: Mutex<()> = Mutex::new(());
    OPENING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Creates the database file if there is none, checks all three files, and returns the database's path without symbolic
/// links in its directories.
pub(super) fn prepare(path: &Path, access: Access) -> Result<PathBuf, NodeFault> {
    let path = without_links(path)?;
    create(&path, access).map_err(|error| cannot_create(&path, error))?;
    for file in [path.clone(), beside(&path, "-wal"), beside(&path, "-shm")] {
        match fs::symlink_metadata(&file) {
            Ok(found) => {
                refuse_what_is_no_file(&file, &found)?;
                set_mode(&file, &found, access).map_err(|error| cannot_set_mode(&file, error))?;
            }
            // SQLite creates the two others.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(cannot_open(&file, &error.to_string()).with_source(error)),
        }
    }
    Ok(path)
}

/// Returns `path` with `suffix` appended to the file's name, as SQLite names the other files.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn without_links(path: &Path) -> Result<PathBuf, NodeFault> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(cannot_open(path, "it names no file"));
    };
    let directory = directory.canonicalize().map_err(|error| {
        let shown = directory.display();
        match error.kind() {
            ErrorKind::NotFound => no_directory(directory),
            _ => unusable("CANTOPEN", format!("the directory {shown} cannot be entered: {error}")),
        }
        .with_source(error)
    })?;
    if !directory.is_dir() {
        return Err(no_directory(&directory));
    }
    Ok(directory.join(name))
}

fn create(path: &Path, access: Access) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok() {
        return Ok(());
    }
    let created = match access {
        Access::Private => draft(path, 0o600).map(drop),
        Access::Shared(mode) => publish(path, mode),
    };
    match created {
        // Another process was faster.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Creates a file that others of the file's mode may use. The file gets its name when its mode is right: another user who
/// opens it at that moment is not refused.
fn publish(path: &Path, mode: u32) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{:016x}", rand::random::<u64>()));
    draft(&temporary, mode)?;
    let published = rename_to_new(&temporary, path);
    if published.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    published
}

/// Creates an empty file with exactly this mode, whatever the umask.
fn draft(path: &Path, mode: u32) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    Ok(file)
}

/// Renames, and fails where there is something by the new name.
pub(super) fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    match rustix::fs::renameat_with(CWD, from, CWD, to, rustix::fs::RenameFlags::NOREPLACE) {
        // Some file systems do not know how.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {}
        other => return other.map_err(io::Error::from),
    }
    if fs::symlink_metadata(to).is_ok() {
        return Err(ErrorKind::AlreadyExists.into());
    }
    fs::rename(from, to)
}

/// A symbolic or a hard link could lead to a file of another purpose: SQLite would write into it.
fn refuse_what_is_no_file(file: &Path, found: &Metadata) -> Result<(), NodeFault> {
    let kind = found.file_type();
    let reason = if kind.is_symlink() {
        "it is a symbolic link, and links to a store are not followed; name the file that it leads to"
    } else if kind.is_dir() {
        "it is a directory"
    } else if !kind.is_file() {
        "it is no regular file"
    } else if found.nlink() > 1 {
        let (top, name) = (top_of_its_file_system(file, found), file.display());
        return Err(cannot_open(
            file,
            &format!(
                "it has several names (hard links), so it may be another program's file; `find {top} -xdev -samefile \
                 {name}` lists them; remove those that are not the store's"
            ),
        ));
    } else {
        return Ok(());
    };
    Err(cannot_open(file, reason))
}

/// The topmost directory that is on the file's own file system: all of the file's names are below it.
fn top_of_its_file_system<'a>(file: &'a Path, found: &Metadata) -> Display<'a> {
    let is_on_it = |dir: &&Path| fs::metadata(dir).is_ok_and(|dir| dir.dev() == found.dev());
    file.ancestors().skip(1).take_while(is_on_it).last().unwrap_or(Path::new("/")).display()
}

/// Sets the mode where it is wrong and this user may do that.
fn set_mode(file: &Path, found: &Metadata, access: Access) -> io::Result<()> {
    let present = found.mode() & 0o777;
    let wanted = match access {
        // Former versions left files that others may read. Files that others may write were shared on purpose.
        Access::Private if present & 0o022 == 0 => present & 0o700,
        Access::Private => present,
        Access::Shared(mode) => mode,
    };
    let me = rustix::process::geteuid();
    let may = me.as_raw() == found.uid() || me.is_root() && matches!(access, Access::Shared(_));
    if present == wanted || !may {
        return Ok(());
    }
    change_mode(file, found, wanted)
}

/// Changes the mode of the file that was found, and of no other that took its place since.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn change_mode(file: &Path, found: &Metadata, mode: u32) -> io::Result<()> {
    // A descriptor by O_PATH: closing it does not drop locks.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::open(file, flags, Mode::empty())?;
    let opened = rustix::fs::statat(&handle, "", AtFlags::EMPTY_PATH)?;
    if (opened.st_dev, opened.st_ino) != (found.dev(), found.ino()) {
        return Err(io::Error::other("another file took its place"));
    }
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&handle));
    Ok(rustix::fs::chmod(link, Mode::from_raw_mode(mode))?)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn change_mode(file: &Path, _: &Metadata, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::chmodat(CWD, file, Mode::from_bits_truncate(mode as _), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Creates a directory that only this user may enter.
pub(super) fn create_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// Returns what may have kept SQLite from using the files, as far as their owners and modes tell.
pub(super) fn hint(path: &Path) -> Option<String> {
    let me = rustix::process::geteuid();
    let directory = path.parent()?;
    let around = fs::metadata(directory).ok()?;
    let is_sticky = around.mode() & 0o1000 != 0 && around.mode() & 0o022 != 0;
    let files = [path.to_owned(), beside(path, "-wal"), beside(path, "-shm")];
    let foreign =
        files.iter().filter_map(|file| fs::metadata(file).ok()).find(|file| file.uid() != me.as_raw());
    if is_sticky && foreign.is_some() {
        let directory = directory.display();
        return Some(format!(
            "in a sticky directory such as {directory}, the kernel keeps users from opening each other's files \
             (fs.protected_regular); put a store that users share into a directory of its own"
        ));
    }
    let missing = files.iter().find(|file| !file.exists())?;
    Some(format!(
        "{} is missing, and may have to be created by user {}, who owns the directory",
        missing.display(),
        around.uid()
    ))
}

fn cannot_open(file: &Path, reason: &str) -> NodeFault {
    unusable("CANTOPEN", format!("{} cannot be opened: {reason}", file.display()))
}

fn cannot_create(file: &Path, error: io::Error) -> NodeFault {
    fault(error, |error| format!("{} cannot be created: {error}", file.display()))
}

fn cannot_set_mode(file: &Path, error: io::Error) -> NodeFault {
    fault(error, |error| format!("the mode of {} cannot be set: {error}", file.display()))
}

/// The fault that an error of the file system comes to.
pub(super) fn fault(error: io::Error, message: impl FnOnce(&io::Error) -> String) -> NodeFault {
    let code = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "FULL",
        ErrorKind::PermissionDenied => "PERM",
        ErrorKind::ReadOnlyFilesystem => "READONLY",
        _ => "CANTOPEN",
    };
    unusable(code, message(&error)).with_source(error)
}
