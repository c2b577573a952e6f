//! Fences: unique, in order, and what they cost, on real servers.

mod support;

use redsync::{Fence, Redsync};
use redsync_testkit::RedisServer;

use self::support::over;

fn servers(count: usize) -> Vec<RedisServer> {
    (0..count).map(|_| RedisServer::start()).collect()
}

fn over_all(servers: &[RedisServer]) -> Redsync {
    over(servers.iter().map(|server| server.url().to_string()))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_holder_has_a_larger_fence_than_the_one_before() {
    for nodes in [1, 3, 5] {
        let servers = servers(nodes);
        let redsync = over_all(&servers);
        let mut last: Option<Fence> = None;
        for _ in 0..20 {
            let guard = redsync.mutex("fenced").fenced().restart_guard(false).lock().await.unwrap();
            assert!(last.is_none_or(|last| last < guard.fence()), "{last:?}, {:?}", guard.fence());
            guard.extend().await.unwrap();
            last = Some(guard.fence());
            guard.unlock().await.unwrap();
        }
    }
}
