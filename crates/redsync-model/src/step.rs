//! One step: what happens, and what the clients that see it do at once. What a client does later is a step of its own; what
//! takes long on its way is a message that is applied or heard later.
//!
//! Named after what it mirrors in the library: `attempt`, `waiting`, `leases::{extend, fencing, release, waiting}`,
//! `service::line` and `service::waiters`.

use std::sync::Arc;

use crate::asking::Asking;
use crate::client::{Client, Phase};
use crate::node::{Claim, ClientId, Place, Proposal, Succession, Token, Told};
use crate::rules::Rule;
use crate::terms::{RETENTION, instant};
use crate::wire::{Answer, Link, Request, Said, What};
use crate::world::{Action, Push, State, World};
use redsync_proto::leases::RequestNumber;
use redsync_proto::{Fence, Instant, Round};

/// A state that is being changed.
pub(crate) struct Step<'a> {
    pub(crate) world: &'a World,
    pub(crate) state: &'a mut State,
}

impl<'a> Step<'a> {
    pub(crate) fn new(world: &'a World, state: &'a mut State) -> Self {
        Self { world, state }
    }

    pub(crate) fn act(&mut self, action: Action) {
        if let Action::Apply(_, node)
        | Action::ApplyUnheard(_, node)
        | Action::ApplyStray(_, node, _)
        | Action::Break(_, node)
        | Action::Forge(_, node)
        | Action::Restart(node, _) = action
        {
            self.state.unnamed = self.state.unnamed.max(node + 1);
        }
        match action {
            Action::Tick => self.tick(),
            Action::Begin(client) => Asking::new(self, client).begin(),
            Action::Apply(client, node) => {
                let request = self.link(client, node).requests.remove(0);
                if let Some(said) = self.apply(client, node, request, true) {
                    Asking::new(self, client).hear(node, Answer { request, said });
                }
            }
            Action::ApplyUnheard(client, node) => {
                self.state.faults.delays -= 1;
                let request = self.link(client, node).requests.remove(0);
                if let Some(said) = self.apply(client, node, request, true) {
                    self.link(client, node).answers.push(Answer { request, said });
                }
            }
            Action::ApplyStray(client, node, stray) => {
                let request = self.link(client, node).strays.remove(stray.into());
                let now = self.now();
                let attempt = self.attempt(client, request.attempt);
                attempt.is_haunted |= attempt.ledger.horizon() <= now;
                self.apply(client, node, request, false);
            }
            Action::Hear(client, node, answer) => {
                let answer = self.link(client, node).answers.remove(answer.into());
                Asking::new(self, client).hear(node, answer);
            }
            Action::HearPush(push) => {
                let Push { node, told, .. } = self.state.pushes.remove(push.into());
                if let Told::Granted { client: ClientId(client), token, round, fence, .. } = told {
                    let number = RequestNumber::from(Round::new(round));
                    Asking::new(self, client).hear_push(node, token, number, fence);
                }
            }
            Action::Renew(client) => Asking::new(self, client).renew(),
            Action::Yield(client) => Asking::new(self, client).yield_leases(),
            Action::Extend(client) => Asking::new(self, client).extend(),
            Action::Release(client) => Asking::new(self, client).give_back(),
            Action::Break(client, node) => {
                self.state.faults.breaks -= 1;
                self.break_link(client, node);
            }
            Action::Forge(client, node) => self.forge(client, node),
            Action::Crash(client) => self.crash(client),
            Action::Restart(node, keeps_data) => self.restart(node, keeps_data),
        }
        self.tidy();
    }

    pub(crate) fn now(&self) -> Instant {
        instant(self.state.now)
    }

    pub(crate) fn client(&mut self, client: u8) -> &mut Client {
        Arc::make_mut(&mut self.state.clients[usize::from(client)])
    }

    pub(crate) fn attempt(&mut self, client: u8, attempt: u8) -> &mut crate::client::Attempt {
        Arc::make_mut(&mut self.client(client).attempts[usize::from(attempt)])
    }

    pub(crate) fn link(&mut self, client: u8, node: u8) -> &mut Link {
        let nodes = usize::from(self.world.nodes());
        Arc::make_mut(&mut self.state.links[usize::from(client) * nodes + usize::from(node)])
    }

    pub(crate) fn send(&mut self, client: u8, node: u8, request: Request) {
        self.link(client, node).requests.push(request);
    }

    fn tick(&mut self) {
        let before = self.now();
        self.state.faults.delays -= self.state.unhurried(self.world.nodes()) as u8;
        self.state.pushes.iter_mut().for_each(|push| push.is_slow = true);
        self.state.pushes.sort_unstable();
        for link in &mut self.state.links {
            if link.requests.iter().any(|request| !request.is_slow) {
                Arc::make_mut(link).requests.iter_mut().for_each(|request| request.is_slow = true);
            }
        }
        self.state.now += 1;
        let (now, micros) = (self.now(), self.state.micros());
        for node in &mut self.state.nodes {
            Arc::make_mut(node).forget_what_is_over(micros);
        }
        for number in 0..self.state.clients.len() as u8 {
            if self.state.clients[usize::from(number)].is_crashed {
                continue;
            }
            let everywhere = (1 << self.world.nodes()) - 1;
            let is_waiting = self.client(number).current().is_some_and(crate::client::Attempt::is_waiting);
            self.client(number).due = if is_waiting { everywhere } else { 0 };
            for attempt in 0..self.client(number).attempts.len() as u8 {
                let terms = &self.world.terms;
                let is_lost = {
                    let attempt = &self.state.clients[usize::from(number)].attempts[usize::from(attempt)];
                    attempt.phase == Phase::Held && !attempt.believes(terms, now)
                };
                if is_lost {
                    self.attempt(number, attempt).was_lost = true;
                }
                if self.state.clients[usize::from(number)].attempts[usize::from(attempt)].is_chased(before) {
                    // The last time when its time is over: `LeaseSet::chase`. Who waits for an answer all that time, which
                    // deadlines of requests forbid, may miss it.
                    let horizon = self.state.clients[usize::from(number)].attempts[usize::from(attempt)]
                        .ledger
                        .horizon();
                    if horizon <= now && is_under_way(self.state, self.world.nodes(), number, attempt) {
                        self.attempt(number, attempt).is_haunted = true;
                    }
                    Asking::of(self, number, attempt).release();
                }
            }
        }
    }

    /// Has `node` apply `request`; `is_heard` by the connection that the client listens on. Gives the answer, if somebody
    /// waits for it.
    fn apply(&mut self, client: u8, node: u8, request: Request, is_heard: bool) -> Option<Said> {
        let said = self.answer(client, node, request, is_heard);
        let is_awaited = is_heard
            && !matches!(request.what, What::Release { before: None })
            && !self.state.clients[usize::from(client)].is_crashed;
        is_awaited.then_some(said)
    }

    /// Has `node` apply `request`, and gives the answer, whoever hears it.
    pub(crate) fn answer(&mut self, client: u8, node: u8, request: Request, is_heard: bool) -> Said {
        let (now, id) = (self.state.micros(), State::client_id(client));
        let fence = request.fence.map(|fence| Proposal { fence, retention: RETENTION });
        let claim = Claim { token: request.token, expiry: self.world.terms.granted_micros, fence };
        let place = |ticket: u64| Place { claim, ticket, round: request.number.round().as_u32() };
        let target = Arc::make_mut(&mut self.state.nodes[usize::from(node)]);
        let (said, told) = match request.what {
            What::Acquire => (Said::Acquired(target.acquire(now, claim).reply), None),
            What::Enter { ticket } | What::Yield { ticket } => {
                if is_heard {
                    // A client listens on a connection before it asks for its first place there.
                    target.listen(id);
                }
                match request.what {
                    What::Yield { .. } => {
                        let step = target.yield_lease(now, id, place(ticket));
                        (Said::Placed(step.reply), step.told)
                    }
                    _ => {
                        let step = target.enter(now, id, &[place(ticket)]);
                        (Said::Placed(step.reply[0]), step.told)
                    }
                }
            }
            What::Extend { retakes } => (Said::Extended(target.extend(now, claim, retakes).reply), None),
            What::Release { .. } => {
                let step = target.release(now, request.token, Succession::HandOver);
                (Said::Released(step.reply), step.told)
            }
        };
        if let Some(told) = told {
            self.tell(node, told);
        }
        said
    }

    fn tell(&mut self, node: u8, told: Told) {
        let Told::Granted { client, was_alive, .. } = told else { return };
        self.state.has_granted_the_dead |= !was_alive;
        if !self.state.clients[usize::from(client.0)].is_crashed {
            let push = Push { node, told, is_slow: false };
            let at = self.state.pushes.partition_point(|other| *other < push);
            self.state.pushes.insert(at, push);
        }
    }

    /// Another, who sees who waits, tells `client` of a grant to its newest request, with a fence that would be the next.
    fn forge(&mut self, client: u8, node: u8) {
        self.state.faults.forgeries -= 1;
        let Some(attempt) = self.state.clients[usize::from(client)].current() else { return };
        let (client, token) = (State::client_id(client), attempt.token);
        let round = attempt.ledger.newest().round().as_u32();
        let fence = Fence::new(self.state.micros()).ok();
        self.tell(node, Told::Granted { client, token, round, fence, was_alive: true });
    }

    /// The connection between `client` and `node` ends: what was asked by it is uncertain, and the node knows that nobody
    /// hears it there.
    fn break_link(&mut self, client: u8, node: u8) {
        let id = State::client_id(client);
        Arc::make_mut(&mut self.state.nodes[usize::from(node)]).stop_listening(id);
        let link = self.link(client, node);
        let answers = std::mem::take(&mut link.answers);
        let requests = std::mem::take(&mut link.requests);
        link.strays.extend(requests.iter().copied());
        // The request to pass a grant on is sent once.
        self.state.unwanted.retain(|(told, at, _)| (*told, *at) != (client, node));
        let unheard: Vec<Request> =
            answers.into_iter().map(|answer| answer.request).chain(requests).collect();
        self.client(client).due |= 1 << node;
        for request in unheard {
            self.fail(client, node, request);
        }
    }

    /// Nothing is heard of `request`.
    fn fail(&mut self, client: u8, node: u8, request: Request) {
        let (number, now) = (request.attempt, self.now());
        Asking::new(self, client).fail(node, request);
        // What it asked last, when its time was all but over, is lost: nobody asks again.
        let attempt = self.attempt(client, number);
        attempt.is_haunted |= attempt.phase == Phase::Ended && attempt.ledger.horizon() <= now;
    }

    fn crash(&mut self, client: u8) {
        self.state.faults.crashes -= 1;
        self.client(client).is_crashed = true;
        self.state.unwanted.retain(|(told, ..)| *told != client);
        self.client(client).due = 0;
        self.state.pushes.retain(
            |push| !matches!(push.told, Told::Granted { client: told, .. } if told == State::client_id(client)),
        );
        for node in 0..self.world.nodes() {
            Arc::make_mut(&mut self.state.nodes[usize::from(node)]).stop_listening(State::client_id(client));
            let link = self.link(client, node);
            link.answers.clear();
            let requests = std::mem::take(&mut link.requests);
            link.strays.extend(requests);
        }
    }

    fn restart(&mut self, node: u8, keeps_data: bool) {
        match keeps_data {
            true => self.state.faults.restarts -= 1,
            false => {
                self.state.faults.wipes -= 1;
                self.state.wiped |= 1 << node;
            }
        }
        Arc::make_mut(&mut self.state.nodes[usize::from(node)]).restart(keeps_data);
        self.state.started[usize::from(node)] = Some(self.state.now);
        self.state.unwanted.retain(|(_, at, _)| *at != node);
        for client in 0..self.state.clients.len() as u8 {
            // What was not applied before is not applied any more. Answers may have come before the connection's end.
            let link = self.link(client, node);
            link.strays.clear();
            let unheard = std::mem::take(&mut link.requests);
            if self.client(client).is_crashed {
                continue;
            }
            self.client(client).due |= 1 << node;
            for request in unheard {
                self.fail(client, node, request);
            }
        }
    }

    /// Forgets what makes no difference any more, so that states which cannot be told apart are the same.
    fn tidy(&mut self) {
        let State { unwanted, nodes, .. } = &mut *self.state;
        unwanted.retain(|(_, node, token)| nodes[usize::from(*node)].end_for(*token).is_some());
        unwanted.sort_unstable();
        unwanted.dedup();
        let (nodes, now) = (self.world.nodes(), self.now());
        for number in 0..self.state.clients.len() as u8 {
            let client = &self.state.clients[usize::from(number)];
            if !client.current().is_some_and(crate::client::Attempt::is_waiting) && client.due != 0 {
                self.client(number).due = 0;
            }
            let client = &self.state.clients[usize::from(number)];
            let is_over: Vec<u8> = (0..client.attempts.len() as u8)
                .filter(|attempt| {
                    let at = &client.attempts[usize::from(*attempt)];
                    (client.is_crashed || (at.phase == Phase::Ended && !at.is_chased(now)))
                        && !is_under_way(self.state, nodes, number, *attempt)
                })
                .collect();
            for attempt in is_over {
                let quorum = self.world.terms.quorum;
                let attempt = self.attempt(number, attempt);
                let mut ledger = redsync_proto::leases::Leases::new(quorum);
                ledger.give_back(now);
                attempt.ledger = ledger;
                attempt.fan_out = None;
            }
        }
    }
}

/// Whether something of an attempt's is on its way.
pub(crate) fn is_under_way(state: &State, nodes: u8, client: u8, attempt: u8) -> bool {
    (0..nodes).any(|node| {
        let link = state.link(nodes, client, node);
        link.unheard().chain(link.unapplied()).any(|request| request.attempt == attempt)
    })
}

/// Whether a push for `token` is on its way.
pub(crate) fn is_told(state: &State, token: Token) -> bool {
    state.pushes.iter().any(|push| matches!(push.told, Told::Granted { token: told, .. } if told == token))
}

impl World {
    pub(crate) fn keeps(&self, rule: Rule) -> bool {
        !self.terms.breaks(rule)
    }
}
