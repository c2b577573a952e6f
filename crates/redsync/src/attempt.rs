//! One acquisition from its first byte to the verdict, with its undo.

use std::sync::Arc;
use std::time::Duration;

use rand::seq::SliceRandom;

use crate::ballot::{Ballot, Count, Returned};
use crate::error::{Error, NodeError, Operation};
use crate::guard::Guard;
use crate::holding::{Core, Holding};
use crate::node::{Acquired, Applied};
use crate::options::Terms;
use crate::protocol::Instant;

/// Asks every node at once, and decides as soon as the verdict is certain.
///
/// Cancel safe: dropped at any point, what may have been granted is released in the background.
pub(crate) async fn attempt(
    core: &Arc<Core>,
    terms: Terms,
    at_most: Duration,
    shuffle: bool,
) -> Result<Guard, Error> {
    let name = terms.claim.name.clone();
    let wait_for_all = terms.wait_for_all;
    let timeout = terms.request_timeout.as_duration().min(at_most);
    let mut voters: Vec<usize> = (0..core.quorum.nodes()).collect();
    if shuffle {
        voters.shuffle(&mut rand::rng());
    }
    let mut count = Count::new(&core.nodes, core.quorum, &voters);

    // The undo is armed before the first byte is sent: from here on, dropping this future releases.
    let holding = Holding::new(Arc::clone(core), terms);
    let guard = Guard::new(Arc::clone(&holding));
    let sent = holding.ask();
    let asking = Arc::clone(&holding);
    let mut ballot = Ballot::open(&core.nodes, voters, &core.clock, timeout, move |node| {
        let holding = Arc::clone(&asking);
        async move { node.acquire(&holding.terms.claim).await }
    });
    while !count.is_decided(ballot.outstanding(), wait_for_all) {
        let Some((index, returned)) = ballot.next().await else {
            break;
        };
        count.add(heard(&holding, index, sent, returned));
    }

    if let Some(error) = count.into_error(name.clone(), Operation::Lock) {
        // What is still under way counts as asked for, and is undone too.
        drop(ballot);
        guard.give_back().await;
        return Err(error);
    }
    if ballot.outstanding() > 0 {
        let holding = Arc::clone(&holding);
        core.reaper.run(async move {
            while let Some((index, returned)) = ballot.next().await {
                if heard(&holding, index, sent, returned).is_ok() && holding.is_released() {
                    holding.chase().await;
                }
            }
        });
    }
    if !holding.is_valid() {
        guard.give_back().await;
        return Err(Error::ValidityExhausted { name, took: core.clock.now().saturating_since(sent) });
    }
    Ok(guard)
}

/// Records one node's answer.
fn heard(
    holding: &Holding,
    index: usize,
    sent: Instant,
    returned: Returned<Acquired>,
) -> Result<(), NodeError> {
    match returned {
        Ok(Acquired::Granted) => {
            holding.granted(index, sent);
            Ok(())
        }
        Ok(Acquired::Taken(holder)) => {
            holding.refused(index);
            Err(NodeError::Taken { node: holding.core.nodes[index].to_string(), holder })
        }
        Err(error) => {
            if matches!(&error, NodeError::Failed { source, .. } if source.applied() == Applied::No) {
                holding.refused(index);
            }
            Err(error)
        }
    }
}
