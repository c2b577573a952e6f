//! What the exit code means: decided here and nowhere else.
//!
//! | code | `sysexits.h` | when |
//! |---|---|---|
//! | 0 | | done; for `status`, the question was answered, or with `--exit-code` the lock is held; for `run`, the command ended with 0 |
//! | 1 | | the lock was not held any more (`extend`, `unlock`), or is free (`status --exit-code`), output could not be written, … |
//! | 64 | `EX_USAGE` | arguments, options, node URLs, names or leases that cannot be right; an endless wait under one's own lock |
//! | 69 | `EX_UNAVAILABLE` | no quorum of nodes could be reached, or had been up for long enough to be trusted |
//! | 71 | `EX_OSERR` | `status --exit-code`, where 1 is an answer: output could not be written, files could not be opened, … |
//! | 73 | `EX_CANTCREAT` | the local store cannot be used: no directory, no permission, damaged, disk full |
//! | 74 | `EX_IOERR` | the lock was lost while the command ran |
//! | 75 | `EX_TEMPFAIL` | the lock was taken, and stayed so for as long as was waited (or what `-E` says); for `status --exit-code`, it is contended or withheld |
//! | 77 | `EX_NOPERM` | so many servers refuse us that no majority is left: password, user, permissions |
//! | 78 | `EX_CONFIG` | so many nodes are not what they should be: no Redis, a Sentinel, a cluster's member, TLS mixed up, … |
//! | 126 | | the command was found but cannot be executed |
//! | 127 | | the command was not found |
//! | 128 + S | | signal S came while waiting, or ended the command |
//! | else | | `run`: the command's own |
//!
//! 73, 77 and 78 come at once, whatever was to be waited for: waiting does not help. 69 comes when it has not helped.
//!
//! A command's own code may be any of these too; the line on stderr tells them apart.

use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};

use redsync::{Error, ErrorKind, NodeError, Operation, Remedy};
use rustix::process::Signal;

use crate::help::Table;

/// The table above, for `--help` and the manual page.
pub(crate) const CODES: Table = &[
    ("0", "Done. For `run`: the command ended with 0. For `status`: the question was answered."),
    (
        "64",
        "Usage: bad arguments, node URL, name or lease. Also a wait that would deadlock: without limit, for a lock that \
         a redsync around this one holds.",
    ),
    ("69", "No quorum of nodes could be reached for now, or too many of them restarted just now."),
    ("71", "`status --exit-code` failed on this machine: it could not write its output or open files."),
    ("73", "The local store cannot be used: no directory, no permission, damaged, or its disk is full."),
    ("74", "The lock was lost while the command ran. The command was ended, unless --on-lost warn."),
    ("75", "The lock was taken for as long as redsync waited. -E sets another code."),
    ("77", "Servers refuse this client: wrong password or user, or missing permissions."),
    (
        "78",
        "Nodes are not what they should be: no Redis, a Sentinel, a cluster's member, TLS mixed up, no such database.",
    ),
    ("126", "The command cannot be executed."),
    ("127", "The command was not found."),
    ("128+S", "Signal S ended the command, or came while redsync waited."),
    (
        "1",
        "Anything else, such as `unlock` of a lock that had expired. For `status --exit-code`: the lock is free.",
    ),
    ("other", "For `run`: the command's own code. The command may also end with a code of this table."),
];

/// How this process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Success,
    Failure,
    Usage,
    /// As `Failure`, where 1 would be an answer.
    System,
    NoQuorum,
    /// The local store cannot be used.
    NoStore,
    /// Servers refuse this client.
    NoAccess,
    /// Nodes are not what they should be.
    WrongNodes,
    Lost,
    Taken,
    /// As `Taken`, with the code that `-E` gives.
    Conflict(u8),
    NotExecutable,
    NotFound,
    /// This signal came while waiting.
    Signal(Signal),
    /// As the command did.
    Command(ExitStatus),
}

impl Exit {
    /// What an error of the library comes to.
    pub(crate) fn of(error: &Error) -> Self {
        match error {
            Error::Taken { operation: Operation::Lock, .. } => Self::Taken,
            _ => match error.kind() {
                ErrorKind::NoQuorum if error.remedy().is_some() => Self::needing(error.remedy()),
                // Granted, but too late to be of any use: the nodes are as good as out of reach.
                ErrorKind::NoQuorum | ErrorKind::ValidityExhausted => Self::NoQuorum,
                ErrorKind::Invalid => Self::Usage,
                // Also where it is lost: there is nothing left to extend or release. `Self::Lost` is of a command that ran.
                _ => Self::Failure,
            },
        }
    }

    /// No quorum, and what has to be seen to first, if anything.
    pub(crate) const fn needing(remedy: Option<Remedy>) -> Self {
        match remedy {
            Some(Remedy::Access) => Self::NoAccess,
            Some(Remedy::Node) => Self::WrongNodes,
            Some(Remedy::Store) => Self::NoStore,
            _ => Self::NoQuorum,
        }
    }

    /// As it is told of a question whose answer may be 1.
    pub(crate) fn unlike_an_answer(self) -> Self {
        if self == Self::Failure { Self::System } else { self }
    }

    /// What failures of so many nodes come to where too few have answered.
    pub(crate) fn of_nodes(nodes: Vec<NodeError>, total: usize) -> Self {
        Self::of(&Error::NoQuorum { name: None, operation: Operation::Connect, total, nodes })
    }

    fn code(self) -> i32 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 64,
            Self::NoQuorum => 69,
            Self::System => 71,
            Self::NoStore => 73,
            Self::Lost => 74,
            Self::Taken => 75,
            Self::Conflict(code) => code.into(),
            Self::NoAccess => 77,
            Self::WrongNodes => 78,
            Self::NotExecutable => 126,
            Self::NotFound => 127,
            Self::Signal(signal) => 128 + signal.as_raw(),
            Self::Command(status) => match (status.code(), status.signal()) {
                (Some(code), _) => code,
                (None, Some(signal)) => 128 + signal,
                (None, None) => 1,
            },
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        u8::try_from(exit.code()).map_or(Self::FAILURE, Self::from)
    }
}
