//! redsync measured beside the floor and the alternatives, in the same run on the same servers.

mod contend;
mod floor;
mod hold;
mod hung;
mod pairs;
mod rounds;

/// For both contestants. With the C library's allocator, whose locks two worker threads fight for, the same binary is
/// now fast and now half as fast on a busy machine; `--no-default-features` measures that.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    /// Many who want one lock: how long it lies free between two holders, and how long they wait.
    Contend(contend::Options),
    /// Many guards held at once: what their renewal costs, and what each takes of memory.
    Hold(hold::Options),
    /// The command with nodes that hang, beside the same with healthy ones.
    HungCommand(hung::Options),
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    match Arguments::parse().measurement {
        Measurement::Pairs(options) => pairs::measure(&options),
        Measurement::Contend(options) => contend::measure(&options),
        Measurement::Hold(options) => hold::measure(&options),
        Measurement::HungCommand(options) => hung::measure(&options),
    }
}
