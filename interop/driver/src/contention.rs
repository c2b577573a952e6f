//! The claim under load: two sides take turns on one lock, and what it guards is never touched by both.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use redsync::Redsync;
use tokio::time::sleep;

use crate::agent::{Agent, Asked};
use crate::verdict::{Claim, EXPIRY, Failure, done, ensure};

/// Lets both sides have their turns at once, and looks at what became of the work.
pub(crate) async fn check(redsync: &Redsync, peer: &mut Agent) -> Claim {
    let work = Work::default();
    let end = Instant::now() + DEADLINE;
    let (ours, theirs) = tokio::join!(our_turns(redsync, &work, end), their_turns(peer, &work, end));
    let overlaps = work.overlaps.get();
    ensure(overlaps == 0, || format!("two held the lock at once, {overlaps} times"))?;
    let (ours, theirs) = (ours?, theirs?);
    ensure(ours.had == TURNS && theirs.had == TURNS, || {
        format!("after {DEADLINE:?} we had {} of {TURNS} turns, the peer {}", ours.had, theirs.had)
    })?;
    let written = work.written.get();
    ensure(written == 2 * TURNS, || format!("{written} writes are left of {}: some were lost", 2 * TURNS))?;
    ensure(ours.refused > 0 && theirs.refused > 0, || {
        format!(
            "there was no contention: we were refused {} times, the peer {}",
            ours.refused, theirs.refused
        )
    })
}

async fn our_turns(redsync: &Redsync, work: &Work, end: Instant) -> Result<Turns, Failure> {
    let refusals = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&refusals);
    let mutex = redsync.mutex(NAME).expiry(EXPIRY).retry_delay_fn(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        RETRY_DELAY
    });
    let mut turns = Turns::default();
    while turns.had < TURNS {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        let guard = match mutex.clone().wait_up_to(left).lock().await {
            Ok(guard) => guard,
            Err(redsync::Error::Taken { .. }) => break,
            Err(error) => return Err(format!("our lock: {error}").into()),
        };
        work.turn().await;
        ensure(guard.is_valid(), || "our guard expired within its turn".to_owned())?;
        guard.unlock().await.map_err(|error| format!("our unlock: {error}"))?;
        turns.had += 1;
        sleep(COURTESY).await;
    }
    turns.refused = refusals.load(Ordering::Relaxed);
    Ok(turns)
}

async fn their_turns(peer: &mut Agent, work: &Work, end: Instant) -> Result<Turns, Failure> {
    let mut turns = Turns::default();
    while turns.had < TURNS && Instant::now() < end {
        if let Asked::Taken = peer.lock(NAME, EXPIRY).await? {
            turns.refused += 1;
            sleep(RETRY_DELAY).await;
            continue;
        }
        work.turn().await;
        done(peer.unlock(NAME).await?)?;
        turns.had += 1;
        sleep(COURTESY).await;
    }
    Ok(turns)
}

/// What one side had of the lock.
#[derive(Default)]
struct Turns {
    had: u32,
    refused: u32,
}

/// What the lock guards. Nothing else does: a turn reads, waits and writes what it read plus one.
#[derive(Default)]
struct Work {
    is_held: Cell<bool>,
    overlaps: Cell<u32>,
    written: Cell<u32>,
}

impl Work {
    async fn turn(&self) {
        if self.is_held.replace(true) {
            self.overlaps.set(self.overlaps.get() + 1);
        }
        let read = self.written.get();
        // Time for the other side to break in.
        sleep(Duration::from_millis(3)).await;
        self.written.set(read + 1);
        self.is_held.set(false);
    }
}

const NAME: &str = "interop:contention";

/// How many turns each side wants.
const TURNS: u32 = 30;

/// How long they may take. A lease that is lost on the way blocks both sides for its expiry.
const DEADLINE: Duration = Duration::from_secs(20);

const RETRY_DELAY: Duration = Duration::from_millis(3);

/// Who has just had a turn stays away for longer than a retry takes: locks promise no order.
const COURTESY: Duration = Duration::from_millis(6);
