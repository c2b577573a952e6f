//! Thousands of waiters that died: no call to the server is long for that, nobody who lives is passed over, and nothing stalls.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use redsync::{
    Claim, ClientId, Expiry, Grant, Holder, Listener, LockName, Node, Place, Placed, RedisNode, Redsync,
    Released, Round, SqliteNode, Succession, Ticket, Token,
};
use redsync_testkit::{RedisServer, wait_until};
use support::{DEADLINE, over};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const LINE: &str = "{name}:redsync:line";
const DEAD: usize = 30_000;
/// The most that one call drops; a few more, since they are looked at in groups.
const MOST_DROPPED: usize = 256 + 32;

/// Has `DEAD` waiters come before all others whose connections are gone; every other let its deadline pass as well.
fn fill(server: &RedisServer) {
    for first in (0..DEAD).step_by(1_000) {
        let members = (first..first + 1_000).flat_map(|number| {
            let (token, ticket) = (format!("{number:040x}@dead:1"), (number + 1).to_string());
            let deadline = if number % 2 == 0 { "1" } else { "9000000000000000" };
            let place = format!("{token}\0{deadline}:1:60000:0:60000:Predsync:grants:{:032x}", number % 7);
            [ticket.clone(), token, ticket, place]
        });
        let words: Vec<String> = ["ZADD", LINE].map(String::from).into_iter().chain(members).collect();
        server.command(&words.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

fn in_line(redsync: &Redsync, server: &RedisServer, waiting: usize) -> JoinHandle<redsync::Guard> {
    let mutex = redsync.mutex("name");
    let waiter = tokio::spawn(async move { mutex.lock().await.unwrap() });
    wait_until("it is in line", DEADLINE, || server.waiting("name") == waiting);
    waiter
}

fn calls(server: &RedisServer) -> u64 {
    server.command_counts(["eval", "evalsha"]).iter().sum()
}

/// The longest that a command took.
fn longest(server: &RedisServer) -> Duration {
    let log = server.command(&["SLOWLOG", "GET", "-1"]);
    let micros = log.array().iter().map(|entry| entry.array()[2].int()).max().unwrap_or_default();
    Duration::from_micros(micros.unsigned_abs())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_passes_over_thousands_of_dead_waiters_in_short_calls() {
    for barging in [false, true] {
        let server = RedisServer::builder().config("slowlog-log-slower-than", "1000").start();
        let (first, second, third) = (over([server.url()]), over([server.url()]), over([server.url()]));
        let holder = first.mutex("name").barging(barging).lock().await.unwrap();
        let waiters = [in_line(&second, &server, 1), in_line(&third, &server, 2)];
        fill(&server);
        server.command(&["SLOWLOG", "RESET"]);
        let (before, began) = (calls(&server), Instant::now());

        // On a busy machine all calls together may take longer than a request may; the rest is done in the background.
        let _ = holder.unlock().await;
        let [next, last] = waiters;
        let guard = timeout(DEADLINE, next).await.expect("it has its turn").unwrap();

        let (took, sent) = (began.elapsed(), calls(&server) - before);
        println!("barging: {barging}: {sent} calls, {took:?}; the longest {:?}", longest(&server));
        assert!(!last.is_finished() && guard.is_valid());
        assert!(sent as usize >= DEAD / MOST_DROPPED, "{sent} calls");
        assert!(took < Duration::from_secs(5), "it took {took:?}");
        assert_eq!(server.waiting("name"), 1, "the dead are gone");
        guard.unlock().await.unwrap();
        timeout(DEADLINE, last).await.expect("it has its turn").unwrap().unlock().await.unwrap();
        support::wait_until_empty(std::slice::from_ref(&server), DEADLINE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_enters_a_free_lock_behind_thousands_of_dead_waiters_has_it_at_once() {
    let server = RedisServer::start();
    fill(&server);
    let node = RedisNode::open(&server.url()).unwrap();
    let expiry = Expiry::new(Duration::from_secs(60)).unwrap();
    let claim =
        |token: &str| Claim::new(LockName::new("name").unwrap(), Token::from_text(token).unwrap(), expiry);
    let place =
        |token: &str, ticket: u64| Place::new(claim(token), Ticket::from_micros(ticket), Round::new(1));
    let (client, late) = (ClientId::random(), 1_000_000);

    let entered = node.enter(&client, &[place("first", late)]).await.unwrap();

    assert!(matches!(entered.places[..], [Placed::Granted(None)]), "{entered:?}");
    assert_eq!(entered.holder.token(), "first");
    assert!(calls(&server) as usize >= DEAD / MOST_DROPPED);
    // One who yields what it has is as good as one who comes.
    fill(&server);
    let entered = node.yield_lease(&client, &place("first", late)).await.unwrap();
    assert!(matches!(entered.places[..], [Placed::Granted(None)]), "{entered:?}");
    // And one who leaves the line of a free lock says so.
    fill(&server);
    node.enter(&client, &[place("second", late)]).await.unwrap();
    server.command(&["DEL", "name"]);
    let (name, token) = (LockName::new("name").unwrap(), Token::from_text("second").unwrap());
    let left = node.release(&name, &token, Succession::HandOver).await.unwrap();
    assert_eq!(left, Released::Left);
    assert_eq!(server.keys(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_given_up_among_thousands_of_dead_waiters_keeps_nobody_waiting() {
    let server = RedisServer::start();
    let (first, second) = (over([server.url()]), over([server.url()]));
    let holder = first.mutex("name").lock().await.unwrap();
    let waiter = in_line(&second, &server, 1);
    fill(&server);
    let before = calls(&server);
    {
        let mut unlocking = std::pin::pin!(holder.unlock());
        let until_midway = async {
            while calls(&server) < before + 3 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            unlocked = &mut unlocking => panic!("it was over too soon: {unlocked:?}"),
            () = until_midway => {}
        }
    }

    let guard = timeout(DEADLINE, waiter).await.expect("it has its turn").unwrap();
    guard.unlock().await.unwrap();
}

/// Hears nothing, and is soon gone.
#[derive(Debug)]
struct Deaf;

impl Listener for Deaf {
    fn granted(&self, _: Grant) {}
    fn freed(&self, _: LockName) {}
    fn interrupted(&self) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_passes_over_more_dead_waiters_than_it_drops_at_once() {
    const DEAD: u64 = 1_000;
    let directory = tempfile::TempDir::new().unwrap();
    let node = SqliteNode::new(directory.path().join("locks.db"));
    let (name, token) = (LockName::new("name").unwrap(), |text: &str| Token::from_text(text).unwrap());
    let place = |text: &str, ticket, expiry| {
        let expiry = Expiry::new(expiry).unwrap();
        let claim = Claim::new(LockName::new("name").unwrap(), Token::from_text(text).unwrap(), expiry);
        Place::new(claim, Ticket::from_micros(ticket), Round::new(1))
    };
    let (short, long) = (Duration::from_millis(1), Duration::from_secs(60));
    let clients = [ClientId::random(), ClientId::random()];
    let listeners: [Arc<dyn Listener>; 2] = [Arc::new(Deaf), Arc::new(Deaf)];
    clients
        .iter()
        .zip(&listeners)
        .for_each(|(client, listener)| node.listen(client, Arc::downgrade(listener)));
    node.acquire(&place("holder", 0, long).claim).await.unwrap();
    let places: Vec<Place> =
        (0..DEAD).map(|number| place(&format!("dead-{number}"), number, short)).collect();
    node.enter(&clients[0], &places).await.unwrap();
    node.enter(&clients[1], &[place("first", DEAD, long), place("second", DEAD + 1, long)]).await.unwrap();
    // Nothing tells that the time of their places is over.
    tokio::time::sleep(Duration::from_millis(20)).await;

    let mut waiting = DEAD + 2;
    for (holder, next) in [("holder", "first"), ("first", "second")] {
        node.release(&name, &token(holder), Succession::HandOver).await.unwrap();
        let look = node.inspect(&name).await.unwrap();
        assert_eq!(look.holder.as_ref().map(Holder::token), Some(next));
        assert!((waiting - 300..waiting - 200).contains(&look.waiting), "{} of {waiting}", look.waiting);
        waiting = look.waiting;
    }
    drop(listeners);
}
