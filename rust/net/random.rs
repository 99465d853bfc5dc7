// SPDX-License-Identifier: GPL-2.0

//! Random numbers.
//!
//! C header: [`include/linux/random.h`](srctree/include/linux/random.h)

use crate::bindings;

/// A number that nobody can guess. Any context.
pub fn u64() -> u64 {
    // SAFETY: The function has no preconditions.
    unsafe { bindings::get_random_u64() }
}
