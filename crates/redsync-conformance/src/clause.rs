//! A clause, and the list of all.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use redsync::Node;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::claims::{
    acquire, concurrency, counter, extend, fencing, identity, inspect, list, naming, order, queue, release,
    succession, telling,
};
use crate::report::Failure;
use crate::trial::{Breach, Trial, Verdict};

/// One claim of the contract, and how to find out whether a node keeps it.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Clause {
    /// The claim, as a sentence in snake case.
    pub name: &'static str,
    claim: Claim,
}

type Claim = for<'a> fn(&'a Trial) -> Pin<Box<dyn Future<Output = Verdict> + Send + 'a>>;

impl Clause {
    /// Holds `node` against this clause alone, such as in a test of its own.
    ///
    /// # Errors
    ///
    /// [`Failure`] when the node breaks it, answers with a fault, does not answer, or panics.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with its time enabled.
    pub async fn check(&self, node: Arc<dyn Node>) -> Result<(), Failure> {
        let mut tries_left = TRIES;
        loop {
            tries_left -= 1;
            let trial = Trial::new(Arc::clone(&node));
            let verdict = self.try_once(&trial).await;
            trial.clean_up().await;
            // Where a connection broke, those in the queue on it may have been taken for gone, which is no breach.
            if tries_left == 0 || verdict.is_ok() || !trial.was_interrupted() {
                return verdict.map_err(|breach| Failure {
                    clause: self.name,
                    expected: breach.expected,
                    came: breach.came,
                });
            }
        }
    }

    async fn try_once(&self, trial: &Trial) -> Verdict {
        // A task of its own, so that a node that panics fails the clause and not the suite.
        let mut task = JoinSet::new();
        task.spawn({
            let (claim, trial) = (self.claim, trial.clone());
            async move { claim(&trial).await }
        });
        let verdict = match timeout(CLAUSE_DEADLINE, task.join_next()).await {
            Ok(Some(Ok(verdict))) => verdict,
            Ok(Some(Err(error))) => Err(Breach::new("an answer", panic_message(error))),
            Ok(None) | Err(_) => Err(Breach::new("an end", format!("none within {CLAUSE_DEADLINE:?}"))),
        };
        task.shutdown().await;
        verdict
    }
}

/// The name alone.
impl fmt::Debug for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clause({})", self.name)
    }
}

/// Every clause of the contract.
pub fn clauses() -> Vec<Clause> {
    macro_rules! clauses {
        ($($part:ident::$claim:ident,)*) => {
            vec![$(Clause { name: stringify!($claim), claim: |trial| Box::pin($part::$claim(trial)) },)*]
        };
    }
    clauses![
        acquire::a_free_name_is_granted,
        acquire::a_taken_name_is_refused_and_says_who_holds,
        acquire::a_refused_acquire_leaves_the_holder_and_its_time,
        acquire::the_same_token_is_granted_again,
        acquire::the_same_token_again_starts_its_expiry_anew,
        acquire::the_same_token_again_does_not_shorten_its_lease,
        acquire::a_lease_ends_at_its_expiry_and_not_before,
        acquire::an_expired_lease_is_free_for_another,
        acquire::the_shortest_expiry_is_granted_and_soon_over,
        acquire::the_longest_expiry_is_granted_or_refused_without_a_lease,
        extend::extend_by_the_owner_lets_the_lease_last_longer,
        extend::extend_by_the_owner_lets_the_lease_end_sooner,
        extend::extend_by_another_changes_nothing_and_says_who_holds,
        extend::extend_of_a_free_name_leaves_it_free,
        extend::extend_after_expiry_says_not_held,
        extend::retake_of_a_free_name_grants_it,
        extend::retake_after_expiry_grants_the_name_again,
        extend::a_retaken_lease_ends_at_its_expiry_and_not_before,
        extend::retake_by_the_owner_extends,
        extend::retake_never_takes_anothers_lease,
        release::release_by_the_owner_frees_the_name,
        release::release_by_another_leaves_the_lease_and_says_who_holds,
        release::release_of_a_free_name_says_not_held,
        release::a_second_release_says_not_held,
        release::release_after_expiry_says_not_held,
        release::release_after_expiry_leaves_the_next_holder,
        inspect::inspect_of_a_free_name_says_nobody,
        inspect::inspect_says_who_holds_and_for_how_long,
        inspect::inspect_changes_nothing,
        list::what_is_held_is_listed_with_its_holder_and_its_time,
        list::what_is_free_again_is_not_listed,
        list::only_names_that_match_are_listed,
        list::what_is_listed_says_how_many_wait_and_where_the_counter_stands,
        list::as_many_as_there_are_are_listed,
        list::listing_changes_nothing,
        identity::identity_is_not_empty_and_never_changes,
        identity::display_is_one_line_and_not_empty,
        identity::uptime_only_grows_while_a_lease_stands,
        identity::health_warnings_are_one_line_each,
        queue::a_place_in_a_held_locks_line_is_queued_and_says_who_holds,
        queue::positions_count_from_one_in_the_order_of_tickets,
        queue::equal_tickets_are_in_the_order_of_tokens,
        queue::tickets_up_to_the_highest_are_told_apart,
        queue::entering_twice_keeps_one_place,
        queue::entering_again_at_another_ticket_moves_the_place,
        queue::several_places_in_one_request_are_answered_in_order,
        queue::several_places_of_a_free_name_grant_it_to_the_first_alone,
        queue::entering_a_free_name_alone_grants_it,
        queue::entering_a_free_name_grants_it_to_the_first_in_queue,
        queue::entering_a_free_name_at_the_lowest_ticket_is_granted_before_the_queue,
        queue::entering_after_the_holders_expiry_grants_the_name,
        queue::entering_by_the_holder_starts_its_expiry_anew,
        queue::the_queue_is_shown_in_order_with_its_owners,
        queue::a_long_line_is_shown_from_its_beginning_and_counted_in_full,
        queue::inspect_of_a_line_changes_nothing,
        queue::strangers_are_refused_where_there_is_a_line_and_leave_it,
        queue::those_in_queue_are_refused_like_strangers,
        queue::the_holder_extends_where_there_is_a_line,
        queue::one_token_waits_in_each_line_on_its_own,
        queue::the_nodes_clock_counts_microseconds_and_never_goes_back,
        succession::release_hands_over_to_the_lowest_ticket_for_its_own_expiry,
        succession::a_lease_that_was_handed_over_ends_at_its_expiry,
        succession::release_by_one_in_queue_says_left_and_leaves_the_holder,
        succession::release_by_one_who_was_handed_the_lease_passes_it_on,
        succession::release_by_the_last_in_queue_frees_the_name,
        succession::release_takes_the_holders_own_place_in_queue_with_it,
        succession::letting_go_takes_the_holders_own_place_in_queue_with_it,
        succession::release_of_a_free_name_hands_it_to_the_first_in_queue,
        succession::leaving_the_queue_of_a_free_name_hands_it_to_the_first,
        succession::release_after_expiry_hands_the_name_to_the_first_in_queue,
        succession::who_did_not_renew_its_place_in_time_is_skipped,
        succession::a_queue_of_those_who_did_not_renew_in_time_frees_the_name,
        succession::who_renewed_its_place_is_not_skipped,
        succession::yield_hands_over_to_the_lowest_ticket,
        succession::yield_at_the_lowest_ticket_is_granted_anew,
        succession::yield_by_one_who_does_not_hold_only_queues,
        succession::yield_of_a_free_name_grants_it_to_the_first_in_queue,
        succession::barging_frees_the_name_and_keeps_the_queue,
        succession::barging_lets_anybody_take_the_name,
        succession::barging_lets_the_first_in_queue_take_the_name,
        succession::nothing_is_left_when_all_have_gone,
        succession::the_longest_expiry_is_queued_or_refused_without_a_place,
        succession::the_shortest_expiry_is_queued_and_soon_over,
        telling::a_hand_over_is_told_once_with_its_name_token_and_round,
        telling::a_hand_over_is_told_with_the_round_of_the_last_enter,
        telling::rounds_up_to_the_highest_are_told,
        telling::who_is_granted_by_its_own_request_is_answered_and_not_told,
        telling::the_first_in_queue_is_told_when_another_enters_a_free_name,
        telling::the_next_is_told_when_the_holder_yields,
        telling::another_clients_listener_is_not_told,
        telling::who_renewed_with_another_client_is_told_there,
        telling::who_has_left_is_told_nothing,
        telling::barging_tells_the_first_in_queue_that_the_name_is_free,
        telling::barging_tells_nobody_who_did_not_renew_in_time,
        telling::a_node_that_cannot_tell_says_so_each_time,
        telling::everybody_in_queue_comes_to_its_turn,
        fencing::a_fenced_grant_raises_the_counter_and_says_where_it_stands,
        fencing::a_fenced_grant_raises_the_counter_to_what_is_proposed,
        fencing::no_proposal_takes_the_counter_far_ahead_of_the_nodes_clock,
        fencing::no_counter_begins_far_behind_the_nodes_clock,
        fencing::who_has_the_lease_is_told_the_same_fence_again,
        fencing::who_does_not_get_the_lease_leaves_the_counter,
        fencing::who_asks_for_no_fence_is_told_none_and_leaves_the_counter,
        fencing::an_extend_raises_the_counter_and_never_lowers_it,
        fencing::an_extend_leaves_the_counter_to_who_has_the_lease,
        fencing::an_extend_that_takes_nothing_leaves_the_counter,
        fencing::a_retake_raises_the_counter_and_never_lowers_it,
        fencing::a_hand_over_counts_by_the_proposal_of_who_is_granted,
        fencing::a_hand_over_raises_the_counter_by_one_at_least,
        fencing::a_yield_counts_by_the_proposal_of_who_is_granted,
        fencing::entering_a_free_name_counts_by_the_proposal_of_who_is_granted,
        fencing::a_place_is_granted_by_the_proposal_that_was_made_last,
        fencing::barging_leaves_the_counter,
        fencing::those_who_are_skipped_leave_the_counter,
        counter::the_counter_outlives_a_release,
        counter::the_counter_outlives_the_leases_expiry,
        counter::the_counter_outlives_hand_overs,
        counter::a_counter_is_kept_for_its_retention_and_then_forgotten,
        counter::each_use_of_a_counter_starts_its_retention_anew,
        counter::the_retention_that_was_asked_for_last_counts,
        counter::fences_up_to_the_highest_are_exact,
        counter::a_counter_at_its_end_lets_no_fenced_lease_be_acquired,
        counter::a_counter_at_its_end_lets_the_queue_go_on_without_fences,
        naming::names_of_any_characters_and_lengths_work,
        naming::tokens_of_any_characters_and_lengths_work,
        naming::names_that_look_alike_are_different_locks,
        naming::tokens_that_look_alike_are_different_owners,
        naming::where_a_name_ends_and_a_token_begins_is_clear,
        naming::one_token_holds_each_name_on_its_own,
        naming::lines_for_names_of_any_characters_and_lengths_work,
        naming::waiters_with_tokens_of_any_characters_and_lengths_work,
        naming::names_that_look_alike_have_different_lines,
        naming::tokens_that_look_alike_have_different_places,
        naming::where_a_token_ends_and_a_name_begins_is_clear_in_a_grant,
        naming::counters_for_names_of_any_characters_and_lengths_work,
        naming::names_that_look_alike_have_different_counters,
        concurrency::of_many_at_once_exactly_one_is_granted,
        concurrency::of_many_at_once_exactly_one_retakes,
        concurrency::never_do_two_hold_at_once,
        concurrency::of_many_who_enter_at_once_one_is_granted_and_the_others_wait,
        concurrency::no_stranger_comes_between_those_in_queue,
        concurrency::never_do_two_have_the_same_fence,
        order::a_dropped_answer_leaves_the_node_usable,
        order::a_dropped_acquire_comes_before_a_later_release_or_never,
        order::a_dropped_release_comes_before_a_later_acquire_or_never,
        order::a_dropped_extend_comes_before_a_later_acquire_or_never,
        order::a_dropped_enter_comes_before_a_later_release_or_never,
        order::a_dropped_yield_comes_before_a_later_release_or_never,
        order::a_dropped_release_comes_before_a_later_enter_or_never,
    ]
}

fn panic_message(error: tokio::task::JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else {
        return "the runtime ended".into();
    };
    let text: &(dyn Any + Send) = &*panic;
    let said =
        text.downcast_ref::<String>().map(String::as_str).or_else(|| text.downcast_ref::<&str>().copied());
    format!("a panic: {}", said.unwrap_or("without a text"))
}

/// How long one clause may take in all. Less than the leases that a clause takes for lasting.
const CLAUSE_DEADLINE: Duration = Duration::from_secs(40);

/// How often a clause is tried as long as the node says that something may not have been told.
const TRIES: usize = 3;
