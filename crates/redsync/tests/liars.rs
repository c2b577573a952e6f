//! Servers that lie: whatever they say, they are not asked again and again without a pause, and honest nodes decide.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use redsync_testkit::{Liar, Lie, RedisServer, Stage, servers};
use support::over;

/// How long each liar is waited for.
const TIME: Duration = Duration::from_secs(2);

/// A burst, and then what is asked every 20 ms, with some to spare: without a limit, it is thousands.
const MOST_REQUESTS: usize = 300;

/// A place behind a holder that is not there, at this time by the liar's clock.
fn queued(left: &str, micros: &str, position: &str) -> Lie {
    Lie::Reply(format!("*4\r\n$5\r\nother\r\n:{left}\r\n:{micros}\r\n:{position}\r\n").into_bytes())
}

/// How many requests a waiter makes of a liar that is its only node, and says these things to who asks for a place.
async fn requests_of_one(lie: impl Fn() -> Lie + Send + Sync + 'static) -> usize {
    let liar = Liar::start(move |stage, command| match stage {
        Stage::Acquire if command.len() == 9 => Some(Lie::Reply(b"*2\r\n$5\r\nother\r\n:5000\r\n".to_vec())),
        Stage::Acquire => Some(Lie::Reply(b"$5\r\nother\r\n".to_vec())),
        Stage::Enter => Some(lie()),
        _ => None,
    });
    let redsync = over([liar.url()]);
    let _ = redsync.mutex("name").fenced().wait_up_to(TIME).lock().await;
    liar.requests()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_asks_a_node_whose_clock_runs_wild_no_more_often_than_others() {
    let number = Arc::new(AtomicU64::new(1));
    let wild = move || {
        let number = number.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        queued("5000", &(number >> 1).to_string(), "1")
    };
    let requests = requests_of_one(wild).await;
    assert!(requests < MOST_REQUESTS, "{requests} requests in {TIME:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_asks_a_node_that_says_absurd_things_no_more_often_than_others() {
    let most = i64::MAX.to_string();
    for (left, micros, position) in [
        ("5000", most.as_str(), "1"),
        ("0", "1", "1"),
        ("-1", "0", &most),
        (&most, &most, &most),
        // A grant of which the fence is further than any, by one that gives no place to anybody.
        ("0", "1", "-9007199254740991"),
        ("0", "1", "0"),
        ("0", &most, "-9223372036854775807"),
    ] {
        let lie = (left.to_owned(), micros.to_owned(), position.to_owned());
        let requests = requests_of_one(move || queued(&lie.0, &lie.1, &lie.2)).await;
        assert!(requests < MOST_REQUESTS, "{left} {micros} {position}: {requests} requests in {TIME:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_uptime_is_nonsense_is_not_asked_again_and_again() {
    for uptime in ["18446744073709551615", "0", "-1", "x"] {
        let liar = Liar::start(move |stage, command| match stage {
            Stage::Info if command[1] == "server" => {
                let info = format!("run_id:liar\r\nuptime_in_seconds:{uptime}\r\n");
                Some(Lie::Reply(format!("${}\r\n{info}\r\n", info.len()).into_bytes()))
            }
            _ => None,
        });
        let redsync = redsync::Redsync::builder().url(liar.url()).restart_guard(true).build().unwrap();
        let _ = redsync.mutex("name").wait_up_to(TIME).lock().await;
        assert!(liar.requests() < MOST_REQUESTS, "{uptime}: {} requests in {TIME:?}", liar.requests());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_breaks_each_connection_is_not_connected_to_all_the_time() {
    // It answers what comes first, and then with what no request has for an answer.
    let liar = Liar::start(|stage, _| match stage {
        Stage::Acquire | Stage::Enter => Some(Lie::Reply(b"$9999999999\r\n".to_vec())),
        _ => None,
    });
    let redsync = over([liar.url()]);
    let began = Instant::now();
    while began.elapsed() < TIME {
        redsync.mutex("name").try_lock().await.unwrap_err();
    }
    // A burst, and then one every 100 ms.
    assert!(liar.connections() < 80, "{} connections in {TIME:?}", liar.connections());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_honest_nodes_decide_where_the_third_lies_at_every_stage() {
    let honest: Vec<RedisServer> = servers(2);
    for stage in [Stage::Hello, Stage::Info, Stage::Acquire, Stage::Extend, Stage::Release, Stage::Inspect] {
        for lie in [
            Lie::Endless(b"$2147483647\r\n".to_vec(), b"xxxxxxxx".to_vec()),
            Lie::Endless(b"*2147483647\r\n".to_vec(), b":1\r\n".to_vec()),
            Lie::Endless(b"*1\r\n".to_vec(), b"*1\r\n".to_vec()),
            Lie::Endless(b"+".to_vec(), b"x\n".to_vec()),
            Lie::Reply(b":9223372036854775807\r\n".to_vec()),
            Lie::Reply(b"*-9\r\n".to_vec()),
            Lie::Reply(b"?\r\n".to_vec()),
        ] {
            let lying = lie.clone();
            let liar = Liar::start(move |asked, _| (asked == stage).then(|| lying.clone()));
            let redsync = over(honest.iter().map(RedisServer::url).chain([liar.url()]));
            let name = format!("{stage:?} {lie:?}");
            let mutex = redsync.mutex("name").expiry(Duration::from_secs(5)).wait_up_to(TIME).fenced();
            let guard = mutex.lock().await.unwrap_or_else(|error| panic!("{name}: {error}"));
            guard.extend().await.unwrap_or_else(|error| panic!("{name}: {error}"));
            redsync.inspect("name").await.unwrap();
            guard.unlock().await.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}
