//! Nodes of two processes on one store: what the one does to the queue, the other comes to know.

use std::sync::{Arc, Weak};
use std::time::Duration;

use redsync::{
    Claim, ClientId, Expiry, Grant, Holder, Listener, LockName, Node, Place, Placed, RedisNode, Released,
    Round, SqliteNode, Succession, Ticket, Token,
};
use redsync_testkit::RedisServer;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// One process's node, and what it hears.
struct Process {
    node: Box<dyn Node>,
    client: ClientId,
    _listener: Arc<GrantListener>,
    grants: mpsc::UnboundedReceiver<Grant>,
}

#[derive(Debug)]
struct GrantListener(mpsc::UnboundedSender<Grant>);

impl Listener for GrantListener {
    fn granted(&self, grant: Grant) {
        let _ = self.0.send(grant);
    }

    fn freed(&self, _: LockName) {}

    fn interrupted(&self) {}
}

impl Process {
    fn with(node: impl Node) -> Self {
        let (sender, grants) = mpsc::unbounded_channel();
        let (client, grant_listener) = (ClientId::random(), Arc::new(GrantListener(sender)));
        let listener: Weak<dyn Listener> = Arc::<GrantListener>::downgrade(&grant_listener);
        node.listen(&client, listener);
        Self { node: Box::new(node), client, _listener: grant_listener, grants }
    }

    async fn enters(&self, token: &str, ticket: u64) -> Placed {
        let place = Place::new(claim(token), Ticket::from_micros(ticket), Round::new(7));
        self.node.enter(&self.client, &[place]).await.unwrap().places[0]
    }

    async fn releases(&self, token: &str) -> Released {
        let claim = claim(token);
        self.node.release(&claim.name, &claim.token, Succession::HandOver).await.unwrap()
    }

    async fn holder(&self) -> Option<String> {
        let look = self.node.inspect(&claim("any").name).await.unwrap();
        look.holder.as_ref().map(Holder::token).map(str::to_owned)
    }
}

fn claim(token: &str) -> Claim {
    let expiry = Expiry::new(Duration::from_secs(60)).unwrap();
    Claim::new(LockName::new("shared").unwrap(), Token::from_text(token).unwrap(), expiry)
}

async fn the_queue_is_one([first, second]: [Process; 2]) {
    assert_eq!(first.enters("holder", 1).await, Placed::Granted(None));
    assert_eq!(second.enters("later", 20).await, Placed::Queued(1));
    assert_eq!(first.enters("sooner", 10).await, Placed::Queued(1));
    assert_eq!(second.releases("holder").await, Released::Released);
    assert_eq!(second.holder().await.as_deref(), Some("sooner"));
    assert_eq!(second.releases("sooner").await, Released::Released);
    assert_eq!(first.holder().await.as_deref(), Some("later"));
}

#[tokio::test]
async fn the_queue_on_a_redis_server_is_one_for_all_processes() {
    let server = RedisServer::start();
    the_queue_is_one([(); 2].map(|()| Process::with(RedisNode::open(&server.url()).unwrap()))).await;
}

#[tokio::test]
async fn the_queue_in_an_sqlite_file_is_one_for_all_processes() {
    let directory = tempfile::tempdir().unwrap();
    the_queue_is_one([(); 2].map(|()| Process::with(SqliteNode::new(directory.path().join("leases"))))).await;
}

#[tokio::test]
async fn a_redis_server_tells_the_process_that_waits() {
    let server = RedisServer::start();
    let [releasing, mut waiting] = [(); 2].map(|()| Process::with(RedisNode::open(&server.url()).unwrap()));
    releasing.enters("holder", 1).await;
    waiting.enters("waiter", 10).await;

    releasing.releases("holder").await;

    let grant = timeout(DEADLINE, waiting.grants.recv()).await.expect("it is told").unwrap();
    assert_eq!(grant, Grant::new(claim("waiter").name, claim("waiter").token, Round::new(7)));
    assert!(waiting.grants.is_empty() && releasing.grants.is_empty());
}

#[tokio::test]
async fn a_redis_server_skips_those_whose_process_is_gone() {
    let server = RedisServer::start();
    let [releasing, mut waiting, gone] =
        [(); 3].map(|()| Process::with(RedisNode::open(&server.url()).unwrap()));
    releasing.enters("holder", 1).await;
    gone.enters("gone", 5).await;
    waiting.enters("waiter", 10).await;
    let channels = || server.command(&["PUBSUB", "CHANNELS"]).array().len();
    let before = channels();
    drop(gone);
    timeout(DEADLINE, async {
        // The server says of no connection that it is gone; it has to be asked.
        while channels() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("a connection ends with its process");

    releasing.releases("holder").await;

    assert_eq!(releasing.holder().await.as_deref(), Some("waiter"));
    timeout(DEADLINE, waiting.grants.recv()).await.expect("it is told").unwrap();
}

const DEADLINE: Duration = Duration::from_secs(10);
