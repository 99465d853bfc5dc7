// SPDX-License-Identifier: GPL-2.0

//! Messages, and putting attributes into them.

use super::Family;
use crate::bindings;
use core::{
    marker::PhantomData,
    ptr::{self, NonNull},
};
use kernel::{
    error::{to_result, Result},
    prelude::*, //
};

/// A message that is being written.
///
/// # Invariants
///
/// The buffer is valid and nobody else writes to it.
pub struct Message<'a> {
    skb: NonNull<bindings::sk_buff>,
    _skb: PhantomData<&'a mut bindings::sk_buff>,
}

impl Message<'_> {
    /// Appends a message to `skb`, or leaves it as it was.
    ///
    /// # Safety
    ///
    /// `skb` must be a netlink buffer that nobody else writes to.
    pub(super) unsafe fn write(
        skb: NonNull<bindings::sk_buff>,
        portid: u32,
        seq: u32,
        family: &Family,
        flags: c_int,
        command: u32,
        fill: impl FnOnce(&mut Message<'_>) -> Result,
    ) -> Result<*mut c_void> {
        // SAFETY: The caller says that the buffer may be written to; the family is registered.
        let header = unsafe {
            // CAST: The number of a command has 8 bits.
            bindings::genlmsg_put(
                skb.as_ptr(),
                portid,
                seq,
                family.0.get(),
                flags,
                command as u8,
            )
        };
        if header.is_null() {
            return Err(EMSGSIZE);
        }
        // INVARIANT: The caller says so.
        let mut message = Message {
            skb,
            _skb: PhantomData,
        };
        match fill(&mut message) {
            // SAFETY: The header was put into this buffer above.
            Ok(()) => unsafe { bindings::genlmsg_end(skb.as_ptr(), header) },
            Err(err) => {
                // SAFETY: As above.
                unsafe { bindings::genlmsg_cancel(skb.as_ptr(), header) };
                return Err(err);
            }
        }
        Ok(header)
    }

    /// Puts an attribute of these bytes.
    pub fn put(&mut self, number: u32, bytes: &[u8]) -> Result {
        let len = c_int::try_from(bytes.len()).map_err(|_| EMSGSIZE)?;
        // SAFETY: By the type invariant; `bytes` is read only.
        to_result(unsafe {
            bindings::nla_put(
                self.skb.as_ptr(),
                number as c_int, // CAST: The number of an attribute has 16 bits.
                len,
                bytes.as_ptr().cast(),
            )
        })
    }

    /// Puts a string, of which the bytes are those before the one that ends it.
    pub fn put_text(&mut self, number: u32, text: &[u8]) -> Result {
        let len = c_int::try_from(text.len())
            .ok()
            .and_then(|len| len.checked_add(1))
            .ok_or(EMSGSIZE)?;
        // SAFETY: By the type invariant. The room of the attribute holds the text and one byte more.
        // CAST: The number of an attribute has 16 bits.
        unsafe {
            let attr = bindings::nla_reserve(self.skb.as_ptr(), number as c_int, len);
            if attr.is_null() {
                return Err(EMSGSIZE);
            }
            let to: *mut u8 = attr.add(1).cast();
            ptr::copy_nonoverlapping(text.as_ptr(), to, text.len());
            to.add(text.len()).write(0);
        }
        Ok(())
    }

    /// Puts a `u16`.
    pub fn put_u16(&mut self, number: u32, value: u16) -> Result {
        self.put(number, &value.to_ne_bytes())
    }

    /// Puts a `u32`.
    pub fn put_u32(&mut self, number: u32, value: u32) -> Result {
        self.put(number, &value.to_ne_bytes())
    }

    /// Puts a `uint`, which takes 8 bytes only if it must.
    pub fn put_uint(&mut self, number: u32, value: u64) -> Result {
        match u32::try_from(value) {
            Ok(value) => self.put_u32(number, value),
            Err(_) => self.put(number, &value.to_ne_bytes()),
        }
    }

    /// Puts a flag, if it is set.
    pub fn put_flag(&mut self, number: u32, value: bool) -> Result {
        match value {
            true => self.put(number, &[]),
            false => Ok(()),
        }
    }
}
