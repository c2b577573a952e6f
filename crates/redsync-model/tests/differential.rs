//! The same requests, at random and in driven time, to the model checker's node, in memory, in a file and on a Redis server:
//! what they answer, whom they tell of what, and what can be seen of them then must be the same at every step.
//!
//! `REDSYNC_DIFFERENTIAL_OPERATIONS` is how many requests each kind gets, `REDSYNC_SEED` has the same ones made again.

#[path = "differential/hunt.rs"]
mod hunt;
#[path = "differential/library.rs"]
mod library;
#[path = "differential/modelled.rs"]
mod modelled;
#[path = "differential/operation.rs"]
mod operation;
#[path = "differential/slip.rs"]
mod slip;
#[path = "differential/terms.rs"]
mod terms;
#[path = "differential/world.rs"]
mod world;

use std::path::Path;
use std::sync::Arc;

use redsync::{DrivenClock, MemoryNode, SqliteNode};
use redsync_testkit::RedisServer;

use self::hunt::hunt;
use self::library::Library;
use self::slip::{Slip, Slipping};
use self::world::{BEGINNING, Grain, Kind, World};

/// Unless another number is asked for.
const REQUESTS: u64 = 3_000;

/// What happens often enough in so many: a comparison that does not come by these compares little.
const SIGHTS: [&str; 12] = [
    "granted with a fence",
    "taken",
    "extended with a fence",
    "retaken",
    "released",
    "left",
    "not held",
    "further behind in the queue",
    "told of a grant",
    "told of a grant with a fence",
    "told that it was freed",
    "client gone",
];

#[test]
fn all_kinds_of_nodes_answer_alike() {
    let (clock, directory) = (clock(), tempfile::tempdir().unwrap());
    let beginning = u64::try_from(BEGINNING.as_micros()).unwrap();
    let server = Arc::new(RedisServer::builder().driven_clock(beginning).start());
    let kinds = vec![model(), memory(&clock), file(&clock, directory.path()), ("redis", on(server))];
    go_on("model, memory, sqlite and redis", World::new(Grain::Millis, clock, kinds));
}

#[test]
fn kinds_that_count_microseconds_agree_on_every_end() {
    let (clock, directory) = (clock(), tempfile::tempdir().unwrap());
    let kinds = vec![model(), memory(&clock), file(&clock, directory.path())];
    go_on("model, memory and sqlite", World::new(Grain::Micros, clock, kinds));
}

#[test]
fn a_slip_in_a_node_is_found_and_shown_in_a_few_steps() {
    for slip in Slip::ALL {
        let clock = clock();
        let slipping = Slipping { node: MemoryNode::with_clock(clock.clone()), slip };
        let slipping = Kind::Library(Box::new(Library::shared(Arc::new(slipping))));
        let mut world =
            World::new(Grain::Micros, clock.clone(), vec![memory(&clock), ("slipping", slipping)]);
        let found = hunt(&mut world, 20_000, chosen_seed().unwrap_or(1))
            .expect_err("a node that is wrong is not like one that is not");
        println!("{slip:?}: {found}\n");
        assert!(found.operations.len() <= 6, "{slip:?} could be shown more shortly: {found}");
    }
}

fn go_on(kinds: &str, mut world: World) {
    let requests = std::env::var("REDSYNC_DIFFERENTIAL_OPERATIONS");
    let requests = requests.map_or(REQUESTS, |number| number.parse().expect("it is a number"));
    let seed = seed();
    match hunt(&mut world, requests, seed) {
        Ok(asked) => println!("{kinds}: {asked} requests to each, REDSYNC_SEED={seed}: {:?}", world.sights),
        Err(found) => panic!("{found}"),
    }
    if requests >= REQUESTS {
        let missing: Vec<&str> =
            SIGHTS.iter().copied().filter(|sight| !world.sights.contains_key(sight)).collect();
        assert!(missing.is_empty(), "with REDSYNC_SEED={seed}, nobody came by {missing:?}");
    }
}

fn seed() -> u64 {
    chosen_seed().unwrap_or_else(|| rand::random_range(0..1_000_000))
}

fn chosen_seed() -> Option<u64> {
    std::env::var("REDSYNC_SEED").ok().map(|seed| seed.parse().expect("REDSYNC_SEED is a number"))
}

fn clock() -> DrivenClock {
    let clock = DrivenClock::new();
    clock.advance(BEGINNING);
    clock
}

fn model() -> (&'static str, Kind) {
    ("model", Kind::Model(Box::default()))
}

fn memory(clock: &DrivenClock) -> (&'static str, Kind) {
    let node = Arc::new(MemoryNode::with_clock(clock.clone()));
    ("memory", Kind::Library(Box::new(Library::shared(node))))
}

fn file(clock: &DrivenClock, directory: &Path) -> (&'static str, Kind) {
    let node = Arc::new(SqliteNode::with_clock(directory.join("locks.db"), clock.clone()));
    ("sqlite", Kind::Library(Box::new(Library::shared(node))))
}

fn on(server: Arc<RedisServer>) -> Kind {
    Kind::Library(Box::new(Library::on(server)))
}
