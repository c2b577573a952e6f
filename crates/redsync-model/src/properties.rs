//! What must hold always, and what must happen sometimes, so that a model in which nothing happens is noticed.

use stateright::Property;

use crate::client::{Attempt, Phase};
use crate::configuration::Configuration;
use crate::ending;
use crate::node::{Extended, Told};
use crate::step::{is_told, is_under_way};
use crate::terms::{instant, instant_at};
use crate::wire::{Said, What};
use crate::world::{State, World};

type Condition = fn(&World, &State) -> bool;

/// What must hold in every state. Those that look at one state, cheapest first; then the one that looks ahead.
const ALWAYS: [(&str, Condition); 8] = [
    ("one holds at a time", one_holds),
    ("nobody believes in more than nodes granted", nobody_believes_in_more),
    ("what is lost stays lost", what_is_lost_stays_lost),
    ("fences grow", fences_grow),
    ("what has ended is nowhere", what_has_ended_is_nowhere),
    ("unwanted grants are passed on", unwanted_grants_are_passed_on),
    ("nobody dead is handed a lease", nobody_dead_is_handed_a_lease),
    ("whoever waits gets it, and nothing is left", ending::all_ends_well),
];

/// What must happen somewhere, in the configurations that say so.
const SOMETIMES: [(&str, Condition); 13] = [
    ("holds", |_, state| some_attempt(state, |attempt| attempt.phase == Phase::Held)),
    ("is refused", |_, state| {
        state.clients.iter().any(|client| {
            !client.is_crashed
                && client.current().is_none()
                && client.attempts.len() == 1
                && client.call.is_some()
        })
    }),
    ("loses", |_, state| some_attempt(state, |attempt| attempt.was_lost)),
    ("is handed a lease", |_, state| {
        state.pushes.iter().any(|push| matches!(push.told, Told::Granted { .. }))
    }),
    ("waits behind another", |_, state| {
        state.nodes.iter().any(|node| !node.inspect(state.micros()).queue.is_empty())
    }),
    ("yields", |_, state| some_request(state, |what| matches!(what, What::Yield { .. }))),
    ("gives up a token of which a yield was lost", |_, state| {
        some_attempt(state, |attempt| attempt.ledger.has_lost_a_yield())
    }),
    ("confirms a fence", |_, state| {
        some_attempt(state, |attempt| attempt.phase == Phase::Agreeing && attempt.rounds > 0)
    }),
    ("agrees on two fences", |_, state| state.agreed.len() > 1),
    ("extends", |_, state| some_answer(state, |said| matches!(said, Said::Extended(Extended::Extended(_))))),
    ("takes a lease again", |_, state| some_answer(state, |said| *said == Said::Extended(Extended::Retaken))),
    ("withholds a vote", |_, state| some_attempt(state, |attempt| attempt.ledger.has_unconfirmed())),
    ("holds after a restart", |_, state| {
        state.started.iter().any(Option::is_some)
            && some_attempt(state, |attempt| {
                attempt.phase == Phase::Held && attempt.ledger.is_granted_everywhere()
            })
    }),
];

pub(crate) fn of(configuration: &Configuration) -> Vec<Property<World>> {
    let always = ALWAYS.iter().map(|(name, condition)| Property::always(name, *condition));
    let seen = SOMETIMES.iter().filter(|(name, _)| configuration.sights.contains(name));
    let sometimes = seen.map(|(name, condition)| Property::sometimes(name, *condition));
    always.chain(sometimes).collect()
}

/// Whether something that must hold does not, as far as `state` alone shows.
pub(crate) fn is_broken(world: &World, state: &State) -> bool {
    ALWAYS[..7].iter().any(|(_, condition)| !condition(world, state))
}

/// SAFETY: mutual exclusion. At most one caller has a guard that it believes in.
fn one_holds(world: &World, state: &State) -> bool {
    let now = instant(state.now);
    let clients = state.clients.iter().filter(|client| !client.is_crashed);
    clients.flat_map(|client| &client.attempts).filter(|attempt| attempt.believes(&world.terms, now)).count()
        <= 1
}

/// SAFETY: a lease that is believed in stands on the node, for as long as it is believed in. A node that lost its data is not
/// asked; nor is a token that is given back, or given up.
fn nobody_believes_in_more(_: &World, state: &State) -> bool {
    let now = instant(state.now);
    let clients = state.clients.iter().filter(|client| !client.is_crashed);
    clients.flat_map(|client| &client.attempts).all(|attempt| {
        let ledger = &attempt.ledger;
        !ledger.is_kept()
            || ledger.has_lost_a_yield()
            || state.nodes.iter().enumerate().filter(|(index, _)| state.wiped & (1 << index) == 0).all(
                |(index, node)| match ledger.end_on(index).filter(|end| now < *end) {
                    Some(believed) => {
                        node.end_for(attempt.token).is_some_and(|end| believed <= instant_at(end))
                    }
                    None => true,
                },
            )
    })
}

/// SAFETY: over is over.
fn what_is_lost_stays_lost(world: &World, state: &State) -> bool {
    let now = instant(state.now);
    !some_attempt(state, |attempt| attempt.was_lost && attempt.believes(&world.terms, now))
}

/// SAFETY: no two holders have the same fence; whoever asked after another had the lock has a larger one; and so has
/// whoever gets it later, however early it asked.
fn fences_grow(_: &World, state: &State) -> bool {
    let grows = state.agreed.is_sorted_by(|(earlier, _), (later, _)| earlier < later);
    grows && state.agreed.iter().all(|(fence, floor)| Some(*fence) > *floor)
}

/// A token that is done with, of which nothing is under way, has neither a lease nor a place anywhere. Unless a request
/// came so late that nobody could expect it any more; what that brings expires.
fn what_has_ended_is_nowhere(world: &World, state: &State) -> bool {
    let (now, micros) = (instant(state.now), state.micros());
    state.clients.iter().enumerate().filter(|(_, client)| !client.is_crashed).all(|(number, client)| {
        client.attempts.iter().enumerate().all(|(index, attempt)| {
            attempt.phase != Phase::Ended
                || attempt.is_haunted
                || attempt.is_chased(now)
                || state.nodes.iter().all(|node| {
                    node.end_for(attempt.token).is_none_or(|end| end <= micros)
                        && !node.has_place(micros, attempt.token)
                })
                || is_under_way(state, world.nodes(), number as u8, index as u8)
                || is_told(state, attempt.token)
        })
    })
}

/// What was granted to a token that is done with is passed on, as soon as that is heard of.
fn unwanted_grants_are_passed_on(world: &World, state: &State) -> bool {
    state.unwanted.iter().all(|(client, node, token)| {
        let asked = &state.link(world.nodes(), *client, *node).requests;
        asked.iter().any(|request| request.token == *token && matches!(request.what, What::Release { .. }))
    })
}

/// SAFETY: whoever let its place lapse, or cannot be told, is skipped.
fn nobody_dead_is_handed_a_lease(_: &World, state: &State) -> bool {
    !state.has_granted_the_dead
}

fn some_attempt(state: &State, is_so: impl Fn(&Attempt) -> bool) -> bool {
    state.clients.iter().flat_map(|client| &client.attempts).any(|attempt| is_so(attempt))
}

fn some_request(state: &State, is_so: impl Fn(&What) -> bool) -> bool {
    state.links.iter().flat_map(|link| &link.requests).any(|request| is_so(&request.what))
}

fn some_answer(state: &State, is_so: impl Fn(&Said) -> bool) -> bool {
    state.links.iter().flat_map(|link| &link.answers).any(|answer| is_so(&answer.said))
}
