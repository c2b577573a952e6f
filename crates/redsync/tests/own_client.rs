//! A Redis client of the user's own serves under `RedisNode`.

#[path = "../examples/own_client.rs"]
mod own_client;

use std::sync::Arc;
use std::time::Duration;

use own_client::PlainClient;
use redsync::{ErrorKind, Node, RedisNode, Redsync};
use redsync_testkit::RedisServer;
use tokio::time::timeout;

/// How long an event may take on a busy machine before a test calls it missing.
const DEADLINE: Duration = Duration::from_secs(10);

async fn redsync_over(server: &RedisServer) -> Redsync {
    let client = PlainClient::connect(&server.address()).await.expect("a server that just started");
    Redsync::new([Arc::new(RedisNode::with_client(client)) as Arc<dyn Node>]).expect("one node")
}

#[tokio::test]
async fn a_lock_over_ones_own_client_excludes_one_over_the_built_in_client() {
    let server = RedisServer::start();
    let ours = redsync_over(&server).await;
    let theirs = Redsync::connect([server.url()]).await.unwrap();

    let guard = ours.mutex("shared").lock().await.unwrap();
    assert!(theirs.mutex("shared").try_lock().await.unwrap().is_none());
    guard.extend().await.unwrap();
    let holder = theirs.inspect("shared").await.unwrap().holder().expect("it is held");
    assert_eq!(holder.token(), guard.token().as_str());
    guard.unlock().await.unwrap();
    theirs.mutex("shared").try_lock().await.unwrap().expect("it is free again").unlock().await.unwrap();
}

#[tokio::test]
async fn two_who_wait_in_queue_over_their_own_clients_both_get_the_lock() {
    let server = RedisServer::start();
    let (first, second) = (redsync_over(&server).await, redsync_over(&server).await);
    let guard = first.mutex("queue").lock().await.unwrap();
    let waiting = [first.mutex("queue"), second.mutex("queue")]
        .map(|mutex| tokio::spawn(async move { mutex.lock().await?.unlock().await }));
    let in_queue = timeout(DEADLINE, async {
        // A line says of nobody that it came; it has to be asked.
        while first.inspect("queue").await.unwrap().waiting() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    in_queue.await.expect("both are in the queue");

    guard.unlock().await.unwrap();

    for waited in waiting {
        timeout(DEADLINE, waited).await.expect("it gets its turn").unwrap().unwrap();
    }
    assert_eq!(server.keys(), Vec::<String>::new());
}

#[tokio::test]
async fn an_error_of_the_server_comes_through_ones_own_client() {
    let server = RedisServer::start();
    server.command(&["RPUSH", "queue", "job"]);
    let redsync = redsync_over(&server).await;

    let error = redsync.mutex("queue").expiry(Duration::from_secs(2)).try_lock().await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::NoQuorum);
    assert!(error.to_string().contains("WRONGTYPE"), "{error}");
}
