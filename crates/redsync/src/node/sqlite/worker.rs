//! The thread's own: it takes orders, one after the other, and looks at the file in between.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use super::Site;
use super::listeners::Listeners;
use super::store::Store;
use super::watch::Watch;
use crate::clock::Clock;
use crate::node::{ClientId, Entered, NodeFault, Place, Released, Succession};
use crate::protocol::{LockName, Token};

pub(super) struct Worker {
    pub(super) store: Store,
    watch: Watch,
    clock: Arc<dyn Clock>,
}

pub(super) type Job = Box<dyn FnOnce(&mut Worker) + Send>;

impl Worker {
    pub(super) fn new(site: Site, listeners: Arc<Listeners>, clock: Arc<dyn Clock>) -> Self {
        let store = Store::at(site, Arc::clone(&listeners), Arc::clone(&clock));
        Self { store, watch: Watch::new(listeners, Arc::clone(&clock)), clock }
    }

    /// Ends when the node is dropped and its last order is done.
    pub(super) fn serve(mut self, jobs: &Receiver<Job>) {
        loop {
            let job = match self.watch.due() {
                None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => jobs.recv_timeout(due.saturating_since(self.clock.now())),
            };
            match job {
                Ok(job) => job(&mut self),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.watch.look(&mut self.store);
        }
        self.watch.end(&mut self.store);
    }

    pub(super) fn enter(&mut self, client: &ClientId, places: &[Place]) -> Result<Entered, NodeFault> {
        let entered = self.store.enter(client, places)?;
        self.watch.entered(client, places, &entered.places, self.store.openings);
        Ok(entered)
    }

    pub(super) fn yield_lease(&mut self, client: &ClientId, place: Place) -> Result<Entered, NodeFault> {
        let entered = self.store.yield_lease(client, &place)?;
        self.watch.entered(client, &[place], &entered.places, self.store.openings);
        Ok(entered)
    }

    pub(super) fn release(
        &mut self,
        name: LockName,
        token: Token,
        succession: Succession,
    ) -> Result<Released, NodeFault> {
        let released = self.store.release(&name, &token, succession)?;
        self.watch.left(name, token);
        Ok(released)
    }
}
