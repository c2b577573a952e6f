//! redsync measured beside the floor and the alternatives, in the same run on the same servers.

mod pairs;
mod rounds;

use clap::{Parser, Subcommand};

/// Measures redsync on redis-servers that it starts itself, beside the floor: the same commands through the bare client.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    measurement: Measurement,
}

#[derive(Debug, Subcommand)]
enum Measurement {
    /// Uncontended lock and unlock: pairs a second, and how long one takes.
    Pairs(pairs::Options),
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    match Arguments::parse().measurement {
        Measurement::Pairs(options) => pairs::measure(&options),
    }
}
