// SPDX-License-Identifier: GPL-2.0

//! An attached listener, and the children that wait for room in its accept queue.

use crate::utcp::service::Service;
use carisma_net::{
    listener::{
        Held,
        HeldQueue, //
    },
    lock::{
        new_spinlock_bh,
        SpinLockBh, //
    },
    sock::{
        Locked,
        Sock, //
    },
};
use core::mem::take;
use kernel::{
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    },
};

/// What changes in a listener.
struct Inner {
    /// Its children have been given back; no more are withheld.
    closing: bool,
    /// Released children, in the order that BTCP has chosen, for which the accept queue has had no
    /// room yet.
    fifo: HeldQueue,
}

/// What came of a release.
pub(crate) enum Appended {
    /// The child is in the accept queue.
    Now,
    /// It waits.
    Later,
    /// Nobody listens any more.
    Never(Held),
}

/// A listener of a service.
///
/// Lock order: `inner`, then the state of a [`super::withheld::Withheld`], or the accept queue's
/// lock.
#[pin_data]
pub(crate) struct Listener {
    /// Its socket.
    pub(crate) sk: ARef<Sock>,
    #[pin]
    inner: SpinLockBh<Inner>,
}

impl Listener {
    /// A listener that has just been attached.
    pub(crate) fn new(sk: &Locked<'_>) -> Result<Arc<Self>> {
        let sk: &Sock = sk;
        Arc::pin_init(
            pin_init!(Self {
                sk: sk.into(),
                inner <- new_spinlock_bh!(
                    Inner {
                        closing: false,
                        fifo: HeldQueue::new(),
                    },
                    "carisma_listener"
                ),
            }),
            GFP_ATOMIC,
        )
    }

    /// Whether it is the listener whose socket this is.
    pub(crate) fn is(&self, sk: &Sock) -> bool {
        core::ptr::eq(&*self.sk, sk)
    }

    /// Does `f`, unless the listener is closing; nothing closes it meanwhile.
    pub(crate) fn unless_closing<R>(&self, f: impl FnOnce() -> R) -> Option<R> {
        let inner = self.inner.lock();
        (!inner.closing).then(f)
    }

    /// Appends a released child to the accept queue, behind those that wait, if the backlog allows.
    pub(crate) fn append(&self, held: Held) -> Appended {
        let mut inner = self.inner.lock();
        if !inner.closing && (!inner.fifo.is_empty() || self.sk.is_full()) {
            inner.fifo.push(held);
            return Appended::Later;
        }
        match held.append() {
            Ok(()) => Appended::Now,
            Err(held) => Appended::Never(held),
        }
    }

    /// Appends as many of those that wait as there is room for. How many, those for which nobody
    /// listens, and whether some still wait.
    pub(crate) fn retry(&self) -> (usize, HeldQueue, bool) {
        let mut inner = self.inner.lock();
        let mut appended = 0_usize;
        let mut orphans = HeldQueue::new();
        while !self.sk.is_full() {
            let Some(held) = inner.fifo.pop() else {
                break;
            };
            match held.append() {
                Ok(()) => appended = appended.wrapping_add(1),
                Err(held) => orphans.push(held),
            }
        }
        (appended, orphans, !inner.fifo.is_empty())
    }

    /// Whether children wait for room in its accept queue.
    pub(crate) fn is_awaited(&self) -> bool {
        !self.inner.lock().fifo.is_empty()
    }

    /// From now on no child is withheld. Answers those that wait.
    pub(crate) fn close(&self) -> HeldQueue {
        let mut inner = self.inner.lock();
        inner.closing = true;
        take(&mut inner.fifo)
    }

    /// Whether it takes connections to the service.
    pub(crate) fn serves(&self, service: &Service) -> bool {
        service.is_of(&self.sk)
    }
}
