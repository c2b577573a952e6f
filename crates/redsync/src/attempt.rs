//! One acquisition from its first byte to the verdict, with its undo.

use std::sync::Arc;
use std::time::Duration;

use rand::seq::SliceRandom;

use crate::error::{Error, NodeError, Operation};
use crate::events::RequestKind;
use crate::fan_out::{Count, FanOut, NodeRequest, Returned};
use crate::guard::Guard;
use crate::leases::{Core, LeaseSet, RequestNumber};
use crate::node::{Acquired, Node, Uptime};
use crate::options::AttemptConfig;
use crate::protocol::{Instant, Verdict};

/// Asks every node at once, and decides as soon as the verdict is certain.
///
/// Cancel safe: dropped at any point, what may have been granted is released in the background.
pub(crate) async fn attempt(
    core: &Arc<Core>,
    config: AttemptConfig,
    at_most: Duration,
    shuffle: bool,
) -> Result<Guard, Error> {
    if core.keeper.is_shut() {
        return Err(Error::ShutDown);
    }
    let began = core.enter()?;
    // The undo is armed before the first byte is sent: from here on, dropping this future releases.
    let leases = LeaseSet::new(Arc::clone(core), config);
    let guard = Guard::new(Arc::clone(&leases));
    let asked = ask(&leases, at_most, shuffle).await;
    let left = at_most.saturating_sub(core.clock.now().saturating_since(began));
    match asked {
        Ok(()) => acquired(guard, &leases, left).await.map_err(|unfinished| unfinished.error),
        Err(error) => {
            guard.give_back(left).await;
            Err(error)
        }
    }
}

/// Asks every node at once for a lease, and decides as soon as the verdict is certain. Undoes nothing.
pub(crate) async fn ask(leases: &Arc<LeaseSet>, at_most: Duration, shuffle: bool) -> Result<(), Error> {
    let (core, config) = (&leases.core, &leases.config);
    let timeout = config.request_timeout.as_duration().min(at_most);
    let mut voters: Vec<usize> = (0..core.quorum.nodes()).collect();
    if shuffle {
        voters.shuffle(&mut rand::rng());
    }
    let mut count = Count::new(Operation::Lock, &core.nodes, core.quorum, &voters);
    let (number, sent) = leases.ask_to_acquire();
    let question = |node: Arc<dyn Node>| -> NodeRequest<Vote> {
        let leases = Arc::clone(leases);
        Box::pin(async move {
            let acquired = node.acquire(&leases.config.claim).await?;
            // After the grant: it was of the incarnation that is asked, or of one before it.
            let uptime = match acquired {
                Acquired::Granted(_) if leases.config.restart_guard => {
                    node.uptime().await.unwrap_or(Uptime::Unknown)
                }
                Acquired::Granted(_) | Acquired::Taken(_) => Uptime::Unbroken,
            };
            Ok((acquired, uptime))
        })
    };
    let fan_out = FanOut::open(core, RequestKind::Acquire, sent, voters, timeout, question);
    let mut asking =
        Asking { leases: Arc::clone(leases), number, sent, fan_out: Some(fan_out), is_reached: false };
    while !count.is_decided(asking.outstanding(), config.wait_for_all) {
        let Some(answer) = asking.next().await else { break };
        count.add(answer);
    }
    asking.is_reached = count.verdict() == Verdict::Reached;
    asking.hear_the_returned();
    drop(asking);

    let name = || config.claim.name.clone();
    match count.into_error(name()) {
        Some(error) => Err(error),
        None if leases.is_valid() => Ok(()),
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
    leases: &Arc<LeaseSet>,
    at_most: Duration,
) -> Result<Guard, Unfinished> {
    let mut left = at_most;
    if leases.is_to_be_fenced() {
        let began = leases.core.clock.now();
        let agreed = Box::pin(leases.agree_on_fence(at_most)).await;
        left = at_most.saturating_sub(leases.core.clock.now().saturating_since(began));
        if let Err(unfinished) = agreed {
            guard.give_back(left).await;
            return Err(unfinished);
        }
    }
    leases.begin_keeping();
    // Asked again now that it has its place: a shutdown that was told before the lock was taken takes none.
    if leases.core.keeper.is_shut() {
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
    leases: Arc<LeaseSet>,
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
        Some(heard(&self.leases, index, (self.number, self.sent), returned))
    }

    /// Answers that are there already need nobody in the background.
    fn hear_the_returned(&mut self) {
        while let Some((index, returned)) = self.fan_out.as_mut().and_then(FanOut::next_returned) {
            heard(&self.leases, index, (self.number, self.sent), returned).ok();
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let Some(mut fan_out) = self.fan_out.take().filter(|fan_out| fan_out.outstanding() > 0) else {
            return;
        };
        let (leases, asked) = (Arc::clone(&self.leases), (self.number, self.sent));
        let core = Arc::clone(&leases.core);
        let rest = async move {
            let mut is_late = false;
            while let Some((index, returned)) = fan_out.next().await {
                heard(&leases, index, asked, returned).ok();
                is_late |= leases.is_granted_on(index);
            }
            if is_late && leases.is_released() {
                leases.retry_release().await;
            }
        };
        // Nor can those that may be needed to agree on a fence.
        match self.is_reached && !self.leases.is_to_be_fenced() {
            true => core.tasks.run_soon(&core.clock, rest),
            false => core.tasks.run(rest),
        }
    }
}

/// Records one node's answer to a request that was sent at some instant.
fn heard(
    leases: &LeaseSet,
    index: usize,
    (number, sent): (RequestNumber, Instant),
    returned: Returned<Vote>,
) -> Result<(), NodeError> {
    if returned.is_ok() {
        leases.core.waiters.tickets.heard(index);
    }
    match returned {
        Ok((Acquired::Granted(fence), uptime)) => leases.vote(index, (number, sent), fence, uptime),
        Ok((Acquired::Taken(holder), _)) => {
            leases.refused(index, number);
            Err(NodeError::Taken { node: leases.core.nodes[index].to_string(), holder })
        }
        Err(error) => {
            if error.is_certainly_unapplied() {
                leases.refused(index, number);
            }
            Err(error)
        }
    }
}
