//! What is said: results on stdout, failures and warnings on stderr, as text or as JSON.

use std::fmt::Display;
use std::io::{self, Write};
use std::time::Duration;

use redsync::{Error, ErrorKind, InvalidLease, NodeError, Remedy};
use serde_json::{Value, json};

use crate::cli::Global;
use crate::exit::Exit;

/// How to say things.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    pub(crate) verbose: bool,
}

impl Report {
    pub(crate) const fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet, verbose: false }
    }

    pub(crate) const fn of(global: &Global) -> Self {
        Self { json: global.json, quiet: global.quiet, verbose: global.verbose }
    }

    /// A line of the result.
    ///
    /// # Errors
    ///
    /// When stdout is closed or full. Never a panic, as `println!` would be.
    pub(crate) fn result(&self, text: impl Display, json: impl FnOnce() -> Value) -> Result<(), Failure> {
        let line = if self.json { json().to_string() } else { text.to_string() };
        print(&format!("{line}\n"))
    }

    /// Says why the command fails, and how it ends. `--quiet` leaves a taken lock to the exit code, as flock(1) does.
    pub(crate) fn failure(&self, failure: &Failure) -> Exit {
        let is_told_by_code = self.quiet && matches!(failure.exit, Exit::Taken | Exit::Conflict(_));
        if let Some(Said { kind, message, nodes, remedy }) =
            failure.said.as_ref().filter(|_| !is_told_by_code)
        {
            if self.json {
                say(&json!({ "error": kind, "message": message, "nodes": nodes, "remedy": remedy }));
            } else {
                say(&format_args!("redsync: {}", one_line(message)));
            }
        }
        failure.exit
    }

    /// Says what somebody should know although the command goes on. `--quiet` does not silence it.
    pub(crate) fn warning(&self, kind: &str, message: &str) {
        if self.json {
            say(&json!({ "warning": kind, "message": message }));
        } else {
            say(&format_args!("redsync: {}", one_line(message)));
        }
    }

    /// As [`note`](Self::note), with `facts`, an object, for programs.
    pub(crate) fn note_of(&self, kind: &str, message: &str, facts: Value) {
        if self.quiet {
            return;
        }
        if !self.json {
            return self.warning(kind, message);
        }
        let mut object = json!({ "warning": kind, "message": message });
        if let (Some(object), Value::Object(facts)) = (object.as_object_mut(), facts) {
            object.extend(facts);
        }
        say(&object);
    }

    /// As [`warning`](Self::warning), unless `--quiet`.
    pub(crate) fn note(&self, kind: &str, message: &str) {
        if !self.quiet {
            self.warning(kind, message);
        }
    }

    /// As [`warning`](Self::warning), only with `--verbose`.
    pub(crate) fn detail(&self, kind: &str, message: &str) {
        if self.verbose {
            self.warning(kind, message);
        }
    }
}

/// Why the command fails, and how it ends.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    said: Option<Said>,
}

#[derive(Debug)]
struct Said {
    kind: &'static str,
    message: String,
    nodes: Vec<Value>,
    remedy: Option<&'static str>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, kind: &'static str, message: impl Into<String>) -> Self {
        Self { exit, said: Some(Said { kind, message: message.into(), nodes: Vec::new(), remedy: None }) }
    }

    /// Nothing to say: whoever sent the signal knows.
    pub(crate) const fn silent(exit: Exit) -> Self {
        Self { exit, said: None }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "usage", message)
    }

    pub(crate) fn system(what: &str, error: &io::Error) -> Self {
        Self::new(Exit::Failure, "system", format!("{what}: {error}"))
    }

    /// The same, with more to its message.
    pub(crate) fn with(mut self, more: &str) -> Self {
        if let Some(said) = &mut self.said {
            said.message.push_str(more);
        }
        self
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::Taken => "taken",
            ErrorKind::NoQuorum => "no_quorum",
            ErrorKind::ValidityExhausted => "validity_exhausted",
            ErrorKind::AlreadyExpired => "already_expired",
            ErrorKind::Lost => "lost",
            ErrorKind::ShutDown => "shut_down",
            ErrorKind::Invalid => "usage",
            _ => "failed",
        };
        let nodes = error.nodes().iter().map(node_json).collect();
        let remedy = error.remedy().and_then(remedy_name);
        Self { exit: Exit::of(&error), said: Some(Said { kind, message: error.to_string(), nodes, remedy }) }
    }
}

impl From<InvalidLease> for Failure {
    fn from(invalid: InvalidLease) -> Self {
        Self::usage(invalid.to_string())
    }
}

/// Writes to stdout, all of it and at once.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.map_err(|error| Failure::new(Exit::Failure, "output", format!("cannot write to stdout: {error}")))
}

/// A line on stderr. If that is closed, there is nobody left to tell.
fn say(line: &impl Display) {
    let line = format!("{line}\n");
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

/// Why a node failed, as JSON.
pub(crate) fn node_json(error: &NodeError) -> Value {
    let kind = match error {
        NodeError::Taken { .. } => "taken",
        NodeError::NotHeld { .. } => "not_held",
        NodeError::Timeout { .. } => "timeout",
        NodeError::Withheld { .. } => "withheld",
        _ => "failed",
    };
    let mut object = json!({ "node": error.node(), "error": kind, "message": error.to_string() });
    object["remedy"] = json!(error.remedy().and_then(remedy_name));
    if let NodeError::Withheld { wait, .. } = error {
        object["withheld_for_ms"] = wait.map_or(Value::Null, millis);
    }
    object
}

/// What a person has to see to before waiting can help, in a word.
const fn remedy_name(remedy: Remedy) -> Option<&'static str> {
    match remedy {
        Remedy::Access => Some("access"),
        Remedy::Node => Some("node"),
        Remedy::Store => Some("store"),
        _ => None,
    }
}

/// A time as JSON has it.
pub(crate) fn millis(duration: Duration) -> Value {
    json!(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

/// Line breaks and other control characters would make one message look like two, or change a person's terminal.
pub(crate) fn one_line(message: &str) -> String {
    message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
