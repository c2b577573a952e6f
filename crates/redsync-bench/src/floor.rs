//! The floor of a hand-over: one client publishes, and another's task is woken by the push.

use std::error::Error;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use redis::aio::MultiplexedConnection;
use redsync_testkit::RedisServer;
use tokio::sync::mpsc;

use crate::rounds::histogram;

/// So many rounds, one after the other with a pause before each: from before PUBLISH is sent to when the task of the
/// subscriber has the message. What slept in the pause has to wake up again, as it has where a lock is held for so long.
pub(crate) async fn publish_to_push(
    server: &RedisServer,
    rounds: usize,
    pause: Duration,
) -> Result<Histogram<u64>, Box<dyn Error>> {
    let (push, mut pushed) = mpsc::unbounded_channel::<()>();
    let mut subscriber = connect(server, move |info: redis::PushInfo| {
        if info.kind == redis::PushKind::Message {
            let _ = push.send(());
        }
        Ok::<(), redis::aio::SendError>(())
    })
    .await?;
    subscriber.subscribe("floor").await?;
    let publisher = connect(server, |_: redis::PushInfo| Ok::<(), redis::aio::SendError>(())).await?;
    let (told, mut told_at) = mpsc::unbounded_channel::<Instant>();
    // The subscriber's own task, as the one who waits has.
    let listener = tokio::spawn(async move {
        while pushed.recv().await.is_some() {
            if told.send(Instant::now()).is_err() {
                return;
            }
        }
    });
    let mut times = histogram();
    for _ in 0..rounds {
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        let begun = Instant::now();
        let mut publish = redis::cmd("PUBLISH");
        publish.arg("floor").arg("0123456789abcdef0123456789abcdef01234567@bench:12345");
        let mut connection = publisher.clone();
        let (answer, at) = tokio::join!(connection.send_packed_command(&publish), told_at.recv());
        answer?;
        let at = at.ok_or("the subscriber is gone")?;
        times.saturating_record(u64::try_from(at.duration_since(begun).as_nanos()).unwrap_or(u64::MAX));
    }
    drop(subscriber);
    listener.abort();
    // Its connections are gone before others are measured.
    tokio::time::sleep(Duration::from_millis(5)).await;
    Ok(times)
}

async fn connect(
    server: &RedisServer,
    pushes: impl redis::aio::AsyncPushSender,
) -> redis::RedisResult<MultiplexedConnection> {
    let client = redis::Client::open(format!("{}?protocol=resp3", server.url()))?;
    let tcp = client.get_connection_info().tcp_settings().clone().set_nodelay(true);
    let info = client.get_connection_info().clone().set_tcp_settings(tcp);
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None).set_push_sender(pushes);
    redis::Client::open(info)?.get_multiplexed_async_connection_with_config(&config).await
}
