//! `unlock --force`: a lock taken away from its holder.

use std::io::{self, BufRead, IsTerminal, Write};

use redsync::{Holder, Inspection, Lease, LockState};
use serde_json::json;

use crate::cli::UnlockArgs;
use crate::exit::Exit;
use crate::fence::Counted;
use crate::held;
use crate::nodes::Fleet;
use crate::queue::Queue;
use crate::report::{Failure, Report};

pub(crate) async fn unlock(fleet: &Fleet, args: &UnlockArgs, report: &Report) -> Result<Exit, Failure> {
    let name = args.lease.as_str();
    if name.parse::<Lease>().is_ok() {
        return Err(Failure::usage(
            "--force takes a lock's name, and this is a lease: `redsync unlock LEASE` releases it, and needs no --force",
        ));
    }
    let looked = fleet.redsync.inspect(name).await?;
    let holder = holder_of(name, &looked)?;
    if !args.yes {
        let (held, counted, queue) = (held::in_words_of(&holder), Counted::of(&looked), Queue::of(&looked));
        confirm(name, &format!("lock {name:?} is {held}{counted}; {queue}"))?;
    }
    let mutex = fleet.mutex(name, redsync::LockOptions::DEFAULT_EXPIRY).barging(args.release.barging);
    // From the holder that was shown, and nobody else.
    let stale_from = mutex.force_unlock(&holder).await?;
    let next = fleet.redsync.inspect(name).await.ok().and_then(|looked| looked.holder());
    let next = next.filter(|next| next.token() != holder.token());
    let fence = match stale_from {
        Some(fence) => format!("whatever it writes with a fence below {fence} is stale"),
        None => "there is no fence by which its late writes could be told".to_owned(),
    };
    let text = format!(
        "lock {name:?} was taken from {holder}, and is {}\n  {}\n  {fence}",
        next.as_ref().map_or_else(|| "free".to_owned(), held::in_few_words),
        until_it_knows(&holder),
    );
    report.result(text, || {
        let mut object = json!({ "name": name, "outcome": "forced" });
        held::add_to(&mut object, Some(&holder));
        object["stale_below"] = json!(stale_from);
        object["next"] = json!(next.as_ref().map(Holder::token));
        object["next_owner"] = json!(next.as_ref().and_then(Holder::owner));
        object
    })?;
    Ok(Exit::Success)
}

/// Who is to lose the lock.
fn holder_of(name: &str, looked: &Inspection) -> Result<Holder, Failure> {
    match looked.state() {
        LockState::Held(holder) => Ok(holder),
        LockState::Free => {
            let message = format!("lock {name:?} is not held; there is nothing to take away");
            Err(Failure::new(Exit::Failure, "not_held", message))
        }
        LockState::Unknown => {
            let errors = looked.nodes().iter().filter_map(|node| node.answer.as_ref().err());
            let reasons: Vec<String> = errors.clone().map(ToString::to_string).collect();
            let message = format!("cannot tell who holds lock {name:?}: {}", reasons.join("; "));
            let exit = Exit::of_nodes(errors.cloned().collect(), looked.nodes().len());
            Err(Failure::new(exit, "no_quorum", message))
        }
        _ => {
            let message = format!(
                "nobody holds lock {name:?} by a majority of nodes; what is left of attempts ends by itself \
                 (`redsync status` shows it; delete a key without an expiry by hand)"
            );
            Err(Failure::new(Exit::Failure, "contended", message))
        }
    }
}

/// What the former holder does, and for how long.
fn until_it_knows(holder: &Holder) -> &'static str {
    match holder.renews() {
        Some(true) => {
            "it goes on working until its next renewal, at most a third of its expiry, and finds it lost"
        }
        Some(false) => "it does not renew, so it is not told: end its work by hand if that still goes on",
        None => "it did not say whether it renews: make sure that its work has ended",
    }
}

/// Asks at a terminal; elsewhere, nobody could answer.
fn confirm(name: &str, who: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::usage(format!(
            "{who}; --force takes it away only with --yes, or asked at a terminal"
        )));
    }
    let mut stderr = io::stderr().lock();
    let asked =
        write!(stderr, "{who}\ntake {name:?} away from its holder, which may still be working? [y/N] ");
    asked.and_then(|()| stderr.flush()).map_err(|error| Failure::system("cannot ask", &error))?;
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    read.map_err(|error| Failure::system("cannot read the answer", &error))?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::new(Exit::Failure, "refused", format!("lock {name:?} was left to its holder"))),
    }
}
