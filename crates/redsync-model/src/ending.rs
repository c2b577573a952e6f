//! Liveness, checked where the time that is modelled ends: if nothing more goes wrong, everybody who waits gets the lock in
//! turn, and in the end nothing is left on any node.
//!
//! From there on all messages arrive, places are renewed when due, and holders give back at once. Whatever is stuck stays
//! stuck under that too. It is looked at where nothing is under way but pushes and strays, which every other ending comes to;
//! once with the pushes, and once with all of them lost. Strays are lost.

use std::sync::Arc;

use crate::client::{Attempt, Client, Phase};
use crate::configuration::Faults;
use crate::step::Step;
use crate::world::{Action, State, World};

/// After so many expiries, whoever has not got it will not.
const EXPIRIES: u8 = 3;

/// How many things happen within one tick at most, unless they go round and round.
const STEPS: usize = 500;

pub(crate) fn all_ends_well(world: &World, state: &State) -> bool {
    if state.now < world.configuration.ticks || !state.links.iter().all(|link| link.is_quiet()) {
        return true;
    }
    let is_well = |state: State| Ending { world, state }.comes_well();
    let mut unheard = state.clone();
    unheard.pushes.clear();
    is_well(unheard) && (state.pushes.is_empty() || is_well(state.clone()))
}

struct Ending<'a> {
    world: &'a World,
    state: State,
}

impl Ending<'_> {
    fn comes_well(mut self) -> bool {
        self.state.faults = Faults { delays: u8::MAX, ..Faults::default() };
        let waits = |client: &Client| {
            !client.is_crashed && client.current().is_some_and(|attempt| attempt.phase == Phase::Waiting)
        };
        let mut waiting: u8 = 0;
        for (number, client) in self.state.clients.iter().enumerate() {
            waiting |= u8::from(waits(client)) << number;
        }
        let expiries = EXPIRIES * self.world.configuration.clients.len() as u8;
        for _ in 0..expiries * self.world.configuration.expiry {
            // Windows double, so that nobody yields more than a few times in an expiry what it is granted at once.
            self.state.clients.iter_mut().for_each(|client| Arc::make_mut(client).yields = 1);
            if !self.settle(&mut waiting) {
                return false;
            }
            self.act(Action::Tick);
        }
        waiting == 0 && self.state.nodes.iter().all(|node| node.is_empty(self.state.micros()))
    }

    /// Everything happens that needs no time. False if that has no end.
    fn settle(&mut self, waiting: &mut u8) -> bool {
        for _ in 0..STEPS {
            match self.next() {
                Some(action) => self.act(action),
                None => return true,
            }
            for (number, client) in self.state.clients.iter().enumerate() {
                if client.current().is_none_or(|attempt| attempt.phase == Phase::Held) {
                    *waiting &= !(1 << number);
                }
            }
        }
        false
    }

    fn act(&mut self, action: Action) {
        Step::new(self.world, &mut self.state).act(action);
    }

    fn next(&self) -> Option<Action> {
        let (state, nodes) = (&self.state, self.world.nodes());
        let clients = 0..state.clients.len() as u8;
        for client in clients.clone() {
            for node in 0..nodes {
                let link = state.link(nodes, client, node);
                if !link.requests.is_empty() {
                    return Some(Action::Apply(client, node));
                }
                if !link.answers.is_empty() {
                    return Some(Action::Hear(client, node, 0));
                }
            }
        }
        if !state.pushes.is_empty() {
            return Some(Action::HearPush(0));
        }
        clients
            .clone()
            .find_map(|number| {
                let client = &state.clients[usize::from(number)];
                let phase = client.current().filter(|_| !client.is_crashed).map(|attempt| attempt.phase)?;
                match phase {
                    Phase::Held => Some(Action::Release(number)),
                    Phase::Waiting if state.renewable(nodes, number) != 0 => Some(Action::Renew(number)),
                    _ => None,
                }
            })
            .or_else(|| {
                // When a claim window is over without an answer to anything, whoever has too few gives them back.
                clients
                    .clone()
                    .find(|client| {
                        let at = &state.clients[usize::from(*client)];
                        let is_waiting = at.current().is_some_and(Attempt::is_waiting);
                        is_waiting && at.yields > 0 && state.has_minority(*client, self.world)
                    })
                    .map(Action::Yield)
            })
    }
}
