// SPDX-License-Identifier: GPL-2.0

//! Counters that every CPU keeps for itself.
//!
//! C header: [`include/linux/percpu.h`](srctree/include/linux/percpu.h)

use crate::bindings;
use core::ptr::NonNull;
use kernel::prelude::*;

/// `N` counters. To count takes no lock and no bus; to read one adds up what the CPUs counted.
///
/// # Invariants
///
/// The pointer is a per-CPU allocation of `N` numbers, which this object owns.
pub struct PerCpuCounters<const N: usize>(NonNull<u64>);

// SAFETY: The memory is reached through per-CPU operations only, which any thread may use.
unsafe impl<const N: usize> Send for PerCpuCounters<N> {}
// SAFETY: As above.
unsafe impl<const N: usize> Sync for PerCpuCounters<N> {}

impl<const N: usize> PerCpuCounters<N> {
    /// Makes the counters, each of them 0. Process context.
    pub fn new() -> Result<Self> {
        let (size, align) = (size_of::<[u64; N]>(), align_of::<u64>());
        // SAFETY: An allocation, which is zeroed.
        let counters = unsafe { bindings::alloc_percpu(size, align) };
        // INVARIANT: It was just allocated.
        NonNull::new(counters.cast()).map(Self).ok_or(ENOMEM)
    }

    /// Where the counter is.
    fn at(&self, index: usize) -> Option<*mut u64> {
        // By the type invariant the result lies within the allocation.
        (index < N).then(|| self.0.as_ptr().wrapping_add(index))
    }

    /// Adds to a counter. Any context.
    pub fn add(&self, index: usize, n: u64) {
        if let Some(counter) = self.at(index) {
            // SAFETY: By the type invariant.
            unsafe { bindings::this_cpu_add(counter, n) };
        }
    }

    /// What a counter came to. Any context.
    pub fn sum(&self, index: usize) -> u64 {
        match self.at(index) {
            // SAFETY: By the type invariant.
            Some(counter) => unsafe { bindings::percpu_sum(counter) },
            None => 0,
        }
    }
}

impl<const N: usize> Drop for PerCpuCounters<N> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::free_percpu(self.0.as_ptr().cast()) };
    }
}
