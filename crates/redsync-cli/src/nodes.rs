//! Where the nodes come from: the command line, the environment, or this machine.

use std::env;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use redsync::{Error, Mutex, Proposal, Redsync, SqliteNode, redacted};

use crate::cli::{Global, Switch};
use crate::report::{Failure, Report};

/// The environment variable that names the nodes, separated by commas.
pub(crate) const VARIABLE: &str = "REDSYNC_NODES";

/// The nodes to lock on.
pub(crate) struct Fleet {
    pub(crate) redsync: Redsync,
    size: usize,
    is_embedded: bool,
    /// Whether votes of restarted nodes are withheld.
    has_restart_guard: bool,
    /// How long it took until a majority of several nodes had answered.
    answered_after: Option<Duration>,
}

/// The environment variable that stands for `--restart-guard`.
const RESTART_GUARD: &str = "REDSYNC_RESTART_GUARD";

/// The nodes that `--node` or else [`VARIABLE`] name; if neither does, a store on this machine.
pub(crate) async fn open(given: &Global, owner: Option<&str>, report: &Report) -> Result<Fleet, Failure> {
    let urls = if given.nodes.is_empty() { from_environment()? } else { given.nodes.clone() };
    let restart_guard = match given.restart_guard {
        None => restart_guard_from_environment()?,
        given => given,
    };
    let restart_guard = restart_guard.map(|switch| switch == Switch::On);
    let mut builder = Redsync::builder();
    if let Some(guard) = restart_guard {
        builder = builder.restart_guard(guard);
    }
    if let Some(owner) = owner {
        builder = builder.owner(owner);
    }
    if urls.is_empty() {
        let store = local_store()?;
        report.note("local_only", LOCAL_ONLY);
        let redsync = builder.node(Arc::new(SqliteNode::new(store))).build()?;
        return Ok(Fleet {
            redsync,
            size: 1,
            is_embedded: true,
            has_restart_guard: false,
            answered_after: None,
        });
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
    let size = urls.len();
    let shown: Vec<_> = urls.iter().map(|url| redacted(url)).collect();
    report.detail(
        "nodes",
        &format!("locking on {size} nodes, {} must agree: {}", size / 2 + 1, shown.join(", ")),
    );
    let mut fleet = Fleet {
        redsync: builder.build()?,
        size,
        is_embedded: false,
        has_restart_guard: restart_guard.unwrap_or(size > 1),
        answered_after: None,
    };
    fleet.refuse_duplicates().await?;
    Ok(fleet)
}

const LOCAL_ONLY: &str =
    "locking on this machine only; to lock across machines, name nodes with --node or REDSYNC_NODES";

impl Fleet {
    /// The lock called `name`, with this expiry and the options that suit these nodes.
    pub(crate) fn mutex(&self, name: &str, expiry: Duration) -> Mutex {
        // A lock of months is held for longer than counters are kept by default, and keeps its own for as long.
        let retention = Proposal::DEFAULT_RETENTION.max(expiry);
        let mutex = self.redsync.mutex(name).expiry(expiry).fence_retention(retention);
        // No other node could decide in the store's place, and a machine that is busy is no machine that is down.
        if self.is_embedded { mutex.timeout_factor(0.25) } else { mutex }
    }

    /// How many nodes there are.
    pub(crate) const fn size(&self) -> usize {
        self.size
    }

    /// The expiry of a lock, if it is one for which votes of restarted nodes are withheld.
    pub(crate) fn restart_guard_for(&self, expiry: Duration) -> Option<Duration> {
        self.has_restart_guard.then_some(expiry)
    }

    /// Tells once which nodes are unfit to hold locks, as soon as that is known. It is known of each node that is
    /// connected to: nothing is asked of it for this.
    pub(crate) async fn tell_concerns(&self, report: &Report) {
        for concern in self.redsync.concerns().await.unwrap_or_default() {
            report.warning("unfit_node", &concern.to_string());
        }
    }

    /// A server that is named twice would vote twice. What else may be wrong is told by the attempt itself.
    ///
    /// A node that hangs is not waited for: it votes once it has said who it is, and no other node is the same server.
    async fn refuse_duplicates(&mut self) -> Result<(), Failure> {
        if self.size == 1 {
            return Ok(());
        }
        let began = Instant::now();
        let checked = self.redsync.check_nodes().await;
        self.answered_after = Some(began.elapsed());
        match checked {
            Err(error @ Error::DuplicateNode { .. }) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// How long unfinished releases may delay the end of the command: as long as it took at the start until the nodes had
    /// answered. What is not released by then expires. Every release has been written to its node's connection by then,
    /// unless there is none; only answers are missed.
    pub(crate) fn farewell(&self) -> Duration {
        const LEAST: Duration = Duration::from_millis(25);
        const MOST: Duration = Duration::from_millis(500);
        self.answered_after.map_or(MOST, |after| after.clamp(LEAST, MOST))
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

fn restart_guard_from_environment() -> Result<Option<Switch>, Failure> {
    let Some(value) = env::var_os(RESTART_GUARD).filter(|value| !value.is_empty()) else { return Ok(None) };
    let value = value.to_string_lossy();
    let switch = Switch::from_str(&value, false).ok();
    switch
        .map(Some)
        .ok_or_else(|| Failure::usage(format!("{RESTART_GUARD} is {value:?}; it can be on or off")))
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
