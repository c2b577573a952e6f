//! Which locks are held, by whom, since when, and how many wait.

use redsync::{Holder, ListedLock, Listing, LockState, Search};
use serde_json::{Value, json};

use crate::cli::LsArgs;
use crate::exit::Exit;
use crate::held;
use crate::moment::{elapsed, now_in_millis};
use crate::nodes::Fleet;
use crate::report::{Failure, Report, node_json, print};

pub(crate) async fn ls(fleet: &Fleet, args: &LsArgs, report: &Report) -> Result<Exit, Failure> {
    let search = match &args.pattern {
        Some(pattern) => Search::matching(pattern).map_err(redsync::Error::from)?,
        None => Search::everything(),
    };
    let search = if args.all { search.and_others() } else { search };
    let listing = fleet.redsync.list(&search).await?;
    let has_quorum = listing.failures.len() < fleet.size().div_ceil(2);
    if report.json {
        print(&in_json(search.pattern.as_str(), &listing))?;
    } else {
        let mut lines = held_in_text(&listing);
        if report.verbose {
            lines.extend(others_in_text(&listing));
        }
        if !lines.is_empty() {
            report.result(lines.join("\n"), || Value::Null)?;
        }
        let none = match &args.pattern {
            Some(_) => "no lock is held that matches",
            None => "no lock is held",
        };
        tell(&listing, (lines.is_empty() && has_quorum).then_some(none), report);
    }
    if has_quorum {
        return Ok(Exit::Success);
    }
    Ok(Exit::of_nodes(listing.failures, fleet.size()))
}

/// What is to be known of the list as a whole; `none` where it is empty.
fn tell(listing: &Listing, none: Option<&str>, report: &Report) {
    for error in &listing.failures {
        report.warning("node_failed", &error.to_string());
    }
    if listing.is_cut {
        let most = Listing::MOST;
        report.warning(
            "cut",
            &format!("there are more than {most} locks, of which some are listed: narrow the pattern"),
        );
    }
    let unclear = listing.locks.len() - listing.held().count();
    if unclear > 0 && !report.verbose {
        let names = if unclear == 1 { "1 name has" } else { &format!("{unclear} names have") };
        report.note("unclear", &format!("{names} leases on a minority of nodes only; -v shows them"));
    } else if let Some(none) = none {
        report.note("none", none);
    }
}

/// One line for each, in columns, each of which says what it is.
fn held_in_text(listing: &Listing) -> Vec<String> {
    let now = now_in_millis();
    let rows: Vec<[String; 6]> = listing.held().map(|(lock, holder)| row(lock, holder, now)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; 6] = std::array::from_fn(width);
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

fn row(lock: &ListedLock, holder: &Holder, now: u64) -> [String; 6] {
    [
        lock.name.as_str().escape_debug().to_string(),
        holder.to_string(),
        holder
            .since()
            .map_or_else(|| "asked unknown".to_owned(), |since| format!("asked {} ago", elapsed(since, now))),
        held::left_in_words(holder),
        lock.fence.map_or_else(|| "no fence".to_owned(), |fence| format!("fence {fence}")),
        match lock.waiting {
            0 => "nobody waits".to_owned(),
            1 => "1 waits".to_owned(),
            waiting => format!("{waiting} wait"),
        },
    ]
}

/// Those that nobody has a majority of.
fn others_in_text(listing: &Listing) -> impl Iterator<Item = String> {
    let others = listing.locks.iter().filter(|lock| !matches!(lock.state, LockState::Held(_)));
    others.map(|lock| {
        let mut holders: Vec<String> = lock.holders.iter().map(ToString::to_string).collect();
        // Nodes answer in any order.
        holders.sort();
        let name = lock.name.as_str().escape_debug();
        format!("{name}  {}: {}", state(&lock.state), holders.join(", "))
    })
}

/// `partial`: a majority of nodes is free, and a minority is not.
fn state(state: &LockState) -> &'static str {
    match state {
        LockState::Held(_) => "held",
        LockState::Free => "partial",
        LockState::Unknown => "unknown",
        _ => "contended",
    }
}

/// A line with an object, put together from its locks: there may be very many, and all of them at once as values would take a
/// multiple of the memory.
fn in_json(pattern: &str, listing: &Listing) -> String {
    let failed: Vec<Value> = listing.failures.iter().map(node_json).collect();
    let (pattern, failed, is_complete) = (json!(pattern), json!(failed), !listing.is_cut);
    let mut text =
        format!("{{\"pattern\":{pattern},\"complete\":{is_complete},\"failed\":{failed},\"locks\":[");
    for (number, lock) in listing.locks.iter().enumerate() {
        let separator = if number > 0 { "," } else { "" };
        text.push_str(&format!("{separator}{}", lock_in_json(lock)));
    }
    text.push_str("]}\n");
    text
}

fn lock_in_json(lock: &ListedLock) -> Value {
    let mut object = json!({ "name": lock.name.as_str(), "state": state(&lock.state) });
    let holder = match &lock.state {
        LockState::Held(holder) => Some(holder),
        _ => None,
    };
    held::add_to(&mut object, holder);
    object["holders"] = lock.holders.iter().map(|holder| json!(holder.token())).collect();
    object["fence"] = json!(lock.fence);
    object["waiting"] = json!(lock.waiting);
    object
}
