//! Every rule is needed: where one is broken, something goes wrong that the model notices. And where none is, nothing does.

use redsync_model::{Rule, check, hunt};

fn is_noticed(rule: Rule) {
    let hunted = hunt(rule, 1);
    assert!(hunted.is_caught(), "{} survives in {}", rule.mutant(), hunted.checked.name);
}

macro_rules! noticed {
    ($($name:ident: $rule:ident;)*) => {
        $(#[test] fn $name() { is_noticed(Rule::$rule); })*
        #[test]
        fn every_rule_is_tried() {
            assert_eq!([$(Rule::$rule),*], Rule::ALL);
        }
    };
}

noticed! {
    bounds_start_before_sending: BoundsStartBeforeSending;
    drift_is_taken_off: DriftIsTakenOff;
    a_majority_of_ends_stands: AMajorityOfEndsStands;
    loss_is_final: LossIsFinal;
    failures_are_undone: FailuresAreUndone;
    tokens_are_fresh: TokensAreFresh;
    releasing_checks_the_owner: ReleasingChecksTheOwner;
    restarts_are_guarded: RestartsAreGuarded;
    quarantines_last: QuarantinesLast;
    quarantines_count_attempts: QuarantinesCountAttempts;
    grants_count_from_their_round: GrantsCountFromTheirRound;
    stale_rounds_are_over: StaleRoundsAreOver;
    yielded_leases_count_for_nothing: YieldedLeasesCountForNothing;
    lost_yields_spoil: LostYieldsSpoil;
    unwanted_grants_are_passed_on: UnwantedGrantsArePassedOn;
    told_grants_are_confirmed: ToldGrantsAreConfirmed;
    the_dead_are_skipped: TheDeadAreSkipped;
    handing_over_counts: HandingOverCounts;
    fences_are_confirmed: FencesAreConfirmed;
    fences_stand_with_their_leases: FencesStandWithTheirLeases;
    confirming_checks_the_owner: ConfirmingChecksTheOwner;
    counters_follow_time: CountersFollowTime;
}

#[test]
fn nothing_goes_wrong_where_no_rule_is_broken() {
    for name in ["one-extends", "one-fast", "one-crashes", "one-forged", "three-wrong-clocks"] {
        let checked = check(name, 1, 1).expect("it is in the catalogue");
        assert!(checked.holds(), "{name}: {:?}, never: {:?}", checked.broken, checked.unseen);
    }
}
