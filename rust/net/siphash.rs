// SPDX-License-Identifier: GPL-2.0

//! A keyed hash that does not tell its key.
//!
//! C header: [`include/linux/siphash.h`](srctree/include/linux/siphash.h)

use crate::{
    bindings,
    random, //
};
use carisma_core::cookie::{
    Hash,
    SECRET_LEN, //
};

/// A key.
#[derive(Clone, Copy)]
pub struct SipHash(bindings::siphash_key_t);

impl SipHash {
    /// Draws a key, which nobody knows. Any context.
    pub fn random() -> Self {
        Self::new(&random::bytes())
    }

    /// The key of these bytes, the same on every node.
    pub fn new(secret: &[u8; SECRET_LEN]) -> Self {
        let whole = u128::from_le_bytes(*secret);
        // CAST: Each half.
        let key = [whole as u64, (whole >> 64) as u64];
        Self(bindings::siphash_key_t { key })
    }
}

impl Hash for SipHash {
    fn pair(&self, [a, b]: [u64; 2]) -> u64 {
        // SAFETY: The key is valid.
        unsafe { bindings::siphash_2u64(a, b, &raw const self.0) }
    }

    fn hash(&self, [a, b, c, d]: [u64; 4]) -> u64 {
        // SAFETY: The key is valid.
        unsafe { bindings::siphash_4u64(a, b, c, d, &raw const self.0) }
    }
}
