//! The resource's side of fencing, inside of one process.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::protocol::Fence;

/// What one resource has seen of its lock's fences: whoever comes with a smaller one than that is a former holder, and is
/// refused, for writes and for reads.
///
/// Lock-free: any number of threads may check. Nothing is kept beyond this process; a resource that survives it starts from
/// what it [wrote down](FenceCheck::resumed_at).
///
/// A check says how things stood at that moment. Where a write can be held up after it was let in, and another's overtake
/// it, the comparison has to be made in the write itself: under the resource's own lock, in the thread that owns it, or in
/// the database's statement. `docs/fencing.md` of the repository has recipes for SQL, Redis and HTTP, and says what does not
/// work; the example `paused_holder` shows a late write that is refused.
///
/// ```
/// use redsync::{Fence, FenceCheck};
///
/// let check = FenceCheck::new();
/// let (paused, present) = (Fence::new(7)?, Fence::new(8)?);
/// assert!(check.admit(paused).is_ok());
/// assert!(check.admit(present).is_ok());
/// assert_eq!(check.admit(paused).unwrap_err().to_string(), "fence 7 is stale: 8 was seen before");
/// # Ok::<(), redsync::InvalidOption>(())
/// ```
#[derive(Debug, Default)]
pub struct FenceCheck {
    highest: AtomicU64,
}

impl FenceCheck {
    /// A check that has seen nothing.
    pub const fn new() -> Self {
        Self { highest: AtomicU64::new(0) }
    }

    /// A check that has seen `fence`.
    pub const fn resumed_at(fence: Fence) -> Self {
        Self { highest: AtomicU64::new(fence.as_u64()) }
    }

    /// Lets in whoever comes with `fence`, and remembers it.
    ///
    /// # Errors
    ///
    /// [`StaleFence`] when a larger one was seen before.
    pub fn admit(&self, fence: Fence) -> Result<(), StaleFence> {
        let before = self.highest.fetch_max(fence.as_u64(), Ordering::AcqRel);
        match Fence::new(before) {
            Ok(highest) if fence < highest => Err(StaleFence { fence, highest }),
            // The same holder again, a later one, or the first of all.
            _ => Ok(()),
        }
    }

    /// The largest that was seen, if any was.
    pub fn highest(&self) -> Option<Fence> {
        Fence::new(self.highest.load(Ordering::Acquire)).ok()
    }
}

/// A former holder came: its fence is smaller than one that was seen before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaleFence {
    fence: Fence,
    highest: Fence,
}

impl StaleFence {
    /// The fence that is refused.
    pub const fn fence(&self) -> Fence {
        self.fence
    }

    /// The largest that was seen before.
    pub const fn highest(&self) -> Fence {
        self.highest
    }
}

impl fmt::Display for StaleFence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fence {} is stale: {} was seen before", self.fence, self.highest)
    }
}

impl std::error::Error for StaleFence {}

#[cfg(test)]
mod tests {
    use super::*;

    fn fence(number: u64) -> Fence {
        Fence::new(number).unwrap()
    }

    #[test]
    fn a_holder_may_come_as_often_as_it_likes_until_a_later_one_has() {
        let check = FenceCheck::new();
        assert_eq!(check.highest(), None);
        assert!(check.admit(fence(5)).is_ok() && check.admit(fence(5)).is_ok());
        assert!(check.admit(fence(9)).is_ok());
        let stale = check.admit(fence(5)).unwrap_err();
        assert_eq!((stale.fence(), stale.highest()), (fence(5), fence(9)));
        assert!(check.admit(fence(9)).is_ok());
    }

    #[test]
    fn what_was_written_down_is_remembered() {
        let check = FenceCheck::resumed_at(fence(9));
        assert!(check.admit(fence(8)).is_err());
        assert_eq!(check.highest(), Some(fence(9)));
    }

    #[test]
    fn of_many_threads_none_is_let_in_after_a_larger_one() {
        let check = FenceCheck::new();
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let check = &check;
                scope.spawn(move || {
                    for round in 0..10_000 {
                        let mine = fence(1 + round * 4 + thread);
                        let before = check.highest();
                        if check.admit(mine).is_ok() {
                            assert!(before.is_none_or(|before| before <= mine));
                        }
                        assert!(check.highest() >= Some(mine));
                    }
                });
            }
        });
        assert_eq!(check.highest(), Some(fence(40_000)));
    }
}
