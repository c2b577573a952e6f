//! A Redis client of the user's own serves under `RedisNode`.

#[path = "../examples/own_client.rs"]
mod own_client;

use std::sync::Arc;
use std::time::Duration;

use own_client::PlainClient;
use redsync::{ErrorKind, Node, RedisNode, Redsync};
use redsync_testkit::RedisServer;

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
async fn an_error_of_the_server_comes_through_ones_own_client() {
    let server = RedisServer::start();
    server.command(&["RPUSH", "queue", "job"]);
    let redsync = redsync_over(&server).await;

    let error = redsync.mutex("queue").expiry(Duration::from_secs(2)).try_lock().await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::NoQuorum);
    assert!(error.to_string().contains("WRONGTYPE"), "{error}");
}
