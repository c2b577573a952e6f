//! How a line is kept on a Redis server, seen from the server.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use redsync::{
    Acquired, Claim, ClientId, Expiry, Fence, Grant, InLine, Listener, LockName, Node, Place, Placed,
    Proposal, RedisNode, Released, Round, Succession, Ticket, Token,
};
use redsync_testkit::RedisServer;

const LINE: &str = "{name}:redsync:line";
const COUNTER: &str = "{name}:redsync:fence";

fn claim(token: &str) -> Claim {
    let (name, token) = (LockName::new("name").unwrap(), Token::from_text(token).unwrap());
    Claim::new(name, token, Expiry::new(Duration::from_secs(60)).unwrap())
}

fn fenced(token: &str) -> Claim {
    let mut claim = claim(token);
    let fence = Fence::new(1_700_000_000_000_000).unwrap();
    claim.fence = Some(Proposal::new(fence, Duration::from_secs(60)));
    claim
}

fn node(server: &RedisServer) -> RedisNode {
    RedisNode::open(&server.url()).unwrap()
}

/// Takes a place in line with a client of its own, that nobody tells anything.
async fn enter(node: &RedisNode, claim: Claim, ticket: u64) {
    let place = Place::new(claim, Ticket::from_micros(ticket), Round::new(1));
    let entered = node.enter(&ClientId::random(), &[place]).await.unwrap();
    assert!(matches!(entered.places[..], [Placed::Queued(_)]), "{entered:?}");
}

async fn take(node: &RedisNode, token: &str) {
    let acquired = node.acquire(&claim(token)).await.unwrap();
    assert!(matches!(acquired, Acquired::Granted(None)), "{acquired:?}");
}

async fn release(node: &RedisNode, token: &str) -> Released {
    let claim = claim(token);
    node.release(&claim.name, &claim.token, Succession::HandOver).await.unwrap()
}

#[tokio::test]
async fn whoever_knows_of_no_fences_lets_go_of_a_lock_to_one_who_wants_one_and_hands_over_from_then_on() {
    let server = RedisServer::start();
    let (plain, other) = (node(&server), node(&server));
    take(&plain, "holder").await;
    enter(&other, fenced("waiter"), 1).await;

    assert_eq!(release(&plain, "holder").await, Released::Released);

    assert_eq!(server.get("name"), None, "in one step, whether or not anybody hears of it");
    assert_eq!(server.waiting("name"), 1);
    assert!((1..=60_000).contains(&server.command(&["PTTL", LINE]).int()), "the line still expires");
    let place = Place::new(fenced("waiter"), Ticket::from_micros(1), Round::new(2));
    let entered = other.enter(&ClientId::random(), &[place]).await.unwrap();
    assert!(matches!(entered.places[..], [Placed::Granted(Some(_))]), "{entered:?}");
    let counter = server.get(COUNTER).unwrap();

    enter(&other, fenced("next"), 2).await;
    assert_eq!(release(&plain, "waiter").await, Released::Released);
    assert_eq!(server.get("name").as_deref(), Some("next"), "now it knows");
    assert!(counter < server.get(COUNTER).unwrap());
}

#[tokio::test]
async fn whoever_leaves_a_lock_that_nobody_has_leaves_it_to_one_who_wants_a_fence() {
    let server = RedisServer::start();
    let (plain, other) = (node(&server), node(&server));
    take(&plain, "holder").await;
    enter(&plain, claim("leaving"), 1).await;
    enter(&other, fenced("waiter"), 2).await;
    server.command(&["DEL", "name"]);

    assert_eq!(release(&plain, "leaving").await, Released::Left);

    assert_eq!(server.waiting("name"), 1);
    let look = plain.inspect(&claim("holder").name).await.unwrap();
    assert!(look.holder.is_none() && look.line.iter().map(InLine::token).eq(["waiter"]), "{look:?}");
}

#[tokio::test]
async fn what_others_wrote_into_a_line_keeps_nobody_waiting() {
    let server = RedisServer::start();
    let node = node(&server);
    take(&node, "holder").await;
    enter(&node, claim("first"), 10).await;
    enter(&node, claim("second"), 20).await;
    for (ticket, member) in [("5", "junk"), ("10", "firsu"), ("10", "g"), ("15", "a\0b")] {
        server.command(&["ZADD", LINE, ticket, member]);
    }

    let look = node.inspect(&claim("holder").name).await.unwrap();
    assert!(
        look.line.iter().map(InLine::token).eq(["junk", "first", "firsu", "g", "a\0b", "second"]),
        "{look:?}"
    );
    assert_eq!(release(&node, "holder").await, Released::Released);
    assert_eq!(server.get("name").as_deref(), Some("first"));
    assert_eq!(release(&node, "first").await, Released::Released);
    assert_eq!(server.get("name").as_deref(), Some("second"));
    assert_eq!(release(&node, "second").await, Released::Released);
    assert_eq!(server.keys(), [""; 0]);
}

#[tokio::test]
async fn those_who_came_at_the_same_time_are_served_by_their_tokens() {
    let server = RedisServer::start();
    let node = node(&server);
    take(&node, "holder").await;
    let tokens = ["a", "a\0b", "a ", "aa", "b"];
    for token in tokens.iter().rev() {
        enter(&node, claim(token), 7).await;
        // Its place is renewed, and stays one.
        enter(&node, claim(token), 7).await;
    }
    assert_eq!(server.command(&["ZCARD", LINE]).int(), 2 * 5);

    let mut holder = "holder";
    for token in tokens {
        assert_eq!(release(&node, holder).await, Released::Released);
        assert_eq!(server.get("name").as_deref(), Some(token));
        holder = token;
    }
}

#[tokio::test]
async fn a_place_at_another_ticket_takes_that_of_the_former() {
    let server = RedisServer::start();
    let node = node(&server);
    take(&node, "holder").await;
    enter(&node, claim("first"), 10).await;
    enter(&node, claim("second"), 20).await;
    enter(&node, claim("first"), 30).await;
    assert_eq!(server.command(&["ZCARD", LINE]).int(), 4);

    assert_eq!(release(&node, "holder").await, Released::Released);

    assert_eq!(server.get("name").as_deref(), Some("second"));
    assert_eq!(server.command(&["ZCARD", LINE]).int(), 2);
}

/// Hears what is told of its waiters.
#[derive(Debug, Default)]
struct Hears(Mutex<Vec<Token>>);

impl Listener for Hears {
    fn granted(&self, grant: Grant) {
        self.0.lock().unwrap().push(grant.token);
    }

    fn freed(&self, name: LockName) {
        self.0.lock().unwrap().push(Token::from_text(name.as_str()).unwrap());
    }

    fn interrupted(&self) {}
}

#[tokio::test]
async fn nobody_is_told_of_a_grant_that_the_server_refuses_to_write() {
    for (settings, code) in [
        (["REPLICAOF", "127.0.0.1", "1"].as_slice(), "READONLY"),
        (["CONFIG", "SET", "min-replicas-to-write", "1"].as_slice(), "NOREPLICAS"),
    ] {
        for succession in [Succession::HandOver, Succession::Barging] {
            let server = RedisServer::start();
            let (holding, waiting) = (node(&server), node(&server));
            take(&holding, "holder").await;
            let (client, hears) = (ClientId::random(), Arc::new(Hears::default()));
            let listener: Weak<dyn Listener> = Arc::<Hears>::downgrade(&hears);
            waiting.listen(&client, listener);
            let place = Place::new(claim("waiter"), Ticket::from_micros(1), Round::new(1));
            waiting.enter(&client, &[place]).await.unwrap();
            server.command(settings);

            let claim = claim("holder");
            let released = holding.release(&claim.name, &claim.token, succession).await;

            assert!(released.as_ref().is_err_and(|fault| fault.to_string().contains(code)), "{released:?}");
            assert_eq!(server.get("name").as_deref(), Some("holder"));
            // What was published comes by the connection that answers this.
            let _ = waiting.inspect(&claim.name).await;
            assert!(hears.0.lock().unwrap().is_empty(), "{code}: it is told of what did not happen");
        }
    }
}
