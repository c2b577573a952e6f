//! Each rule, broken where that is noticed soonest.

use crate::catalogue;
use crate::check::{Checked, run};
use crate::rules::Rule;

/// What came of breaking one rule.
#[derive(Clone, Debug)]
pub struct Hunted {
    /// The rule.
    pub rule: Rule,
    /// What was found.
    pub checked: Checked,
}

impl Hunted {
    /// Whether it was noticed.
    pub fn is_caught(&self) -> bool {
        !self.checked.broken.is_empty()
    }
}

/// Breaks `rule`, and looks for what goes wrong.
pub fn hunt(rule: Rule, threads: usize) -> Hunted {
    let configuration = catalogue::named(hunting_ground(rule)).expect("the grounds are in the catalogue");
    Hunted { rule, checked: run(configuration, Some(rule), threads, 1) }
}

/// The smallest world in which breaking `rule` is noticed.
const fn hunting_ground(rule: Rule) -> &'static str {
    match rule {
        Rule::BoundsStartBeforeSending
        | Rule::FailuresAreUndone
        | Rule::TokensAreFresh
        | Rule::ReleasingChecksTheOwner => "one-tries",
        Rule::DriftIsTakenOff => "one-fast",
        Rule::AMajorityOfEndsStands => "three-extends",
        Rule::LossIsFinal => "one-extends",
        Rule::RestartsAreGuarded | Rule::QuarantinesLast => "three-wipes",
        Rule::QuarantinesCountAttempts => "three-wrong-clocks",
        Rule::GrantsCountFromTheirRound | Rule::StaleRoundsAreOver | Rule::UnwantedGrantsArePassedOn => {
            "one-waits"
        }
        Rule::YieldedLeasesCountForNothing | Rule::LostYieldsSpoil => "three-yields",
        Rule::ToldGrantsAreConfirmed => "one-forged",
        Rule::TheDeadAreSkipped => "one-crashes",
        Rule::HandingOverCounts => "one-line",
        Rule::FencesAreConfirmed | Rule::ConfirmingChecksTheOwner => "three-fences",
        Rule::FencesStandWithTheirLeases => "three-lapsed",
        Rule::CountersFollowTime => "three-wiped-fences",
    }
}
