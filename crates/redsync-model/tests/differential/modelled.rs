//! The model checker's node, one for each name.

use redsync_model::node::{
    Acquired, Claim, ClientId, Extended, ModelNode, Place, Placed, Proposal, Released, Succession, Token,
    Told,
};

use super::operation::{CLIENTS, NAMES};
use super::terms::{self, Holder, Look, Reply, Request};

#[derive(Default)]
pub(crate) struct Modelled {
    nodes: Vec<ModelNode>,
    /// Which of those who came one after the other in each client's place is there now.
    generations: [u8; CLIENTS],
    now: u64,
    told: Vec<terms::Told>,
}

impl Modelled {
    pub(crate) const fn set_clock(&mut self, micros: u64) {
        self.now = micros;
    }

    pub(crate) fn begin(&mut self) {
        self.generations = [0; CLIENTS];
        self.told.clear();
        self.nodes = vec![ModelNode::new(); NAMES];
        for client in 0..CLIENTS {
            self.listen(client);
        }
    }

    pub(crate) fn die(&mut self, client: usize) {
        let id = self.id(client);
        self.nodes.iter_mut().for_each(|node| node.stop_listening(id));
        self.generations[client] += 1;
        self.listen(client);
    }

    fn listen(&mut self, client: usize) {
        let id = self.id(client);
        self.nodes.iter_mut().for_each(|node| node.listen(id));
    }

    fn id(&self, client: usize) -> ClientId {
        ClientId(
            u8::try_from(client + CLIENTS * usize::from(self.generations[client])).expect("they are few"),
        )
    }

    pub(crate) fn ask(&mut self, name: usize, request: &Request) -> Reply {
        let now = self.now;
        let (reply, told) = match request {
            Request::Acquire(asked) => {
                let step = self.nodes[name].acquire(now, claim(asked));
                let reply = match step.reply {
                    Acquired::Granted(fence) => Reply::Granted(fence.map(|fence| fence.as_u64())),
                    Acquired::Taken(token) => Reply::Taken(self.holder(name, token)),
                    Acquired::Uncountable => Reply::Refused("FENCE".into()),
                };
                (reply, step.told)
            }
            Request::Enter { client, places } => {
                let places: Vec<Place> = places.iter().map(place).collect();
                let id = self.id(*client);
                let step = self.nodes[name].enter(now, id, &places);
                (self.entered(name, &step.reply), step.told)
            }
            Request::Yield { client, place: asked } => {
                let id = self.id(*client);
                let step = self.nodes[name].yield_lease(now, id, place(asked));
                (self.entered(name, &[step.reply]), step.told)
            }
            Request::Extend { claim: asked, retakes } => {
                let step = self.nodes[name].extend(now, claim(asked), *retakes);
                let reply = match step.reply {
                    Extended::Extended(fence) => Reply::Extended(fence.map(|fence| fence.as_u64())),
                    Extended::Retaken => Reply::Retaken,
                    Extended::NotHeld => Reply::NotHeld,
                    Extended::HeldByAnother(token) => Reply::HeldByAnother(self.holder(name, token)),
                };
                (reply, step.told)
            }
            Request::Release { token, barging } => {
                let succession = if *barging { Succession::Barging } else { Succession::HandOver };
                let step = self.nodes[name].release(now, token_of(*token), succession);
                let reply = match step.reply {
                    Released::Released => Reply::Released,
                    Released::Left => Reply::Left,
                    Released::NotHeld => Reply::NotHeld,
                    Released::HeldByAnother(token) => Reply::HeldByAnother(self.holder(name, token)),
                };
                (reply, step.told)
            }
            Request::Inspect => (Reply::Inspected, None),
        };
        let client = |id: ClientId| usize::from(id.0) % CLIENTS;
        self.told.extend(told.map(|told| match told {
            Told::Granted { client: id, token, round, fence, .. } => terms::Told::Granted {
                client: client(id),
                name,
                token: token.0.into(),
                round,
                fence: fence.map(|fence| fence.as_u64()),
            },
            Told::Freed { client: id } => terms::Told::Freed { client: client(id), name },
        }));
        reply
    }

    pub(crate) fn told(&mut self) -> Vec<terms::Told> {
        std::mem::take(&mut self.told)
    }

    pub(crate) fn look(&self, name: usize) -> Look {
        let look = self.nodes[name].inspect(self.now);
        Look {
            holder: look.holder.map(|(token, end)| held(token, end - self.now)),
            waiting: look.queue.len() as u64,
            queue: look.queue.into_iter().map(|(token, ticket)| (token.0.into(), ticket)).collect(),
            fence: look.fence.map(|fence| fence.as_u64()),
        }
    }

    /// The model's replies name the holder, or leave it out; nodes also say for how long.
    fn holder(&self, name: usize, token: Token) -> Holder {
        let holder = self.look(name).holder.filter(|holder| holder.token == usize::from(token.0));
        holder.unwrap_or_else(|| held(token, 0))
    }

    fn entered(&self, name: usize, places: &[Placed]) -> Reply {
        let placed = |placed: &Placed| match placed {
            Placed::Granted(fence) => terms::Placed::Granted(fence.map(|fence| fence.as_u64())),
            Placed::Queued(position) => terms::Placed::Queued(*position),
        };
        Reply::Entered {
            places: places.iter().map(placed).collect(),
            holder: self.look(name).holder.unwrap_or(Holder { token: usize::MAX, left: None }),
            micros: self.now,
            is_told: true,
        }
    }
}

fn held(token: Token, left: u64) -> Holder {
    Holder { token: token.0.into(), left: Some(left) }
}

fn token_of(token: usize) -> Token {
    Token(u16::try_from(token).expect("they are few"))
}

fn claim(claim: &terms::Claim) -> Claim {
    let fence = |(fence, retention)| Proposal { fence, retention: retention * 1_000 };
    Claim { token: token_of(claim.token), expiry: claim.expiry_millis * 1_000, fence: claim.fence.map(fence) }
}

fn place(place: &terms::Place) -> Place {
    Place { claim: claim(&place.claim), ticket: place.ticket, round: place.round }
}
