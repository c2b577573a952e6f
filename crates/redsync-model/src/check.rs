//! Running the checker.

use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model, UniformChooser};

use crate::catalogue;
use crate::configuration::{Configuration, Search};
use crate::rules::Rule;
use crate::trace;
use crate::world::World;

/// What came of checking one configuration.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The configuration.
    pub name: &'static str,
    /// What it is, in words.
    pub words: &'static str,
    /// How many different states were seen.
    pub states: usize,
    /// How many steps the longest way to one has.
    pub depth: usize,
    /// How many properties there are.
    pub properties: usize,
    /// How long it took.
    pub took: Duration,
    /// What does not hold, each with the steps that lead there.
    pub broken: Vec<(&'static str, Vec<String>)>,
    /// What should have happened and did not.
    pub unseen: Vec<&'static str>,
}

impl Checked {
    /// Whether all is as it must be.
    pub fn holds(&self) -> bool {
        self.broken.is_empty() && self.unseen.is_empty()
    }
}

/// The configurations' names: those of a quick run, or all.
pub fn configurations(is_quick: bool) -> Vec<&'static str> {
    let all = catalogue::all().into_iter().filter(|configuration| configuration.is_quick || !is_quick);
    all.map(|configuration| configuration.name).collect()
}

/// Checks the configuration of this name, on so many threads; with a seed for those that run at random.
pub fn check(name: &str, threads: usize, seed: u64) -> Option<Checked> {
    Some(run(catalogue::named(name)?, None, threads, seed))
}

pub(crate) fn run(configuration: Configuration, broken: Option<Rule>, threads: usize, seed: u64) -> Checked {
    let began = Instant::now();
    let search = configuration.search;
    let (name, words) = (configuration.name, configuration.words);
    let world = World::new(configuration, broken);
    let properties = world.properties().len();
    let told = world.clone();
    let builder = world.checker().threads(threads).finish_when(HasDiscoveries::AnyFailures);
    match search {
        Search::Exhaustive => judge(&told, &builder.spawn_bfs().join(), began, (name, words, properties)),
        Search::Depth(depth) => judge(
            &told,
            &builder.target_max_depth(depth).spawn_bfs().join(),
            began,
            (name, words, properties),
        ),
        Search::Random { states } => {
            let builder = builder.target_state_count(states);
            judge(
                &told,
                &builder.spawn_simulation(seed, UniformChooser).join(),
                began,
                (name, words, properties),
            )
        }
    }
}

fn judge(
    world: &World,
    checker: &impl Checker<World>,
    began: Instant,
    (name, words, properties): (&'static str, &'static str, usize),
) -> Checked {
    let found = checker.discoveries();
    let mut broken = Vec::new();
    let mut unseen = Vec::new();
    for property in world.properties() {
        let path = found.get(property.name);
        match (property.expectation.discovery_is_failure(), path) {
            (true, Some(path)) => broken.push((property.name, trace::told(world, path.clone()))),
            (false, None) => unseen.push(property.name),
            _ => {}
        }
    }
    broken.sort_by_key(|(_, steps)| steps.len());
    Checked {
        name,
        words,
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        properties,
        took: began.elapsed(),
        broken,
        unseen,
    }
}
