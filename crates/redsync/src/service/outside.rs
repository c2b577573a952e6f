//! Work that no runtime's worker may be given.
//!
//! What a worker of a multi-threaded runtime wakes or spawns goes to a slot of its own, which others do not take from: it
//! waits until the task that the worker is busy with yields. A handler that computes for a second would keep everybody's
//! renewals waiting. What is woken from a thread of no runtime goes to the queue that all workers serve.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{LazyLock, mpsc};
use std::thread;

use tokio::runtime::{Handle, RuntimeFlavor};

type Job = Box<dyn FnOnce() + Send>;

/// Does `job`, which wakes or spawns something in `runtime`, from where no worker keeps it to itself.
pub(super) fn outside(runtime: &Handle, job: impl FnOnce() + Send + 'static) {
    // With one thread there is nobody else to serve the queue.
    let is_shared = !matches!(runtime.runtime_flavor(), RuntimeFlavor::CurrentThread);
    match DESK.as_ref().filter(|_| is_shared) {
        // A desk that is closed hands the job back.
        Some(desk) => {
            if let Err(mpsc::SendError(job)) = desk.send(Box::new(job)) {
                job();
            }
        }
        None => job(),
    }
}

/// The thread's desk, for the process; nothing where no thread can be started.
static DESK: LazyLock<Option<mpsc::Sender<Job>>> = LazyLock::new(|| {
    let (desk, jobs) = mpsc::channel::<Job>();
    let work = move || {
        for job in jobs {
            // A waker of somebody's that panics must not end this for all others.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    };
    thread::Builder::new().name("redsync-keeper".into()).stack_size(STACK).spawn(work).ok().map(|_| desk)
});

/// Jobs only queue tasks.
const STACK: usize = 256 * 1024;
