//! Where the nodes come from: the command line, the environment, or this machine.

use std::env;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use redsync::{Builder, Error, Mutex, Proposal, Redsync, SqliteNode, redacted};

use crate::cli::{Global, Switch};
use crate::local_store::LocalStore;
use crate::report::{Failure, Report};

/// The environment variable that names the nodes.
pub(crate) const VARIABLE: &str = "REDSYNC_NODES";

/// The environment variable that stands for `--machine`.
const MACHINE: &str = "REDSYNC_MACHINE";

/// The nodes to lock on.
pub(crate) struct Fleet {
    pub(crate) redsync: Redsync,
    size: usize,
    /// The store on this machine, where no nodes are named.
    store: Option<LocalStore>,
    /// Whether all nodes are files on this machine.
    is_local: bool,
    /// Whether votes of restarted nodes are withheld.
    has_restart_guard: bool,
    /// How long it took until a majority of several nodes had answered.
    answered_after: Option<Duration>,
}

/// The environment variable that stands for `--restart-guard`.
const RESTART_GUARD: &str = "REDSYNC_RESTART_GUARD";

/// The environment variable that has grants confirmed that servers announce.
const CONFIRM_GRANTS: &str = "REDSYNC_CONFIRM_GRANTS";

/// Where locks are kept.
enum Nodes {
    Urls(Vec<String>),
    /// The store of all users of this machine.
    Machine,
    /// The store of this user.
    User,
}

/// The nodes that the command line names, or else the environment; if neither does, a store on this machine.
pub(crate) async fn open(given: &Global, owner: Option<&str>, report: &Report) -> Result<Fleet, Failure> {
    let nodes = nodes(given)?;
    let restart_guard = match given.restart_guard {
        None => switch_from_environment(RESTART_GUARD)?,
        given => given,
    };
    let restart_guard = restart_guard.map(|switch| switch == Switch::On);
    let mut builder = Redsync::builder();
    if let Some(guard) = restart_guard {
        builder = builder.restart_guard(guard);
    }
    if switch_from_environment(CONFIRM_GRANTS)? == Some(Switch::On) {
        builder = builder.confirm_grants(true);
    }
    if let Some(owner) = owner {
        builder = builder.owner(owner);
    }
    let (store, node) = match nodes {
        Nodes::Urls(urls) => return open_urls(&urls, builder, restart_guard, report).await,
        Nodes::Machine => LocalStore::of_this_machine(),
        Nodes::User => {
            let store = LocalStore::of_this_user(report)?;
            let node = SqliteNode::new(&store.path);
            (store, node)
        }
    };
    store.tell(report);
    let redsync = builder.node(Arc::new(node)).build()?;
    Ok(Fleet {
        redsync,
        size: 1,
        store: Some(store),
        is_local: true,
        has_restart_guard: false,
        answered_after: None,
    })
}

async fn open_urls(
    urls: &[String],
    mut builder: Builder,
    restart_guard: Option<bool>,
    report: &Report,
) -> Result<Fleet, Failure> {
    for url in urls {
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
        store: None,
        is_local: are_files(urls),
        has_restart_guard: restart_guard.unwrap_or(size > 1),
        answered_after: None,
    };
    fleet.refuse_duplicates().await?;
    Ok(fleet)
}

impl Fleet {
    /// The store on this machine, where no nodes are named.
    pub(crate) fn store(&self) -> Option<&LocalStore> {
        self.store.as_ref()
    }

    /// The lock called `name`, with this expiry and the options that suit these nodes.
    pub(crate) fn mutex(&self, name: &str, expiry: Duration) -> Mutex {
        // A lock of months is held for longer than counters are kept by default, and keeps its own for as long.
        let retention = Proposal::DEFAULT_RETENTION.max(expiry);
        let mutex = self.redsync.mutex(name).expiry(expiry).fence_retention(retention);
        // A machine that is busy is no machine that is down, and no node elsewhere could decide in a file's place.
        if self.is_local { mutex.timeout_factor(0.25) } else { mutex }
    }

    /// Whether all nodes are files on this machine.
    pub(crate) const fn is_local(&self) -> bool {
        self.is_local
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
    pub(crate) async fn report_health_warnings(&self, report: &Report) {
        for warning in self.redsync.health_warnings().await.unwrap_or_default() {
            report.warning("unfit_node", &warning.to_string());
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

/// What the command line says comes before what the environment says. Two variables that contradict each other are refused.
fn nodes(given: &Global) -> Result<Nodes, Failure> {
    match (given.nodes.is_empty(), given.machine) {
        (false, true) => return Err(Failure::usage("--machine and --node cannot be used together")),
        (false, false) => return Ok(Nodes::Urls(given.nodes.clone())),
        (true, true) => return Ok(Nodes::Machine),
        (true, false) => {}
    }
    match (urls_from_environment()?, machine_from_environment()?) {
        (Some(_), true) => Err(Failure::usage(format!(
            "{VARIABLE} and {MACHINE} are both set; unset one of them, or say --node or --machine"
        ))),
        (Some(urls), false) => Ok(Nodes::Urls(urls)),
        (None, true) => Ok(Nodes::Machine),
        (None, false) => Ok(Nodes::User),
    }
}

/// Nothing where the variable is not set. One that is set and names no node is most likely a script's unset variable: a
/// local lock in its place would exclude no other machine.
fn urls_from_environment() -> Result<Option<Vec<String>>, Failure> {
    let text = match env::var(VARIABLE) {
        Ok(text) => text,
        Err(env::VarError::NotPresent) => return Ok(None),
        // Its text may hold a password: not shown.
        Err(env::VarError::NotUnicode(_)) => {
            return Err(Failure::usage(format!("{VARIABLE} is not valid UTF-8")));
        }
    };
    let urls = split(&text);
    if urls.is_empty() {
        return Err(Failure::usage(format!(
            "{VARIABLE} is set but names no node; name them, as in redis://HOST1,redis://HOST2,redis://HOST3, or unset it \
             to lock on this machine only"
        )));
    }
    for url in &urls {
        let shown = redacted(url);
        let (_, rest) = shown.split_once("://").unwrap_or_default();
        let hosts = rest.split('/').next().unwrap_or_default();
        if hosts.contains(is_separator) {
            return Err(Failure::usage(format!(
                "{VARIABLE}: {shown} names several hosts; write a scheme before each: redis://HOST1,redis://HOST2"
            )));
        }
    }
    Ok(Some(urls.into_iter().map(str::to_owned).collect()))
}

/// The URLs in a list. Commas, semicolons, blanks and newlines separate them, but only where a URL with a scheme follows:
/// one URL may list several hosts.
fn split(mut text: &str) -> Vec<&str> {
    let mut urls = Vec::new();
    loop {
        text = text.trim_matches(is_separator);
        if text.is_empty() {
            return urls;
        }
        let ends = |&(at, c): &(usize, char)| {
            is_separator(c) && has_scheme(text[at..].trim_start_matches(is_separator))
        };
        let end = text.char_indices().find(ends).map_or(text.len(), |(at, _)| at);
        urls.push(&text[..end]);
        text = &text[end..];
    }
}

/// Whether all nodes are files on this machine.
fn are_files(urls: &[String]) -> bool {
    let is_file = |url: &String| url.trim_start().to_ascii_lowercase().starts_with("sqlite:");
    urls.iter().all(is_file)
}

fn is_separator(c: char) -> bool {
    matches!(c, ',' | ';') || c.is_whitespace()
}

/// RFC 3986, 3.1: a letter, then letters, digits, `+`, `-` and `.`.
fn has_scheme(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    match text.split_once(':') {
        Some((scheme, rest)) => {
            scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.chars().all(is_part)
                && (rest.starts_with("//") || scheme.eq_ignore_ascii_case("memory"))
        }
        None => false,
    }
}

fn machine_from_environment() -> Result<bool, Failure> {
    let Some(value) = env::var_os(MACHINE) else { return Ok(false) };
    match value.to_str() {
        Some("" | "0") => Ok(false),
        Some("1") => Ok(true),
        _ => Err(Failure::usage(format!("{MACHINE} is {value:?}; it can be 1 or 0"))),
    }
}

fn switch_from_environment(variable: &str) -> Result<Option<Switch>, Failure> {
    let Some(value) = env::var_os(variable).filter(|value| !value.is_empty()) else { return Ok(None) };
    let value = value.to_string_lossy();
    let switch = Switch::from_str(&value, false).ok();
    switch.map(Some).ok_or_else(|| Failure::usage(format!("{variable} is {value:?}; it can be on or off")))
}

#[cfg(test)]
mod tests {
    use super::{are_files, split};

    #[test]
    fn nodes_are_on_this_machine_where_all_of_them_are_files() {
        let are_files = |urls: &[&str]| are_files(&urls.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert!(are_files(&["sqlite:///a"]) && are_files(&[" SQLite:///a", "sqlite:///b?mode=0660"]));
        assert!(!are_files(&["redis://a"]) && !are_files(&["sqlite:///a", "redis://a"]));
    }

    #[test]
    fn every_separator_separates_urls() {
        for text in [
            "redis://a,redis://b:1/2,sqlite:///c",
            "redis://a redis://b:1/2 sqlite:///c",
            "redis://a\nredis://b:1/2\nsqlite:///c\n",
            "redis://a;redis://b:1/2;sqlite:///c",
            " ,; redis://a , redis://b:1/2;\n\t sqlite:///c ;,",
        ] {
            assert_eq!(split(text), ["redis://a", "redis://b:1/2", "sqlite:///c"], "{text:?}");
        }
        assert_eq!(split("memory:,memory:x rediss://c"), ["memory:", "memory:x", "rediss://c"]);
        for text in ["", " ", ",", ";", "\n", " , ;\n,"] {
            assert_eq!(split(text), [""; 0], "{text:?}");
        }
    }

    #[test]
    fn separators_within_a_url_are_part_of_it() {
        for text in [
            "redis+sentinel://a:26379,b:26379,c:26379/main",
            "redis://:a;b@host",
            "sqlite:///var/my locks/locks.db",
            "redis://:a%2Cb@host",
        ] {
            assert_eq!(split(text), [text], "{text:?}");
            let twice = format!("{text},{text}");
            assert_eq!(split(&twice), [text, text], "{text:?}");
        }
    }
}
