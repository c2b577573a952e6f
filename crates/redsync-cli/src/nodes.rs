//! Where the nodes come from: the command line, the environment, or this machine.

use std::env;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redsync::{Error, Mutex, Redsync, SqliteNode, redacted};

use crate::report::{Failure, Report};

/// The environment variable that names the nodes, separated by commas.
pub(crate) const VARIABLE: &str = "REDSYNC_NODES";

/// The nodes to lock on.
pub(crate) struct Fleet {
    pub(crate) redsync: Redsync,
    size: usize,
    is_embedded: bool,
}

/// The nodes that `--node` or else [`VARIABLE`] name; if neither does, a store on this machine.
pub(crate) async fn open(given: &[String], owner: Option<&str>, report: &Report) -> Result<Fleet, Failure> {
    let urls = if given.is_empty() { from_environment()? } else { given.to_vec() };
    let mut builder = Redsync::builder();
    if let Some(owner) = owner {
        builder = builder.owner(owner);
    }
    if urls.is_empty() {
        let store = local_store()?;
        report.note("local_only", LOCAL_ONLY);
        let redsync = builder.node(Arc::new(SqliteNode::new(store))).build()?;
        return Ok(Fleet { redsync, size: 1, is_embedded: true });
    }
    for url in &urls {
        if url.trim_start().to_ascii_lowercase().starts_with("memory:") {
            let url = redacted(url);
            return Err(Failure::usage(format!(
                "node {url} lives in this process and would be gone with it; use sqlite:///PATH to lock on one machine"
            )));
        }
        builder = builder.url(url);
    }
    let fleet = Fleet { redsync: builder.build()?, size: urls.len(), is_embedded: false };
    fleet.refuse_duplicates().await?;
    Ok(fleet)
}

const LOCAL_ONLY: &str =
    "locking on this machine only; to lock across machines, name nodes with --node or REDSYNC_NODES";

impl Fleet {
    /// The lock called `name`, with the options that suit these nodes.
    pub(crate) fn mutex(&self, name: &str) -> Mutex {
        let mutex = self.redsync.mutex(name);
        // No other node could decide in the store's place, and a machine that is busy is no machine that is down.
        let mutex = if self.is_embedded { mutex.timeout_factor(0.25) } else { mutex };
        // A node that restarted and forgot the lock gets it again: a rolling restart of the fleet then loses nothing.
        // A single node is believed: what it has forgotten, nobody else confirms.
        mutex.repair_on_extend(self.size > 1)
    }

    /// A server that is named twice votes twice. What else may be wrong is told by the attempt itself.
    async fn refuse_duplicates(&self) -> Result<(), Failure> {
        if self.size == 1 {
            return Ok(());
        }
        // To its own end, however long that takes: what a node that hangs leaves unsaid could be that the others are
        // one and the same.
        match self.redsync.check_nodes().await {
            Err(error @ Error::DuplicateNode { .. }) => Err(error.into()),
            _ => Ok(()),
        }
    }
}

fn from_environment() -> Result<Vec<String>, Failure> {
    match env::var(VARIABLE) {
        Ok(urls) => {
            Ok(urls.split(',').map(str::trim).filter(|url| !url.is_empty()).map(str::to_owned).collect())
        }
        Err(env::VarError::NotPresent) => Ok(Vec::new()),
        // Its text may hold a password: not shown.
        Err(env::VarError::NotUnicode(_)) => Err(Failure::usage(format!("{VARIABLE} is not valid UTF-8"))),
    }
}

/// The file of the embedded store, in a directory that only its user may enter.
fn local_store() -> Result<PathBuf, Failure> {
    let Some(state) = state_home() else {
        return Err(Failure::usage(
            "neither HOME nor XDG_STATE_HOME says where to keep local locks; set one of them, or name nodes with --node",
        ));
    };
    let directory = state.join("redsync");
    let created = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
    created.map_err(|error| Failure::system(&format!("cannot create {}", directory.display()), &error))?;
    Ok(directory.join("locks.db"))
}

/// XDG Base Directory Specification: "All paths set in these environment variables must be absolute. If an
/// implementation encounters a relative path […] it should consider the path invalid and ignore it."
fn state_home() -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path: &PathBuf| path.is_absolute());
    absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(Path::new(".local/state"))))
}
