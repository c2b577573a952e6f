//! Checks redsync's protocol, and that breaking any of its rules is noticed.

use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
use redsync_model::{Checked, Rule, check, configurations, hunt};

/// Checks redsync's protocol, and that breaking any of its rules is noticed.
#[derive(Parser)]
struct Arguments {
    /// Only what takes some seconds, and all mutants.
    #[arg(long)]
    quick: bool,
    /// On how many threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// For the configurations that are searched at random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand)]
enum What {
    /// The same as --quick.
    Ci,
    /// Breaks each rule in turn, or the one that is named, and shows how that is noticed.
    Mutants {
        /// The mutant's name.
        name: Option<String>,
    },
    /// Checks one configuration.
    Only {
        /// The configuration's name.
        name: String,
    },
}

fn main() -> ExitCode {
    let Arguments { quick, threads, seed, what } = Arguments::parse();
    let run = Run { threads, seed, is_quick: quick || matches!(what, Some(What::Ci)) };
    let holds = match what {
        Some(What::Mutants { name }) => run.mutants(name.as_deref(), true),
        Some(What::Only { name }) => run.configurations(&[&name]),
        None | Some(What::Ci) => {
            let holds = run.configurations(&configurations(run.is_quick));
            (!run.is_quick || run.mutants(None, false)) && holds
        }
    };
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Run {
    threads: usize,
    seed: u64,
    is_quick: bool,
}

impl Run {
    /// Checks the configurations of these names, and says whether all is as it must be.
    fn configurations(&self, names: &[&str]) -> bool {
        let began = Instant::now();
        println!(
            "{:<20} {:>10} {:>6} {:>11} {:>8}  what",
            "configuration", "states", "depth", "properties", "seconds"
        );
        let mut holds = true;
        for name in names {
            let Some(checked) = check(name, self.threads, self.seed) else {
                println!("{name}: there is no such configuration");
                return false;
            };
            holds &= checked.holds();
            tell(&checked);
        }
        let verdict = if holds { "everything holds" } else { "NOT EVERYTHING HOLDS" };
        println!("{verdict}, in {:.1} s", began.elapsed().as_secs_f64());
        holds
    }

    /// Breaks rules, and says whether that was noticed each time.
    fn mutants(&self, name: Option<&str>, shows_traces: bool) -> bool {
        let began = Instant::now();
        let rules = Rule::ALL.into_iter().filter(|rule| name.is_none_or(|name| name == rule.mutant()));
        let rules: Vec<Rule> = rules.collect();
        let mut caught = 0;
        for rule in &rules {
            let hunted = hunt(*rule, self.threads);
            let (kept, broken) = rule.words();
            let Some((property, steps)) = hunted.checked.broken.first() else {
                println!("{:<28} SURVIVES in {}: {broken}", rule.mutant(), hunted.checked.name);
                continue;
            };
            caught += 1;
            let seconds = hunted.checked.took.as_secs_f64();
            println!(
                "{:<28} caught in {} by '{property}', after {} steps, in {seconds:.1} s",
                rule.mutant(),
                hunted.checked.name,
                steps.len()
            );
            if shows_traces {
                println!("  the rule:    {kept}\n  the mutant:  {broken}");
                for (number, step) in steps.iter().enumerate() {
                    println!("  {:>3}. {step}", number + 1);
                }
                println!();
            }
        }
        println!("{caught} of {} mutants caught, in {:.1} s", rules.len(), began.elapsed().as_secs_f64());
        caught == rules.len() && caught > 0
    }
}

fn tell(checked: &Checked) {
    println!(
        "{:<20} {:>10} {:>6} {:>11} {:>8.1}  {}",
        checked.name,
        checked.states,
        checked.depth,
        checked.properties,
        checked.took.as_secs_f64(),
        checked.words
    );
    for (property, steps) in &checked.broken {
        println!("  BROKEN: {property}");
        for (number, step) in steps.iter().enumerate() {
            println!("  {:>3}. {step}", number + 1);
        }
    }
    for property in &checked.unseen {
        println!("  NEVER HAPPENS: {property}");
    }
}
