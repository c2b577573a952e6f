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

use crate::claims::{acquire, concurrency, extend, identity, inspect, naming, order, release};
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
        let trial = Trial::new(node);
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
        trial.clean_up().await;
        verdict.map_err(|breach| Failure { clause: self.name, expected: breach.expected, came: breach.came })
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
        identity::identity_is_not_empty_and_never_changes,
        identity::display_is_one_line_and_not_empty,
        identity::uptime_only_grows_while_a_lease_stands,
        identity::concerns_are_one_line_each,
        naming::names_of_any_characters_and_lengths_work,
        naming::tokens_of_any_characters_and_lengths_work,
        naming::names_that_look_alike_are_different_locks,
        naming::tokens_that_look_alike_are_different_owners,
        naming::where_a_name_ends_and_a_token_begins_is_clear,
        naming::one_token_holds_each_name_on_its_own,
        concurrency::of_many_at_once_exactly_one_is_granted,
        concurrency::of_many_at_once_exactly_one_retakes,
        concurrency::never_do_two_hold_at_once,
        order::a_dropped_answer_leaves_the_node_usable,
        order::a_dropped_acquire_comes_before_a_later_release_or_never,
        order::a_dropped_release_comes_before_a_later_acquire_or_never,
        order::a_dropped_extend_comes_before_a_later_acquire_or_never,
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
