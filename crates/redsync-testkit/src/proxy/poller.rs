//! Waiting for sockets, for a time, and for being woken.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::io::Errno;

/// An epoll of sockets whose every change is news.
///
/// It is edge-triggered and does not say which socket has the news: whoever is woken looks at all of them, and reads
/// and writes each until it would block. A closed socket is forgotten by itself.
#[derive(Debug)]
pub(super) struct Poller {
    epoll: OwnedFd,
    /// Never read: edge-triggered, each write to it is news.
    bell: OwnedFd,
}

impl Poller {
    pub(super) fn new() -> Self {
        let poller = epoll::create(epoll::CreateFlags::CLOEXEC)
            .and_then(|epoll| {
                Ok(Self { epoll, bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
            })
            .unwrap_or_else(|error| panic!("cannot make an epoll for the proxy: {error}"));
        poller.watch(&poller.bell);
        poller
    }

    pub(super) fn watch(&self, source: &impl AsFd) {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&self.epoll, source, epoll::EventData::new_u64(0), flags)
            .unwrap_or_else(|error| panic!("the proxy cannot watch a socket: {error}"));
    }

    /// Ends the wait that is going on, or else the next.
    pub(super) fn wake(&self) {
        rustix::io::write(&self.bell, &1_u64.to_ne_bytes())
            .unwrap_or_else(|error| panic!("cannot wake the proxy: {error}"));
    }

    /// Waits for news, until `deadline` at the latest. May return early.
    pub(super) fn wait(&self, deadline: Option<Instant>) {
        // What does not fit into a timespec is later than any test.
        let timeout = deadline
            .and_then(|deadline| Timespec::try_from(deadline.saturating_duration_since(Instant::now())).ok());
        // More news than fit are told by the next wait.
        let mut news = [const { std::mem::MaybeUninit::uninit() }; 16];
        match epoll::wait(&self.epoll, &mut news, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => panic!("the proxy cannot wait: {error}"),
        }
    }
}
