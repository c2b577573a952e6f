//! Sequences at random, until kinds disagree; and then the shortest that still shows it.

use std::fmt;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::runtime::Runtime;

use super::operation::{Operation, sequences};
use super::world::{Disagreement, Grain, World};

/// What was found.
pub(crate) struct Found {
    seed: u64,
    /// After how many requests.
    pub(crate) asked: u64,
    /// What was done, and what was said, in words.
    pub(crate) queues: Vec<String>,
    pub(crate) operations: Vec<Operation>,
}

/// Goes on until so many requests were answered alike by every kind.
pub(crate) fn hunt(world: &mut World, requests: u64, seed: u64) -> Result<u64, Found> {
    let runtime = runtime();
    let mut bytes = [0; 32];
    StdRng::seed_from_u64(seed).fill(&mut bytes[..]);
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let sequences = sequences(world.grain == Grain::Micros);
    while world.asked < requests {
        let mut tree = sequences.new_tree(&mut runner).expect("there is no filter that could fail");
        if let Err(disagreement) = runtime.block_on(world.run(&tree.current())) {
            let asked = world.asked;
            let (operations, Disagreement(queues)) = shortest(world, &runtime, &mut tree, disagreement);
            return Err(Found { seed, asked, queues, operations });
        }
    }
    Ok(world.asked)
}

/// A current thread is all it needs: one request is made after the other.
fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// The shortest that the tree comes to, and what was said in it.
fn shortest(
    world: &mut World,
    runtime: &Runtime,
    tree: &mut impl ValueTree<Value = Vec<Operation>>,
    first: Disagreement,
) -> (Vec<Operation>, Disagreement) {
    const PATIENCE: usize = 5_000;
    let mut disagree = |operations: &[Operation]| runtime.block_on(world.run(operations)).err();
    let mut least = (tree.current(), first);
    let mut goes_on = tree.simplify();
    for _ in 0..PATIENCE {
        if !goes_on {
            break;
        }
        goes_on = match disagree(&tree.current()) {
            Some(disagreement) => {
                least = (tree.current(), disagreement);
                tree.simplify()
            }
            None => tree.complicate(),
        };
    }
    // Simpler steps may have made others needless.
    let mut at = 0;
    while at < least.0.len() {
        let mut fewer = least.0.clone();
        fewer.remove(at);
        match disagree(&fewer) {
            Some(disagreement) => (least, at) = ((fewer, disagreement), 0),
            None => at += 1,
        }
    }
    least
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, asked, queues, operations } = self;
        writeln!(f, "kinds of nodes disagree, after {asked} requests, with REDSYNC_SEED={seed}.")?;
        writeln!(f, "milliseconds; what was asked → what all answered | what is then seen of the name:")?;
        queues.iter().try_for_each(|queue| writeln!(f, "{queue}"))?;
        write!(f, "{operations:?}")
    }
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
