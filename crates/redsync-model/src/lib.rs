//! redsync's protocol under a model checker.
//!
//! Nodes, clients and the messages between them, in discrete time, with everything that can go wrong: connections break,
//! requests come late or never, answers and pushes come in any order, clients and nodes crash, nodes lose their data, clocks
//! are wrong. The checker goes through all that can happen in a small world, and looks for a state that must not be.
//! Each rule can be broken on purpose; a mutant that nobody notices is a hole in the model.
//!
//! # What is shared with the library
//!
//! The model checks what runs: it uses `redsync-proto`, as the library does.
//!
//! | file of `redsync-proto` | in the model |
//! |---|---|
//! | `leases.rs` | what every attempt believes of the nodes, in all configurations |
//! | `quorum.rs`, `validity.rs` | verdicts, lease ends, `valid_until`, drift, in all configurations |
//! | `fence.rs` | how nodes count, and what a majority agreed on, where fences are asked for |
//! | `quarantine.rs` | which votes are withheld, where nodes restart |
//!
//! Written anew, since the library's is woven into tasks and I/O: what clients ask when (`step`, `asking`), after `attempt`,
//! `waiting`, `leases` and `service::queue`; and a [`node`], which the conformance suite's claims are about, and which can
//! be run beside a real one.
//!
//! # What is left out
//!
//! Adopting a lease; barging; tickets exchanged for better ones; several callers in one process; retention of counters.
//!
//! # Where to read on
//!
//! | file | idea |
//! |---|---|
//! | `world` | the state, and what can happen next |
//! | `step`, `asking` | what happens, and what clients make of it |
//! | `client`, `node`, `wire`, `terms` | what the state consists of |
//! | `properties`, `ending` | what must hold |
//! | `rules`, `mutants` | what can be broken, and where that is noticed |
//! | `configuration`, `catalogue` | what is checked |
//! | `check`, `trace` | running the checker, and telling what it found |

#![cfg(not(test))]

mod asking;
mod catalogue;
mod check;
mod client;
mod configuration;
mod ending;
mod mutants;
pub mod node;
mod properties;
mod rules;
mod step;
mod terms;
mod trace;
mod wire;
mod world;

pub use self::check::{Checked, check, configurations};
pub use self::mutants::{Hunted, hunt};
pub use self::rules::Rule;
