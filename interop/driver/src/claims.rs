//! What must hold where redsync and a peer use the same locks.

use std::time::{Duration, Instant};

use redsync::{ErrorKind, Guard, Lease, Mutex, Redsync};
use redsync_testkit::{RedisServer, servers};
use tokio::time::sleep;

use crate::Report;
use crate::agent::{Agent, Asked, Peer, Told};
use crate::contention;
use crate::verdict::{Claim, EXPIRY, Failure, done, ensure};

/// Redsync, one peer, and the servers they share. Each claim has a lock of its own, so that one that fails does not
/// take others along.
pub(crate) struct Fleet {
    redsync: Redsync,
    peer: Agent,
    servers: Vec<RedisServer>,
}

impl Fleet {
    /// Starts so many servers and the peer on them.
    pub(crate) async fn start(peer: &Peer, nodes: usize) -> Result<Self, Failure> {
        let servers = servers(nodes);
        let urls: Vec<String> = servers.iter().map(RedisServer::url).collect();
        // The servers have just started, and have nothing to forget.
        let builder =
            urls.iter().fold(Redsync::builder().restart_guard(false), |builder, url| builder.url(url));
        let redsync = builder.build()?;
        redsync.check_nodes().await?;
        Ok(Self { redsync, peer: Agent::start(peer, &urls).await?, servers })
    }

    /// The library that the peer stands for, and its version.
    pub(crate) fn library(&self) -> &str {
        self.peer.library()
    }

    /// Checks every claim, and ends the peer.
    pub(crate) async fn check(mut self, report: &mut Report) {
        report.claim(
            "while the peer holds, we are refused and its lease stays as it is",
            self.we_are_refused().await,
        );
        report.claim("after the peer's unlock we acquire", self.we_acquire_next().await);
        report.claim(
            "while we hold, the peer is refused and our lease stays as it is",
            self.the_peer_is_refused().await,
        );
        report.claim("after our unlock the peer acquires", self.the_peer_acquires_next().await);
        report.claim(
            "we extend on every node while the peer is refused",
            self.we_extend_beside_the_peer().await,
        );
        report.claim(
            "a guard that renews itself keeps the peer out for several expiries",
            self.we_renew_beside_the_peer().await,
        );
        report.claim(
            "our late unlock fails and leaves the peer's lease as it is",
            self.our_late_unlock().await,
        );
        report.claim(
            "our late extend and adopt fail and leave the peer's lease as it is",
            self.our_late_extend().await,
        );
        report.claim(
            "the peer's late extend and unlock fail and leave our lease as it is",
            self.the_peers_late_extend_and_unlock().await,
        );
        report.claim(
            "we adopt the peer's lease by its token, extend it and release it",
            self.we_adopt_the_peers_lease().await,
        );
        report.claim(
            "both sides get their turns on a contended lock, and never two hold it",
            contention::check(&self.redsync, &mut self.peer).await,
        );
        report.claim("no key is left behind", self.no_key_is_left().await);
        self.peer.end().await;
    }

    async fn we_are_refused(&mut self) -> Claim {
        let name = "interop:we-are-refused";
        self.peer_takes(name).await?;
        let before = self.look(name);
        // Another expiry than the peer's: if ours were set, it would show.
        let refused = self.mutex(name, LONGER).try_lock().await?;
        self.settle().await?;
        ensure(refused.is_none(), || "we got it as well".to_owned())?;
        self.is_untouched(name, &before)?;
        done(self.peer.unlock(name).await?)
    }

    async fn we_acquire_next(&mut self) -> Claim {
        let name = "interop:we-acquire-next";
        self.peer_takes(name).await?;
        done(self.peer.unlock(name).await?)?;
        let guard = self.we_take(name, EXPIRY).await?;
        Ok(guard.unlock().await?)
    }

    async fn the_peer_is_refused(&mut self) -> Claim {
        let name = "interop:the-peer-is-refused";
        let guard = self.we_take(name, EXPIRY).await?;
        let before = self.look(name);
        refused(&self.peer.lock(name, LONGER).await?)?;
        self.is_untouched(name, &before)?;
        ensure(guard.is_valid(), || "our guard is no longer valid".to_owned())?;
        Ok(guard.unlock().await?)
    }

    async fn the_peer_acquires_next(&mut self) -> Claim {
        let name = "interop:the-peer-acquires-next";
        let guard = self.we_take(name, EXPIRY).await?;
        guard.unlock().await?;
        // At once: a majority is free, though a last release may still be on its way.
        let asked = self.peer.lock(name, EXPIRY).await?;
        ensure(matches!(asked, Asked::Holds(_)), || "the peer was refused".to_owned())?;
        done(self.peer.unlock(name).await?)
    }

    async fn we_extend_beside_the_peer(&mut self) -> Claim {
        let name = "interop:we-extend";
        let guard = self.we_take(name, EXPIRY).await?;
        let before = self.look(name);
        let (asked, extended) = tokio::join!(self.peer.lock(name, EXPIRY), guard.extend_by(LONGER));
        extended?;
        refused(&asked?)?;
        self.settle().await?;
        self.is_lengthened(name, &before, LONGER)?;
        ensure(guard.remaining() > EXPIRY, || format!("the guard believes in {:?} only", guard.remaining()))?;
        refused(&self.peer.lock(name, EXPIRY).await?)?;
        Ok(guard.unlock().await?)
    }

    async fn we_renew_beside_the_peer(&mut self) -> Claim {
        let name = "interop:we-renew";
        let guard = self.mutex(name, SHORT).renew(true).lock().await?;
        let end = Instant::now() + 3 * SHORT;
        while Instant::now() < end {
            refused(&self.peer.lock(name, EXPIRY).await?)?;
        }
        ensure(guard.is_valid(), || "the guard was lost".to_owned())?;
        Ok(guard.unlock().await?)
    }

    async fn our_late_unlock(&mut self) -> Claim {
        let name = "interop:our-late-unlock";
        let guard = self.we_lose_to_the_peer(name).await?;
        let before = self.look(name);
        fails_with(&[ErrorKind::Lost], guard.unlock().await)?;
        self.settle().await?;
        self.is_untouched(name, &before)?;
        done(self.peer.unlock(name).await?)
    }

    async fn our_late_extend(&mut self) -> Claim {
        let name = "interop:our-late-extend";
        let guard = self.we_lose_to_the_peer(name).await?;
        let before = self.look(name);
        fails_with(&[ErrorKind::Lost], guard.extend_by(LONGER).await)?;
        // The guard knows by its own clock. Adopting asks the nodes to extend for the old token.
        let mutex = self.mutex(name, SHORT);
        fails_with(&[ErrorKind::Taken], mutex.adopt(&guard.into_lease()).await)?;
        self.settle().await?;
        self.is_untouched(name, &before)?;
        done(self.peer.unlock(name).await?)
    }

    async fn the_peers_late_extend_and_unlock(&mut self) -> Claim {
        let name = "interop:the-peers-late-unlock";
        self.peer_takes(name).await?;
        // Not at once: Go allows a node a twentieth of the expiry to grant it, little on a busy machine.
        done(self.peer.extend(name, SHORT).await?)?;
        self.is_gone("the peer's lease expires", name).await?;
        let guard = self.we_take(name, EXPIRY).await?;
        let before = self.look(name);
        failed("extended", &self.peer.extend(name, LONGER).await?)?;
        failed("released", &self.peer.unlock(name).await?)?;
        self.is_untouched(name, &before)?;
        guard.extend().await?;
        Ok(guard.unlock().await?)
    }

    async fn we_adopt_the_peers_lease(&mut self) -> Claim {
        let name = "interop:we-adopt";
        let token = self.peer_takes(name).await?;
        let before = self.look(name);
        let lease = Lease::from_parts(name, &token, LONGER)?;
        let guard = self.redsync.adopt(&lease).await?;
        self.settle().await?;
        self.is_everywhere(name, &token)?;
        self.is_lengthened(name, &before, LONGER)?;
        ensure(guard.is_valid(), || "the adopted guard is not valid".to_owned())?;

        let before = self.look(name);
        guard.extend_by(2 * LONGER).await?;
        self.settle().await?;
        self.is_everywhere(name, &token)?;
        self.is_lengthened(name, &before, 2 * LONGER)?;

        guard.unlock().await?;
        self.is_gone("the adopted lease is released", name).await?;
        failed("released", &self.peer.unlock(name).await?)
    }

    async fn no_key_is_left(&self) -> Claim {
        // A refused peer may give its minority back after its answer, and we do where the answer was not awaited.
        // Leases last far longer than this waits, so that one left behind is not taken for one given back.
        let left = || self.servers.iter().flat_map(RedisServer::keys).collect::<Vec<_>>();
        until("all keys are gone", || left().is_empty())
            .await
            .map_err(|failure| format!("{failure}; left: {:?}", left()).into())
    }

    /// The peer takes a free lock, on every node. Gives its token.
    async fn peer_takes(&mut self, name: &str) -> Result<String, Failure> {
        match self.peer.lock(name, EXPIRY).await? {
            Asked::Holds(token) => {
                self.is_everywhere(name, &token)?;
                Ok(token)
            }
            Asked::Taken => Err("the peer was refused a free lock".into()),
        }
    }

    /// Our side's lock, patient with nodes on a busy machine. What it holds runs out unless it is extended by hand.
    fn mutex(&self, name: &str, expiry: Duration) -> Mutex {
        self.redsync.mutex(name).expiry(expiry).timeout_factor(0.4).renew(false)
    }

    /// We take a free lock, on every node.
    async fn we_take(&self, name: &str, expiry: Duration) -> Result<Guard, Failure> {
        let Some(guard) = self.mutex(name, expiry).try_lock().await? else {
            return Err("we were refused a free lock".into());
        };
        self.settle().await?;
        self.is_everywhere(name, guard.token().as_str())?;
        Ok(guard)
    }

    /// We hold until the lease expires, and the peer takes the lock after us.
    async fn we_lose_to_the_peer(&mut self, name: &str) -> Result<Guard, Failure> {
        let guard = self.we_take(name, SHORT).await?;
        self.is_gone("our lease expires", name).await?;
        ensure(!guard.is_valid(), || "our guard outlives its lease".to_owned())?;
        self.peer_takes(name).await?;
        Ok(guard)
    }

    /// A majority's answer is enough for redsync; the claims look at every node.
    async fn settle(&self) -> Claim {
        let is_settled = self.redsync.drain(PATIENCE).await;
        ensure(is_settled, || format!("redsync's background is still busy after {PATIENCE:?}"))
    }

    /// What every server has under `name`.
    fn look(&self, name: &str) -> Look {
        let at = Instant::now();
        let leases =
            self.servers.iter().map(|server| Stored { token: server.get(name), ttl: server.pttl(name) });
        Look { at, leases: leases.collect() }
    }

    fn is_everywhere(&self, name: &str, token: &str) -> Claim {
        let look = self.look(name);
        let is_everywhere = look.leases.iter().all(|lease| lease.token.as_deref() == Some(token));
        ensure(is_everywhere, || format!("{token:?} should be on every node: {:?}", look.leases))
    }

    fn is_untouched(&self, name: &str, before: &Look) -> Claim {
        let now = self.look(name);
        let passed = i64::try_from(before.at.elapsed().as_millis())?;
        let is_untouched = before.leases.iter().zip(&now.leases).all(|(before, now)| {
            let expected = before.ttl - passed - ROUNDING_MS..=before.ttl;
            before.token == now.token && expected.contains(&now.ttl)
        });
        ensure(is_untouched, || {
            format!("the leases changed within {passed} ms from {:?} to {:?}", before.leases, now.leases)
        })
    }

    fn is_lengthened(&self, name: &str, before: &Look, expiry: Duration) -> Claim {
        let now = self.look(name);
        let most = i64::try_from(expiry.as_millis())?;
        let least = i64::try_from(expiry.saturating_sub(before.at.elapsed()).as_millis())? - ROUNDING_MS;
        let is_lengthened = before
            .leases
            .iter()
            .zip(&now.leases)
            .all(|(before, now)| now.ttl > before.ttl && (least..=most).contains(&now.ttl));
        ensure(is_lengthened, || {
            format!(
                "the leases should last for {expiry:?}: before {:?}, after {:?}",
                before.leases, now.leases
            )
        })
    }

    async fn is_gone(&self, what: &str, name: &str) -> Claim {
        until(what, || self.servers.iter().all(|server| server.get(name).is_none())).await
    }
}

/// What the servers had under one name, and since when it was looked at.
struct Look {
    at: Instant,
    leases: Vec<Stored>,
}

/// What one server had.
#[derive(Debug)]
struct Stored {
    token: Option<String>,
    /// Milliseconds, as PTTL says it.
    ttl: i64,
}

fn failed(what: &str, told: &Told) -> Claim {
    ensure(matches!(told, Told::Failed(_)), || format!("the peer {what} what it had lost"))
}

fn refused(asked: &Asked) -> Claim {
    ensure(matches!(asked, Asked::Taken), || "the peer got it as well".to_owned())
}

fn fails_with<T>(kinds: &[ErrorKind], result: Result<T, redsync::Error>) -> Claim {
    match result {
        Ok(_) => Err("we succeeded with what we had lost".into()),
        Err(error) => ensure(kinds.contains(&error.kind()), || {
            format!("expected one of {kinds:?}, got {:?}: {error}", error.kind())
        }),
    }
}

/// Waits for an event.
async fn until(what: &str, condition: impl Fn() -> bool) -> Claim {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        ensure(Instant::now() < end, || format!("waited {PATIENCE:?} in vain until {what}"))?;
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// What they are extended to, and what those who must be refused ask for.
const LONGER: Duration = Duration::from_secs(60);

/// What leases last for that are meant to expire.
const SHORT: Duration = Duration::from_secs(1);

/// How long something that must happen is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// The servers' clocks and ours tick at different moments.
const ROUNDING_MS: i64 = 20;
