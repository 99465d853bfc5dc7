// SPDX-License-Identifier: GPL-2.0

//! Buffers of bytes.

use kernel::{
    alloc::{
        flags::__GFP_ZERO,
        AllocError,
        Flags, //
    },
    prelude::*, //
};

/// `len` zeroes, which the allocator makes. `KVec::from_elem` writes them one by one. Context: that of
/// `flags`.
pub fn zeroes(len: usize, flags: Flags) -> Result<KVec<u8>, AllocError> {
    let mut bytes = KVec::with_capacity(len, flags | __GFP_ZERO)?;
    // SAFETY: There is room for as many, and all of it was zeroed.
    unsafe { bytes.inc_len(len) };
    Ok(bytes)
}
