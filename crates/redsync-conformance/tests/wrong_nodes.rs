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
        strangers_are_refused_where_there_is_a_line_and_leave_it,
        those_in_queue_are_refused_like_strangers,
        who_does_not_get_the_lease_leaves_the_counter,
        tokens_that_look_alike_are_different_owners,
    ],
    a_node_that_refuses_the_holder: RefusesTheHolder breaks at_least [
        the_same_token_is_granted_again,
        the_same_token_again_starts_its_expiry_anew,
    ],
    a_node_that_does_not_restart_expiry_on_reacquire: KeepsTheOldExpiryOnReacquire breaks at_least [
        the_same_token_again_starts_its_expiry_anew,
    ],
    a_node_that_shortens_leases_on_reacquire: ShortensOnReacquire breaks only [
        the_same_token_again_does_not_shorten_its_lease,
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
        the_longest_expiry_is_queued_or_refused_without_a_place,
    ],
    a_node_that_refuses_the_longest_expiry_but_grants_it: RefusesTheLongestExpiryButGrantsIt breaks only [
        the_longest_expiry_is_granted_or_refused_without_a_lease,
    ],
    a_node_that_takes_the_shortest_expiry_for_none: TakesTheShortestExpiryForNone breaks only [
        the_shortest_expiry_is_granted_and_soon_over,
        the_shortest_expiry_is_queued_and_soon_over,
    ],
    a_node_whose_extend_is_not_owner_checked: ExtendIsNotOwnerChecked breaks only [
        extend_by_another_changes_nothing_and_says_who_holds,
        strangers_are_refused_where_there_is_a_line_and_leave_it,
        those_in_queue_are_refused_like_strangers,
        an_extend_leaves_the_counter_to_who_has_the_lease,
    ],
    a_node_whose_extend_only_lengthens: ExtendOnlyLengthens breaks only [
        extend_by_the_owner_lets_the_lease_end_sooner,
        the_holder_extends_where_there_is_a_line,
    ],
    a_node_whose_extend_does_nothing: ExtendDoesNothing breaks at_least [
        extend_by_the_owner_lets_the_lease_last_longer,
        extend_by_the_owner_lets_the_lease_end_sooner,
        retake_by_the_owner_extends,
    ],
    a_node_whose_extend_grants_free_names: ExtendGrantsFreeNames breaks only [
        extend_of_a_free_name_leaves_it_free,
        extend_after_expiry_says_not_held,
        an_extend_that_takes_nothing_leaves_the_counter,
        one_token_holds_each_name_on_its_own,
    ],
    a_node_whose_extend_revives_its_last_holder: ExtendRevivesItsLastHolder breaks only [
        extend_of_a_free_name_leaves_it_free,
        extend_after_expiry_says_not_held,
        an_extend_that_takes_nothing_leaves_the_counter,
    ],
    a_node_whose_retake_takes_anothers_lease: RetakeTakesAnothersLease breaks only [
        retake_never_takes_anothers_lease,
        strangers_are_refused_where_there_is_a_line_and_leave_it,
        those_in_queue_are_refused_like_strangers,
        an_extend_leaves_the_counter_to_who_has_the_lease,
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
        the_holder_extends_where_there_is_a_line,
    ],
    a_node_whose_release_is_not_owner_checked: ReleaseIsNotOwnerChecked breaks at_least [
        release_by_another_leaves_the_lease_and_says_who_holds,
        release_after_expiry_leaves_the_next_holder,
        release_by_one_in_queue_says_left_and_leaves_the_holder,
        tokens_that_look_alike_are_different_owners,
    ],
    a_node_whose_release_only_says_so: ReleaseOnlySaysSo breaks at_least [
        release_by_the_owner_frees_the_name,
        a_second_release_says_not_held,
        inspect_of_a_free_name_says_nobody,
    ],
    a_node_whose_release_always_says_released: ReleaseAlwaysSaysReleased breaks at_least [
        release_of_a_free_name_says_not_held,
        a_second_release_says_not_held,
        release_after_expiry_says_not_held,
        release_of_a_free_name_hands_it_to_the_first_in_queue,
        one_token_holds_each_name_on_its_own,
    ],
    a_node_whose_release_does_not_see_another: ReleaseDoesNotSeeAnother breaks only [
        release_by_another_leaves_the_lease_and_says_who_holds,
        release_after_expiry_leaves_the_next_holder,
        strangers_are_refused_where_there_is_a_line_and_leave_it,
        release_by_one_in_queue_says_left_and_leaves_the_holder,
        release_by_one_who_was_handed_the_lease_passes_it_on,
        release_of_a_free_name_hands_it_to_the_first_in_queue,
        who_does_not_get_the_lease_leaves_the_counter,
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
    a_node_that_lists_nothing: ListsNothing breaks only [
        what_is_held_is_listed_with_its_holder_and_its_time,
        only_names_that_match_are_listed,
        what_is_listed_says_how_many_wait_and_where_the_counter_stands,
        as_many_as_there_are_are_listed,
    ],
    a_node_that_lists_whatever_its_name: ListsWhateverItsName breaks at_least [
        only_names_that_match_are_listed,
    ],
    a_node_that_lists_one_page_only: ListsOnePageOnly breaks only [
        as_many_as_there_are_are_listed,
    ],
    a_node_that_lists_no_time: ListsNoTime breaks at_least [
        what_is_held_is_listed_with_its_holder_and_its_time,
    ],
    a_node_that_lists_no_lines: ListsNoLines breaks only [
        what_is_listed_says_how_many_wait_and_where_the_counter_stands,
    ],
    a_node_that_lists_no_fences: ListsNoFences breaks only [
        what_is_listed_says_how_many_wait_and_where_the_counter_stands,
    ],
    a_node_that_lists_the_last_holders: ListsTheLastHolders breaks at_least [
        what_is_free_again_is_not_listed,
    ],
    a_node_whose_list_prolongs: ListProlongs breaks only [
        listing_changes_nothing,
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
    a_node_with_health_warnings_of_many_lines: HealthWarningsOfManyLines breaks only [
        health_warnings_are_one_line_each,
    ],
    a_node_that_trims_names: TrimsNames breaks only [
        names_that_look_alike_are_different_locks,
        lines_for_names_of_any_characters_and_lengths_work,
        names_that_look_alike_have_different_lines,
        counters_for_names_of_any_characters_and_lengths_work,
        names_that_look_alike_have_different_counters,
    ],
    a_node_that_refuses_odd_names: RefusesOddNames breaks only [
        names_of_any_characters_and_lengths_work,
        names_that_look_alike_are_different_locks,
        lines_for_names_of_any_characters_and_lengths_work,
        names_that_look_alike_have_different_lines,
        counters_for_names_of_any_characters_and_lengths_work,
        names_that_look_alike_have_different_counters,
    ],
    a_node_that_cuts_names: CutsNames breaks only [
        names_that_look_alike_are_different_locks,
        lines_for_names_of_any_characters_and_lengths_work,
        names_that_look_alike_have_different_lines,
        counters_for_names_of_any_characters_and_lengths_work,
        names_that_look_alike_have_different_counters,
    ],
    a_node_that_refuses_long_tokens: RefusesLongTokens breaks only [
        tokens_of_any_characters_and_lengths_work,
        tokens_that_look_alike_are_different_owners,
        waiters_with_tokens_of_any_characters_and_lengths_work,
    ],
    a_node_that_reads_tokens_to_the_first_nul: ReadsTokensToTheFirstNul breaks only [
        tokens_of_any_characters_and_lengths_work,
        tokens_that_look_alike_are_different_owners,
        where_a_name_ends_and_a_token_begins_is_clear,
        waiters_with_tokens_of_any_characters_and_lengths_work,
        tokens_that_look_alike_have_different_places,
        where_a_token_ends_and_a_name_begins_is_clear_in_a_grant,
    ],
    a_node_that_takes_a_prefix_for_the_token: TakesAPrefixForTheToken breaks at_least [
        tokens_that_look_alike_are_different_owners,
    ],
    a_node_that_finds_leases_by_name_and_token_in_one: FindsLeasesByNameAndTokenInOne breaks only [
        where_a_name_ends_and_a_token_begins_is_clear,
    ],
    // Clauses run side by side, and those about odd tokens have some in common.
    a_node_that_knows_one_name_per_token: KnowsOneNamePerToken breaks at_least [
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
    a_node_whose_dropped_enters_come_late: AppliesDroppedEntersLate breaks only [
        a_dropped_enter_comes_before_a_later_release_or_never,
        a_dropped_yield_comes_before_a_later_release_or_never,
    ],
    a_node_whose_line_goes_by_arrival: GoesByArrival breaks at_least [
        positions_count_from_one_in_the_order_of_tickets,
        equal_tickets_are_in_the_order_of_tokens,
        entering_again_at_another_ticket_moves_the_place,
        release_hands_over_to_the_lowest_ticket_for_its_own_expiry,
    ],
    a_node_whose_equal_tickets_go_by_arrival: EqualTicketsGoByArrival breaks only [
        equal_tickets_are_in_the_order_of_tokens,
    ],
    a_node_that_keeps_the_first_ticket: KeepsTheFirstTicket breaks only [
        entering_again_at_another_ticket_moves_the_place,
        release_hands_over_to_the_lowest_ticket_for_its_own_expiry,
        yield_by_one_who_does_not_hold_only_queues,
    ],
    a_node_that_keeps_tickets_in_32_bits: KeepsTicketsIn32Bits breaks only [
        tickets_up_to_the_highest_are_told_apart,
    ],
    a_node_that_counts_each_enter: CountsEachEnter breaks at_least [
        entering_twice_keeps_one_place,
    ],
    a_node_that_counts_positions_from_zero: CountsPositionsFromZero breaks at_least [
        a_place_in_a_held_locks_line_is_queued_and_says_who_holds,
        positions_count_from_one_in_the_order_of_tickets,
    ],
    a_node_that_answers_in_the_order_of_the_queue: AnswersInTheOrderOfTheQueue breaks only [
        several_places_in_one_request_are_answered_in_order,
        several_places_of_a_free_name_grant_it_to_the_first_alone,
        entering_a_free_name_counts_by_the_proposal_of_who_is_granted,
    ],
    a_node_that_says_granted_to_all_who_enter_together: SaysGrantedToAllWhoEnterTogether breaks only [
        several_places_in_one_request_are_answered_in_order,
        several_places_of_a_free_name_grant_it_to_the_first_alone,
        entering_a_free_name_counts_by_the_proposal_of_who_is_granted,
    ],
    a_node_whose_enter_never_grants: EnterNeverGrants breaks at_least [
        entering_a_free_name_alone_grants_it,
        entering_a_free_name_grants_it_to_the_first_in_queue,
        entering_after_the_holders_expiry_grants_the_name,
        barging_lets_the_first_in_queue_take_the_name,
        of_many_who_enter_at_once_one_is_granted_and_the_others_wait,
    ],
    a_node_whose_enter_grants_free_names_to_who_asks: EnterGrantsFreeNamesToWhoAsks breaks only [
        several_places_of_a_free_name_grant_it_to_the_first_alone,
        entering_a_free_name_grants_it_to_the_first_in_queue,
        entering_after_the_holders_expiry_grants_the_name,
        who_is_granted_by_its_own_request_is_answered_and_not_told,
        the_first_in_queue_is_told_when_another_enters_a_free_name,
        entering_a_free_name_counts_by_the_proposal_of_who_is_granted,
        a_counter_at_its_end_lets_the_queue_go_on_without_fences,
    ],
    a_node_whose_enter_grants_free_names_to_the_queue_before: EnterGrantsFreeNamesToTheQueueBefore breaks only [
        entering_a_free_name_at_the_lowest_ticket_is_granted_before_the_queue,
        who_is_granted_by_its_own_request_is_answered_and_not_told,
    ],
    a_node_whose_enter_renews_nothing: EnterRenewsNothing breaks only [
        entering_after_the_holders_expiry_grants_the_name,
        entering_by_the_holder_starts_its_expiry_anew,
    ],
    a_node_whose_enter_renews_the_holder: EnterRenewsTheHolder breaks at_least [
        a_place_in_a_held_locks_line_is_queued_and_says_who_holds,
    ],
    a_node_whose_enter_does_not_tell_time: EnterDoesNotTellTime breaks at_least [
        a_place_in_a_held_locks_line_is_queued_and_says_who_holds,
    ],
    a_node_that_refuses_the_longest_expiry_but_queues_it: RefusesTheLongestExpiryButQueuesIt breaks only [
        the_longest_expiry_is_queued_or_refused_without_a_place,
    ],
    a_node_with_one_line_per_token: OneQueuePerToken breaks only [
        one_token_waits_in_each_line_on_its_own,
    ],
    a_node_that_ignores_braces: IgnoresBraces breaks only [
        names_that_look_alike_are_different_locks,
        lines_for_names_of_any_characters_and_lengths_work,
        names_that_look_alike_have_different_lines,
        counters_for_names_of_any_characters_and_lengths_work,
        names_that_look_alike_have_different_counters,
    ],
    a_node_that_counts_millis_for_micros: CountsMillisForMicros breaks at_least [
        the_nodes_clock_counts_microseconds_and_never_goes_back,
    ],
    a_node_that_shows_no_owners_in_queue: ShowsNoOwnersInQueue breaks at_least [
        the_queue_is_shown_in_order_with_its_owners,
    ],
    a_node_that_counts_only_those_shown: CountsOnlyThoseShown breaks only [
        a_long_line_is_shown_from_its_beginning_and_counted_in_full,
    ],
    a_node_whose_inspect_hands_free_names_over: InspectHandsFreeNamesOver breaks only [
        inspect_of_a_line_changes_nothing,
        letting_go_takes_the_holders_own_place_in_queue_with_it,
        barging_frees_the_name_and_keeps_the_queue,
        barging_leaves_the_counter,
    ],
    a_node_whose_refusals_take_a_place: RefusalsTakeAPlace breaks at_least [
        strangers_are_refused_where_there_is_a_line_and_leave_it,
        those_in_queue_are_refused_like_strangers,
        tokens_that_look_alike_are_different_owners,
    ],
    a_node_whose_refusals_take_the_place_away: RefusalsTakeThePlaceAway breaks only [
        those_in_queue_are_refused_like_strangers,
        who_does_not_get_the_lease_leaves_the_counter,
    ],
    a_node_whose_extend_clears_the_queue: ExtendClearsTheQueue breaks only [
        strangers_are_refused_where_there_is_a_line_and_leave_it,
        those_in_queue_are_refused_like_strangers,
        the_holder_extends_where_there_is_a_line,
        release_takes_the_holders_own_place_in_queue_with_it,
        barging_lets_anybody_take_the_name,
        a_counter_at_its_end_lets_the_queue_go_on_without_fences,
    ],
    a_node_that_hands_over_to_the_last: HandsOverToTheLast breaks at_least [
        release_hands_over_to_the_lowest_ticket_for_its_own_expiry,
        a_hand_over_is_told_once_with_its_name_token_and_round,
        everybody_in_queue_comes_to_its_turn,
        of_many_who_enter_at_once_one_is_granted_and_the_others_wait,
    ],
    a_node_that_hands_over_for_the_releasers_expiry: HandsOverForTheReleasersExpiry breaks at_least [
        release_hands_over_to_the_lowest_ticket_for_its_own_expiry,
        a_lease_that_was_handed_over_ends_at_its_expiry,
    ],
    a_node_that_hands_over_for_ever: HandsOverForEver breaks at_least [
        release_hands_over_to_the_lowest_ticket_for_its_own_expiry,
        a_lease_that_was_handed_over_ends_at_its_expiry,
    ],
    a_node_that_frees_before_handing_over: FreesBeforeHandingOver breaks only [
        no_stranger_comes_between_those_in_queue,
    ],
    a_node_that_never_hands_over: NeverHandsOver breaks at_least [
        release_hands_over_to_the_lowest_ticket_for_its_own_expiry,
        release_by_one_who_was_handed_the_lease_passes_it_on,
        a_hand_over_is_told_once_with_its_name_token_and_round,
    ],
    a_node_that_hands_no_free_name_over: HandsNoFreeNameOver breaks only [
        release_of_a_free_name_hands_it_to_the_first_in_queue,
        leaving_the_queue_of_a_free_name_hands_it_to_the_first,
        release_after_expiry_hands_the_name_to_the_first_in_queue,
        a_hand_over_counts_by_the_proposal_of_who_is_granted,
    ],
    a_node_where_one_leaves_without_its_saying_so: LeavesWithoutSayingSo breaks at_least [
        release_by_one_in_queue_says_left_and_leaves_the_holder,
        leaving_the_queue_of_a_free_name_hands_it_to_the_first,
    ],
    a_node_where_leaving_keeps_the_place: LeavingKeepsThePlace breaks at_least [
        release_by_one_in_queue_says_left_and_leaves_the_holder,
        nothing_is_left_when_all_have_gone,
        who_has_left_is_told_nothing,
    ],
    a_node_where_leaving_ends_the_holders_lease: LeavingEndsTheHoldersLease breaks at_least [
        release_by_one_in_queue_says_left_and_leaves_the_holder,
    ],
    a_node_whose_release_keeps_the_holders_own_place: ReleaseKeepsTheHoldersOwnPlace breaks only [
        release_takes_the_holders_own_place_in_queue_with_it,
        letting_go_takes_the_holders_own_place_in_queue_with_it,
    ],
    a_node_that_skips_nobody: SkipsNobody breaks only [
        who_did_not_renew_its_place_in_time_is_skipped,
        a_queue_of_those_who_did_not_renew_in_time_frees_the_name,
        the_shortest_expiry_is_queued_and_soon_over,
        those_who_are_skipped_leave_the_counter,
    ],
    a_node_that_renews_no_places: RenewsNoPlaces breaks only [
        who_renewed_its_place_is_not_skipped,
    ],
    a_node_where_who_yields_keeps_the_lease: YieldKeepsTheLease breaks only [
        yield_hands_over_to_the_lowest_ticket,
        nothing_is_left_when_all_have_gone,
        the_next_is_told_when_the_holder_yields,
        a_yield_counts_by_the_proposal_of_who_is_granted,
    ],
    a_node_where_who_yields_goes_to_the_end: YieldGoesToTheEnd breaks only [
        yield_hands_over_to_the_lowest_ticket,
        yield_at_the_lowest_ticket_is_granted_anew,
        yield_by_one_who_does_not_hold_only_queues,
        yield_of_a_free_name_grants_it_to_the_first_in_queue,
        who_is_granted_by_its_own_request_is_answered_and_not_told,
        a_yield_counts_by_the_proposal_of_who_is_granted,
    ],
    a_node_whose_yield_takes_anothers_lease: YieldTakesAnothersLease breaks only [
        yield_by_one_who_does_not_hold_only_queues,
        who_does_not_get_the_lease_leaves_the_counter,
    ],
    a_node_whose_yield_takes_free_names: YieldTakesFreeNames breaks only [
        yield_of_a_free_name_grants_it_to_the_first_in_queue,
    ],
    a_node_whose_barging_hands_over: BargingHandsOver breaks at_least [
        barging_frees_the_name_and_keeps_the_queue,
        barging_lets_anybody_take_the_name,
        barging_tells_the_first_in_queue_that_the_name_is_free,
    ],
    a_node_whose_barging_takes_the_first_out_of_line: BargingTakesTheFirstOutOfQueue breaks at_least [
        barging_frees_the_name_and_keeps_the_queue,
    ],
    a_node_whose_barging_keeps_strangers_out: BargingKeepsStrangersOut breaks only [
        letting_go_takes_the_holders_own_place_in_queue_with_it,
        barging_lets_anybody_take_the_name,
    ],
    a_node_whose_barging_tells_nobody: BargingTellsNobody breaks at_least [
        barging_tells_the_first_in_queue_that_the_name_is_free,
        barging_tells_nobody_who_did_not_renew_in_time,
    ],
    a_node_whose_barging_tells_all: BargingTellsAll breaks at_least [
        barging_tells_the_first_in_queue_that_the_name_is_free,
    ],
    a_node_whose_barging_tells_the_late: BargingTellsTheLate breaks only [
        barging_tells_nobody_who_did_not_renew_in_time,
    ],
    a_node_that_tells_nobody: TellsNobody breaks at_least [
        a_hand_over_is_told_once_with_its_name_token_and_round,
        the_first_in_queue_is_told_when_another_enters_a_free_name,
        the_next_is_told_when_the_holder_yields,
        everybody_in_queue_comes_to_its_turn,
    ],
    a_node_that_tells_twice: TellsTwice breaks only [
        who_did_not_renew_its_place_in_time_is_skipped,
        a_hand_over_is_told_once_with_its_name_token_and_round,
        the_next_is_told_when_the_holder_yields,
        another_clients_listener_is_not_told,
        who_has_left_is_told_nothing,
    ],
    a_node_that_tells_the_first_round: TellsTheFirstRound breaks only [
        a_hand_over_is_told_with_the_round_of_the_last_enter,
        rounds_up_to_the_highest_are_told,
        no_counter_begins_far_behind_the_nodes_clock,
        a_place_is_granted_by_the_proposal_that_was_made_last,
        those_who_are_skipped_leave_the_counter,
    ],
    a_node_that_keeps_rounds_in_16_bits: KeepsRoundsIn16Bits breaks only [
        rounds_up_to_the_highest_are_told,
    ],
    a_node_that_tells_others_too: TellsOthersToo breaks at_least [
        another_clients_listener_is_not_told,
    ],
    a_node_that_tells_who_asks: TellsWhoAsks breaks only [
        who_is_granted_by_its_own_request_is_answered_and_not_told,
    ],
    a_node_that_tells_nobody_of_free_names: TellsNobodyOfFreeNames breaks only [
        the_first_in_queue_is_told_when_another_enters_a_free_name,
        entering_a_free_name_counts_by_the_proposal_of_who_is_granted,
    ],
    a_node_that_tells_nobody_of_yields: TellsNobodyOfYields breaks only [
        the_next_is_told_when_the_holder_yields,
        a_yield_counts_by_the_proposal_of_who_is_granted,
    ],
    a_node_that_tells_the_first_client: TellsTheFirstClient breaks only [
        who_renewed_with_another_client_is_told_there,
    ],
    a_node_that_tells_those_who_left: TellsThoseWhoLeft breaks only [
        who_has_left_is_told_nothing,
    ],
    a_node_that_reads_grants_to_the_first_colon: ReadsGrantsToTheFirstColon breaks only [
        waiters_with_tokens_of_any_characters_and_lengths_work,
        where_a_token_ends_and_a_name_begins_is_clear_in_a_grant,
    ],
    a_node_that_says_now_and_then_that_it_cannot_tell: SaysNowAndThenThatItCannotTell breaks at_least [
        a_node_that_cannot_tell_says_so_each_time,
    ],
    a_node_that_ignores_proposals: IgnoresProposals breaks at_least [
        a_fenced_grant_raises_the_counter_to_what_is_proposed,
        a_hand_over_counts_by_the_proposal_of_who_is_granted,
    ],
    a_node_that_takes_any_proposal: TakesAnyProposal breaks at_least [
        no_proposal_takes_the_counter_far_ahead_of_the_nodes_clock,
    ],
    a_node_that_begins_counters_at_what_is_proposed: BeginsCountersAtWhatIsProposed breaks at_least [
        no_counter_begins_far_behind_the_nodes_clock,
    ],
    a_node_that_counts_nothing: CountsNothing breaks at_least [
        a_fenced_grant_raises_the_counter_and_says_where_it_stands,
        a_hand_over_raises_the_counter_by_one_at_least,
        never_do_two_have_the_same_fence,
    ],
    a_node_that_says_the_fence_before: SaysTheFenceBefore breaks at_least [
        a_fenced_grant_raises_the_counter_and_says_where_it_stands,
    ],
    a_node_that_counts_for_the_holder_again: CountsForTheHolderAgain breaks at_least [
        who_has_the_lease_is_told_the_same_fence_again,
    ],
    a_node_whose_enter_counts_for_the_holder_again: EnterCountsForTheHolderAgain breaks at_least [
        who_has_the_lease_is_told_the_same_fence_again,
        a_hand_over_counts_by_the_proposal_of_who_is_granted,
    ],
    a_node_whose_refusals_count: RefusalsCount breaks only [
        who_does_not_get_the_lease_leaves_the_counter,
    ],
    a_node_where_queueing_counts: QueueingCounts breaks at_least [
        who_does_not_get_the_lease_leaves_the_counter,
    ],
    a_node_whose_unfenced_grants_count: UnfencedGrantsCount breaks only [
        who_asks_for_no_fence_is_told_none_and_leaves_the_counter,
    ],
    a_node_that_tells_everyone_the_fence: TellsEveryoneTheFence breaks at_least [
        who_asks_for_no_fence_is_told_none_and_leaves_the_counter,
    ],
    a_node_whose_extend_does_not_raise: ExtendDoesNotRaise breaks at_least [
        an_extend_raises_the_counter_and_never_lowers_it,
        a_retake_raises_the_counter_and_never_lowers_it,
    ],
    a_node_whose_extend_lowers: ExtendLowers breaks only [
        an_extend_raises_the_counter_and_never_lowers_it,
    ],
    a_node_whose_extend_is_limited_by_the_clock: ExtendIsLimitedByTheClock breaks at_least [
        an_extend_raises_the_counter_and_never_lowers_it,
    ],
    a_node_whose_extend_raises_for_others: ExtendRaisesForOthers breaks only [
        an_extend_leaves_the_counter_to_who_has_the_lease,
    ],
    a_node_whose_extend_raises_for_nobody: ExtendRaisesForNobody breaks only [
        an_extend_that_takes_nothing_leaves_the_counter,
    ],
    a_node_whose_retake_does_not_raise: RetakeDoesNotRaise breaks only [
        a_retake_raises_the_counter_and_never_lowers_it,
        each_use_of_a_counter_starts_its_retention_anew,
    ],
    a_node_that_counts_no_waiters: CountsNoWaiters breaks at_least [
        a_hand_over_counts_by_the_proposal_of_who_is_granted,
        a_yield_counts_by_the_proposal_of_who_is_granted,
        entering_a_free_name_counts_by_the_proposal_of_who_is_granted,
    ],
    a_node_that_hands_over_by_the_latest_proposal: HandsOverByTheLatestProposal breaks at_least [
        a_hand_over_counts_by_the_proposal_of_who_is_granted,
    ],
    a_node_where_one_yields_by_ones_own_proposal: YieldsByTheProposalOfWhoYields breaks only [
        a_yield_counts_by_the_proposal_of_who_is_granted,
    ],
    a_node_that_grants_free_names_by_the_proposal_of_who_asks: EntersByTheProposalOfWhoAsks breaks only [
        entering_a_free_name_counts_by_the_proposal_of_who_is_granted,
    ],
    a_node_that_keeps_the_first_proposal: KeepsTheFirstProposal breaks only [
        no_counter_begins_far_behind_the_nodes_clock,
        a_place_is_granted_by_the_proposal_that_was_made_last,
        those_who_are_skipped_leave_the_counter,
    ],
    a_node_whose_barging_counts: BargingCounts breaks only [
        barging_leaves_the_counter,
    ],
    a_node_where_the_skipped_count: TheSkippedCount breaks only [
        those_who_are_skipped_leave_the_counter,
    ],
    a_node_that_tells_no_fences: TellsNoFences breaks at_least [
        a_hand_over_counts_by_the_proposal_of_who_is_granted,
        a_yield_counts_by_the_proposal_of_who_is_granted,
        entering_a_free_name_counts_by_the_proposal_of_who_is_granted,
    ],
    a_node_that_tells_the_fence_before: TellsTheFenceBefore breaks at_least [
        a_hand_over_counts_by_the_proposal_of_who_is_granted,
    ],
    a_node_whose_release_forgets_the_counter: ReleaseForgetsTheCounter breaks at_least [
        a_fenced_grant_raises_the_counter_and_says_where_it_stands,
        the_counter_outlives_a_release,
    ],
    a_node_whose_hand_over_forgets_the_counter: HandOverForgetsTheCounter breaks at_least [
        a_hand_over_raises_the_counter_by_one_at_least,
        the_counter_outlives_hand_overs,
    ],
    a_node_whose_counters_end_with_leases: CountersEndWithLeases breaks only [
        the_counter_outlives_the_leases_expiry,
    ],
    a_node_that_never_forgets_counters: NeverForgetsCounters breaks only [
        a_counter_is_kept_for_its_retention_and_then_forgotten,
        the_retention_that_was_asked_for_last_counts,
    ],
    a_node_that_forgets_counters_early: ForgetsCountersEarly breaks at_least [
        a_counter_is_kept_for_its_retention_and_then_forgotten,
    ],
    a_node_where_uses_do_not_renew_counters: UsesDoNotRenewCounters breaks at_least [
        each_use_of_a_counter_starts_its_retention_anew,
    ],
    a_node_that_keeps_counters_for_the_longest_retention: KeepsCountersForTheLongestRetention breaks only [
        the_retention_that_was_asked_for_last_counts,
    ],
    a_node_that_keeps_fences_in_14_digits: KeepsFencesIn14Digits breaks at_least [
        fences_up_to_the_highest_are_exact,
    ],
    a_node_that_grants_the_last_fence_again: GrantsTheLastFenceAgain breaks at_least [
        a_counter_at_its_end_lets_no_fenced_lease_be_acquired,
    ],
    a_node_that_grants_what_it_cannot_count: GrantsWhatItCannotCount breaks only [
        a_counter_at_its_end_lets_no_fenced_lease_be_acquired,
    ],
    a_node_that_starts_anew_at_its_end: StartsAnewAtItsEnd breaks at_least [
        a_counter_at_its_end_lets_no_fenced_lease_be_acquired,
    ],
    a_node_that_hands_the_last_fence_on: HandsTheLastFenceOn breaks only [
        a_counter_at_its_end_lets_the_queue_go_on_without_fences,
    ],
    a_node_that_counts_namesakes_together: CountsNamesakesTogether breaks only [
        names_that_look_alike_have_different_counters,
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
#[should_panic(expected = "wrong:OneQueuePerToken breaks 1 of 149 clauses of the node contract:

  one_token_waits_in_each_line_on_its_own
    expected  inspect of ")]
fn a_report_that_is_asserted_panics_with_what_was_broken() {
    REPORTS[&Defect::OneQueuePerToken].assert_ok();
}

#[test]
fn a_report_of_a_good_node_is_one_line() {
    let text = REPORTS[&Defect::RoundsExpiriesUpToSeconds].to_string();
    assert_eq!(text, "wrong:RoundsExpiriesUpToSeconds keeps all 149 clauses of the node contract");
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
