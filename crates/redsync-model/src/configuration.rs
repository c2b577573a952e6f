//! What is checked: how many nodes and clients, what they do, and what goes wrong.

use crate::world::Action;

/// One bounded world.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    pub(crate) name: &'static str,
    pub(crate) words: &'static str,
    pub(crate) nodes: u8,
    pub(crate) clients: Vec<Role>,
    /// The expiry, and how long there is, in ticks.
    pub(crate) expiry: u8,
    pub(crate) ticks: u8,
    /// By how many ticks nodes' fast clocks may shorten a lease.
    pub(crate) hurry: u8,
    pub(crate) is_fenced: bool,
    /// Clients ask a node before they believe what it tells.
    pub(crate) confirms: bool,
    pub(crate) faults: Faults,
    /// What has happened before.
    pub(crate) prelude: Vec<Action>,
    pub(crate) search: Search,
    /// It takes some seconds at most.
    pub(crate) is_quick: bool,
    /// Those of the things that are to happen sometimes which do happen here.
    pub(crate) sights: &'static [&'static str],
}

/// What one client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Role {
    /// How many tokens it may draw.
    pub(crate) attempts: u8,
    /// It waits in the queue; else it tries.
    pub(crate) waits: bool,
    /// It asks for leases before it asks for places.
    pub(crate) asks_first: bool,
    /// It may give back what it holds.
    pub(crate) releases: bool,
    /// It may give up waiting.
    pub(crate) cancels: bool,
    /// It may take leases again that a node lost.
    pub(crate) repairs: bool,
    pub(crate) extensions: u8,
    pub(crate) yields: u8,
    /// By how many ticks its wall clock is ahead.
    pub(crate) offset: i8,
}

/// How often something may go wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Faults {
    /// How many requests, answers or pushes are slow: heard out of order, or under way for longer than a tick. All others are
    /// applied, and their answers heard, within the tick. And how often a client is too slow to have its places renewed.
    pub(crate) delays: u8,
    pub(crate) breaks: u8,
    pub(crate) crashes: u8,
    /// Restarts that keep the data, and restarts that lose it.
    pub(crate) restarts: u8,
    pub(crate) wipes: u8,
    /// How often another tells a client, in a node's name, that it was granted what it waits for.
    pub(crate) forgeries: u8,
}

/// How it is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Search {
    /// All of it.
    Exhaustive,
    /// All that so many steps can do.
    Depth(usize),
    /// Runs at random, for so many states.
    Random { states: usize },
}

impl Role {
    /// One that asks all nodes once, and goes away if that brings nothing.
    pub(crate) const fn tries() -> Self {
        Self {
            attempts: 1,
            waits: false,
            asks_first: true,
            releases: true,
            cancels: false,
            repairs: false,
            extensions: 0,
            yields: 0,
            offset: 0,
        }
    }

    /// One that waits in the queue.
    pub(crate) const fn waits() -> Self {
        Self { waits: true, asks_first: false, yields: 1, ..Self::tries() }
    }
}
