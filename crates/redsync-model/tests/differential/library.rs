//! A node of the library, as several clients have it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use redsync::{
    Acquired, ClientId, Expiry, Extended, Fence, Grant, IfFree, Listener, LockName, Node, NodeFault,
    Proposal, RedisNode, Released, Round, Succession, Ticket, TimeLeft, Token,
};
use redsync_testkit::RedisServer;

use super::operation::{CLIENTS, NAMES};
use super::terms::{Claim, Holder, Look, Place, Placed, Reply, Request, Told};

/// One store, and all who use it.
pub(crate) struct Library {
    /// Where each client asks.
    nodes: Vec<Arc<dyn Node>>,
    parties: Vec<Party>,
    names: Vec<LockName>,
    heard: Arc<Heard>,
    /// The server, where each client has a connection of its own.
    server: Option<Arc<RedisServer>>,
    /// Which of these connections are new.
    are_new: [AtomicBool; CLIENTS],
}

struct Party {
    id: ClientId,
    /// Nodes tell it as long as it is kept here.
    _listener: Arc<GrantListener>,
}

/// All that was told, to whomever.
#[derive(Debug, Default)]
struct Heard(Mutex<Vec<(usize, Message)>>);

#[derive(Debug)]
enum Message {
    Granted(Grant),
    Freed(LockName),
}

#[derive(Debug)]
struct GrantListener {
    client: usize,
    heard: Arc<Heard>,
}

impl GrantListener {
    fn hear(&self, message: Message) {
        self.heard.0.lock().unwrap_or_else(PoisonError::into_inner).push((self.client, message));
    }
}

impl Listener for GrantListener {
    fn granted(&self, grant: Grant) {
        self.hear(Message::Granted(grant));
    }

    fn freed(&self, name: LockName) {
        self.hear(Message::Freed(name));
    }

    // As each connection is made; it says nothing of any lock.
    fn interrupted(&self) {}
}

impl Library {
    /// One node that all clients share.
    pub(crate) fn shared(node: Arc<dyn Node>) -> Self {
        Self::of(vec![node; CLIENTS], None)
    }

    /// A server, which knows of its clients' lives by their connections.
    pub(crate) fn on(server: Arc<RedisServer>) -> Self {
        let nodes = (0..CLIENTS).map(|_| connected(&server));
        Self::of(nodes.collect(), Some(server))
    }

    fn of(nodes: Vec<Arc<dyn Node>>, server: Option<Arc<RedisServer>>) -> Self {
        let heard = Arc::<Heard>::default();
        let parties = nodes.iter().enumerate().map(|(client, node)| Party::of(client, node, &heard));
        let parties = parties.collect();
        let are_new = [const { AtomicBool::new(true) }; CLIENTS];
        Self { nodes, parties, names: Vec::new(), heard, server, are_new }
    }

    pub(crate) fn set_clock(&self, micros: u64) {
        if let Some(server) = &self.server {
            server.set_clock(micros);
        }
    }

    /// Names that nobody has had before.
    pub(crate) fn begin(&mut self, number: u64) {
        let name = |name| LockName::new(format!("{number}:{name}")).expect("it is short");
        self.names = (0..NAMES).map(name).collect();
        self.told();
    }

    /// A connection that has not heard of fences lets go of the lock where the others hand it over, the first time that it meets
    /// one who wants one: so they all hear of them.
    async fn tell_of_fences(&self) {
        for (node, is_new) in self.nodes.iter().zip(&self.are_new) {
            if self.server.is_some() && is_new.swap(false, Ordering::Relaxed) {
                let name = LockName::new("nobody's").expect("it is a name");
                let token = Token::from_text("nobody").expect("it is a token");
                let expiry = Expiry::new(Duration::from_millis(10)).expect("it is an expiry");
                let proposal = Proposal::new(Fence::MIN, Duration::from_millis(10));
                let claim = redsync::Claim::new(name, token, expiry).fenced(proposal);
                let extended = node.extend(&claim, IfFree::Leave).await;
                assert!(matches!(extended, Ok(Extended::NotHeld)), "{extended:?}");
            }
        }
    }

    pub(crate) async fn ask(&self, name: usize, request: &Request) -> Reply {
        self.tell_of_fences().await;
        let reply = self.asked(&self.names[name], request).await;
        reply.unwrap_or_else(|fault| match fault.code() {
            Some(code) => Reply::Refused(code.into()),
            None => Reply::Failed(fault.to_string()),
        })
    }

    async fn asked(&self, name: &LockName, request: &Request) -> Result<Reply, NodeFault> {
        let claim = |claim: &Claim| {
            let made = redsync::Claim::new(name.clone(), token(claim.token), expiry(claim.expiry_millis));
            match claim.fence {
                Some((fence, retention)) => made.fenced(Proposal::new(
                    Fence::new(fence).expect("it is one"),
                    Duration::from_millis(retention),
                )),
                None => made,
            }
        };
        let place = |place: &Place| {
            let (ticket, round) = (Ticket::from_micros(place.ticket), Round::new(place.round));
            redsync::Place::new(claim(&place.claim), ticket, round)
        };
        Ok(match request {
            Request::Acquire(asked) => match self.node_of(asked.token).acquire(&claim(asked)).await? {
                Acquired::Granted(fence) => Reply::Granted(fence.map(Fence::as_u64)),
                Acquired::Taken(other) => Reply::Taken(holder(&other)),
            },
            Request::Enter { client, places } => {
                let places: Vec<redsync::Place> = places.iter().map(place).collect();
                entered(&self.nodes[*client].enter(&self.parties[*client].id, &places).await?)
            }
            Request::Yield { client, place: asked } => {
                entered(&self.nodes[*client].yield_lease(&self.parties[*client].id, &place(asked)).await?)
            }
            Request::Extend { claim: asked, retakes } => {
                let if_free = if *retakes { IfFree::Retake } else { IfFree::Leave };
                match self.node_of(asked.token).extend(&claim(asked), if_free).await? {
                    Extended::Extended(fence) => Reply::Extended(fence.map(Fence::as_u64)),
                    Extended::Retaken => Reply::Retaken,
                    Extended::NotHeld => Reply::NotHeld,
                    Extended::HeldByAnother(other) => Reply::HeldByAnother(holder(&other)),
                }
            }
            Request::Release { token: released, barging } => {
                let succession = if *barging { Succession::Barging } else { Succession::HandOver };
                match self.node_of(*released).release(name, &token(*released), succession).await? {
                    Released::Released => Reply::Released,
                    Released::Left => Reply::Left,
                    Released::NotHeld => Reply::NotHeld,
                    Released::HeldByAnother(other) => Reply::HeldByAnother(holder(&other)),
                }
            }
            Request::Inspect => Reply::Inspected,
        })
    }

    /// What is seen of a name, after all that was told before has been heard: a store's own thread, and a server's
    /// connection, do one thing after the other.
    pub(crate) async fn look(&self, name: usize) -> Look {
        let mut looks = Vec::new();
        for node in self.nodes.iter().take(if self.server.is_some() { CLIENTS } else { 1 }) {
            looks.push(node.inspect(&self.names[name]).await.expect("the node answers"));
        }
        assert!(looks.windows(2).all(|pair| pair[0] == pair[1]), "one server shows two things: {looks:?}");
        let look = looks.swap_remove(0);
        Look {
            holder: look.holder.as_ref().map(holder),
            queue: look
                .queue
                .iter()
                .map(|place| (number(place.token()), place.ticket().as_micros()))
                .collect(),
            waiting: look.waiting,
            fence: look.fence.map(Fence::as_u64),
        }
    }

    /// What was told since this was last asked.
    pub(crate) fn told(&mut self) -> Vec<Told> {
        let heard = std::mem::take(&mut *self.heard.0.lock().unwrap_or_else(PoisonError::into_inner));
        let number_of = |name: &LockName| self.names.iter().position(|own| own == name).unwrap_or(usize::MAX);
        let told = heard.into_iter().map(|(client, message)| match message {
            Message::Granted(grant) => Told::Granted {
                client,
                name: number_of(&grant.name),
                token: number(grant.token.as_str()),
                round: grant.round.as_u32(),
                fence: grant.fence.map(Fence::as_u64),
            },
            Message::Freed(name) => Told::Freed { client, name: number_of(&name) },
        });
        let mut told: Vec<Told> = told.collect();
        told.sort();
        told
    }

    /// The client is gone, and the store knows by the time this returns. Another comes in its place.
    pub(crate) async fn die(&mut self, client: usize) {
        if let Some(server) = &self.server {
            self.nodes[client] = connected(server);
            self.are_new[client].store(true, Ordering::Relaxed);
        }
        let gone =
            std::mem::replace(&mut self.parties[client], Party::of(client, &self.nodes[client], &self.heard));
        let channel = format!("redsync:grants:{}", gone.id);
        drop(gone);
        if let Some(server) = &self.server {
            while server.command(&["PUBSUB", "NUMSUB", &channel]).array()[1].int() != 0 {
                // The connection is closed by a task of this runtime.
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        }
        // A file's node looks for those who are gone after each change.
        let nothing = LockName::new("nothing").expect("it is short");
        let released = self.nodes[client].release(&nothing, &token(0), Succession::HandOver).await;
        released.expect("the node answers");
        // And is done with that when it does the next.
        self.look(0).await;
    }

    fn node_of(&self, token: usize) -> &dyn Node {
        &*self.nodes[super::operation::client_of(token)]
    }
}

impl Party {
    fn of(client: usize, node: &Arc<dyn Node>, heard: &Arc<Heard>) -> Self {
        let (id, grant_listener) =
            (ClientId::random(), Arc::new(GrantListener { client, heard: Arc::clone(heard) }));
        let listener: Weak<dyn Listener> = Arc::<GrantListener>::downgrade(&grant_listener);
        node.listen(&id, listener);
        Self { id, _listener: grant_listener }
    }
}

fn connected(server: &RedisServer) -> Arc<dyn Node> {
    Arc::new(RedisNode::open(&server.url()).expect("it is a server's URL"))
}

fn entered(entered: &redsync::Entered) -> Reply {
    let placed = |placed: &redsync::Placed| match placed {
        redsync::Placed::Granted(fence) => Placed::Granted(fence.map(Fence::as_u64)),
        redsync::Placed::Queued(position) => Placed::Queued(*position),
    };
    Reply::Entered {
        places: entered.places.iter().map(placed).collect(),
        holder: holder(&entered.holder),
        micros: entered.micros,
        is_told: entered.ask_within.is_none(),
    }
}

fn holder(holder: &redsync::Holder) -> Holder {
    let left = match holder.time_left() {
        TimeLeft::For(left) => Some(u64::try_from(left.as_micros()).expect("it is short")),
        TimeLeft::Forever => Some(u64::MAX),
        TimeLeft::Unknown => None,
    };
    Holder { token: number(holder.token()), left }
}

fn expiry(millis: u64) -> Expiry {
    Expiry::new(Duration::from_millis(millis)).expect("it is long enough")
}

fn token(number: usize) -> Token {
    Token::from_text(format!("t{number}")).expect("it is short")
}

/// A token's number; one that there is not for what is no token of these.
fn number(token: &str) -> usize {
    token.strip_prefix('t').and_then(|number| number.parse().ok()).unwrap_or(usize::MAX)
}
