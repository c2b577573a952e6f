//! Lists that are wrong.

use std::time::Duration;

use redsync::{Holder, Listed, Node, NodeFault, Page, Search, TimeLeft, Token};

use super::{Defect, WrongNode};

impl WrongNode {
    pub(super) async fn list(&self, search: &Search, from: &str) -> Result<Page, NodeFault> {
        let everything = Search::everything();
        let asked_for = match self.defect {
            Defect::ListsWhateverItsName => &everything,
            _ => search,
        };
        let mut page = self.inner.list(asked_for, from).await?;
        match self.defect {
            Defect::ListsNothing => page.locks.clear(),
            Defect::ListsOnePageOnly => page.locks.truncate(200),
            Defect::ListsNoTime => {
                for lock in &mut page.locks {
                    lock.holder = Holder::new(lock.holder.token(), TimeLeft::Unknown);
                }
            }
            Defect::ListsNoLines => page.locks.iter_mut().for_each(|lock| lock.waiting = 0),
            Defect::ListsNoFences => page.locks.iter_mut().for_each(|lock| lock.fence = None),
            Defect::ListsTheLastHolders => {
                let last = self.notes.last_holders.lock().unwrap();
                let gone = last.iter().filter(|(name, _)| search.pattern.matches(name.as_str()));
                let listed = |(name, token): (&redsync::LockName, &Token)| {
                    Listed::new(name.clone(), Holder::new(token.as_str(), TimeLeft::For(Duration::ZERO)), 0)
                };
                page = Page::new(gone.map(listed).collect(), None);
            }
            Defect::ListProlongs => {
                for lock in &page.locks {
                    let longer = super::time_left(&lock.holder) + Duration::from_millis(200);
                    let longer = redsync::Expiry::new(longer).unwrap_or(redsync::Expiry::MAX);
                    self.prolong(&lock.name, &lock.holder, longer).await?;
                }
            }
            _ => {}
        }
        Ok(page)
    }
}
