//! The recipes in Rust. What stands on the page stands here too, word for word.

use std::sync::Mutex;

use redsync::{Fence, FenceCheck, Redsync, StaleFence};

use crate::claims::{Refused, Resource, User};
use crate::page::block;

struct Account {
    fences: FenceCheck,
    balance: u64,
}

fn write(account: &Mutex<Account>, fence: Fence, balance: u64) -> Result<(), StaleFence> {
    let mut account = account.lock().unwrap();
    account.fences.admit(fence)?;
    account.balance = balance;
    Ok(())
}

fn read(account: &Mutex<Account>, fence: Fence) -> Result<u64, StaleFence> {
    let account = account.lock().unwrap();
    account.fences.admit(fence)?;
    Ok(account.balance)
}

/// A value behind a mutex.
pub(crate) struct InProcess {
    account: Mutex<Account>,
}

impl InProcess {
    pub(crate) fn new() -> Self {
        Self { account: Mutex::new(Account { fences: FenceCheck::new(), balance: 0 }) }
    }
}

impl Resource for InProcess {
    fn user(&self) -> Box<dyn User + '_> {
        Box::new(InProcessUser(&self.account))
    }
}

struct InProcessUser<'a>(&'a Mutex<Account>);

impl User for InProcessUser<'_> {
    fn write(&mut self, number: u64, fence: Fence) -> Result<(), Refused> {
        write(self.0, fence, number).map_err(|_| Refused)
    }

    fn read(&mut self, fence: Fence) -> Result<u64, Refused> {
        read(self.0, fence).map_err(|_| Refused)
    }
}

#[tokio::test]
async fn a_guard_of_a_fenced_lock_has_a_fence() -> Result<(), redsync::Error> {
    let redsync = Redsync::connect(["memory:"]).await?;
    let guard = redsync.mutex("orders:42").fenced().lock().await?;
    let fence: Fence = guard.fence();
    guard.extend().await?;
    assert_eq!(guard.fence(), fence);
    assert_eq!(fence.to_string().len(), 16);
    guard.unlock().await
}

#[test]
fn the_rust_of_the_page_is_the_rust_that_is_tested() {
    let unindented = |text: &str| text.lines().map(|line| format!("{}\n", line.trim())).collect::<String>();
    let tested = unindented(include_str!("in_process.rs"));
    for start in ["let guard", "struct Account"] {
        assert!(tested.contains(&unindented(block("rust", start))), "{start}");
    }
}
