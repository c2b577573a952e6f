//! One acquisition from its first byte to the verdict, with its undo.

use std::sync::Arc;
use std::time::Duration;

use rand::seq::SliceRandom;

use crate::fan_out::{FanOut, Count, NodeRequest, Returned};
use crate::error::{Error, NodeError, Operation};
use crate::guard::Guard;
use crate::holding::{Core, Holding, RequestNumber};
use crate::node::{Acquired, Node, Uptime};
use crate::options::Terms;
use crate::protocol::{Instant, Verdict};
use crate::events::RequestKind;

/// Asks every node at once, and decides as soon as the verdict is certain.
///
/// Cancel safe: dropped at any point, what may have been granted is released in the background.
pub(crate) async fn attempt(
    core: &Arc<Core>,
    terms: Terms,
    at_most: Duration,
    shuffle: bool,
) -> Result<Guard, Error> {
    if core.keeper.is_shut() {
        return Err(Error::ShutDown);
    }
    let began = core.enter()?;
    // The undo is armed before the first byte is sent: from here on, dropping this future releases.
    let holding = Holding::new(Arc::clone(core), terms);
    let guard = Guard::new(Arc::clone(&holding));
    let asked = ask(&holding, at_most, shuffle).await;
    let left = at_most.saturating_sub(core.clock.now().saturating_since(began));
    match asked {
        Ok(()) => acquired(guard, &holding, left).await.map_err(|unfinished| unfinished.error),
        Err(error) => {
            guard.give_back(left).await;
            Err(error)
        }
    }
}

/// Asks every node at once for a lease, and decides as soon as the verdict is certain. Undoes nothing.
pub(crate) async fn ask(holding: &Arc<Holding>, at_most: Duration, shuffle: bool) -> Result<(), Error> {
    let (core, terms) = (&holding.core, &holding.terms);
    let timeout = terms.request_timeout.as_duration().min(at_most);
    let mut voters: Vec<usize> = (0..core.quorum.nodes()).collect();
    if shuffle {
        voters.shuffle(&mut rand::rng());
    }
    let mut count = Count::new(Operation::Lock, &core.nodes, core.quorum, &voters);
    let (number, sent) = holding.ask_to_acquire();
    let question = |node: Arc<dyn Node>| -> NodeRequest<Vote> {
        let holding = Arc::clone(holding);
        Box::pin(async move {
            let acquired = node.acquire(&holding.terms.claim).await?;
            // After the grant: it was of the incarnation that is asked, or of one before it.
            let uptime = match acquired {
                Acquired::Granted(_) if holding.terms.restart_guard => {
                    node.uptime().await.unwrap_or(Uptime::Unknown)
                }
                Acquired::Granted(_) | Acquired::Taken(_) => Uptime::Unbroken,
            };
            Ok((acquired, uptime))
        })
    };
    let fan_out = FanOut::open(core, RequestKind::Acquire, sent, voters, timeout, question);
    let mut asking =
        Asking { holding: Arc::clone(holding), number, sent, fan_out: Some(fan_out), is_reached: false };
    while !count.is_decided(asking.outstanding(), terms.wait_for_all) {
        let Some(answer) = asking.next().await else { break };
        count.add(answer);
    }
    asking.is_reached = count.verdict() == Verdict::Reached;
    asking.hear_the_returned();
    drop(asking);

    let name = || terms.claim.name.clone();
    match count.into_error(name()) {
        Some(error) => Err(error),
        None if holding.is_valid() => Ok(()),
        None => {
            let took = core.clock.now().saturating_since(sent);
            Err(Error::ValidityExhausted { name: name(), took })
        }
    }
}

/// Why a lock that was acquired is not its caller's after all.
pub(crate) struct Unfinished {
    pub(crate) error: Error,
    /// Another token would fare no better.
    pub(crate) is_final: bool,
}

/// Hands a lock that was acquired to its caller, with its fence, if one was asked for. Whoever waits for nodes to agree on that,
/// waits for each of them `at_most` so long.
pub(crate) async fn acquired(
    guard: Guard,
    holding: &Arc<Holding>,
    at_most: Duration,
) -> Result<Guard, Unfinished> {
    let mut left = at_most;
    if holding.is_to_be_fenced() {
        let began = holding.core.clock.now();
        let agreed = Box::pin(holding.agree_on_fence(at_most)).await;
        left = at_most.saturating_sub(holding.core.clock.now().saturating_since(began));
        if let Err(unfinished) = agreed {
            guard.give_back(left).await;
            return Err(unfinished);
        }
    }
    holding.begin_keeping();
    // RequestKind again now that it has its place: a shutdown that was told before the lock was taken takes none.
    if holding.core.keeper.is_shut() {
        guard.give_back(left).await;
        return Err(Unfinished { error: Error::ShutDown, is_final: true });
    }
    Ok(guard)
}

/// A node's answer, and since when it remembers what it granted.
type Vote = (Acquired, Uptime);

/// The nodes being asked. Those that have not answered when this is dropped are heard in the background: what they
/// grant counts for the guard, or is given back if there is none.
struct Asking {
    holding: Arc<Holding>,
    number: RequestNumber,
    sent: Instant,
    /// The rest of the answers can wait a moment: they change nothing for the caller.
    is_reached: bool,
    /// Taken when it is handed to the background.
    fan_out: Option<FanOut<Vote>>,
}

impl Asking {
    fn outstanding(&self) -> usize {
        self.fan_out.as_ref().map_or(0, FanOut::outstanding)
    }

    async fn next(&mut self) -> Option<Result<(), NodeError>> {
        let (index, returned) = self.fan_out.as_mut()?.next().await?;
        Some(heard(&self.holding, index, (self.number, self.sent), returned))
    }

    /// Answers that are there already need nobody in the background.
    fn hear_the_returned(&mut self) {
        while let Some((index, returned)) = self.fan_out.as_mut().and_then(FanOut::next_returned) {
            heard(&self.holding, index, (self.number, self.sent), returned).ok();
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let Some(mut fan_out) = self.fan_out.take().filter(|fan_out| fan_out.outstanding() > 0) else { return };
        let (holding, asked) = (Arc::clone(&self.holding), (self.number, self.sent));
        let core = Arc::clone(&holding.core);
        let rest = async move {
            let mut is_late = false;
            while let Some((index, returned)) = fan_out.next().await {
                heard(&holding, index, asked, returned).ok();
                is_late |= holding.is_granted_on(index);
            }
            if is_late && holding.is_released() {
                holding.chase().await;
            }
        };
        // Nor can those that may be needed to agree on a fence.
        match self.is_reached && !self.holding.is_to_be_fenced() {
            true => core.reaper.run_soon(&core.clock, rest),
            false => core.reaper.run(rest),
        }
    }
}

/// Records one node's answer to a request that was sent at some instant.
fn heard(
    holding: &Holding,
    index: usize,
    (number, sent): (RequestNumber, Instant),
    returned: Returned<Vote>,
) -> Result<(), NodeError> {
    if returned.is_ok() {
        holding.core.waiters.tickets.heard(index);
    }
    match returned {
        Ok((Acquired::Granted(fence), uptime)) => holding.vote(index, (number, sent), fence, uptime),
        Ok((Acquired::Taken(holder), _)) => {
            holding.refused(index, number);
            Err(NodeError::Taken { node: holding.core.nodes[index].to_string(), holder })
        }
        Err(error) => {
            if error.is_certainly_unapplied() {
                holding.refused(index, number);
            }
            Err(error)
        }
    }
}
