// SPDX-License-Identifier: GPL-2.0

//! Which clients may have an entry in a table: how many entries there are of each of many kinds of them, so that
//! most packets of no entry are known by a look at one number.
//!
//! Every packet of the node's takes that look. The kernel crate's atomics are calls of C; the core library's are
//! the same instructions in place.

use carisma_core::tuple::Addr;
use core::{
    ptr::null_mut,
    sync::atomic::{
        AtomicPtr, AtomicU32,
        Ordering::{AcqRel, Acquire, Relaxed},
    },
};
use kernel::{
    alloc::AllocError,
    prelude::*, //
};

/// How many kinds there are.
const KINDS: usize = 1 << 15;

/// The numbers of entries.
type Counts = KVVec<AtomicU32>;

/// The numbers of entries, once there is memory for them.
///
/// # Invariants
///
/// It is null, or came from `KBox::into_raw` and is this object's own, and is not changed any more.
pub(crate) struct Presence(AtomicPtr<Counts>);

impl Presence {
    /// Nobody has an entry, and no memory.
    pub(crate) const fn new() -> Self {
        // INVARIANT: It is null.
        Self(AtomicPtr::new(null_mut()))
    }

    /// Makes sure that there is memory. Process context. Errors: there is none.
    pub(crate) fn open(&self) -> Result<(), AllocError> {
        if self.is_open() {
            return Ok(());
        }
        let mut counts = Counts::with_capacity(KINDS, GFP_KERNEL)?;
        for _ in 0..KINDS {
            counts.push(AtomicU32::new(0), GFP_KERNEL)?;
        }
        let counts = KBox::into_raw(KBox::new(counts, GFP_KERNEL)?);
        // INVARIANT: The box gives up its value.
        let opened = self.0.compare_exchange(null_mut(), counts, AcqRel, Relaxed);
        if opened.is_err() {
            // SAFETY: It came from a box, and nobody knows it: another one was faster.
            drop(unsafe { KBox::from_raw(counts) });
        }
        Ok(())
    }

    /// Whether there is memory. Any context.
    #[inline(always)]
    pub(crate) fn is_open(&self) -> bool {
        !self.0.load(Acquire).is_null()
    }

    /// The number of a client's kind.
    #[inline(always)]
    fn of(&self, addr: &Addr, port: u16) -> Option<&AtomicU32> {
        // SAFETY: By the type invariant.
        let counts = unsafe { self.0.load(Acquire).as_ref() }?;
        // CAST: The lower half, by which hosts mostly differ.
        let host = u128::from_be_bytes(*addr) as u64;
        let mixed = (host ^ (u64::from(port) << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // CAST: The upper bits, which depend on all of the lower ones.
        counts.get((mixed >> 40) as usize % KINDS)
    }

    /// One more, or one less. Any context.
    pub(crate) fn count(&self, addr: &Addr, port: u16, more: bool) {
        match (self.of(addr, port), more) {
            (Some(count), true) => count.fetch_add(1, Relaxed),
            (Some(count), false) => count.fetch_sub(1, Relaxed),
            (None, _) => 0,
        };
    }

    /// Whether there is any. Any context.
    #[inline(always)]
    pub(crate) fn has(&self, addr: &Addr, port: u16) -> bool {
        self.of(addr, port).is_some_and(|it| it.load(Relaxed) != 0)
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let counts = *self.0.get_mut();
        if !counts.is_null() {
            // SAFETY: By the type invariant it came from a box; nobody looks at it any more.
            drop(unsafe { KBox::from_raw(counts) });
        }
    }
}
