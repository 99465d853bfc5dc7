// SPDX-License-Identifier: GPL-2.0

//! Which clients may have an entry in a table: how many entries there are of each of many kinds of them, so that
//! most packets of no entry are known by a look at one number.

use carisma_core::tuple::Addr;
use kernel::{
    alloc::AllocError,
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
};

/// How many kinds there are.
const KINDS: usize = 1 << 15;

/// The numbers of entries.
pub(crate) struct Presence(KVVec<Atomic<u32>>);

impl Presence {
    /// There are none. Process context.
    pub(crate) fn new() -> Result<Self, AllocError> {
        let mut counts = KVVec::with_capacity(KINDS, GFP_KERNEL)?;
        for _ in 0..KINDS {
            counts.push(Atomic::new(0u32), GFP_KERNEL)?;
        }
        Ok(Self(counts))
    }

    /// The number of a client's kind.
    #[inline(always)]
    fn of(&self, addr: &Addr, port: u16) -> Option<&Atomic<u32>> {
        // CAST: The lower half, by which hosts mostly differ.
        let host = u128::from_be_bytes(*addr) as u64;
        let mixed = (host ^ (u64::from(port) << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // CAST: The upper bits, which depend on all of the lower ones.
        self.0.get((mixed >> 40) as usize % KINDS)
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
