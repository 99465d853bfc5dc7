// SPDX-License-Identifier: GPL-2.0

//! The listeners of a namespace: which are attached, and what becomes of their children when they
//! are no more.

use super::{
    counters::Counter,
    listener::Listener,
    Gate,
    Ns,
    CLOSING, //
};
use carisma_net::{
    listener::{
        Foreign,
        Hooks, //
    },
    sock::{
        Listeners,
        Locked,
        Sock,
        State, //
    },
};
use kernel::{
    prelude::*,
    sync::{
        atomic::Acquire,
        rcu,
        Arc, //
    },
};

impl Ns {
    /// The listener at a place of the list.
    pub(super) fn listener_at(&self, i: usize) -> Option<Arc<Listener>> {
        self.listeners.lock().get(i).cloned()
    }

    /// Every listener that there is now and still is when its turn comes, some maybe twice: from the last one
    /// on, as in the place of one that goes come those behind it.
    pub(super) fn each_listener(&self) -> impl Iterator<Item = Arc<Listener>> + '_ {
        let count = self.listeners.lock().len();
        (0..count).rev().filter_map(|i| self.listener_at(i))
    }

    /// The first listener of the list.
    pub(super) fn first_listener(&self) -> Option<Arc<Listener>> {
        self.listener_at(0)
    }

    /// The listener whose socket this is.
    pub(super) fn find_listener(&self, sk: &Sock) -> Option<Arc<Listener>> {
        let list = self.listeners.lock();
        list.iter().find(|listener| listener.is(sk)).cloned()
    }

    /// Takes a listener out of the list; the first to do so has to see to its children.
    fn remove_listener(&self, sk: &Sock) -> Option<Arc<Listener>> {
        let mut list = self.listeners.lock();
        let i = list.iter().position(|listener| listener.is(sk))?;
        list.remove(i).ok()
    }

    /// Whether a listener takes connections to a service of ours. Any context.
    pub(super) fn serves(&self, sk: &Sock) -> bool {
        self.services.read(&rcu::read_lock()).are_of(sk)
    }

    /// Attaches a listener, or a socket that is about to be one. Any context.
    pub(super) fn attach(&self, sk: &Locked<'_>) {
        if CLOSING.load(Acquire) || !self.serves(sk) || self.find_listener(sk).is_some() {
            return;
        }
        if let Err(why) = Hooks::<Gate>::attach(sk) {
            self.counters.count(match why {
                Foreign::Mptcp => Counter::ListenersSkippedMptcp,
                Foreign::Kernel => Counter::ListenersSkippedKernel,
                Foreign::Ulp => Counter::ListenersSkippedUlp,
                Foreign::Ops => Counter::ListenersSkippedOps,
            });
            return;
        }
        let listed = Listener::new(sk)
            .and_then(|listener| Ok(self.listeners.lock().push(listener, GFP_ATOMIC)?));
        match listed {
            Ok(()) => self.counters.count(Counter::ListenersAttached),
            Err(_) => {
                Hooks::<Gate>::detach(sk);
                self.counters.count(Counter::ListenersSkippedMemory);
            }
        }
    }

    /// Attaches the listeners that there are. Process context.
    pub(super) fn scan(&self) {
        for sk in Listeners::of(&self.net) {
            if !self.serves(&sk) {
                continue;
            }
            let sk = sk.lock();
            if sk.state() == State::Listening {
                self.attach(&sk);
            }
        }
    }

    /// Detaches a listener that goes on. Process context.
    pub(super) fn detach(&self, listener: &Arc<Listener>) {
        let sk = listener.sk.lock();
        if self.remove_listener(&sk).is_some() {
            self.restore(&sk);
            let appended = self.give_back(listener);
            drop(sk);
            // Each wakes one process that sleeps in accept().
            (0..appended).for_each(|_| listener.sk.wake());
        }
    }

    fn restore(&self, sk: &Locked<'_>) {
        if !Hooks::<Gate>::detach(sk) {
            self.counters.count(Counter::ListenersOverridden);
        }
        self.counters.count(Counter::ListenersDetached);
    }

    /// Appends a listener's withheld children to its accept queue, whatever the backlog: it has
    /// been taken out of the list. How many. Process context; the listener's lock is held, so that it
    /// still listens.
    fn give_back(&self, listener: &Arc<Listener>) -> usize {
        let mut appended = 0_usize;
        let mut queue = listener.close();
        self.withheld.for_each(|entry| {
            if !Arc::ptr_eq(&entry.listener, listener) {
                return;
            }
            if let Some((held, settled)) = entry.take_anyhow() {
                self.withheld.remove(entry);
                if !settled {
                    held.child().barrier();
                }
                queue.push(held);
            }
        });
        while let Some(held) = queue.pop() {
            match held.append() {
                Ok(()) => {
                    appended = appended.wrapping_add(1);
                    self.counters.count(Counter::ConnectionsGivenBack);
                }
                Err(held) => {
                    self.counters.count(Counter::ConnectionsOrphaned);
                    self.discard(held);
                }
            }
        }
        appended
    }

    /// A listener goes to CLOSE, its lock held. What is in its accept queue TCP resets, or hands to
    /// another listener of the group.
    pub(super) fn closing(&self, sk: &Locked<'_>) {
        if let Some(listener) = self.remove_listener(sk) {
            self.restore(sk);
            // Who sleeps in accept() is woken by what closes it.
            let _ = self.give_back(&listener);
        }
    }
}
