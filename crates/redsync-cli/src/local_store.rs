//! The store on this machine where no nodes are named: one for each user, or one for all users.

use std::env;
use std::fmt;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};
use redsync::SqliteNode;
use serde_json::{Value, json};

use crate::exit::Exit;
use crate::report::{Failure, Report};

/// A store on this machine.
#[derive(Debug)]
pub(crate) struct LocalStore {
    pub(crate) path: PathBuf,
    scope: Scope,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    User,
    Machine,
}

impl LocalStore {
    /// The store of this user. Creates its directory.
    pub(crate) fn of_this_user(report: &Report) -> Result<Self, Failure> {
        let me = Uid::effective();
        let directory = state_home(me, report)?.join("redsync");
        let created = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        created.map_err(|error| {
            let within =
                directory.ancestors().find_map(|path| fs::metadata(path).ok().map(|found| (path, found)));
            let owner = match within.filter(|(_, found)| found.uid() != me.as_raw()) {
                Some((path, found)) => {
                    format!(" ({} belongs to user {})", path.display(), user_name(Uid::from_raw(found.uid())))
                }
                None => String::new(),
            };
            cannot_use(format!("cannot create {}: {error}{owner}{INSTEAD}", directory.display()))
        })?;
        close(&directory, me)?;
        Ok(Self { path: directory.join("locks.db"), scope: Scope::User })
    }

    /// The store of all users of this machine, and its node.
    pub(crate) fn of_this_machine() -> (Self, SqliteNode) {
        let node = SqliteNode::for_all_users();
        (Self { path: node.path().to_owned(), scope: Scope::Machine }, node)
    }

    /// Says for whom this store locks: once for each store, and always if asked to be verbose.
    pub(crate) fn tell(&self, report: &Report) {
        if report.verbose || !report.quiet && self.is_to_be_told() {
            report.note("local_only", &self.note());
        }
    }

    fn note(&self) -> String {
        match self.scope {
            Scope::User => format!(
                "locking for user {} on this machine only; --machine locks for all its users; to lock across machines, \
                 name nodes with --node or REDSYNC_NODES",
                user_name(Uid::effective())
            ),
            Scope::Machine => {
                "locking for all users of this machine, and for this machine only; to lock across machines, \
                               name nodes with --node or REDSYNC_NODES"
                    .to_owned()
            }
        }
    }

    /// True the first time. A stamp beside the store remembers it; the store of all users is told of by its creator.
    fn is_to_be_told(&self) -> bool {
        match self.scope {
            Scope::User => {
                let stamp = self.path.with_extension("db.noted");
                let stamped = OpenOptions::new().write(true).create_new(true).mode(0o600).open(stamp);
                // Where no stamp can be left, rather twice than never.
                !stamped.is_err_and(|error| error.kind() == ErrorKind::AlreadyExists)
            }
            Scope::Machine => !self.path.exists(),
        }
    }

    /// As `status --json` shows it.
    pub(crate) fn in_json(&self) -> Value {
        let scope = match self.scope {
            Scope::User => "user",
            Scope::Machine => "machine",
        };
        json!({ "path": self.path, "scope": scope, "uid": Uid::effective().as_raw() })
    }
}

/// As `status` shows it.
impl fmt::Display for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.scope {
            Scope::User => write!(f, "store of user {} only: {path}", user_name(Uid::effective())),
            Scope::Machine => write!(f, "store of all users of this machine: {path}"),
        }
    }
}

const INSTEAD: &str =
    "; set XDG_STATE_HOME to a directory of this user's, or use --machine, or name nodes with --node";

fn cannot_use(message: String) -> Failure {
    Failure::new(Exit::NoStore, "store", message)
}

/// XDG Base Directory Specification: "All paths set in these environment variables must be absolute. If an
/// implementation encounters a relative path […] it should consider the path invalid and ignore it."
///
/// Nothing is created in another user's home, as `sudo` that keeps HOME would have it: root-owned directories there
/// keep the user's own programs out. Then the home that the user database names is used.
fn state_home(me: Uid, report: &Report) -> Result<PathBuf, Failure> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path: &PathBuf| path.is_absolute());
    let (variable, place) = match (absolute("XDG_STATE_HOME"), absolute("HOME")) {
        (Some(state), _) => ("XDG_STATE_HOME", Place { home: None, state }),
        (None, Some(home)) => ("HOME", Place::below(home)),
        (None, None) => {
            return Err(cannot_use(format!(
                "neither HOME nor XDG_STATE_HOME says where to keep local locks{INSTEAD}"
            )));
        }
    };
    let Err(reason) = place.suits(me) else { return Ok(place.state) };
    let own = User::from_uid(me).ok().flatten().map(|user| Place::below(user.dir));
    match own.filter(|own| own.state != place.state && own.suits(me).is_ok()) {
        Some(own) => {
            let state = own.state.display();
            report.note(
                "other_home",
                &format!("{variable} is not used: {reason}; local locks are in {state}/redsync"),
            );
            Ok(own.state)
        }
        None => Err(cannot_use(format!("{variable} cannot be used: {reason}{INSTEAD}"))),
    }
}

/// A directory for state, and the home that it is in.
struct Place {
    home: Option<PathBuf>,
    state: PathBuf,
}

impl Place {
    fn below(home: PathBuf) -> Self {
        Self { state: home.join(".local/state"), home: Some(home) }
    }

    /// Says why `me` should not create anything there.
    fn suits(&self, me: Uid) -> Result<(), String> {
        if let Some(home) = self.home.as_ref().filter(|home| !home.is_dir()) {
            return Err(format!("there is no directory {}", home.display()));
        }
        let existing =
            self.state.ancestors().find_map(|path| fs::metadata(path).ok().map(|found| (path, found)));
        for (path, found) in
            self.home.iter().filter_map(|home| Some((&**home, fs::metadata(home).ok()?))).chain(existing)
        {
            let owner = Uid::from_raw(found.uid());
            // What belongs to root is root's to lend: a container's user may have a home that was made for it.
            if owner != me && !owner.is_root() {
                return Err(format!(
                    "{} belongs to user {}, and this runs as user {}",
                    path.display(),
                    user_name(owner),
                    user_name(me)
                ));
            }
        }
        Ok(())
    }
}

/// Refuses a directory of another user, and keeps others out of this user's own.
fn close(directory: &Path, me: Uid) -> Result<(), Failure> {
    let shown = directory.display();
    let found =
        fs::metadata(directory).map_err(|error| cannot_use(format!("cannot use {shown}: {error}")))?;
    let owner = Uid::from_raw(found.uid());
    if owner != me {
        let (owner, me) = (user_name(owner), user_name(me));
        return Err(cannot_use(format!(
            "{shown} belongs to user {owner}, and this runs as user {me}{INSTEAD}"
        )));
    }
    if found.mode() & 0o022 == 0 {
        return Ok(());
    }
    fs::set_permissions(directory, Permissions::from_mode(0o700)).map_err(|error| {
        cannot_use(format!("others may write to {shown}, and that cannot be changed: {error}"))
    })
}

/// The user's name, or its number where it has none.
fn user_name(user: Uid) -> String {
    User::from_uid(user).ok().flatten().map_or_else(|| user.to_string(), |found| found.name)
}
