//! What every recipe has to do.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use redsync::Fence;

use crate::seed::seed;

/// One number behind one lock.
pub(crate) trait Resource: Sync {
    /// One more user, with a connection of its own.
    fn user(&self) -> Box<dyn User + '_>;

    /// The fences of all that was let in, in the order in which it took effect; of a resource that can tell.
    fn let_in(&self) -> Option<Vec<u64>> {
        None
    }
}

/// A program that uses the resource as the page says.
pub(crate) trait User {
    fn write(&mut self, number: u64, fence: Fence) -> Result<(), Refused>;
    fn read(&mut self, fence: Fence) -> Result<u64, Refused>;
}

/// The resource did not do it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused;

/// The fence of the holder of this number.
pub(crate) fn fence(holder: u64) -> Fence {
    Fence::new(1_700_000_000_000_000 + holder).unwrap()
}

pub(crate) fn holders_are_let_in_one_after_the_other(resource: &dyn Resource) {
    let (mut first, mut second) = (resource.user(), resource.user());
    assert_eq!(first.write(10, fence(1)), Ok(()));
    assert_eq!(second.read(fence(2)), Ok(10));
    assert_eq!(second.write(20, fence(2)), Ok(()));
    assert_eq!(first.write(30, fence(3)), Ok(()));
    assert_eq!(second.read(fence(4)), Ok(30));
    // The last that there is.
    assert_eq!(first.write(40, Fence::MAX), Ok(()));
    assert_eq!(first.read(Fence::MAX), Ok(40));
    assert_eq!(second.read(Fence::new(Fence::MAX.as_u64() - 1).unwrap()), Err(Refused));
}

pub(crate) fn a_holder_may_come_again(resource: &dyn Resource) {
    let (mut once, mut again) = (resource.user(), resource.user());
    assert_eq!(once.write(10, fence(1)), Ok(()));
    assert_eq!(again.write(10, fence(1)), Ok(()));
    assert_eq!(once.read(fence(1)), Ok(10));
    assert_eq!(again.write(11, fence(1)), Ok(()));
    assert_eq!(once.read(fence(1)), Ok(11));
}

pub(crate) fn a_late_write_is_refused_and_changes_nothing(resource: &dyn Resource) {
    let (mut paused, mut present) = (resource.user(), resource.user());
    paused.write(10, fence(1)).unwrap();
    present.write(20, fence(2)).unwrap();
    assert_eq!(paused.write(11, fence(1)), Err(Refused));
    // Numbers, not texts: 9 comes after 17… in a dictionary.
    for small in [1, 9] {
        assert_eq!(paused.write(11, Fence::new(small).unwrap()), Err(Refused));
    }
    assert_eq!(present.read(fence(2)), Ok(20));
    assert_eq!(present.write(21, fence(2)), Ok(()));
}

pub(crate) fn a_late_read_is_refused(resource: &dyn Resource) {
    let (mut paused, mut present) = (resource.user(), resource.user());
    paused.write(10, fence(1)).unwrap();
    present.write(20, fence(2)).unwrap();
    assert_eq!(paused.read(fence(1)), Err(Refused));
    assert_eq!(present.read(fence(2)), Ok(20));
}

/// Else a write of before would come between a read and the write that was worked out from it.
pub(crate) fn a_read_is_remembered(resource: &dyn Resource) {
    let (mut paused, mut present) = (resource.user(), resource.user());
    paused.write(100, fence(7)).unwrap();
    let read = present.read(fence(8)).unwrap();
    assert_eq!(paused.write(110, fence(7)), Err(Refused));
    assert_eq!(paused.read(fence(7)), Err(Refused));
    assert_eq!(present.write(read + 50, fence(8)), Ok(()));
    assert_eq!(present.read(fence(9)), Ok(150));
}

/// Each writes the number of its fence.
pub(crate) fn of_many_at_once_none_is_let_in_after_a_later_one(resource: &dyn Resource) {
    let (seed, _) = seed();
    println!("REDSYNC_SEED={seed}");
    let (answered, written, largest) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (answered, written, largest) = (&answered, &written, &largest);
            scope.spawn(move || {
                let mut random = StdRng::seed_from_u64(seed + thread);
                let mut user = resource.user();
                for turn in 0..TURNS {
                    let fence = fence(random.random_range(0..THREADS * TURNS));
                    let number = fence.as_u64();
                    // What was answered before this is asked took effect before it.
                    let (before, before_written) =
                        (answered.load(Ordering::SeqCst), written.load(Ordering::SeqCst));
                    // The first of all makes the row, where there is none.
                    if turn == 0 || random.random() {
                        largest.fetch_max(number, Ordering::SeqCst);
                        if user.write(number, fence).is_err() {
                            continue;
                        }
                        written.fetch_max(number, Ordering::SeqCst);
                    } else {
                        let Ok(read) = user.read(fence) else { continue };
                        assert!((before_written..=number).contains(&read), "{number} has read {read}");
                    }
                    assert!(before <= number, "{number} was let in after {before}");
                    answered.fetch_max(number, Ordering::SeqCst);
                }
            });
        }
    });
    let last = fence(THREADS * TURNS);
    let (written, largest) = (written.into_inner(), largest.into_inner());
    assert_eq!(resource.user().read(last), Ok(written), "the largest that was let in is there");
    assert!(written <= largest);
    if let Some(let_in) = resource.let_in() {
        assert!(let_in.is_sorted(), "{let_in:?}");
        assert_eq!(let_in.last(), Some(&last.as_u64()));
    }
}

const THREADS: u64 = 4;
const TURNS: u64 = 50;
