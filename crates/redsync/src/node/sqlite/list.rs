//! Which locks are held, as the file has it.

use std::sync::Arc;
use std::time::Duration;

use super::fences::{micros, read};
use super::store::{Store, now_nanos};
use crate::node::{Holder, Listed, NodeFault, Page, Search, TimeLeft};
use crate::protocol::LockName;

impl Store {
    /// The names after `from`, in their order.
    pub(super) fn list(&mut self, search: &Search, from: &str) -> Result<Page, NodeFault> {
        let clock = Arc::clone(&self.clock);
        self.read(|connection, boot| {
            let mut statement = connection.prepare_cached(
                "SELECT l.name, l.token, l.granted, l.ends, n.waiting, f.fence
                 FROM redsync_leases l
                 LEFT JOIN redsync_lengths n ON n.name = l.name
                 LEFT JOIN redsync_fences f ON f.name = l.name AND f.kept_until > ?3
                 WHERE l.name > ?1 AND l.boot = ?2 ORDER BY l.name LIMIT ?4",
            )?;
            let now_in_micros = micros(clock.wall_micros());
            let mut rows = statement.query((from, boot, now_in_micros, PAGE as i64))?;
            let (mut page, mut seen) = (Page::default(), 0);
            while let Some(row) = rows.next()? {
                seen += 1;
                let name: String = row.get(0)?;
                let (granted, ends): (i64, i64) = (row.get(2)?, row.get(3)?);
                let now = now_nanos(&*clock);
                let stands = granted <= now && now < ends;
                if stands
                    && search.pattern.matches(&name)
                    && let Ok(lock) = LockName::new(&name)
                {
                    let left = TimeLeft::For(Duration::from_nanos((ends - now).unsigned_abs()));
                    let waiting = row.get::<_, Option<i64>>(4)?.unwrap_or_default().unsigned_abs();
                    let fence = row.get::<_, Option<i64>>(5)?.and_then(read);
                    let holder = Holder::new(row.get::<_, String>(1)?, left);
                    page.locks.push(Listed::new(lock, holder, waiting).fenced(fence));
                }
                page.next = Some(name);
            }
            if seen < PAGE {
                page.next = None;
            }
            Ok(page)
        })
    }
}

/// How many names are looked at for one page.
const PAGE: usize = 200;
