//! What this program was made of, for bug reports.

use std::sync::LazyLock;

use redsync::SqliteNode;

/// `0.1.0 (60c86fc1a2b3, x86_64-unknown-linux-gnu)` and what is built in. The commit is left out where it was not known when
/// the program was built.
pub(crate) fn text() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let commit = option_env!("GIT_COMMIT").filter(|commit| !commit.is_empty());
        let commit = commit.map(|commit| format!("{commit}, ")).unwrap_or_default();
        let (version, target) = (env!("CARGO_PKG_VERSION"), env!("BUILD_TARGET"));
        let sqlite = SqliteNode::engine_version();
        format!("{version} ({commit}{target})\nwith redis, tls (rustls), sqlite (SQLite {sqlite})")
    });
    &TEXT
}
