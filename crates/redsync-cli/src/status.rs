//! Who holds, in words and as JSON.

use redsync::{Holder, Inspection, LockState, NodeReport, TimeLeft};
use serde_json::{Value, json};

use crate::cli::StatusArgs;
use crate::duration::in_words;
use crate::exit::Exit;
use crate::nodes::Fleet;
use crate::report::{Failure, Report};

pub(crate) async fn status(fleet: &Fleet, args: &StatusArgs, report: &Report) -> Result<Exit, Failure> {
    let looked = fleet.redsync.inspect(&args.name).await?;
    report.result(in_text(&args.name, &looked), || in_json(&args.name, &looked))?;
    Ok(match looked.state() {
        LockState::Unknown => Exit::NoQuorum,
        _ => Exit::Success,
    })
}

fn in_text(name: &str, looked: &Inspection) -> String {
    let total = looked.nodes().len();
    let failed = looked.nodes().iter().filter(|node| node.answer.is_err()).count();
    let name = name.escape_debug();
    let mut text = match looked.state() {
        LockState::Free => format!("{name} is free"),
        LockState::Held(holder) => format!("{name} is {}", held(&holder)),
        LockState::Unknown if total == 1 => format!("{name}: cannot tell, the only node failed"),
        LockState::Unknown => format!("{name}: cannot tell, {failed} of {total} nodes failed"),
        _ => format!("{name} is held by nobody, but not free: others are taking it, or did not finish"),
    };
    if total > 1 || failed > 0 {
        for node in looked.nodes() {
            text.push_str("\n  ");
            text.push_str(&node_in_text(node));
        }
    }
    text
}

fn node_in_text(report: &NodeReport) -> String {
    match &report.answer {
        Ok(None) => format!("{}: free", report.node),
        Ok(Some(holder)) => format!("{}: {}", report.node, held(holder)),
        // Names the node itself.
        Err(error) => error.to_string(),
    }
}

fn held(holder: &Holder) -> String {
    match holder.time_left() {
        TimeLeft::For(left) => format!("held by {holder} for another {}", in_words(left)),
        TimeLeft::Forever => {
            format!("held by {holder} for ever: its key has no expiry, and no lock of redsync's is so")
        }
        TimeLeft::Unknown => format!("held by {holder}, for an unknown time"),
    }
}

fn in_json(name: &str, looked: &Inspection) -> Value {
    let nodes: Vec<Value> = looked.nodes().iter().map(node_in_json).collect();
    let (state, holder) = match looked.state() {
        LockState::Free => ("free", None),
        LockState::Held(holder) => ("held", Some(holder)),
        LockState::Unknown => ("unknown", None),
        _ => ("contended", None),
    };
    let mut object = json!({ "name": name, "state": state, "nodes": nodes });
    add_holder(&mut object, holder.as_ref());
    object
}

fn node_in_json(report: &NodeReport) -> Value {
    let (state, holder, error) = match &report.answer {
        Ok(None) => ("free", None, None),
        Ok(Some(holder)) => ("held", Some(holder), None),
        Err(error) => ("failed", None, Some(error.to_string())),
    };
    let mut object = json!({ "node": report.node, "state": state, "error": error });
    add_holder(&mut object, holder);
    object
}

/// `time_left_ms` is null where nobody holds, and where `expires` says why: false is for ever, null is unknown.
fn add_holder(object: &mut Value, holder: Option<&Holder>) {
    let left = holder.map(Holder::time_left);
    object["holder"] = json!(holder.map(Holder::token));
    object["owner"] = json!(holder.and_then(Holder::owner));
    object["time_left_ms"] = match left {
        Some(TimeLeft::For(left)) => json!(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
        _ => Value::Null,
    };
    object["expires"] = match left {
        Some(TimeLeft::For(_)) => json!(true),
        Some(TimeLeft::Forever) => json!(false),
        _ => Value::Null,
    };
}
