//! The queue that a node keeps for one name: who waits, and who is next.

use alloc::collections::{BTreeMap, BTreeSet};

use super::{Expiry, Instant, Proposal, Round, Ticket, Token};

/// Who waits for one name on one node, in the order of their tickets. `C` says how a waiter is told of its grant.
#[derive(Clone, Debug)]
pub struct NodeQueue<C> {
    order: BTreeSet<(Ticket, Token)>,
    places: BTreeMap<Token, QueuedWaiter<C>>,
}

/// What a node knows of one who waits.
#[derive(Clone, Debug)]
pub struct QueuedWaiter<C> {
    /// Its place in the order.
    pub ticket: Ticket,
    /// The request that set or renewed its place last.
    pub round: Round,
    /// How long a lease that is granted to it lasts.
    pub expiry: Expiry,
    /// The fence it asks for, if it does.
    pub fence: Option<Proposal>,
    /// When it is taken for dead, unless it renews its place.
    pub deadline: Instant,
    /// How the node tells it of a grant.
    pub contact: C,
}

impl<C> Default for NodeQueue<C> {
    fn default() -> Self {
        Self::new()
    }
}

impl<C> NodeQueue<C> {
    /// A queue in which no token waits.
    pub const fn new() -> Self {
        Self { order: BTreeSet::new(), places: BTreeMap::new() }
    }

    /// Gives `token` a place, or renews it.
    pub fn enter(&mut self, token: &Token, waiter: QueuedWaiter<C>) {
        self.leave(token);
        self.order.insert((waiter.ticket, token.clone()));
        self.places.insert(token.clone(), waiter);
    }

    /// Takes the place from `token`, and says whether it had one.
    pub fn leave(&mut self, token: &Token) -> bool {
        match self.places.remove(token) {
            Some(waiter) => self.order.remove(&(waiter.ticket, token.clone())),
            None => false,
        }
    }

    /// The next in queue who is alive; those before it are dropped. It leaves the queue.
    ///
    /// SAFETY RULE (protocol §7): whoever let its deadline pass, or cannot be told, is skipped in the same step.
    pub fn next(
        &mut self,
        now: Instant,
        mut can_be_told: impl FnMut(&Token, &QueuedWaiter<C>) -> bool,
    ) -> Option<(Token, QueuedWaiter<C>)> {
        while let Some((_, token)) = self.order.pop_first() {
            if let Some(waiter) = self.places.remove(&token)
                && now < waiter.deadline
                && can_be_told(&token, &waiter)
            {
                return Some((token, waiter));
            }
        }
        None
    }

    /// Who waits, the next first.
    pub fn iter(&self) -> impl Iterator<Item = (&Token, &QueuedWaiter<C>)> {
        self.order.iter().filter_map(|(_, token)| self.places.get_key_value(token))
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// True if no token waits.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The place of `token`, counted from 1, if it has one.
    pub fn position(&self, token: &Token) -> Option<u64> {
        let place = (self.places.get(token)?.ticket, token.clone());
        // From both ends at once: those who come are last, and those who are asked about most are first.
        let mut before = self.order.range(..&place);
        let mut after = self.order.range(&place..);
        let mut steps = 0_u64;
        loop {
            steps += 1;
            if before.next_back().is_none() {
                return Some(steps);
            }
            if after.next().is_none() {
                return Some(self.len() as u64 + 2 - steps);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn token(number: usize) -> Token {
        Token::from_text(format!("token-{number:04}")).unwrap()
    }

    fn waiter(ticket: u64, deadline: u64) -> QueuedWaiter<bool> {
        QueuedWaiter {
            ticket: Ticket::from_micros(ticket),
            round: Round::default(),
            expiry: Expiry::new(Duration::from_secs(1)).unwrap(),
            fence: None,
            deadline: Instant::from_nanos(deadline),
            contact: true,
        }
    }

    #[test]
    fn the_lowest_ticket_is_next_and_of_two_the_lower_token() {
        let mut queue = NodeQueue::new();
        for (number, ticket) in [(0, 30), (2, 10), (1, 10)] {
            queue.enter(&token(number), waiter(ticket, 100));
        }
        let order: Vec<Token> =
            core::iter::from_fn(|| queue.next(Instant::default(), |_, _| true).map(|(token, _)| token))
                .collect();
        assert_eq!(order, [token(1), token(2), token(0)]);
    }

    #[test]
    fn the_dead_are_skipped_and_dropped() {
        let mut queue = NodeQueue::new();
        queue.enter(&token(0), waiter(1, 5));
        queue.enter(&token(1), QueuedWaiter { contact: false, ..waiter(2, 100) });
        queue.enter(&token(2), waiter(3, 100));
        let next = queue.next(Instant::from_nanos(5), |_, waiter| waiter.contact);
        assert_eq!(next.unwrap().0, token(2));
        assert!(queue.is_empty());
    }

    #[test]
    fn entering_again_moves_the_place() {
        let mut queue = NodeQueue::new();
        queue.enter(&token(0), waiter(1, 100));
        queue.enter(&token(1), waiter(2, 100));
        queue.enter(&token(0), waiter(3, 100));
        assert_eq!((queue.position(&token(1)), queue.position(&token(0))), (Some(1), Some(2)));
        assert!(queue.leave(&token(1)) && !queue.leave(&token(1)));
        assert_eq!((queue.position(&token(1)), queue.position(&token(0)), queue.len()), (None, Some(1), 1));
    }

    proptest! {
        #[test]
        fn positions_count_those_before(tickets in prop::collection::vec(0_u64..20, 1..30)) {
            let mut queue = NodeQueue::new();
            for (number, ticket) in tickets.iter().enumerate() {
                queue.enter(&token(number), waiter(*ticket, 100));
            }
            let order: Vec<Token> = queue.iter().map(|(token, _)| token.clone()).collect();
            for (index, token) in order.iter().enumerate() {
                prop_assert_eq!(queue.position(token), Some(index as u64 + 1));
            }
        }
    }
}
