// SPDX-License-Identifier: GPL-2.0

//! Which connections began with a cookie of late, or were handed over to this node in band, so that a copy of
//! their first segment, which the network or anybody on the way may have made, does not begin them again when
//! they are over; and which this node did not take, as another one may have them since.
//!
//! A table of fingerprints, of which a new one takes the place of the oldest of four. It remembers about
//! 1,300 connections a second for as long as their cookies are valid.

use kernel::{
    alloc::AllocError,
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
};

/// How many fingerprints there are, and how many of them may be one's place.
const SIZE: usize = 1 << 18;
const WAYS: usize = 4;

/// The lower bits of a fingerprint's word say when it was noted, in units of 4 s.
const TICK_BITS: u32 = 16;
const TICK_SHIFT: u32 = 12;

/// Fingerprints.
pub(crate) struct Used(KVVec<[Atomic<u64>; WAYS]>);

impl Used {
    /// None yet. Process context.
    pub(crate) fn new() -> Result<Self, AllocError> {
        let mut sets = KVVec::with_capacity(SIZE / WAYS, GFP_KERNEL)?;
        for _ in 0..SIZE / WAYS {
            sets.push(core::array::from_fn(|_| Atomic::new(0u64)), GFP_KERNEL)?;
        }
        Ok(Self(sets))
    }

    /// The places of a fingerprint.
    fn set(&self, print: u64) -> &[Atomic<u64>] {
        // CAST: What is left is smaller than the length.
        let index = (print >> TICK_BITS) as usize % (SIZE / WAYS);
        self.0.get(index).map_or(&[], |set| &set[..])
    }

    /// Whether it was noted. Any context.
    pub(crate) fn has(&self, print: u64) -> bool {
        let same = |word: &Atomic<u64>| word.load(Relaxed) >> TICK_BITS == print >> TICK_BITS;
        self.set(print).iter().any(same)
    }

    /// Notes one at `now` milliseconds. One that is noted at the same time may be forgotten. Any context.
    pub(crate) fn note(&self, print: u64, now: u32) {
        let tick = now >> TICK_SHIFT;
        // CAST: The bits that tell the time.
        let age = |word: &&Atomic<u64>| match word.load(Relaxed) {
            0 => u16::MAX,
            word => (tick as u16).wrapping_sub(word as u16),
        };
        if let Some(oldest) = self.set(print).iter().max_by_key(age) {
            let time = u64::from(tick as u16);
            oldest.store((print >> TICK_BITS << TICK_BITS) | time, Relaxed);
        }
    }
}
