//! What a node does: the contract that the model's clients rely on.

use redsync_model::node::{
    Acquired, Claim, ClientId, Extended, ModelNode, Place, Placed, Proposal, Released, Succession, Token,
    Told,
};

const SECOND: u64 = 1_000_000;
const NOW: u64 = 1_000 * SECOND;
const EXPIRY: u64 = 2 * SECOND;
const A: Token = Token(1);
const B: Token = Token(2);
const C: Token = Token(3);

fn claim(token: Token) -> Claim {
    Claim { token, expiry: EXPIRY, fence: None }
}

fn fenced(token: Token, fence: u64) -> Claim {
    Claim { fence: Some(Proposal { fence, retention: 100 * SECOND }), ..claim(token) }
}

fn place(token: Token, ticket: u64) -> Place {
    Place { claim: claim(token), ticket, round: 7 }
}

/// A node on which `A` has the lease, and clients 1 to 3 listen.
fn taken() -> ModelNode {
    let mut node = ModelNode::new();
    (1..4).for_each(|client| node.listen(ClientId(client)));
    node.acquire(NOW, claim(A));
    node
}

#[test]
fn a_lease_is_one_tokens_until_its_end() {
    let mut node = taken();
    assert_eq!(node.acquire(NOW + 1, claim(B)).reply, Acquired::Taken(A));
    assert_eq!(node.acquire(NOW + EXPIRY - 1, claim(B)).reply, Acquired::Taken(A));
    assert_eq!(node.acquire(NOW + EXPIRY, claim(B)).reply, Acquired::Granted(None));
}

#[test]
fn a_release_hands_over_to_the_lowest_ticket_and_tells_it() {
    let mut node = taken();
    assert_eq!(node.enter(NOW, ClientId(2), &[place(B, 20)]).reply, [Placed::Queued(1)]);
    assert_eq!(node.enter(NOW, ClientId(3), &[place(C, 10)]).reply, [Placed::Queued(1)]);
    let step = node.release(NOW + 1, A, Succession::HandOver);
    let told = Told::Granted { client: ClientId(3), token: C, round: 7, fence: None, was_alive: true };
    assert_eq!((step.reply, step.told), (Released::Released, Some(told)));
    assert_eq!(node.inspect(NOW + 1).holder, Some((C, NOW + 1 + EXPIRY)));
}

#[test]
fn who_let_its_place_lapse_or_cannot_be_told_is_skipped() {
    let mut node = taken();
    node.enter(NOW, ClientId(2), &[place(B, 10)]);
    node.extend(NOW + SECOND, claim(A), false);
    node.enter(NOW + SECOND, ClientId(3), &[place(C, 20)]);
    assert!(node.release(NOW + EXPIRY, A, Succession::HandOver).told.is_some_and(|told| tells(told, C)));
    node.enter(NOW + EXPIRY, ClientId(1), &[place(A, 30)]);
    node.stop_listening(ClientId(1));
    let step = node.release(NOW + EXPIRY, C, Succession::HandOver);
    assert_eq!((step.told, node.inspect(NOW + EXPIRY).holder), (None, None));
}

#[test]
fn a_barging_release_lets_go_and_tells_the_first_who_keeps_its_place() {
    let mut node = taken();
    node.enter(NOW, ClientId(2), &[place(B, 20)]);
    let step = node.release(NOW, A, Succession::Barging);
    assert_eq!((step.reply, step.told), (Released::Released, Some(Told::Freed { client: ClientId(2) })));
    let look = node.inspect(NOW);
    assert_eq!((look.holder, look.queue), (None, vec![(B, 20)]));
}

#[test]
fn releasing_leaves_another_s_lease_and_leaves_the_queue() {
    let mut node = taken();
    node.enter(NOW, ClientId(2), &[place(B, 20)]);
    assert_eq!(node.release(NOW, B, Succession::HandOver).reply, Released::Left);
    assert_eq!(node.release(NOW, B, Succession::HandOver).reply, Released::HeldByAnother(A));
    assert_eq!(node.release(NOW + EXPIRY, B, Succession::HandOver).reply, Released::NotHeld);
}

#[test]
fn yielding_gives_the_lease_to_the_first_who_may_be_oneself() {
    let mut node = taken();
    node.enter(NOW, ClientId(2), &[place(B, 20)]);
    let step = node.yield_lease(NOW, ClientId(1), place(A, 30));
    assert_eq!(step.reply, Placed::Queued(1));
    assert!(step.told.is_some_and(|told| tells(told, B)));
    let step = node.yield_lease(NOW, ClientId(2), place(B, 20));
    assert_eq!((step.reply, step.told), (Placed::Granted(None), None));
}

#[test]
fn extending_is_the_holders_and_takes_again_only_what_is_free() {
    let mut node = taken();
    assert_eq!(node.extend(NOW + SECOND, claim(A), false).reply, Extended::Extended(None));
    assert_eq!(node.extend(NOW + SECOND, claim(B), true).reply, Extended::HeldByAnother(A));
    let over = NOW + SECOND + EXPIRY;
    assert_eq!(node.extend(over, claim(A), false).reply, Extended::NotHeld);
    assert_eq!(node.extend(over, claim(A), true).reply, Extended::Retaken);
}

#[test]
fn a_counter_goes_up_with_each_grant_and_follows_what_is_proposed() {
    let mut node = ModelNode::new();
    let fence = |reply: Acquired| match reply {
        Acquired::Granted(fence) => fence.map(|fence| fence.as_u64()),
        Acquired::Taken(_) | Acquired::Uncountable => None,
    };
    assert_eq!(fence(node.acquire(NOW, fenced(A, NOW)).reply), Some(NOW));
    assert_eq!(fence(node.acquire(NOW, fenced(A, NOW + 5)).reply), Some(NOW), "granted before");
    node.release(NOW, A, Succession::HandOver);
    assert_eq!(fence(node.acquire(NOW, fenced(B, NOW)).reply), Some(NOW + 1));
    node.release(NOW, B, Succession::HandOver);
    assert_eq!(fence(node.acquire(NOW, fenced(C, u64::MAX)).reply), Some(NOW + SECOND), "a wrong clock");
}

#[test]
fn the_holder_alone_raises_the_counter() {
    let mut node = taken();
    assert_eq!(node.extend(NOW, fenced(B, NOW), false).reply, Extended::HeldByAnother(A));
    assert_eq!(node.inspect(NOW).fence, None);
    node.extend(NOW, fenced(A, NOW), false);
    assert_eq!(node.inspect(NOW).fence.map(|fence| fence.as_u64()), Some(NOW));
}

#[test]
fn a_restart_forgets_who_listens_and_without_data_everything() {
    let mut node = taken();
    node.enter(NOW, ClientId(2), &[place(B, 20)]);
    node.restart(true);
    assert_eq!(node.release(NOW, A, Succession::HandOver).told, None);
    let mut node = taken();
    node.restart(false);
    assert_eq!(node.inspect(NOW), ModelNode::new().inspect(NOW));
}

fn tells(told: Told, who: Token) -> bool {
    matches!(told, Told::Granted { token, .. } if token == who)
}
