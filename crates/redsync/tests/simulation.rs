//! The whole library over memory nodes, a network of random delays and a clock that is driven: thousands of schedules, each
//! made from a seed. A failing one says which; `REDSYNC_SEED=n` runs it alone.

#[path = "simulated/network.rs"]
mod network;

use std::fmt::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use redsync::{
    Claim, Clock, DrivenClock, Expiry, Fence, Guard, IfFree, Instant, LockName, MemoryNode, Node, Proposal,
    Redsync, Sleep, Succession, Token,
};
use tokio::task::{JoinHandle, yield_now};

use self::network::Route;

/// What may go wrong in a schedule, beside delays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    /// Connections break now and then.
    Cuts,
    /// Callers give up waiting now and then.
    Cancellations,
    /// Processes end now and then, without a word.
    Crashes,
}

/// One schedule: drawn from its seed.
#[derive(Debug)]
struct Schedule {
    seed: u64,
    nodes: usize,
    clients: usize,
    /// Acquisitions of each client.
    turns: usize,
    longest_delay: Duration,
    longest_hold: Duration,
    longest_pause: Duration,
    trouble: Trouble,
    /// Holders have fences.
    is_fenced: bool,
    /// The wall clocks of some callers are wrong, by some minutes.
    has_wrong_clocks: bool,
}

const EXPIRY: Duration = Duration::from_secs(8);

impl Schedule {
    fn of(seed: u64, trouble: Trouble) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let millis = |millis: u64| Duration::from_millis(millis);
        Self {
            seed,
            nodes: [1, 3, 3, 5][random.random_range(0..4)],
            clients: random.random_range(2..=6),
            turns: random.random_range(1..=3),
            longest_delay: [Duration::from_micros(200), millis(2), millis(20)][random.random_range(0..3)],
            longest_hold: [Duration::ZERO, millis(2), millis(30)][random.random_range(0..3)],
            longest_pause: [Duration::ZERO, millis(5), millis(60)][random.random_range(0..3)],
            trouble,
            is_fenced: random.random_bool(0.5),
            // Who came first is then told only after the nodes have answered.
            has_wrong_clocks: matches!(trouble, Trouble::Cuts | Trouble::Crashes) && random.random_bool(0.3),
        }
    }
}

/// The driven clock with a wall clock that is wrong.
#[derive(Debug)]
struct Wrong {
    clock: DrivenClock,
    by_micros: i64,
}

impl Clock for Wrong {
    fn now(&self) -> Instant {
        self.clock.now()
    }

    fn wall_micros(&self) -> u64 {
        self.clock.wall_micros().saturating_add_signed(self.by_micros)
    }

    fn sleep_until(&self, end: Instant) -> Sleep {
        self.clock.sleep_until(end)
    }
}

/// What is watched while a schedule runs.
#[derive(Default)]
struct Watch {
    guards: Vec<(usize, Arc<Guard>)>,
    /// When each acquisition was asked for and had, in the order of having.
    history: Vec<(usize, Instant, Instant)>,
    /// The fence of the last who had one.
    fence: Option<Fence>,
    log: String,
}

/// A client: a process of its own, with connections of its own.
struct Client {
    number: usize,
    redsync: Redsync,
    routes: Vec<Route>,
}

struct World {
    schedule: Schedule,
    clock: DrivenClock,
    nodes: Vec<MemoryNode>,
    watch: Mutex<Watch>,
}

impl World {
    fn client(&self, number: usize) -> Client {
        let routes: Vec<Route> = (0..self.nodes.len())
            .map(|node| {
                let seed = self.schedule.seed.wrapping_mul(1_000_003) ^ ((number * 16 + node) as u64);
                Route::new(&self.nodes[node], &self.clock, seed, self.schedule.longest_delay)
            })
            .collect();
        let by_micros = match self.schedule.has_wrong_clocks {
            true => [0, 300_000_000, -300_000_000][number % 3],
            false => 0,
        };
        let builder = Redsync::builder().clock(Wrong { clock: self.clock.clone(), by_micros });
        let builder = routes.iter().fold(builder, |builder, route| builder.node(Arc::new(route.clone())));
        Client { number, redsync: builder.build().unwrap(), routes }
    }

    fn note(&self, text: impl std::fmt::Display) {
        let now = self.clock.now().as_nanos() / 1_000;
        let mut watch = self.watch.lock().unwrap();
        let _ = writeln!(watch.log, "{now:>10} us  {text}");
    }

    fn fail(&self, why: &str) -> ! {
        let log = &self.watch.lock().unwrap().log;
        panic!("{why}\n{:?}\nrun it alone with REDSYNC_SEED={}\n{log}", self.schedule, self.schedule.seed);
    }

    /// Takes down that `client` has the lock, and that nobody else has; and that its fence, if it has one, is larger than all
    /// before.
    fn acquired(&self, client: usize, asked: Instant, guard: &Arc<Guard>, fence: Option<Fence>) {
        self.note(format_args!("client {client} has it, with fence {fence:?}"));
        let former = self.watch.lock().unwrap().fence;
        if fence.is_some() && fence <= former {
            self.fail(&format!("client {client} has fence {fence:?} after {former:?}"));
        }
        self.watch.lock().unwrap().fence = fence.or(former);
        let other = {
            let mut watch = self.watch.lock().unwrap();
            watch.guards.retain(|(_, guard)| guard.is_valid());
            let other = watch.guards.first().map(|(other, _)| *other);
            watch.guards.push((client, Arc::clone(guard)));
            watch.history.push((client, asked, self.clock.now()));
            other
        };
        if let Some(other) = other {
            self.fail(&format!("clients {other} and {client} hold at once"));
        }
    }

    fn let_go(&self, client: usize, guard: Arc<Guard>) -> Guard {
        self.note(format_args!("client {client} lets go"));
        self.watch.lock().unwrap().guards.retain(|(_, held)| !Arc::ptr_eq(held, &guard));
        Arc::into_inner(guard).expect("only the watch had another")
    }

    fn is_free_everywhere(&self) -> bool {
        let name = LockName::new("name").unwrap();
        self.nodes.iter().all(|node| {
            let looked = now_or_never(node.inspect(&name));
            looked.holder.is_none() && looked.waiting == 0
        })
    }
}

fn now_or_never<T>(mut answer: redsync::Answer<'_, T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match answer.as_mut().poll(&mut context) {
        std::task::Poll::Ready(Ok(answer)) => answer,
        _ => unreachable!("memory answers at once"),
    }
}

/// Takes the counter of the lock's fences to `number`, as a holder may.
fn count_to(node: &MemoryNode, number: u64) {
    let (name, token) = (LockName::new("name").unwrap(), Token::from_text("before").unwrap());
    let proposal = Proposal::new(Fence::new(number).unwrap(), Proposal::DEFAULT_RETENTION);
    let claim = Claim::new(name.clone(), token.clone(), Expiry::new(EXPIRY).unwrap()).fenced(proposal);
    now_or_never(node.acquire(&claim));
    now_or_never(node.extend(&claim, IfFree::Leave));
    now_or_never(node.release(&name, &token, Succession::HandOver));
}

/// One client's turns.
async fn take_turns(world: Arc<World>, client: Client) {
    let number = client.number;
    let mut random = SmallRng::seed_from_u64(world.schedule.seed ^ (number as u64 * 7_919));
    let mut below = |most: Duration| {
        Duration::from_micros(random.random_range(0..=u64::try_from(most.as_micros()).unwrap()))
    };
    let sleep = |duration: Duration| world.clock.sleep_until(world.clock.now() + duration);
    sleep(below(Duration::from_millis(20))).await;
    for turn in 0..world.schedule.turns {
        let tokens = std::sync::atomic::AtomicUsize::new(0);
        let token = move || {
            let drawn = tokens.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            // Sixteen digits first: what looks random is made of them.
            format!("{:016x}-{number}-{turn}-{drawn}", (number * 31 + turn * 7 + drawn) as u64 * 0x9e37_79b9)
        };
        let mutex = client.redsync.mutex("name").expiry(EXPIRY).renew(false).token_fn(token);
        let asked = world.clock.now();
        world.note(format_args!("client {number} asks"));
        let gives_up = world.schedule.trouble == Trouble::Cancellations
            && below(Duration::from_micros(3)).as_micros() == 0;
        let is_fenced = world.schedule.is_fenced;
        let lock = || async {
            match is_fenced {
                true => {
                    let guard = mutex.clone().fenced().lock().await?;
                    Ok((Some(guard.fence()), guard.into_guard()))
                }
                false => mutex.lock().await.map(|guard| (None, guard)),
            }
        };
        let (fence, guard) = if gives_up {
            let patience = below(Duration::from_millis(60));
            tokio::select! {
                biased;
                locked = lock() => locked.unwrap(),
                () = sleep(patience) => {
                    world.note(format_args!("client {number} gives up"));
                    continue;
                }
            }
        } else {
            match lock().await {
                Ok(locked) => locked,
                Err::<_, redsync::Error>(error) => {
                    world.fail(&format!("client {number} is refused: {error}"))
                }
            }
        };
        let guard = Arc::new(guard);
        world.acquired(number, asked, &guard, fence);
        sleep(below(world.schedule.longest_hold)).await;
        // What goes wrong with it, the next one's turn shows.
        let _ = world.let_go(number, guard).unlock().await;
        sleep(below(world.schedule.longest_pause)).await;
    }
    client.redsync.drain(Duration::from_secs(60)).await;
}

/// Lets all tasks run as far as they can without time going on.
async fn settle() {
    for _ in 0..12 {
        yield_now().await;
    }
}

/// Runs one schedule to its end, and gives its world.
async fn run(schedule: Schedule) -> Arc<World> {
    let clock = DrivenClock::new();
    clock.advance(Duration::from_secs(1_000));
    let nodes = (0..schedule.nodes).map(|_| MemoryNode::with_clock(clock.clone())).collect();
    let (clients, seed, trouble) = (schedule.clients, schedule.seed, schedule.trouble);
    let world = Arc::new(World { schedule, clock, nodes, watch: Mutex::default() });
    let mut random = SmallRng::seed_from_u64(!seed);
    if world.schedule.is_fenced && random.random_bool(0.5) {
        // Each has counted differently before; some are ahead of the time.
        world.nodes.iter().for_each(|node| count_to(node, random.random_range(900_000_000..1_100_000_000)));
    }
    let began = world.clock.now();
    let mut routes = Vec::new();
    let mut tasks: Vec<(usize, JoinHandle<()>)> = Vec::new();
    for number in 0..clients {
        let client = world.client(number);
        routes.push(client.routes.clone());
        tasks.push((number, tokio::spawn(take_turns(Arc::clone(&world), client))));
    }
    settle().await;
    let mut steps = 0_u64;
    while !tasks.iter().all(|(_, task)| task.is_finished()) {
        let Some(next) = world.clock.next_wake() else {
            world.fail("nobody waits for anything, and not all are done")
        };
        world.clock.advance(next.saturating_since(world.clock.now()));
        settle().await;
        steps += 1;
        if steps.is_multiple_of(16) && trouble == Trouble::Cuts && random.random_bool(0.1) {
            let (client, node) = (random.random_range(0..clients), random.random_range(0..world.nodes.len()));
            world.note(format_args!("the connection of client {client} to node {node} breaks"));
            routes[client][node].cut();
        }
        if steps.is_multiple_of(16)
            && trouble == Trouble::Crashes
            && tasks.len() > 1
            && random.random_bool(0.02)
        {
            let (client, task) = tasks.swap_remove(random.random_range(0..tasks.len()));
            world.note(format_args!("client {client} ends without a word"));
            routes[client].iter().for_each(Route::hang_up);
            task.abort();
            // What is left of its guards says nothing to anybody.
            settle().await;
        }
        let patience = match trouble {
            Trouble::None | Trouble::Cancellations => EXPIRY / 2,
            Trouble::Cuts | Trouble::Crashes => EXPIRY * 12,
        };
        let elapsed = world.clock.now().saturating_since(began);
        if elapsed > patience {
            world.fail(&format!("it takes for ever: {elapsed:?}"));
        }
    }
    for (_, task) in tasks {
        if task.await.is_err() {
            world.fail("a client failed");
        }
    }
    world
}

/// Runs `count` schedules, or the one that is asked for.
fn simulate(trouble: Trouble, count: u64, check: impl Fn(&World)) {
    let seeds = match std::env::var("REDSYNC_SEED") {
        Ok(seed) => vec![seed.parse().expect("REDSYNC_SEED is a number")],
        Err(_) => (0..count).collect::<Vec<u64>>(),
    };
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let world = runtime.block_on(run(Schedule::of(seed, trouble)));
        check(&world);
    }
}

/// The next is never had long after the former let go, as long as somebody waits.
fn nobody_is_overtaken(world: &World) {
    let history = world.watch.lock().unwrap().history.clone();
    for (at, (client, asked, _)) in history.iter().enumerate() {
        for (other, other_asked, _) in &history[..at] {
            // A place is known to a node when the first question was answered and the next has come there.
            let slack = world.schedule.longest_delay * 3 + Duration::from_millis(1);
            if *other_asked > *asked + slack {
                world.fail(&format!("client {other} overtook client {client}, who asked at {asked:?}"));
            }
        }
    }
}

#[test]
fn with_delays_alone_nobody_holds_beside_another_nor_is_overtaken_nor_forgotten() {
    simulate(Trouble::None, 3_000, |world| {
        nobody_is_overtaken(world);
        assert!(world.is_free_everywhere());
    });
}

#[test]
fn callers_who_give_up_leave_nothing_behind() {
    simulate(Trouble::Cancellations, 2_500, |world| {
        nobody_is_overtaken(world);
        if !world.is_free_everywhere() {
            world.fail("something is left on a node");
        }
    });
}

#[test]
fn where_connections_break_everybody_gets_a_turn() {
    simulate(Trouble::Cuts, 2_500, |_| {});
}

#[test]
fn where_processes_end_the_others_get_their_turns() {
    simulate(Trouble::Crashes, 2_500, |_| {});
}

#[test]
fn a_seed_reproduces_its_schedule() {
    let log = |seed| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let world = runtime.block_on(run(Schedule::of(seed, Trouble::Cuts)));
        world.watch.lock().unwrap().log.clone()
    };
    for seed in [1, 7, 42] {
        assert_eq!(log(seed), log(seed));
    }
    assert_ne!(log(1), log(7));
}
