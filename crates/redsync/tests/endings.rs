//! Runtimes that end before their guards, processes that end with them, and guards without async.

mod support;

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use redsync::{Clock, Guard, SystemClock, blocking};
use redsync_testkit::{RedisServer, servers, wait_until};
use support::{DEADLINE, connect, connect_to};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

const SECOND: Duration = Duration::from_secs(1);

/// How late a loss may be told, and in how many rounds at most, of which the best counts: the machine may be busy.
const ON_TIME: Duration = Duration::from_millis(20);
const ROUNDS: usize = 3;

/// Two runtimes of one thread each, or of several.
fn runtimes() -> [[Runtime; 2]; 2] {
    let one = || Builder::new_current_thread().enable_all().build().unwrap();
    let several = || Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    [[one(), several()], [several(), one()]]
}

/// Runs `action` on a thread of its own, and fails if it does not end in time or panics.
fn in_time<T: Send + 'static>(action: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, ended) = mpsc::channel();
    let thread = thread::spawn(move || {
        let output = action();
        let _ = done.send(());
        output
    });
    let waited = ended.recv_timeout(DEADLINE);
    assert!(waited != Err(mpsc::RecvTimeoutError::Timeout), "it hangs");
    thread.join().expect("it does not panic")
}

/// Whether `holds` is true in one of the rounds: a machine that stands still for an expiry loses every lock.
fn held_in_some_round(holds: impl Fn() -> bool) -> bool {
    (0..ROUNDS).any(|_| holds())
}

/// Both flavours of a runtime, each with one of the other.
const FLAVOURS: std::ops::Range<usize> = 0..2;

fn pair(flavour: usize) -> [Runtime; 2] {
    { runtimes() }.into_iter().nth(flavour).unwrap()
}

/// A guard of a lock of a second whose runtime has ended.
fn orphan(runtime: Runtime, server: &RedisServer) -> Guard {
    let guard = runtime.block_on(async {
        let redsync = connect_to(server).await;
        redsync.mutex("name").expiry(SECOND).lock().await.unwrap()
    });
    drop(runtime);
    guard
}

#[test]
fn a_runtime_that_ends_while_guards_are_renewed_neither_panics_nor_hangs() {
    for [runtime, _] in runtimes() {
        in_time(move || {
            let servers = servers(3);
            let _guards = runtime.block_on(async {
                let redsync = connect(&servers).await;
                let mut guards = Vec::new();
                for number in 0..50 {
                    let mutex = redsync.mutex(number.to_string()).expiry(SECOND / 2);
                    guards.push(mutex.lock().await.unwrap());
                }
                servers.iter().for_each(RedisServer::pause);
                // Until renewals are under way, which nobody answers.
                tokio::time::sleep(SECOND / 5).await;
                guards
            });
            drop(runtime);
        });
    }
}

#[test]
fn a_guard_whose_runtime_has_ended_is_valid_until_its_end_and_not_after() {
    for [runtime, _] in runtimes() {
        let server = RedisServer::start();
        let guard = orphan(runtime, &server);
        let end = guard.valid_until();

        assert!(guard.is_valid());
        wait_until("its time is over", DEADLINE, || SystemClock.now() >= end);

        assert!(!guard.is_valid());
    }
}

#[test]
fn the_end_of_a_runtime_that_renews_guards_is_told() {
    let server = RedisServer::start();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let told = Told::default();

    let _guard = runtime.block_on(async {
        let redsync = connect_to(&server).await;
        let guard = redsync.mutex("name").expiry(SECOND).lock().await.unwrap();
        // Until it has been renewed.
        tokio::time::sleep(SECOND / 2).await;
        guard
    });

    tracing::subscriber::with_default(told.clone(), || drop(runtime));

    assert!(told.has("the runtime that renewed guards has ended"), "{told:?}");
}

#[test]
fn a_guard_dropped_on_a_thread_after_its_runtime_is_released_or_told_about() {
    for [runtime, another] in runtimes() {
        let server = RedisServer::start();
        let guard = orphan(runtime, &server);
        // Redsync is known to this one too.
        another.block_on(async { timeout(SECOND / 10, guard.lost()).await.unwrap_err() });
        let told = Told::default();

        tracing::subscriber::with_default(told.clone(), || drop(guard));

        let is_told = told.has("no runtime is left to release this lock in");
        // Less than what is left of its second.
        wait_until("it is released", SECOND / 3, || is_told || server.get("name").is_none());
    }
}

#[test]
fn a_signal_awaited_in_another_runtime_after_the_first_has_ended_completes_on_time() {
    for flavour in FLAVOURS {
        let mut late = Duration::MAX;
        for round in 0..ROUNDS {
            let [runtime, another] = pair(flavour);
            let server = RedisServer::start();
            let guard = orphan(runtime, &server);
            server.pause();

            let lost = another.block_on(async { timeout(DEADLINE, guard.lost()).await });
            let told = SystemClock.now();

            assert!(!lost.expect("it completes").was_released());
            assert!(told >= guard.valid_until(), "told before its time");
            late = late.min(told.saturating_since(guard.valid_until()));
            println!("flavour {flavour}, round {round}: told {late:?} late at best");
            if late < ON_TIME {
                break;
            }
        }
        assert!(late < ON_TIME, "{late:?}");
    }
}

#[test]
fn a_signal_awaited_in_another_runtime_while_the_first_stands_still_completes_in_time() {
    let [first, another] = [(); 2].map(|()| Builder::new_current_thread().enable_all().build().unwrap());
    let server = RedisServer::start();
    let redsync = first.block_on(connect_to(&server));
    let guard = first.block_on(redsync.mutex("name").expiry(SECOND).lock()).unwrap();
    server.pause();

    // Nobody is in the first runtime any more, but it has not ended.
    let lost = another.block_on(async { timeout(3 * SECOND, guard.lost()).await });
    let late = SystemClock.now().saturating_since(guard.valid_until());

    assert!(lost.is_ok());
    // Far more than a busy machine needs; the time-out, which looks at the signal too, comes after two seconds.
    assert!(late < SECOND, "{late:?} late");
    drop(first);
}

#[test]
fn renewal_goes_on_where_a_signal_is_awaited_after_the_runtime_has_ended() {
    for flavour in FLAVOURS {
        let is_held = held_in_some_round(|| {
            let [runtime, another] = pair(flavour);
            let server = RedisServer::start();
            let guard = orphan(runtime, &server);
            let lost = another.block_on(async { timeout(2 * SECOND, guard.lost()).await });
            lost.is_err() && server.get("name").as_deref() == Some(guard.token().as_str())
        });
        assert!(is_held, "lost in each round");
    }
}

#[test]
fn renewal_goes_on_where_a_signal_is_awaited_while_the_runtime_ends() {
    for flavour in FLAVOURS {
        let is_held = held_in_some_round(|| {
            let [runtime, another] = pair(flavour);
            let server = RedisServer::start();
            let guard = runtime.block_on(async {
                let redsync = connect_to(&server).await;
                redsync.mutex("name").expiry(SECOND).lock().await.unwrap()
            });
            let signal = guard.lost();
            let waiting = move || another.block_on(async { timeout(2 * SECOND, signal).await.is_err() });
            let waiting = thread::spawn(waiting);
            // It waits, while the first runtime goes on.
            thread::sleep(SECOND / 5);
            drop(runtime);
            waiting.join().unwrap()
        });
        assert!(is_held, "lost in each round");
    }
}

#[test]
fn renewal_goes_on_where_another_lock_is_taken_after_the_runtime_has_ended() {
    for flavour in FLAVOURS {
        let is_held = held_in_some_round(|| {
            let [runtime, another] = pair(flavour);
            let server = RedisServer::start();
            let redsync = runtime.block_on(connect_to(&server));
            let guard = runtime.block_on(redsync.mutex("name").expiry(SECOND).lock()).unwrap();
            drop(runtime);
            another.block_on(async {
                let _other = redsync.mutex("other").lock().await.unwrap();
                // Longer than the guard would last by itself.
                tokio::time::sleep(3 * SECOND / 2).await;
            });
            guard.is_valid()
        });
        assert!(is_held, "lost in each round");
    }
}

/// Tells this binary to end with guards alive: in which way, and the server's URL.
const ENDING: &str = "REDSYNC_TEST_ENDING";

static KEPT: OnceLock<Vec<Guard>> = OnceLock::new();

/// Ends the process if the test does not get so far.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a process does that ends with guards alive: its own part.
fn end_with_guards_alive(way: &str, url: &str) {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let guards = runtime.block_on(async {
        let redsync = redsync::Redsync::connect([url]).await.unwrap();
        let mut guards = Vec::new();
        for number in 0..10 {
            let mutex = redsync.mutex(format!("{way} {number}")).expiry(SECOND);
            guards.push(mutex.lock().await.unwrap());
        }
        guards
    });
    let redsync = blocking::Redsync::connect([url]).unwrap();
    let without_async = redsync.mutex(format!("{way} without async")).expiry(SECOND).lock().unwrap();
    // Until renewals have begun.
    thread::sleep(SECOND / 2);

    let _ = writeln!(std::io::stdout().lock(), "\n@ending");
    match way {
        "at once" => std::process::exit(0),
        "with its runtime" => {
            KEPT.get_or_init(|| guards);
            std::mem::forget((without_async, redsync));
        }
        "without its runtime" => std::mem::forget((guards, runtime, without_async, redsync)),
        "in order" => drop((runtime, guards, without_async, redsync)),
        _ => panic!("{way}?"),
    }
}

/// Fails unless a process that ends in this `way` does so with exit code 0, and promptly.
fn assert_ends(way: &str, test: &str) {
    if let Ok(ending) = std::env::var(ENDING) {
        let (url, way) = ending.split_once(' ').unwrap();
        return end_with_guards_alive(way, url);
    }
    let server = RedisServer::start();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(ENDING, format!("{} {way}", server.url()));
    let mut process = Process(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut written = BufReader::new(process.0.stdout.take().unwrap()).lines();
    assert!(written.any(|line| line.unwrap() == "@ending"), "it gets so far");
    let began = Instant::now();

    wait_until("it ends", DEADLINE, || process.0.try_wait().unwrap().is_some());

    assert_eq!(process.0.wait().unwrap().code(), Some(0));
    assert!(began.elapsed() < 2 * SECOND, "{:?}", began.elapsed());
}

#[test]
fn a_process_that_exits_with_guards_alive_ends_at_once() {
    assert_ends("at once", "a_process_that_exits_with_guards_alive_ends_at_once");
}

#[test]
fn a_process_whose_runtime_ends_before_its_guards_ends_in_order() {
    assert_ends("with its runtime", "a_process_whose_runtime_ends_before_its_guards_ends_in_order");
}

#[test]
fn a_process_that_forgets_its_guards_and_runtime_ends_in_order() {
    assert_ends("without its runtime", "a_process_that_forgets_its_guards_and_runtime_ends_in_order");
}

#[test]
fn a_process_that_drops_its_runtime_and_then_its_guards_ends_in_order() {
    assert_ends("in order", "a_process_that_drops_its_runtime_and_then_its_guards_ends_in_order");
}

/// A lock of a second without async, held for longer than it lasts by itself, and where it is still valid then.
fn hold_on() -> Option<(RedisServer, blocking::Guard)> {
    let server = RedisServer::start();
    let redsync = blocking::Redsync::connect([server.url()]).unwrap();
    let guard = redsync.mutex("name").expiry(SECOND).lock().unwrap();
    drop(redsync);
    // The time that it has to last.
    thread::sleep(3 * SECOND / 2);
    guard.is_valid().then_some((server, guard))
}

#[test]
fn a_guard_without_async_renews_itself_also_when_its_redsync_is_gone() {
    assert!(held_in_some_round(|| {
        hold_on().is_some_and(|(server, guard)| server.get("name").as_deref() == Some(guard.token().as_str()))
    }));
}

#[tokio::test(flavor = "current_thread")]
async fn a_guard_without_async_renews_itself_inside_a_runtime_of_one_thread_that_stands_still() {
    assert!(held_in_some_round(|| hold_on().is_some()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_guard_without_async_renews_itself_inside_a_task_of_a_runtime_of_many_threads() {
    let task = tokio::spawn(async { held_in_some_round(|| hold_on().is_some()) });

    assert!(task.await.expect("it does not panic"));
}

/// How late `on_lost` is called of a guard without async while all servers hang, at best.
fn lateness_without_async() -> Duration {
    let servers = servers(3);
    let builder = redsync::Redsync::builder().restart_guard(false);
    let builder = servers.iter().fold(builder, |builder, server| builder.url(server.url()));
    let redsync = blocking::Redsync::build(builder).unwrap();
    let mut best = Duration::MAX;
    for round in 0..ROUNDS {
        let (told, lost) = mpsc::channel();
        let mutex = redsync.mutex(format!("round {round}")).expiry(SECOND);
        let mutex = mutex.on_lost(move |_| told.send(SystemClock.now()).unwrap());
        let guard = mutex.lock().unwrap();
        servers.iter().for_each(RedisServer::pause);

        let told = lost.recv_timeout(DEADLINE).expect("the loss is told");

        servers.iter().for_each(RedisServer::resume);
        assert!(!guard.is_valid() && told >= guard.valid_until(), "told before its time");
        best = best.min(told.saturating_since(guard.valid_until()));
        println!("without async, round {round}: told {best:?} late at best");
        if best < ON_TIME {
            break;
        }
    }
    best
}

#[test]
fn the_loss_of_a_guard_without_async_is_told_on_time() {
    let late = lateness_without_async();

    assert!(late < ON_TIME, "{late:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn the_loss_of_a_guard_without_async_is_told_on_time_inside_a_runtime_that_stands_still() {
    let late = lateness_without_async();

    assert!(late < ON_TIME, "{late:?}");
}

/// Keeps what the library tells as warnings.
#[derive(Clone, Debug, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    fn has(&self, text: &str) -> bool {
        self.0.lock().unwrap().iter().any(|told| told.contains(text))
    }
}

impl tracing::field::Visit for Told {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        self.0.lock().unwrap().push(format!("{field}: {value:?}"));
    }
}

impl tracing::Subscriber for Told {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("redsync") && *metadata.level() == tracing::Level::WARN
    }

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut self.clone());
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}
