// SPDX-License-Identifier: GPL-2.0

//! A keyed hash that does not tell its key.
//!
//! C header: [`include/linux/siphash.h`](srctree/include/linux/siphash.h)

use crate::{
    bindings,
    random, //
};
use carisma_core::cookie::Hash;

/// A key of this node's own, which nobody knows.
pub struct SipHash(bindings::siphash_key_t);

impl SipHash {
    /// Draws a key. Any context.
    pub fn random() -> Self {
        Self(bindings::siphash_key_t {
            key: [random::u64(), random::u64()],
        })
    }
}

impl Hash for SipHash {
    fn hash(&self, [a, b, c, d]: [u64; 4]) -> u64 {
        // SAFETY: The key is valid.
        unsafe { bindings::siphash_4u64(a, b, c, d, &raw const self.0) }
    }
}
