use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use proptest::prelude::*;
use redsync_testkit::wait_until;
use tempfile::TempDir;

use super::SqliteNode;
use crate::node::{
    Acquired, Claim, ClientId, Entered, Grant, Listener, Look, Node, Place, Placed, Released, Succession,
};
use crate::protocol::{Expiry, Fence, LockName, Proposal, Round, Ticket, Token};

#[derive(Debug, Default)]
struct Told {
    grants: Mutex<Vec<Grant>>,
    freed: AtomicUsize,
}

impl Listener for Told {
    fn granted(&self, grant: Grant) {
        self.grants.lock().unwrap().push(grant);
    }

    fn freed(&self, _: LockName) {
        self.freed.fetch_add(1, Ordering::Relaxed);
    }

    fn interrupted(&self) {}
}

impl Told {
    fn grants(&self) -> Vec<(Token, Round)> {
        self.grants.lock().unwrap().iter().map(|grant| (grant.token.clone(), grant.round)).collect()
    }
}

/// A node as one process has it, and who listens there.
struct Party {
    node: SqliteNode,
    client: ClientId,
    told: Arc<Told>,
}

impl Party {
    fn of(directory: &TempDir) -> Self {
        let node = SqliteNode::new(directory.path().join("locks.db"));
        let (client, told) = (ClientId::random(), Arc::new(Told::default()));
        let listener: Weak<dyn Listener> = Arc::<Told>::downgrade(&told);
        node.listen(&client, listener);
        Self { node, client, told }
    }

    async fn enter(&self, places: &[Place]) -> Entered {
        self.node.enter(&self.client, places).await.unwrap()
    }

    async fn release(&self, number: u64, succession: Succession) -> Released {
        self.node.release(&name(), &token(number), succession).await.unwrap()
    }

    async fn look(&self) -> Look {
        self.node.inspect(&name()).await.unwrap()
    }
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn name() -> LockName {
    LockName::new("name").unwrap()
}

fn token(number: u64) -> Token {
    Token::from_text(format!("token-{number:05}")).unwrap()
}

fn place(number: u64, ticket: u64, round: u32) -> Place {
    let claim = Claim::new(name(), token(number), Expiry::new(Duration::from_secs(60)).unwrap());
    Place::new(claim, Ticket::from_micros(ticket), Round::new(round))
}

/// The same place for one who asks for a fence.
fn fenced(mut place: Place) -> Place {
    place.claim = place.claim.fenced(Proposal::new(Fence::MIN, Duration::from_secs(3_600)));
    place
}

/// The file as others see it.
fn file(directory: &TempDir) -> rusqlite::Connection {
    rusqlite::Connection::open(directory.path().join("locks.db")).unwrap()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

const DEADLINE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn the_first_to_enter_is_granted_and_the_others_are_told_once_in_order() {
    let directory = directory();
    let (ours, theirs) = (Party::of(&directory), Party::of(&directory));

    let first = ours.enter(&[place(1, 10, 1)]).await;
    let others = theirs.enter(&[place(3, 30, 7), place(2, 20, 8)]).await;
    assert_eq!(first.places, [Placed::Granted(None)]);
    assert_eq!(others.places, [Placed::Queued(2), Placed::Queued(1)]);
    assert_eq!(others.holder.token(), token(1).as_str());

    assert_eq!(ours.release(1, Succession::HandOver).await, Released::Released);
    wait_until("the second is told", DEADLINE, || theirs.told.grants().len() == 1);
    // Asking again is no grant that would have to be told of.
    assert_eq!(theirs.enter(&[place(2, 20, 9)]).await.places, [Placed::Granted(None)]);
    assert_eq!(theirs.release(2, Succession::HandOver).await, Released::Released);
    wait_until("the third is told", DEADLINE, || theirs.told.grants().len() == 2);

    assert_eq!(theirs.told.grants(), [(token(2), Round::new(8)), (token(3), Round::new(7))]);
    assert_eq!(ours.told.grants(), []);
}

#[tokio::test]
async fn whoever_yields_goes_back_to_its_ticket() {
    let directory = directory();
    let party = Party::of(&directory);
    party.enter(&[place(5, 50, 1)]).await;

    let alone = party.node.yield_lease(&party.client, &place(5, 50, 2)).await.unwrap();
    assert_eq!(alone.places, [Placed::Granted(None)]);

    party.enter(&[place(6, 60, 1), place(4, 40, 1)]).await;
    let yielded = party.node.yield_lease(&party.client, &place(5, 50, 3)).await.unwrap();
    assert_eq!(yielded.places, [Placed::Queued(1)]);
    assert_eq!(yielded.holder.token(), token(4).as_str());
    wait_until("the first in the queue is told", DEADLINE, || {
        party.told.grants() == [(token(4), Round::new(1))]
    });
}

#[tokio::test]
async fn whoever_has_a_place_only_leaves_the_queue() {
    let directory = directory();
    let party = Party::of(&directory);
    party.enter(&[place(1, 10, 1), place(2, 20, 1), place(3, 30, 1)]).await;

    assert_eq!(party.release(2, Succession::HandOver).await, Released::Left);
    assert!(matches!(party.release(2, Succession::HandOver).await, Released::HeldByAnother(_)));

    let look = party.look().await;
    assert_eq!(look.waiting, 1);
    assert_eq!(look.queue[0].token(), token(3).as_str());
    assert_eq!(look.queue[0].ticket(), Ticket::from_micros(30));
}

#[tokio::test]
async fn a_lock_that_is_let_go_of_is_told_of_once_for_each_time() {
    let directory = directory();
    let (ours, theirs) = (Party::of(&directory), Party::of(&directory));
    for time in 1..=3 {
        ours.enter(&[place(1, 10, 1)]).await;
        theirs.enter(&[place(2, 20, time)]).await;
        assert_eq!(ours.release(1, Succession::Barging).await, Released::Released);
        wait_until("they are told", DEADLINE, || theirs.told.freed.load(Ordering::Relaxed) == time as usize);
        let look = theirs.look().await;
        assert_eq!((look.holder, look.waiting), (None, 1));
        // Whoever asks first has it.
        assert_eq!(theirs.enter(&[place(2, 20, time)]).await.places, [Placed::Granted(None)]);
        theirs.release(2, Succession::HandOver).await;
    }
    assert_eq!(theirs.told.grants(), []);
}

#[tokio::test]
async fn those_whose_listener_is_gone_leave_the_queue() {
    let directory = directory();
    let (ours, theirs) = (Party::of(&directory), Party::of(&directory));
    ours.enter(&[place(1, 10, 1)]).await;
    let Party { node, client, told } = theirs;
    node.enter(&client, &[place(2, 20, 1), place(3, 30, 1)]).await.unwrap();

    drop(told);

    wait_until("they are out of the queue", DEADLINE, || {
        std::thread::scope(|scope| scope.spawn(|| block_on(ours.look()).waiting == 0).join().unwrap())
    });
}

#[tokio::test]
async fn those_who_wait_by_a_node_that_is_dropped_leave_the_queue() {
    let directory = directory();
    let (ours, theirs) = (Party::of(&directory), Party::of(&directory));
    ours.enter(&[place(1, 10, 1)]).await;
    theirs.enter(&[place(2, 20, 1)]).await;

    drop(theirs.node);

    wait_until("they are out of the queue", DEADLINE, || {
        std::thread::scope(|scope| scope.spawn(|| block_on(ours.look()).waiting == 0).join().unwrap())
    });
}

#[tokio::test]
async fn whoever_did_not_renew_its_place_is_skipped() {
    let directory = directory();
    let (ours, theirs) = (Party::of(&directory), Party::of(&directory));
    ours.enter(&[place(1, 10, 1), place(2, 20, 1)]).await;
    theirs.enter(&[place(3, 30, 1)]).await;
    file(&directory)
        .execute("UPDATE redsync_line SET deadline = deadline - expiry WHERE ticket = 20", [])
        .unwrap();

    ours.release(1, Succession::HandOver).await;

    wait_until("the third is told", DEADLINE, || theirs.told.grants() == [(token(3), Round::new(1))]);
    assert_eq!(ours.look().await.waiting, 0);
}

#[tokio::test]
async fn a_file_of_the_former_format_keeps_its_lease_and_its_line_and_counts_from_then_on() {
    let directory = directory();
    let former = Party::of(&directory);
    former.enter(&[place(1, 10, 1), place(2, 20, 1), place(3, 30, 1)]).await;
    // What the former version does not know of.
    file(&directory)
        .execute_batch(
            "BEGIN IMMEDIATE;
             DROP TABLE redsync_fences;
             ALTER TABLE redsync_leases DROP COLUMN fence;
             ALTER TABLE redsync_line DROP COLUMN proposal;
             ALTER TABLE redsync_line DROP COLUMN retention;
             PRAGMA user_version = 2;
             COMMIT;",
        )
        .unwrap();

    let present = Party::of(&directory);
    let look = present.look().await;
    assert_eq!(look.holder.unwrap().token(), token(1).as_str());
    assert_eq!((look.waiting, look.fence), (2, None));
    let format: i64 = file(&directory).pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(format, super::schema::VERSION);

    let entered = present.enter(&[place(2, 20, 2), fenced(place(4, 40, 1))]).await;
    assert_eq!(entered.places, [Placed::Queued(1), Placed::Queued(3)]);
    for number in 1..=3 {
        assert_eq!(present.release(number, Succession::HandOver).await, Released::Released);
    }
    wait_until("the last is told", DEADLINE, || {
        present.told.grants().last() == Some(&(token(4), Round::new(1)))
    });
    let fence = present.told.grants.lock().unwrap().last().unwrap().fence;
    assert!(fence.is_some());
    assert_eq!(present.look().await.fence, fence);
}

#[tokio::test]
async fn a_counter_outlives_the_boot_that_its_leases_end_with() {
    let directory = directory();
    let claim = fenced(place(1, 10, 1)).claim;
    let fence = match Party::of(&directory).node.acquire(&claim).await.unwrap() {
        Acquired::Granted(fence) => fence.unwrap(),
        taken @ Acquired::Taken(_) => panic!("{taken:?}"),
    };
    file(&directory).execute("UPDATE redsync_leases SET boot = 'the former'", []).unwrap();

    let party = Party::of(&directory);
    assert_eq!((party.look().await.holder, party.look().await.fence), (None, Some(fence)));
    let next = party.node.acquire(&fenced(place(2, 20, 1)).claim).await.unwrap();
    assert!(matches!(next, Acquired::Granted(Some(next)) if next > fence), "{next:?} after {fence}");
}

#[tokio::test]
async fn what_is_not_kept_any_longer_is_swept_up_when_the_file_is_opened() {
    let directory = directory();
    Party::of(&directory).node.acquire(&fenced(place(1, 10, 1)).claim).await.unwrap();
    file(&directory).execute("UPDATE redsync_fences SET kept_until = 1", []).unwrap();

    assert_eq!(Party::of(&directory).look().await.fence, None);

    let counters: i64 =
        file(&directory).query_row("SELECT count(*) FROM redsync_fences", [], |row| row.get(0)).unwrap();
    assert_eq!(counters, 0);
}

#[test]
fn only_the_first_are_shown_of_a_long_line() {
    let directory = directory();
    let party = Party::of(&directory);
    let places: Vec<Place> = (0..=150).map(|number| place(number, number, 1)).collect();
    block_on(party.enter(&places));

    let look = block_on(party.look());

    assert_eq!((look.queue.len(), look.waiting), (Look::SHOWN, 150));
    assert_eq!(look.holder.unwrap().token(), token(0).as_str());
    assert_eq!(look.queue[0].token(), token(1).as_str());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// In lines that are longer than what is seen behind the last of those who ask, and in shorter ones.
    #[test]
    fn positions_count_those_before(
        length in 1_u64..700,
        spread in 1_u64..500,
        asking in prop::collection::btree_set(0_u64..700, 1..40),
        leaving in prop::collection::btree_set(0_u64..700, 0..40),
    ) {
        let directory = directory();
        let party = Party::of(&directory);
        let ticket = |number: u64| 1 + number * 7 % spread;
        let asking: Vec<u64> = asking.into_iter().filter(|number| *number < length).collect();
        prop_assume!(!asking.is_empty());
        block_on(async {
            party.enter(&[place(99_999, 0, 1)]).await;
            let places: Vec<Place> = (0..length).map(|number| place(number, ticket(number), 1)).collect();
            party.enter(&places).await;
            for number in &leaving {
                party.release(*number, Succession::HandOver).await;
            }
            let entered = party.enter(&asking.iter().map(|&number| place(number, ticket(number), 2)).collect::<Vec<_>>()).await;

            let present = (0..length).filter(|number| !leaving.contains(number) || asking.contains(number));
            let queue: BTreeSet<(u64, u64)> = present.map(|number| (ticket(number), number)).collect();
            let expected = asking.iter().map(|&number| Placed::Queued(queue.range(..=(ticket(number), number)).count() as u64));
            prop_assert_eq!(entered.places, expected.collect::<Vec<_>>());
            Ok(())
        })?;
    }
}
