//! Nodes with a defect break the clauses that speak of it: a suite that cannot fail is a defect.

mod wrong_node;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, LazyLock};

use futures_util::StreamExt;
use futures_util::stream;
use redsync_conformance::{Report, check, clauses};
use tokio::runtime::Runtime;

use self::wrong_node::{Defect, WrongNode};

/// Each test is a defect and the clauses that a node with it breaks: `only` these, or these and others that come
/// with it.
macro_rules! found_out {
    ($($test:ident: $defect:ident breaks $extent:ident [$($clause:ident),* $(,)?],)*) => {
        const DEFECTS: &[Defect] = &[$(Defect::$defect),*];
        $(
            #[test]
            fn $test() {
                $extent(Defect::$defect, &[$(stringify!($clause)),*]);
            }
        )*
    };
}

found_out! {
    a_node_that_grants_everyone: GrantsEveryone breaks at_least [
        a_taken_name_is_refused_and_says_who_holds,
        a_refused_acquire_leaves_the_holder_and_its_time,
        of_many_at_once_exactly_one_is_granted,
        never_do_two_hold_at_once,
    ],
    a_node_that_says_granted_to_everyone: SaysGrantedToEveryone breaks at_least [
        a_taken_name_is_refused_and_says_who_holds,
        of_many_at_once_exactly_one_is_granted,
        never_do_two_hold_at_once,
    ],
    a_node_that_looks_and_takes_in_two_steps: LooksAndTakesInTwoSteps breaks only [
        of_many_at_once_exactly_one_is_granted,
        never_do_two_hold_at_once,
    ],
    a_node_that_looks_and_retakes_in_two_steps: LooksAndRetakesInTwoSteps breaks only [
        of_many_at_once_exactly_one_retakes,
    ],
    a_node_that_names_a_wrong_holder: NamesAWrongHolder breaks at_least [
        a_taken_name_is_refused_and_says_who_holds,
        of_many_at_once_exactly_one_is_granted,
    ],
    a_node_whose_refusals_restart_the_holders_expiry: RefusalRestartsTheHoldersExpiry breaks only [
        a_refused_acquire_leaves_the_holder_and_its_time,
        an_expired_lease_is_free_for_another,
        release_after_expiry_leaves_the_next_holder,
        tokens_that_look_alike_are_different_owners,
    ],
    a_node_that_refuses_the_holder: RefusesTheHolder breaks at_least [
        the_same_token_is_granted_again,
        the_same_token_again_starts_its_expiry_anew,
    ],
    a_node_that_does_not_restart_expiry_on_reacquire: KeepsTheOldExpiryOnReacquire breaks at_least [
        the_same_token_again_starts_its_expiry_anew,
    ],
    a_node_that_grants_for_ever: NeverEndsALease breaks at_least [
        a_lease_ends_at_its_expiry_and_not_before,
        an_expired_lease_is_free_for_another,
        the_shortest_expiry_is_granted_and_soon_over,
        extend_by_the_owner_lets_the_lease_end_sooner,
        extend_after_expiry_says_not_held,
        a_retaken_lease_ends_at_its_expiry_and_not_before,
        release_after_expiry_says_not_held,
        release_after_expiry_leaves_the_next_holder,
        inspect_says_who_holds_and_for_how_long,
    ],
    a_node_that_ends_leases_early: EndsLeasesEarly breaks at_least [
        a_lease_ends_at_its_expiry_and_not_before,
        a_retaken_lease_ends_at_its_expiry_and_not_before,
    ],
    a_node_that_counts_in_whole_seconds_and_rounds_up: RoundsExpiriesUpToSeconds breaks only [],
    a_node_that_keeps_expiries_in_32_bits: KeepsExpiriesIn32Bits breaks only [
        the_longest_expiry_is_granted_or_refused_without_a_lease,
    ],
    a_node_that_refuses_the_longest_expiry_but_grants_it: RefusesTheLongestExpiryButGrantsIt breaks only [
        the_longest_expiry_is_granted_or_refused_without_a_lease,
    ],
    a_node_that_takes_the_shortest_expiry_for_none: TakesTheShortestExpiryForNone breaks only [
        the_shortest_expiry_is_granted_and_soon_over,
    ],
    a_node_whose_extend_is_not_owner_checked: ExtendIsNotOwnerChecked breaks only [
        extend_by_another_changes_nothing_and_says_who_holds,
    ],
    a_node_whose_extend_only_lengthens: ExtendOnlyLengthens breaks only [
        extend_by_the_owner_lets_the_lease_end_sooner,
    ],
    a_node_whose_extend_does_nothing: ExtendDoesNothing breaks at_least [
        extend_by_the_owner_lets_the_lease_last_longer,
        extend_by_the_owner_lets_the_lease_end_sooner,
        retake_by_the_owner_extends,
    ],
    a_node_whose_extend_grants_free_names: ExtendGrantsFreeNames breaks only [
        extend_of_a_free_name_leaves_it_free,
        extend_after_expiry_says_not_held,
        one_token_holds_each_name_on_its_own,
    ],
    a_node_whose_extend_revives_its_last_holder: ExtendRevivesItsLastHolder breaks only [
        extend_of_a_free_name_leaves_it_free,
        extend_after_expiry_says_not_held,
    ],
    a_node_whose_retake_takes_anothers_lease: RetakeTakesAnothersLease breaks only [
        retake_never_takes_anothers_lease,
        tokens_that_look_alike_are_different_owners,
        of_many_at_once_exactly_one_retakes,
    ],
    a_node_whose_retake_only_says_so: RetakeOnlySaysSo breaks at_least [
        retake_of_a_free_name_grants_it,
        retake_after_expiry_grants_the_name_again,
        of_many_at_once_exactly_one_retakes,
    ],
    a_node_whose_retaken_leases_never_end: RetakenLeasesNeverEnd breaks at_least [
        retake_of_a_free_name_grants_it,
        retake_after_expiry_grants_the_name_again,
        a_retaken_lease_ends_at_its_expiry_and_not_before,
    ],
    a_node_whose_retake_does_not_know_its_owner: RetakeDoesNotKnowItsOwner breaks only [
        retake_by_the_owner_extends,
    ],
    a_node_whose_release_is_not_owner_checked: ReleaseIsNotOwnerChecked breaks only [
        release_by_another_leaves_the_lease_and_says_who_holds,
        release_after_expiry_leaves_the_next_holder,
        tokens_that_look_alike_are_different_owners,
    ],
    a_node_whose_release_only_says_so: ReleaseOnlySaysSo breaks at_least [
        release_by_the_owner_frees_the_name,
        a_second_release_says_not_held,
        inspect_of_a_free_name_says_nobody,
    ],
    a_node_whose_release_always_says_released: ReleaseAlwaysSaysReleased breaks only [
        release_of_a_free_name_says_not_held,
        a_second_release_says_not_held,
        release_after_expiry_says_not_held,
        one_token_holds_each_name_on_its_own,
    ],
    a_node_whose_release_does_not_see_another: ReleaseDoesNotSeeAnother breaks only [
        release_by_another_leaves_the_lease_and_says_who_holds,
        release_after_expiry_leaves_the_next_holder,
        tokens_that_look_alike_are_different_owners,
    ],
    a_node_whose_inspect_prolongs: InspectProlongs breaks at_least [
        inspect_changes_nothing,
    ],
    a_node_whose_inspect_does_not_tell_time: InspectDoesNotTellTime breaks at_least [
        a_free_name_is_granted,
        inspect_says_who_holds_and_for_how_long,
    ],
    a_node_whose_inspect_shows_the_last_holder: InspectShowsTheLastHolder breaks at_least [
        release_by_the_owner_frees_the_name,
        inspect_of_a_free_name_says_nobody,
    ],
    a_node_with_an_identity_that_is_new_each_time: IdentityIsNewEachTime breaks only [
        identity_is_not_empty_and_never_changes,
    ],
    a_node_with_an_empty_identity: IdentityIsEmpty breaks only [
        identity_is_not_empty_and_never_changes,
    ],
    a_node_without_a_label: HasNoLabel breaks only [
        display_is_one_line_and_not_empty,
    ],
    a_node_whose_uptime_shrinks: UptimeShrinks breaks only [
        uptime_only_grows_while_a_lease_stands,
    ],
    a_node_that_does_not_say_its_uptime: DoesNotSayItsUptime breaks only [
        uptime_only_grows_while_a_lease_stands,
    ],
    a_node_with_concerns_of_many_lines: ConcernsOfManyLines breaks only [
        concerns_are_one_line_each,
    ],
    a_node_that_trims_names: TrimsNames breaks only [
        names_that_look_alike_are_different_locks,
    ],
    a_node_that_refuses_odd_names: RefusesOddNames breaks only [
        names_of_any_characters_and_lengths_work,
        names_that_look_alike_are_different_locks,
    ],
    a_node_that_cuts_names: CutsNames breaks only [
        names_that_look_alike_are_different_locks,
    ],
    a_node_that_refuses_long_tokens: RefusesLongTokens breaks only [
        tokens_of_any_characters_and_lengths_work,
        tokens_that_look_alike_are_different_owners,
    ],
    a_node_that_reads_tokens_to_the_first_nul: ReadsTokensToTheFirstNul breaks only [
        tokens_of_any_characters_and_lengths_work,
        tokens_that_look_alike_are_different_owners,
        where_a_name_ends_and_a_token_begins_is_clear,
    ],
    a_node_that_takes_a_prefix_for_the_token: TakesAPrefixForTheToken breaks only [
        tokens_that_look_alike_are_different_owners,
    ],
    a_node_that_finds_leases_by_name_and_token_in_one: FindsLeasesByNameAndTokenInOne breaks only [
        where_a_name_ends_and_a_token_begins_is_clear,
    ],
    a_node_that_knows_one_name_per_token: KnowsOneNamePerToken breaks only [
        one_token_holds_each_name_on_its_own,
    ],
    a_node_that_breaks_when_an_answer_is_dropped: BreaksWhenAnAnswerIsDropped breaks at_least [
        a_dropped_answer_leaves_the_node_usable,
    ],
    a_node_that_applies_dropped_acquires_late: AppliesDroppedAcquiresLate breaks at_least [
        a_dropped_acquire_comes_before_a_later_release_or_never,
    ],
    a_node_that_applies_dropped_releases_late: AppliesDroppedReleasesLate breaks at_least [
        a_dropped_release_comes_before_a_later_acquire_or_never,
    ],
    a_node_that_applies_dropped_extends_late: AppliesDroppedExtendsLate breaks at_least [
        a_dropped_extend_comes_before_a_later_acquire_or_never,
    ],
}

#[test]
fn every_clause_is_broken_by_some_defect() {
    let broken: BTreeSet<&str> = REPORTS.values().flat_map(broken_by).collect();
    let never: Vec<&str> =
        clauses().iter().map(|clause| clause.name).filter(|clause| !broken.contains(clause)).collect();
    assert_eq!(never, Vec::<&str>::new());
}

#[test]
fn every_clause_is_in_the_report_once() {
    for (defect, report) in &*REPORTS {
        let mut told: Vec<&str> = broken_by(report).chain(report.passed().iter().copied()).collect();
        let mut clauses: Vec<&str> = clauses().iter().map(|clause| clause.name).collect();
        told.sort_unstable();
        clauses.sort_unstable();
        assert_eq!(told, clauses, "{defect:?}");
    }
}

#[test]
#[should_panic(expected = "wrong:ExtendOnlyLengthens breaks 1 of 45 clauses of the node contract:

  extend_by_the_owner_lets_the_lease_end_sooner
    expected  inspect of ")]
fn a_report_that_is_asserted_panics_with_what_was_broken() {
    REPORTS[&Defect::ExtendOnlyLengthens].assert_ok();
}

#[test]
fn a_report_of_a_good_node_is_one_line() {
    let text = REPORTS[&Defect::RoundsExpiriesUpToSeconds].to_string();
    assert_eq!(text, "wrong:RoundsExpiriesUpToSeconds keeps all 45 clauses of the node contract");
}

#[tokio::test]
async fn a_node_that_faults_fails_with_the_fault() {
    assert_eq!(
        came_of_the_first_clause(Defect::Faults).await,
        "the fault Unreachable, applied: No: nobody listens"
    );
}

// With a paused clock, which goes on by itself when all wait for it.
#[tokio::test(start_paused = true)]
async fn a_node_that_hangs_fails_for_want_of_an_answer() {
    assert_eq!(came_of_the_first_clause(Defect::Hangs).await, "none within 5s");
}

#[tokio::test]
async fn a_node_that_panics_fails_with_its_words() {
    assert_eq!(came_of_the_first_clause(Defect::Panics).await, "a panic: this node cannot stand it");
}

async fn came_of_the_first_clause(defect: Defect) -> String {
    clauses()[0].check(Arc::new(WrongNode::new(defect))).await.unwrap_err().came
}

fn only(defect: Defect, expected: &[&str]) {
    let report = &REPORTS[&defect];
    assert_eq!(broken_by(report).collect::<Vec<_>>(), expected, "{report}");
}

fn at_least(defect: Defect, expected: &[&str]) {
    let report = &REPORTS[&defect];
    let missed: Vec<_> =
        expected.iter().filter(|&&clause| broken_by(report).all(|broken| broken != clause)).collect();
    assert!(missed.is_empty(), "not broken, but should be: {missed:?}; {report}");
}

fn broken_by(report: &Report) -> impl Iterator<Item = &'static str> {
    report.failures().iter().map(|failure| failure.clause)
}

/// All defects are tried once and together: most of a suite's time is waiting. Few enough at a time that the
/// machine is not what is tested.
static REPORTS: LazyLock<HashMap<Defect, Report>> = LazyLock::new(|| {
    const AT_A_TIME: usize = 8;
    let all = async {
        let reports = DEFECTS
            .iter()
            .map(|&defect| async move { (defect, check(Arc::new(WrongNode::new(defect))).await) });
        stream::iter(reports).buffer_unordered(AT_A_TIME).collect().await
    };
    Runtime::new().expect("a runtime starts").block_on(all)
});
