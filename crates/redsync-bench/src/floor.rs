//! The floor of a hand-over: one client publishes, and another's task is woken by the push.

use std::error::Error;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use redis::aio::MultiplexedConnection;
use redsync_testkit::RedisServer;
use tokio::sync::mpsc;

use crate::rounds::histogram;

/// So many rounds, one after the other with a pause before each: from before PUBLISH is sent to every server to when the task
/// of the subscriber has the message of a majority of them. What slept in the pause has to wake up again, as it has where a
/// lock is held for so long.
pub(crate) async fn publish_to_push(
    servers: &[RedisServer],
    rounds: usize,
    pause: Duration,
) -> Result<Histogram<u64>, Box<dyn Error>> {
    let (push, mut pushed) = mpsc::unbounded_channel::<u64>();
    let (mut subscribers, mut publishers) = (Vec::new(), Vec::new());
    for server in servers {
        let push = push.clone();
        let mut subscriber = connect(server, move |info: redis::PushInfo| {
            if info.kind == redis::PushKind::Message {
                let _ = push.send(round_of(&info).unwrap_or(u64::MAX));
            }
            Ok::<(), redis::aio::SendError>(())
        })
        .await?;
        subscriber.subscribe("floor").await?;
        subscribers.push(subscriber);
        publishers.push(connect(server, |_: redis::PushInfo| Ok::<(), redis::aio::SendError>(())).await?);
    }
    let (told, mut told_at) = mpsc::unbounded_channel::<Instant>();
    let majority = servers.len() / 2 + 1;
    // The subscriber's own task, as the one who waits has.
    let listener = tokio::spawn(async move {
        let (mut round, mut heard) = (0, 0);
        while let Some(of) = pushed.recv().await {
            // What the others say of a round that is over comes late.
            if of == round {
                heard += 1;
            }
            if heard == majority {
                (round, heard) = (round + 1, 0);
                if told.send(Instant::now()).is_err() {
                    return;
                }
            }
        }
    });
    let mut times = histogram();
    for round in 0..rounds {
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        let begun = Instant::now();
        let mut publish = redis::cmd("PUBLISH");
        publish.arg("floor").arg(format!("{round:020}@0123456789abcdef01234567@bench:12345"));
        let answers = publishers.iter().map(|publisher| {
            let (mut connection, publish) = (publisher.clone(), publish.clone());
            async move { connection.send_packed_command(&publish).await }
        });
        let (answers, at) = tokio::join!(futures_util::future::join_all(answers), told_at.recv());
        answers.into_iter().collect::<Result<Vec<_>, _>>()?;
        let at = at.ok_or("the subscriber is gone")?;
        times.saturating_record(u64::try_from(at.duration_since(begun).as_nanos()).unwrap_or(u64::MAX));
    }
    drop(subscribers);
    listener.abort();
    // Its connections are gone before others are measured.
    tokio::time::sleep(Duration::from_millis(5)).await;
    Ok(times)
}

/// The number that a message begins with.
fn round_of(info: &redis::PushInfo) -> Option<u64> {
    match info.data.last()? {
        redis::Value::BulkString(payload) => std::str::from_utf8(payload.get(..20)?).ok()?.parse().ok(),
        _ => None,
    }
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
