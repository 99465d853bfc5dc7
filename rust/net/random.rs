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

/// Bytes that nobody can guess. Any context.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // SAFETY: There is room for that many.
    unsafe { bindings::get_random_bytes(bytes.as_mut_ptr().cast(), N) };
    bytes
}
