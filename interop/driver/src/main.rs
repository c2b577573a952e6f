//! The driver of the interop tests: redsync beside Go's redsync, redis-py and node-redlock, on the same locks.
//!
//! `redsync-interop go=CMD python=CMD node=CMD`, in the lines that `scripts/interop-install` prints; without arguments
//! they are read from stdin. Each peer is met on one node and on three. A line for each claim goes to stdout; the exit
//! status is 0 when all of them hold, 1 when one does not, and 2 when the arguments make no sense.
//!
//! | file | idea |
//! |---|---|
//! | `main` | arguments, matrix, report |
//! | `claims` | what must hold in a mixed fleet |
//! | `contention` | the claim under load: never two holders |
//! | `agent` | a peer's process and its protocol |

mod agent;
mod claims;
mod contention;
mod verdict;

use std::process::ExitCode;
use std::{env, io};

use agent::Peer;
use claims::Fleet;
use verdict::Claim;

#[tokio::main]
async fn main() -> ExitCode {
    let peers = match peers() {
        Ok(peers) => peers,
        Err(reason) => {
            eprintln!("redsync-interop: {reason}");
            eprintln!(
                "usage: redsync-interop NAME=COMMAND..., the lines that scripts/interop-install prints"
            );
            return ExitCode::from(2);
        }
    };
    let mut report = Report::default();
    for peer in &peers {
        for nodes in FLEETS {
            report.open(peer.name(), nodes);
            match Fleet::start(peer, nodes).await {
                Ok(fleet) => {
                    println!("     {}: {}", report.place, fleet.library());
                    fleet.check(&mut report).await;
                }
                Err(failure) => report.claim("the fleet starts", Err(failure)),
            }
        }
    }
    println!("{} passed, {} failed", report.passed, report.failed);
    match report.failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// The peers that the arguments name, or else the lines of stdin.
fn peers() -> Result<Vec<Peer>, String> {
    let mut lines: Vec<String> = env::args().skip(1).collect();
    if lines.is_empty() {
        lines = io::stdin()
            .lines()
            .collect::<Result<_, _>>()
            .map_err(|error| format!("cannot read stdin: {error}"))?;
    }
    let peers: Vec<Peer> = lines.iter().map(|line| line.parse()).collect::<Result<_, _>>()?;
    match peers.is_empty() {
        true => Err("no peer is named".to_owned()),
        false => Ok(peers),
    }
}

/// What was claimed so far, printed as it comes.
#[derive(Default)]
pub(crate) struct Report {
    place: String,
    passed: u32,
    failed: u32,
}

impl Report {
    /// The claims that follow are about `peer` on so many nodes.
    fn open(&mut self, peer: &str, nodes: usize) {
        self.place = match nodes {
            1 => format!("{peer} 1 node"),
            _ => format!("{peer} {nodes} nodes"),
        };
    }

    /// One claim, and whether it held.
    pub(crate) fn claim(&mut self, claim: &str, result: Claim) {
        let place = &self.place;
        match result {
            Ok(()) => {
                self.passed += 1;
                println!("ok   {place}: {claim}");
            }
            Err(failure) => {
                self.failed += 1;
                println!("FAIL {place}: {claim}: {failure}");
            }
        }
    }
}

const FLEETS: [usize; 2] = [1, 3];
