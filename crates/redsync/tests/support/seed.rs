//! Randomness that can be had again.

use rand::SeedableRng;
use rand::rngs::StdRng;

/// A seed, `REDSYNC_SEED` if that is set, and what comes of it. Whoever uses it prints it.
pub(crate) fn seed() -> (u64, StdRng) {
    let seed = match std::env::var("REDSYNC_SEED") {
        Ok(seed) => seed.parse().expect("REDSYNC_SEED is a number"),
        Err(_) => rand::random_range(0..1_000_000),
    };
    (seed, StdRng::seed_from_u64(seed))
}
