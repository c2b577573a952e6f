//! Redis and Valkey.

mod account;
pub(crate) mod address;
pub(crate) mod client;
mod dial;
mod facts;
mod first_bytes;
#[cfg(test)]
mod fuzz;
mod keys;
mod link;
mod list;
mod permissions;
mod pushes;
mod replies;
mod reply_limit;
mod reusable_request;
mod scripts;
mod stream;
#[cfg(feature = "tls")]
mod tls;

use std::fmt;
use std::future::ready;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use self::client::{Client, Command, Messages, Reply};
use self::facts::{Facts, Seen};
use self::keys::{Key, Keys};
use self::link::{Executing, Link};
use self::permissions::Permitted;
use self::pushes::{Channels, Pushes};
use self::scripts::Script;
use super::place::no_places;
use super::{
    Acquired, Answer, Applied, Claim, ClientId, Entered, Extended, FaultKind, Holder, IfFree, InvalidUrl,
    Listener, Look, Node, NodeFault, Page, Place, Placed, QueueEntry, Released, Remedy, Search, Succession,
    TimeLeft, Uptime,
};
use crate::protocol::{Fence, LockName, Proposal, Ticket, Token};

/// A node kept on a Redis or Valkey server, version 6.0 or later.
///
/// The lease is the plain key `name` with the token for its value, set with `PX`: what Go's redsync, redlock-rb,
/// node-redlock and redis-py's `Lock` use, so that mixed fleets exclude one another.
///
/// [`RedisNode::open`] brings its own connection; [`RedisNode::with_client`] uses a client of yours.
pub struct RedisNode {
    server: Server,
    /// Who is told of what the server publishes.
    pushes: Arc<Pushes>,
    /// `SET` takes `NX` and `GET` together from Redis 7.0 on. Found out by trying.
    set_takes_nx_and_get: AtomicBool,
    /// Somebody has asked for a fence: here, or where a lock was released from here.
    has_fences: AtomicBool,
    /// Somebody has asked for a lock without a fence here.
    has_plain: AtomicBool,
    permitted: Permitted,
}

/// How the server is spoken to.
enum Server {
    Link(Link),
    Client {
        client: Arc<dyn Client>,
        /// What the server said of itself when it was last asked.
        seen: Seen,
        /// What is subscribed to, and whether the client can.
        channels: Channels,
    },
}

impl RedisNode {
    /// The node that `url` names. Connects when it is first asked something, and again when the connection broke.
    ///
    /// * `redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE]`, likewise `valkey://`
    /// * `rediss://…`, likewise `valkeys://`: with TLS. `?ca=FILE` trusts the authority in a PEM file instead of the
    ///   system's; `&cert=FILE&key=FILE` present a client certificate. Needs the feature `tls`.
    /// * `redis+unix:///PATH[?db=NUMBER&user=USER&password=PASSWORD]`
    ///
    /// Users and passwords are percent-encoded. The port is 6379, the database 0, unless given. A `ca=FILE` may also hold the
    /// server's own self-signed certificate; the host must be one of its names (subjectAltName).
    ///
    /// Where the URL names a user, the permissions of that are looked at before a first grant: what cannot be released is
    /// not granted. That costs one round trip for each beginning of a name up to its last colon.
    ///
    /// # Errors
    ///
    /// [`InvalidUrl`] when the URL is not understood, or a certificate file cannot be read.
    pub fn open(url: &str) -> Result<Self, InvalidUrl> {
        let pushes = Arc::<Pushes>::default();
        Ok(Self::on(Server::Link(Link::new(address::parse(url)?, Arc::clone(&pushes))), pushes))
    }

    /// A node that speaks to its server through `client`.
    pub fn with_client(client: impl Client) -> Self {
        let server =
            Server::Client { client: Arc::new(client), seen: Seen::default(), channels: Channels::default() };
        Self::on(server, Arc::default())
    }

    fn on(server: Server, pushes: Arc<Pushes>) -> Self {
        let (has_fences, has_plain) = (AtomicBool::new(false), AtomicBool::new(false));
        let permitted = Permitted::default();
        Self { server, pushes, set_takes_nx_and_get: AtomicBool::new(true), has_fences, has_plain, permitted }
    }

    fn execute(&self, command: Command) -> Executing<'_> {
        match &self.server {
            Server::Link(link) => link.execute(command),
            Server::Client { client, .. } => Executing::Boxed(client.execute(command)),
        }
    }

    /// What the server says of itself; `None` where it refuses.
    async fn facts(&self) -> Result<Option<Arc<Facts>>, NodeFault> {
        let (client, seen) = match &self.server {
            Server::Link(link) => return link.facts().await,
            Server::Client { client, seen, .. } => (client, seen),
        };
        let mut answers = [const { String::new() }; 3];
        for (answer, question) in answers.iter_mut().zip(Facts::questions()) {
            match client.execute(question).await {
                Ok(Reply::Text(text)) => *answer = String::from_utf8_lossy(&text).into_owned(),
                Ok(_) => {}
                Err(fault) if fault.kind() == FaultKind::Refused => {}
                Err(fault) => return Err(fault),
            }
        }
        Ok(seen.note(Facts::read(&answers, Instant::now())))
    }

    /// EVALSHA; and where the server does not know the script, one plain EVAL, which also teaches it.
    async fn evaluate(
        &self,
        script: &'static Script,
        keys: &[Key<'_>],
        with_arguments: impl Fn(Command) -> Command,
    ) -> Result<Reply, NodeFault> {
        match self.execute(with_arguments(script.by_hash(keys))).await {
            // Not a replay: a server that does not know the script has run nothing.
            Err(fault) if fault.code() == Some("NOSCRIPT") => {
                self.execute(with_arguments(script.by_source(keys))).await
            }
            other => other,
        }
    }

    /// A script about the lock called `name`. Its fault says what has to change, where that can be found out.
    async fn run(
        &self,
        name: &LockName,
        script: &'static Script,
        keys: &[Key<'_>],
        with_arguments: impl Fn(Command) -> Command,
    ) -> Result<Reply, NodeFault> {
        match (self.evaluate(script, keys, with_arguments).await, keys) {
            (Err(fault), [lease, queue, ..]) if fault.code() == Some("WRONGTYPE") => {
                Err(self.of_another_type(fault, *lease, *queue).await)
            }
            (Err(fault), _) if fault.remedy().is_some() => Err(Box::pin(self.explained(name, fault)).await),
            (reply, _) => reply,
        }
    }

    /// Says which of a lock's keys has another type, for a script that names more than one. The lease is read once more: the
    /// server's own words name no key.
    async fn of_another_type(&self, fault: NodeFault, lease: Key<'_>, queue: Key<'_>) -> NodeFault {
        match self.execute(Command::new("GET").joined(&lease)).await {
            Ok(Reply::Text(_) | Reply::Nil) => {
                let message = format!(
                    "the key {:?} holds something else than the queue of this lock; delete it (WRONGTYPE)",
                    queue.concat()
                );
                let of_line = NodeFault::refused("WRONGTYPE", message);
                if fault.applied() == Applied::Unknown { of_line.perhaps_applied() } else { of_line }
            }
            _ => fault,
        }
    }

    /// [`run`](Self::run), and once more where the server cannot write any more and its name may lead to another by now.
    async fn run_on_primary(
        &self,
        name: &LockName,
        script: &'static Script,
        keys: &[Key<'_>],
        with_arguments: impl Fn(Command) -> Command,
    ) -> Result<Reply, NodeFault> {
        match self.run(name, script, keys, &with_arguments).await {
            Err(fault) if self.leads_elsewhere(&fault) => {
                Box::pin(self.run(name, script, keys, with_arguments)).await
            }
            other => other,
        }
    }

    fn leads_elsewhere(&self, fault: &NodeFault) -> bool {
        matches!(&self.server, Server::Link(link) if link.leads_elsewhere(fault))
    }

    async fn acquire_by_script(&self, claim: &Claim) -> Result<Acquired, NodeFault> {
        let keys = [Keys::of(&claim.name).lease()];
        let reply = self.run_on_primary(&claim.name, &scripts::ACQUIRE, &keys, |command| {
            command.arg(claim.token.as_str()).number(claim.expiry.as_millis())
        });
        match reply.await? {
            Reply::Nil => Ok(Acquired::Granted(None)),
            Reply::Array(holder) => Ok(Acquired::Taken(holder_with_time(&holder)?)),
            reply => Err(unexpected("the acquire script", &reply)),
        }
    }

    async fn acquire_fenced(&self, claim: &Claim, proposal: Proposal) -> Result<Acquired, NodeFault> {
        self.note_fences();
        let keys = Keys::of(&claim.name);
        let keys = [keys.lease(), keys.fence()];
        let reply = self.run_on_primary(&claim.name, &scripts::ACQUIRE_FENCED, &keys, |command| {
            let command = command.arg(claim.token.as_str()).number(claim.expiry.as_millis());
            command.number(proposal.fence.as_u64()).number(millis(proposal.retention))
        });
        match reply.await? {
            Reply::Int(counter) => match fence_at(counter) {
                fence @ Some(_) => Ok(Acquired::Granted(fence)),
                None => Err(unexpected("the fenced acquire script", &Reply::Int(counter))),
            },
            Reply::Array(holder) => Ok(Acquired::Taken(holder_with_time(&holder)?)),
            reply => Err(unexpected("the fenced acquire script", &reply)),
        }
    }

    fn note_fences(&self) {
        if !self.has_fences.load(Ordering::Relaxed) {
            self.has_fences.store(true, Ordering::Relaxed);
        }
    }

    fn note_plain(&self) {
        if !self.has_plain.load(Ordering::Relaxed) {
            self.has_plain.store(true, Ordering::Relaxed);
        }
    }

    /// Whether releases name the fence's counter, so that they can hand over to whoever wants one. As long as all here do
    /// without fences, their releases are the quicker for it.
    fn knows_of_fences(&self) -> bool {
        self.has_fences.load(Ordering::Relaxed) || !self.has_plain.load(Ordering::Relaxed)
    }

    /// A cluster would take the lock, and refuse to let go of it.
    async fn refuse_where_split(&self, name: &LockName) -> Result<(), NodeFault> {
        match self.facts().await? {
            Some(facts) if facts.is_cluster => Err(NodeFault::refused(
                "CROSSSLOT",
                format!(
                    "a cluster cannot keep a lock of this name: put a hash tag into it, as in {{tag}}:{name}"
                ),
            )
            .with_remedy(Remedy::Node)),
            _ => Ok(()),
        }
    }

    async fn enter_queue(
        &self,
        client: &ClientId,
        places: &[Place],
        is_yielding: bool,
    ) -> Result<Entered, NodeFault> {
        let Some(name) = places.first().map(|place| &place.claim.name) else {
            return Err(no_places());
        };
        if keys::is_split(name) {
            self.refuse_where_split(name).await?;
        }
        let is_fenced = places.iter().any(|place| place.claim.fence.is_some());
        if self.needs_permit(name, is_fenced) {
            Box::pin(self.permit(name, is_fenced)).await?;
        }
        let contact = self.contact(client, name).await?;
        let keys = Keys::of(name);
        let keys = [keys.lease(), keys.queue(), keys.fence()];
        if is_fenced {
            self.note_fences();
        }
        let arguments = |command: Command| {
            let command = command.arg(&contact).number(is_yielding.into());
            places.iter().fold(command, |command, place| {
                let (fence, retention) = numbers(place.claim.fence);
                command
                    .arg(place.claim.token.as_str())
                    .number(place.claim.expiry.as_millis())
                    .number(place.ticket.as_micros())
                    .number(place.round.as_u32().into())
                    .number(fence)
                    .number(retention)
            })
        };
        let mut reply = self.run(name, &scripts::ENTER, &keys, arguments).await?;
        // More waiters are dead than one call drops.
        let mut further_calls = FurtherCalls::default();
        while matches!(reply, Reply::Int(1)) {
            further_calls.pause().await;
            let further = self.run(name, &scripts::ENTER, &keys, arguments).await;
            reply = further.map_err(NodeFault::perhaps_applied)?;
        }
        let entered = entered(&reply, places.len()).ok_or_else(|| unexpected("the enter script", &reply))?;
        Ok(match contact.is_empty() {
            true => entered.unless_asked_within(ASK_WITHIN),
            false => entered,
        })
    }

    /// How the server is to tell the client, in the words of the scripts; subscribed to by now. Empty where it cannot.
    async fn contact(&self, client: &ClientId, name: &LockName) -> Result<String, NodeFault> {
        let (is_subscribed, kind, channel) = match &self.server {
            Server::Link(link) => {
                let is_cluster = link.facts().await?.is_some_and(|facts| facts.is_cluster);
                let (kind, verb, channel) = match is_cluster {
                    true => ('S', "SSUBSCRIBE", keys::channel_in_slot(client, name)),
                    false => ('P', "SUBSCRIBE", keys::channel(client)),
                };
                (link.subscribe(verb, &channel).await?, kind, channel)
            }
            Server::Client { client: own, channels, .. } => {
                let channel = keys::channel(client);
                let subscribing = || own.subscribe(&channel, Messages::new(&channel, &self.pushes));
                (channels.subscribe(&channel, subscribing).await?, 'P', channel)
            }
        };
        Ok(if is_subscribed { format!("{kind}{channel}") } else { String::new() })
    }

    fn acquire_permitted<'a>(&'a self, claim: &'a Claim) -> Answer<'a, Acquired> {
        if keys::is_split(&claim.name) {
            return Box::pin(async move {
                self.refuse_where_split(&claim.name).await?;
                match claim.fence {
                    Some(proposal) => self.acquire_fenced(claim, proposal).await,
                    None => self.acquire_by_script(claim).await,
                }
            });
        }
        if let Some(proposal) = claim.fence {
            return Box::pin(self.acquire_fenced(claim, proposal));
        }
        self.note_plain();
        if !self.set_takes_nx_and_get.load(Ordering::Relaxed) {
            return Box::pin(self.acquire_by_script(claim));
        }
        Box::pin(async move {
            let set = || {
                Command::new("SET")
                    .arg(claim.name.as_str())
                    .arg(claim.token.as_str())
                    .arg("NX")
                    .arg("GET")
                    .arg("PX")
                    .number(claim.expiry.as_millis())
            };
            let reply = match self.execute(set()).await {
                Err(fault) if self.leads_elsewhere(&fault) => Box::pin(self.execute(set())).await,
                reply => reply,
            };
            match self.acquired_by_set(claim, reply) {
                Ok(Some(acquired)) => Ok(acquired),
                Ok(None) => Box::pin(self.acquire_by_script(claim)).await,
                Err(fault) if fault.remedy().is_some() => {
                    Err(Box::pin(self.explained(&claim.name, fault)).await)
                }
                Err(fault) => Err(fault),
            }
        })
    }

    /// Free and uncontended, the whole acquisition is one plain command. `None` where it takes the script.
    fn acquired_by_set(
        &self,
        claim: &Claim,
        reply: Result<Reply, NodeFault>,
    ) -> Result<Option<Acquired>, NodeFault> {
        match reply {
            Ok(Reply::Nil) => Ok(Some(Acquired::Granted(None))),
            // This token has it already: the script lets its expiry start anew, which SET NX did not.
            Ok(Reply::Text(holder)) if holder == claim.token.as_str().as_bytes() => Ok(None),
            Ok(Reply::Text(holder)) => Ok(Some(Acquired::Taken(holder_of(&holder, TimeLeft::Unknown)))),
            Ok(reply) => Err(unexpected("SET", &reply)),
            Err(fault) if is_syntax_error(&fault) => {
                self.set_takes_nx_and_get.store(false, Ordering::Relaxed);
                Ok(None)
            }
            // Another program keeps something large under a lock's name, and SET tells all of it. The script does not. The
            // connection is gone, so this answer is lost; no further one is.
            Err(fault) if is_too_large(&fault) => {
                self.set_takes_nx_and_get.store(false, Ordering::Relaxed);
                Err(fault)
            }
            Err(fault) => Err(fault),
        }
    }
}

impl Node for RedisNode {
    fn identity(&self) -> Answer<'_, String> {
        Box::pin(async move {
            let reply = self.execute(Command::new("INFO").arg("server")).await?;
            let Reply::Text(text) = &reply else {
                return Err(unexpected("INFO", &reply));
            };
            let text = String::from_utf8_lossy(text);
            let run_id = facts::field(&text, "run_id");
            run_id.map(|id| format!("redis {id}")).ok_or_else(|| unexpected("INFO", &reply))
        })
    }

    fn uptime(&self) -> Answer<'_, Uptime> {
        let told = |known: Option<Arc<Facts>>| {
            known.map_or(Uptime::Unknown, |facts| Uptime::AtLeast(facts.uptime(Instant::now())))
        };
        match &self.server {
            // Known without a trip, and still where the connection has just broken. It is asked for with each grant: the
            // smallest of boxes.
            Server::Link(link) => {
                let Some(known) = link.known_facts() else {
                    return Box::pin(async move { Ok(told(link.facts().await?)) });
                };
                if known.is_replica() {
                    link.ask_again();
                }
                Box::pin(ready(Ok(told(Some(known)))))
            }
            Server::Client { .. } => Box::pin(async move { Ok(told(self.facts().await?)) }),
        }
    }

    fn health_warnings(&self) -> Answer<'_, Vec<String>> {
        Box::pin(async move {
            let known = self.facts().await?;
            Ok(known.map(|facts| facts.health_warnings.clone()).unwrap_or_default())
        })
    }

    fn acquire<'a>(&'a self, claim: &'a Claim) -> Answer<'a, Acquired> {
        let is_fenced = claim.fence.is_some();
        if self.needs_permit(&claim.name, is_fenced) {
            return Box::pin(async move {
                self.permit(&claim.name, is_fenced).await?;
                self.acquire_permitted(claim).await
            });
        }
        self.acquire_permitted(claim)
    }

    fn extend<'a>(&'a self, claim: &'a Claim, if_free: IfFree) -> Answer<'a, Extended> {
        Box::pin(async move {
            let (fence, retention) = numbers(claim.fence);
            let arguments = |command: Command| {
                let command = command.arg(claim.token.as_str()).number(claim.expiry.as_millis());
                command.number((if_free == IfFree::Retake).into()).number(fence).number(retention)
            };
            // Whoever has no fence need not be permitted to use the counter.
            let keys = Keys::of(&claim.name);
            let keys = [keys.lease(), keys.fence()];
            let reply = match claim.fence {
                Some(_) => {
                    self.note_fences();
                    self.run_on_primary(&claim.name, &scripts::EXTEND, &keys, arguments).await?
                }
                None => self.run_on_primary(&claim.name, &scripts::EXTEND, &keys[..1], arguments).await?,
            };
            match reply {
                Reply::Int(2) => Ok(Extended::Retaken),
                Reply::Int(1) => Ok(Extended::Extended(None)),
                Reply::Int(counter @ ..0) if fence > 0 => {
                    Ok(Extended::Extended(fence_at(counter.saturating_neg())))
                }
                Reply::Int(0) => Ok(Extended::NotHeld),
                Reply::Array(holder) => Ok(Extended::HeldByAnother(holder_with_time(&holder)?)),
                reply => Err(unexpected("the extend script", &reply)),
            }
        })
    }

    fn enter<'a>(&'a self, client: &'a ClientId, places: &'a [Place]) -> Answer<'a, Entered> {
        Box::pin(self.enter_queue(client, places, false))
    }

    fn yield_lease<'a>(&'a self, client: &'a ClientId, place: &'a Place) -> Answer<'a, Entered> {
        Box::pin(self.enter_queue(client, std::slice::from_ref(place), true))
    }

    fn release<'a>(
        &'a self,
        name: &'a LockName,
        token: &'a Token,
        succession: Succession,
    ) -> Answer<'a, Released> {
        Box::pin(async move {
            let keys = Keys::of(name);
            let keys = [keys.lease(), keys.queue(), keys.fence()];
            let arguments = |command: Command| {
                let command = command.arg(token.as_str());
                match succession {
                    Succession::HandOver => command,
                    Succession::Barging => command.arg("barging"),
                }
            };
            let given = if self.knows_of_fences() { 3 } else { 2 };
            let mut reply = self.run_on_primary(name, &scripts::RELEASE, &keys[..given], arguments).await?;
            // More waiters are dead than one call drops. What became of the token, the first call said.
            let (mut first, mut further_calls) = (None, FurtherCalls::default());
            while let Reply::Int(unfinished @ UNFINISHED..) = reply {
                further_calls.pause().await;
                first.get_or_insert(Reply::Int(unfinished - UNFINISHED));
                let further = self.run(name, &scripts::RELEASE, &keys[..given], arguments).await;
                reply = further.map_err(NodeFault::perhaps_applied)?;
            }
            match first.unwrap_or(reply) {
                // Whoever waits has to ask for it, this once.
                Reply::Int(3) => {
                    self.note_fences();
                    Ok(Released::Released)
                }
                Reply::Int(2) => Ok(Released::Left),
                Reply::Int(1) => Ok(Released::Released),
                Reply::Int(0) => Ok(Released::NotHeld),
                Reply::Array(holder) => Ok(Released::HeldByAnother(holder_with_time(&holder)?)),
                reply => Err(unexpected("the release script", &reply)),
            }
        })
    }

    fn inspect<'a>(&'a self, name: &'a LockName) -> Answer<'a, Look> {
        Box::pin(async move {
            let keys = Keys::of(name);
            let keys = [keys.lease(), keys.queue(), keys.fence()];
            let reply =
                self.run(name, &scripts::INSPECT, &keys, |command| command.number(Look::SHOWN as u64));
            let reply = reply.await?;
            looked(&reply).ok_or_else(|| unexpected("the inspect script", &reply))
        })
    }

    fn list<'a>(&'a self, search: &'a Search, from: &'a str) -> Answer<'a, Page> {
        Box::pin(self.page(search, from))
    }

    fn listen(&self, client: &ClientId, listener: Weak<dyn Listener>) {
        self.pushes.listen(client, listener);
    }
}

/// `{holder, milliseconds left, microseconds, place…}`.
fn entered(reply: &Reply, expected: usize) -> Option<Entered> {
    let Reply::Array(parts) = reply else { return None };
    let (Some(holder), [Reply::Int(micros), places @ ..]) = (parts.get(..2), parts.get(2..)?) else {
        return None;
    };
    let placed = |place: &Reply| match place {
        Reply::Int(counter @ ..=0) => Some(Placed::Granted(fence_at(counter.saturating_neg()))),
        Reply::Int(position) => Some(Placed::Queued(u64::try_from(*position).ok()?)),
        _ => None,
    };
    let places: Vec<Placed> = places.iter().map(placed).collect::<Option<_>>()?;
    let is_whole = places.len() == expected;
    is_whole.then_some(Entered::new(places, holder_with_time(holder).ok()?, u64::try_from(*micros).ok()?))
}

/// `{holder or nil, milliseconds left, how many wait, where the counter stands, token, ticket, token, ticket, …}`.
fn looked(reply: &Reply) -> Option<Look> {
    let Reply::Array(parts) = reply else { return None };
    let [holder, left, Reply::Int(waiting), Reply::Int(counter), queue @ ..] = parts.as_slice() else {
        return None;
    };
    let holder = match holder {
        Reply::Nil => None,
        holder => Some(holder_with_time(&[holder.clone(), left.clone()]).ok()?),
    };
    let in_queue = |pair: &[Reply]| match pair {
        [Reply::Text(token), Reply::Text(ticket)] => {
            let ticket: f64 = String::from_utf8_lossy(ticket).parse().ok()?;
            Some(QueueEntry::new(String::from_utf8_lossy(token), Ticket::from_micros(ticket as u64)))
        }
        _ => None,
    };
    let queue = queue.chunks(2).map(in_queue).collect::<Option<_>>()?;
    Some(Look::new(holder, queue, u64::try_from(*waiting).ok()?).fenced(fence_at(*counter)))
}

/// Where a counter stands; 0 stands for nowhere, and 2⁵³ for beyond its end.
fn fence_at(counter: i64) -> Option<Fence> {
    Fence::new(u64::try_from(counter).ok()?).ok()
}

/// A proposal in the scripts' words: what is proposed, or 0, and for how many milliseconds the counter is kept.
fn numbers(proposal: Option<Proposal>) -> (u64, u64) {
    proposal.map_or((0, 0), |proposal| (proposal.fence.as_u64(), millis(proposal.retention)))
}

/// Some at least, and no more than a server can count.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).clamp(1, 1 << 52)
}

/// The script's `{value, milliseconds left}`; −1 stands for a key without expiry.
fn holder_with_time(reply: &[Reply]) -> Result<Holder, NodeFault> {
    let [Reply::Text(token), Reply::Int(millis)] = reply else {
        return Err(NodeFault::nonsense(format!("a holder was expected, the server answered {reply:?}")));
    };
    let time_left =
        u64::try_from(*millis).map_or(TimeLeft::Forever, |left| TimeLeft::For(Duration::from_millis(left)));
    Ok(holder_of(token, time_left))
}

fn holder_of(token: &[u8], time_left: TimeLeft) -> Holder {
    Holder::new(String::from_utf8_lossy(token), time_left)
}

/// What the release script adds to its reply where dead waiters are left to be dropped.
const UNFINISHED: i64 = 10;

/// Calls of a script that goes on with what a former call left.
#[derive(Default)]
struct FurtherCalls(u32);

impl FurtherCalls {
    /// These follow each other at once: enough for some 30,000 dead waiters.
    const AT_ONCE: u32 = 128;

    /// How long each later one waits, whatever the server says.
    const PAUSE: Duration = Duration::from_millis(20);

    /// To be awaited before each call. Cancel safe.
    async fn pause(&mut self) {
        self.0 += 1;
        if self.0 > Self::AT_ONCE {
            tokio::time::sleep(Self::PAUSE).await;
        }
    }
}

/// How soon those should ask again whom the server cannot tell.
const ASK_WITHIN: Duration = Duration::from_millis(50);

fn is_syntax_error(fault: &NodeFault) -> bool {
    fault.code() == Some("ERR") && fault.to_string().contains("syntax error")
}

/// Whether the connection was given up because the reply was too large.
fn is_too_large(fault: &NodeFault) -> bool {
    fault.to_string().contains(reply_limit::TOO_LARGE)
}

fn unexpected(what: &str, reply: &Reply) -> NodeFault {
    NodeFault::nonsense(format!("the server answered {reply:?} to {what}"))
}

impl fmt::Display for RedisNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.server {
            Server::Link(link) => link.fmt(f),
            Server::Client { client, .. } => client.fmt(f),
        }
    }
}

impl fmt::Debug for RedisNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisNode({self})")
    }
}
