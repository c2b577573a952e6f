//! The floor of a hand-over: one client publishes, and another's task is woken by the push.

use std::error::Error;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use redis::aio::MultiplexedConnection;
use redsync_testkit::RedisServer;
use tokio::sync::mpsc;

use crate::rounds::histogram;

/// How long each round took, in nanoseconds.
pub(crate) struct Floor {
    rounds: Vec<u64>,
    /// The same with the pause before it.
    with_pauses: Vec<u64>,
}

impl Floor {
    pub(crate) fn times(&self) -> Histogram<u64> {
        let mut times = histogram();
        self.rounds.iter().for_each(|&took| times.saturating_record(took));
        times
    }

    /// The 99th percentile of how long `many` rounds in a row took, with their pauses, as a share of what they take on
    /// average: how even this machine is, with no lock in it. None where there were too few rounds to tell.
    pub(crate) fn evenness(&self, many: usize) -> Option<f64> {
        if self.rounds.len() < many * LEAST_RUNS {
            return None;
        }
        let mut runs: Vec<u64> = self.with_pauses.windows(many).map(|run| run.iter().sum()).collect();
        runs.sort_unstable();
        let mean = self.with_pauses.iter().sum::<u64>() as f64 / self.with_pauses.len() as f64 * many as f64;
        runs.get(runs.len() * 99 / 100).map(|&late| late as f64 / mean)
    }
}

/// So many rounds, one after the other with a pause before each: from before PUBLISH is sent to every server to when the task
/// of the subscriber has the message of a majority of them. What slept in the pause has to wake up again, as it has where a
/// lock is held for so long.
pub(crate) async fn publish_to_push(
    servers: &[RedisServer],
    rounds: usize,
    pause: Duration,
) -> Result<Floor, Box<dyn Error>> {
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
    let (mut times, mut with_pauses) = (Vec::with_capacity(rounds), Vec::with_capacity(rounds));
    for round in 0..rounds {
        let paused = Instant::now();
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
        let since = |earlier| u64::try_from(at.duration_since(earlier).as_nanos()).unwrap_or(u64::MAX);
        times.push(since(begun));
        with_pauses.push(since(paused));
    }
    drop(subscribers);
    listener.abort();
    // Its connections are gone before others are measured.
    tokio::time::sleep(Duration::from_millis(5)).await;
    Ok(Floor { rounds: times, with_pauses })
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

/// Fewer times as many rounds as are looked at in a row say nothing of the slowest in a hundred.
const LEAST_RUNS: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    /// Rounds without pauses.
    fn floor(rounds: Vec<u64>) -> Floor {
        Floor { with_pauses: rounds.clone(), rounds }
    }

    #[test]
    fn a_floor_without_hiccups_is_even_and_one_slow_round_is_in_every_run_that_has_it() {
        let even = floor(vec![100; 1_000]);
        assert_eq!(even.evenness(10), Some(1.0));
        let mut rounds = vec![100; 1_000];
        rounds[500] = 2_000;
        let share = floor(rounds.clone()).evenness(10).unwrap();
        assert!((2.8..2.9).contains(&share), "10 of 991 runs, each 2,900 instead of 1,019: {share}");
        assert_eq!(floor(rounds).evenness(1_000), None);
    }
}
