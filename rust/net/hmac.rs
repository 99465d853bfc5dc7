// SPDX-License-Identifier: GPL-2.0

//! HMAC-SHA256, and secrets that leave no trace in memory.
//!
//! C headers: [`include/crypto/sha2.h`](srctree/include/crypto/sha2.h),
//! [`include/crypto/utils.h`](srctree/include/crypto/utils.h)

use crate::bindings;
use carisma_core::auth::{
    self,
    SECRET_LEN,
    TAG_LEN, //
};
use core::{
    mem::{
        size_of,
        MaybeUninit, //
    },
    ops::{
        Deref,
        DerefMut, //
    },
};
use kernel::{
    alloc::AllocError,
    prelude::*, //
};

/// Bytes that are overwritten when they are dropped, and have one place in memory until then.
pub struct Secret<const N: usize>(KBox<[u8; N]>);

impl<const N: usize> Secret<N> {
    /// Zeroes. Process context.
    pub fn zeroed() -> Result<Self, AllocError> {
        Ok(Self(KBox::new([0; N], GFP_KERNEL)?))
    }

    /// These bytes. Process context.
    pub fn new(bytes: &[u8; N]) -> Result<Self, AllocError> {
        let mut secret = Self::zeroed()?;
        secret.copy_from_slice(bytes);
        Ok(secret)
    }
}

impl<const N: usize> Deref for Secret<N> {
    type Target = [u8; N];

    fn deref(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> DerefMut for Secret<N> {
    fn deref_mut(&mut self) -> &mut [u8; N] {
        &mut self.0
    }
}

impl<const N: usize> Drop for Secret<N> {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

/// Overwrites something with zeroes, even if nobody is going to read it.
fn wipe<const N: usize>(bytes: &mut [u8; N]) {
    // SAFETY: The bytes are ours to write.
    unsafe { bindings::memzero_explicit(bytes.as_mut_ptr().cast(), N) };
}

/// Whether both are the same, in a time that does not tell where they differ.
pub fn same<const N: usize>(a: &[u8; N], b: &[u8; N]) -> bool {
    // SAFETY: Both have that many bytes.
    unsafe { bindings::__crypto_memneq(a.as_ptr().cast(), b.as_ptr().cast(), N) == 0 }
}

/// A key of HMAC-SHA256, prepared for use.
pub struct Key(KBox<bindings::hmac_sha256_key>);

impl Key {
    /// A key of these bytes. Process context.
    pub fn new(secret: &[u8; SECRET_LEN]) -> Result<Self, AllocError> {
        let mut key = KBox::new(bindings::hmac_sha256_key::default(), GFP_KERNEL)?;
        // SAFETY: The key is ours to write, and the secret is as long as we say.
        unsafe { bindings::hmac_sha256_preparekey(&raw mut *key, secret.as_ptr(), SECRET_LEN) };
        Ok(Self(key))
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        let len = size_of::<bindings::hmac_sha256_key>();
        // SAFETY: The key is ours, and plain bytes.
        unsafe { bindings::memzero_explicit((&raw mut *self.0).cast(), len) };
    }
}

impl auth::Key for Key {
    type Error = AllocError;

    fn tag(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut ctx = MaybeUninit::<bindings::hmac_sha256_ctx>::uninit();
        let mut tag = [0; 32];
        // SAFETY: The first call initialises the context, the last reads it and wipes it; the parts
        // are as long as we say, and the tag as long as the hash.
        unsafe {
            bindings::hmac_sha256_init(ctx.as_mut_ptr(), &raw const *self.0);
            for part in parts {
                bindings::hmac_sha256_update(ctx.as_mut_ptr(), part.as_ptr(), part.len());
            }
            bindings::hmac_sha256_final(ctx.as_mut_ptr(), tag.as_mut_ptr());
        }
        tag
    }

    fn derive(&self, parts: &[&[u8]]) -> Result<Self, AllocError> {
        let mut bytes = self.tag(parts);
        let key = Self::new(&bytes);
        wipe(&mut bytes);
        key
    }

    fn same(a: &[u8; TAG_LEN], b: &[u8; TAG_LEN]) -> bool {
        same(a, b)
    }
}
