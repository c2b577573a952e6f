//! Who holds and who waits, in words and as JSON.

use redsync::{Inspection, LockOptions, LockState, NodeReport};
use serde_json::{Value, json};

use crate::cli::StatusArgs;
use crate::duration::in_words;
use crate::exit::Exit;
use crate::fence::Counted;
use crate::held;
use crate::local_store::LocalStore;
use crate::nodes::Fleet;
use crate::queue::Queue;
use crate::report::{Failure, Report, millis, one_line};
use crate::withheld::{Vote, Withheld};

pub(crate) async fn status(fleet: &Fleet, args: &StatusArgs, report: &Report) -> Result<Exit, Failure> {
    let looked = fleet.redsync.inspect(&args.name).await?;
    // Who will ask for the lock, and with which expiry, is not known: the default stands for it.
    let withheld = Withheld::of(&looked, fleet.restart_guard_for(LockOptions::DEFAULT_EXPIRY));
    let mut text = in_text(&args.name, &looked, &withheld);
    if let Some(store) = fleet.store() {
        text.push_str(&format!("\n  {store}"));
    }
    report.result(text, || {
        let mut object = in_json(&args.name, &looked, &withheld);
        object["store"] = fleet.store().map_or(Value::Null, LocalStore::in_json);
        object
    })?;
    Ok(match State::of(&looked, &withheld) {
        State::Unknown => {
            let errors = looked.nodes().iter().filter_map(|node| node.answer.as_ref().err());
            Exit::of_nodes(errors.cloned().collect(), looked.nodes().len())
        }
        _ if !args.exit_code => Exit::Success,
        State::Held => Exit::Success,
        State::Free => Exit::Failure,
        State::Withheld | State::Contended => Exit::Taken,
    })
}

/// What all that was said comes to: the same for people, for programs, and for the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    /// Free, but it cannot be taken yet: nodes have restarted.
    Withheld,
    Held,
    /// Nobody has a majority, but it is not free.
    Contended,
    Unknown,
}

impl State {
    fn of(looked: &Inspection, withheld: &Withheld<'_>) -> Self {
        match looked.state() {
            LockState::Free if withheld.is_in_the_way() => Self::Withheld,
            LockState::Free => Self::Free,
            LockState::Held(_) => Self::Held,
            LockState::Unknown => Self::Unknown,
            _ => Self::Contended,
        }
    }

    const fn in_json(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Withheld => "withheld",
            Self::Held => "held",
            Self::Contended => "contended",
            Self::Unknown => "unknown",
        }
    }
}

fn in_text(name: &str, looked: &Inspection, withheld: &Withheld<'_>) -> String {
    let total = looked.nodes().len();
    let failed = looked.nodes().iter().filter(|node| node.answer.is_err()).count();
    let is_withheld = looked.nodes().iter().any(|node| withheld.vote(node).is_some());
    let counted = Counted::of(looked);
    let name = name.escape_debug();
    let mut text = match (State::of(looked, withheld), looked.holder()) {
        (_, Some(holder)) => format!("{name} is {}{counted}", held::in_words_of(&holder)),
        (State::Withheld, _) => format!("{name} is free, but cannot be taken yet: nodes have restarted"),
        (State::Free, _) => format!("{name} is free"),
        (State::Unknown, _) if total == 1 => format!("{name}: cannot tell, the only node failed"),
        (State::Unknown, _) => format!("{name}: cannot tell, {failed} of {total} nodes failed"),
        (State::Contended | State::Held, None) => {
            format!("{name} is held by nobody, but not free: others are taking it, or did not finish")
        }
    };
    let queue = Queue::of(looked);
    if !queue.is_empty() {
        text.push_str(&format!("; {queue}"));
    }
    if total > 1 || failed > 0 || is_withheld {
        for node in looked.nodes() {
            text.push_str("\n  ");
            text.push_str(&node_in_text(node));
            text.push_str(&counted.on(node));
            let queue_there = Queue::on(node, looked);
            if node.answer.is_ok() && queue_there != queue {
                text.push_str(&format!("; {queue_there}"));
            }
            text.push_str(&vote_in_text(withheld.vote(node)));
        }
    }
    text
}

fn vote_in_text(vote: Option<Vote>) -> String {
    match vote {
        None => String::new(),
        Some(Vote::For(time)) => {
            format!("; it restarted, and its vote does not count for another {}", in_words(time))
        }
        Some(Vote::UpSinceUnknown) => {
            "; it does not say since when it is up, so its vote does not count".to_owned()
        }
    }
}

fn node_in_text(report: &NodeReport) -> String {
    match &report.answer {
        Ok(None) => format!("{}: free", report.node),
        Ok(Some(holder)) => format!("{}: {}", report.node, held::in_few_words(holder)),
        // Names the node itself.
        Err(error) => one_line(&error.to_string()),
    }
}

fn in_json(name: &str, looked: &Inspection, withheld: &Withheld<'_>) -> Value {
    let node = |report| node_in_json(report, looked, withheld.vote(report));
    let nodes: Vec<Value> = looked.nodes().iter().map(node).collect();
    let state = State::of(looked, withheld).in_json();
    let mut object = json!({ "name": name, "state": state, "nodes": nodes });
    held::add_to(&mut object, looked.holder().as_ref());
    object["fence"] = json!(Counted::of(looked).fence());
    let queue = Queue::of(looked);
    let is_told = looked.nodes().iter().any(|report| report.answer.is_ok());
    object["waiting"] = if is_told { queue.waiting_in_json() } else { Value::Null };
    object["queue"] = queue.in_json();
    object
}

/// `withheld` says whether the node's vote counts, and `withheld_for_ms` for how much longer not, where that is known.
fn node_in_json(report: &NodeReport, looked: &Inspection, vote: Option<Vote>) -> Value {
    let (state, holder, error) = match &report.answer {
        Ok(None) => ("free", None, None),
        Ok(Some(holder)) => ("held", Some(holder), None),
        Err(error) => ("failed", None, Some(error.to_string())),
    };
    let mut object = json!({ "node": report.node, "state": state, "error": error });
    object["withheld"] = json!(vote.is_some());
    object["withheld_for_ms"] = match vote {
        Some(Vote::For(time)) => millis(time),
        Some(Vote::UpSinceUnknown) | None => Value::Null,
    };
    held::add_to(&mut object, holder);
    // Of the node's counter, whoever has the lease there.
    object["fence"] = json!(report.fence);
    object["waiting"] = match report.answer {
        Ok(_) => Queue::on(report, looked).waiting_in_json(),
        Err(_) => Value::Null,
    };
    object
}
