//! The whole: nodes, clients, and what is under way between them; and what can happen next.

use std::sync::Arc;

use stateright::{Model, Property};

use crate::client::{Client, Phase};
use crate::configuration::{Configuration, Faults};
use crate::node::{ClientId, ModelNode, Token, Told};
use crate::properties;
use crate::rules::Rule;
use crate::step::Step;
use crate::terms::{Terms, micros};
use crate::wire::{Link, What};
use redsync_proto::Fence;

/// A configuration, with one rule broken or none.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) configuration: Configuration,
    pub(crate) terms: Terms,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    /// In ticks.
    pub(crate) now: u8,
    pub(crate) nodes: Vec<Arc<ModelNode>>,
    /// When each node started, if it started again.
    pub(crate) started: Vec<Option<u8>>,
    /// The nodes that lost their data, one bit for each.
    pub(crate) wiped: u8,
    pub(crate) clients: Vec<Arc<Client>>,
    /// Those of the first client come first.
    pub(crate) links: Vec<Arc<Link>>,
    /// What nodes tell of and clients have not heard yet; sorted.
    pub(crate) pushes: Vec<Push>,
    pub(crate) faults: Faults,
    /// The first node of which nothing was heard yet. Which is which, of those, is a matter of naming.
    pub(crate) unnamed: u8,
    /// The fences that were agreed on, in this order, each with the highest there was when its call began.
    pub(crate) agreed: Vec<(Fence, Option<Fence>)>,
    /// Grants that clients heard of and did not want any more, each with its client and node.
    pub(crate) unwanted: Vec<(u8, u8, Token)>,
    /// The last hand-over went to somebody who was dead.
    pub(crate) has_granted_the_dead: bool,
}

/// What a node tells, on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Push {
    pub(crate) node: u8,
    pub(crate) told: Told,
    /// It is on its way for longer than a tick.
    pub(crate) is_slow: bool,
}

/// What can happen. Clients, nodes and what is under way are named by their numbers, from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// Time goes on.
    Tick,
    /// A client's call begins, or it tries again.
    Begin(u8),
    /// A node applies the next request of a client's, which hears the answer at once.
    Apply(u8, u8),
    /// The same, with an answer that is slow.
    ApplyUnheard(u8, u8),
    /// A node applies a request that was held up.
    ApplyStray(u8, u8, u8),
    /// A client hears an answer of a node's.
    Hear(u8, u8, u8),
    /// A client hears what a node tells.
    HearPush(u8),
    /// A client has its places renewed.
    Renew(u8),
    /// A client gives leases back that are too few.
    Yield(u8),
    /// A client extends.
    Extend(u8),
    /// A client gives back what it holds, or gives up waiting.
    Release(u8),
    /// The connection between a client and a node breaks.
    Break(u8, u8),
    /// Another tells a client, in a node's name, that it was granted what it waits for.
    Forge(u8, u8),
    /// A client is gone.
    Crash(u8),
    /// A node starts again; with its data, or without.
    Restart(u8, bool),
}

impl World {
    pub(crate) fn new(configuration: Configuration, broken: Option<Rule>) -> Self {
        let Configuration { nodes, expiry, hurry, .. } = configuration;
        Self { terms: Terms::new(nodes.into(), expiry, hurry, broken), configuration }
    }

    pub(crate) fn nodes(&self) -> u8 {
        self.configuration.nodes
    }

    /// What `action` makes of `state`.
    pub(crate) fn after(&self, state: &State, action: Action) -> State {
        let mut state = state.clone();
        Step::new(self, &mut state).act(action);
        state
    }

    /// The beginning of everything.
    pub(crate) fn first(&self) -> State {
        let Configuration { nodes, clients, faults, .. } = &self.configuration;
        let client = |role: &crate::configuration::Role| {
            let (extensions, yields) = (role.extensions, role.yields);
            Arc::new(Client { extensions, yields, ..Client::default() })
        };
        State {
            now: 0,
            nodes: (0..*nodes).map(|_| Arc::new(ModelNode::breaking(self.terms.broken))).collect(),
            started: vec![None; usize::from(*nodes)],
            wiped: 0,
            clients: clients.iter().map(client).collect(),
            links: (0..clients.len() * usize::from(*nodes)).map(|_| Arc::default()).collect(),
            pushes: Vec::new(),
            faults: *faults,
            unnamed: 0,
            agreed: Vec::new(),
            unwanted: Vec::new(),
            has_granted_the_dead: false,
        }
    }

    fn actions_of(&self, state: &State, number: u8, actions: &mut Vec<Action>) {
        let (client, role) =
            (&state.clients[usize::from(number)], self.configuration.clients[usize::from(number)]);
        if client.is_crashed {
            return;
        }
        match client.current().map(|attempt| attempt.phase) {
            None if client.attempts.len() < usize::from(role.attempts) => {
                // Which of two that do the same is the first is a matter of naming.
                let before = usize::from(number).saturating_sub(1);
                let is_named = client.attempts.is_empty()
                    && number > 0
                    && self.configuration.clients[before] == role
                    && state.clients[before].attempts.is_empty();
                if !is_named {
                    actions.push(Action::Begin(number));
                }
            }
            Some(Phase::Held) => {
                if role.releases {
                    actions.push(Action::Release(number));
                }
                if client.extensions > 0 && client.current().is_some_and(|attempt| attempt.fan_out.is_none())
                {
                    actions.push(Action::Extend(number));
                }
            }
            Some(Phase::Waiting) => {
                if client.due != 0 && state.renewable(self.nodes(), number) != 0 {
                    actions.push(Action::Renew(number));
                }
                if client.yields > 0 && state.has_minority(number, self) {
                    actions.push(Action::Yield(number));
                }
                if role.cancels {
                    actions.push(Action::Release(number));
                }
            }
            Some(Phase::Asking | Phase::Agreeing | Phase::Ended) | None => {}
        }
        if state.faults.crashes > 0 && !client.attempts.is_empty() {
            actions.push(Action::Crash(number));
        }
    }
}

impl State {
    pub(crate) fn link(&self, nodes: u8, client: u8, node: u8) -> &Link {
        &self.links[usize::from(client) * usize::from(nodes) + usize::from(node)]
    }

    /// How many messages would be slow if time went on, and how many clients that did not have their places renewed.
    pub(crate) fn unhurried(&self, nodes: u8) -> usize {
        let requests = self.links.iter().flat_map(|link| &link.requests).filter(|request| !request.is_slow);
        let late = (0..self.clients.len() as u8).filter(|client| self.renewable(nodes, *client) != 0);
        requests.count() + late.count() + self.pushes.iter().filter(|push| !push.is_slow).count()
    }

    /// The nodes on which `client` may have its place renewed: it is due, and not being asked for.
    pub(crate) fn renewable(&self, nodes: u8, client: u8) -> u8 {
        let is_asked = |node: u8| {
            let mut unheard = self.link(nodes, client, node).unheard();
            unheard.any(|request| matches!(request.what, What::Enter { .. }))
        };
        let due = self.clients[usize::from(client)].due;
        (0..nodes)
            .filter(|node| due & (1 << node) != 0 && !is_asked(*node))
            .fold(0, |set, node| set | (1 << node))
    }

    /// Whether `client` has leases that are too few, as `Line::settle` and `Leases::minority` see it.
    pub(crate) fn has_minority(&self, client: u8, world: &World) -> bool {
        let Some(attempt) = self.clients[usize::from(client)].current() else { return false };
        let ledger = &attempt.ledger;
        world.nodes() > 1
            && ledger.is_granted_somewhere()
            && !ledger.is_granted_everywhere()
            && !ledger.clone().minority(crate::terms::instant(self.now)).is_empty()
    }

    /// Whether `client` listens for grants to a token of its.
    pub(crate) fn can_be_told(&self, client: u8) -> bool {
        self.clients[usize::from(client)].current().is_some_and(|attempt| attempt.is_told)
    }

    /// Whether `client` can be told by `node`.
    pub(crate) fn client_id(client: u8) -> ClientId {
        ClientId(client)
    }

    pub(crate) fn micros(&self) -> u64 {
        micros(self.now)
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let prelude = self.configuration.prelude.iter();
        vec![prelude.fold(self.first(), |state, action| self.after(&state, *action))]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if properties::is_broken(self, state) {
            // One counterexample is enough.
            return;
        }
        let nodes = self.nodes();
        for client in 0..self.configuration.clients.len() as u8 {
            for node in 0..nodes {
                let link = state.link(nodes, client, node);
                let is_alive = !state.clients[usize::from(client)].is_crashed;
                if node > state.unnamed {
                    continue;
                }
                if !link.requests.is_empty() {
                    actions.push(Action::Apply(client, node));
                    if is_alive && state.faults.delays > 0 {
                        actions.push(Action::ApplyUnheard(client, node));
                    }
                }
                let heard = link.answers.len() as u8;
                actions.extend((0..heard).map(|answer| Action::Hear(client, node, answer)));
                let strays = link.strays.len() as u8;
                actions.extend((0..strays).map(|stray| Action::ApplyStray(client, node, stray)));
                if state.faults.forgeries > 0 && is_alive && state.can_be_told(client) {
                    actions.push(Action::Forge(client, node));
                }
                if state.faults.breaks > 0 && is_alive && !link.is_quiet() {
                    actions.push(Action::Break(client, node));
                }
            }
            self.actions_of(state, client, actions);
        }
        actions.extend((0..state.pushes.len() as u8).map(Action::HearPush));
        for node in 0..nodes.min(state.unnamed + 1) {
            if state.faults.restarts > 0 {
                actions.push(Action::Restart(node, true));
            }
            if state.faults.wipes > 0 {
                actions.push(Action::Restart(node, false));
            }
        }
        if state.now < self.configuration.ticks && state.unhurried(nodes) <= state.faults.delays.into() {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let after = self.after(state, action);
        (after != *state).then_some(after)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::of(&self.configuration)
    }
}
