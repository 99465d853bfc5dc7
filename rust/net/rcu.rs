// SPDX-License-Identifier: GPL-2.0

//! A value that readers see under RCU and that is replaced whole.
//!
//! C header: [`include/linux/rcupdate.h`](srctree/include/linux/rcupdate.h)

use kernel::{
    prelude::*,
    sync::{
        atomic::{Acquire, Atomic, Full},
        rcu, //
    },
};

/// A published value.
///
/// # Invariants
///
/// The pointer came from `KBox::into_raw` and is owned by this object; values that were replaced are freed a grace period later.
pub struct RcuBox<T: Send + Sync>(Atomic<*mut T>);

impl<T: Send + Sync> RcuBox<T> {
    /// Publishes a first value.
    pub fn new(value: KBox<T>) -> Self {
        // INVARIANT: The box gives up its value.
        Self(Atomic::new(KBox::into_raw(value)))
    }

    /// The value as it is now, for as long as the guard is held. Any context.
    pub fn read<'a>(&'a self, _rcu: &'a rcu::Guard) -> &'a T {
        // SAFETY: By the type invariant the pointer is valid, and stays so until a grace period has passed, which the guard holds off.
        unsafe { &*self.0.load(Acquire) }
    }

    /// Publishes `value` and waits until nobody can see the old one. Process context, may sleep. Callers serialise among themselves.
    pub fn replace(&self, value: KBox<T>) {
        let old = self.0.xchg(KBox::into_raw(value), Full);
        rcu::synchronize_rcu();
        // SAFETY: By the type invariant `old` came from a box; it is no longer published, and its readers are gone.
        drop(unsafe { KBox::from_raw(old) });
    }
}

impl<T: Send + Sync> Drop for RcuBox<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the pointer came from a box; `&mut self` says that nobody reads.
        drop(unsafe { KBox::from_raw(self.0.load(Acquire)) });
    }
}
