// SPDX-License-Identifier: GPL-2.0

//! UTCP's side of the messages: the BTCP below it, which is always there.
//!
//! C header: `include/carisma_msg.h`

use crate::{
    bindings,
    link::{
        self,
        Msg,
        Put, //
    },
    pernet::Net,
};
use core::mem::size_of;
use kernel::{
    error::to_result,
    prelude::*,
    types::Opaque, //
};

/// UTCP is attached as long as this object lives. Process context.
///
/// When it is dropped, no message from BTCP is under way, nor will there be one.
pub struct Attachment {
    /// What BTCP points to.
    _upper: Pin<KBox<Opaque<bindings::carisma_upper>>>,
}

// SAFETY: Only made and dropped, by whichever thread.
unsafe impl Send for Attachment {}
// SAFETY: Nothing can be done with a shared reference.
unsafe impl Sync for Attachment {}

impl Attachment {
    /// Attaches `P`, of the given module. Errors: `EINVAL` when the modules are of different
    /// builds, `EBUSY`.
    pub fn new<P: Put>(module: &ThisModule) -> Result<Self> {
        let upper = KBox::pin(
            Opaque::new(bindings::carisma_upper {
                abi: bindings::CARISMA_MSG_ABI,
                // CAST: A small number.
                msg_size: size_of::<bindings::carisma_msg>() as u32,
                owner: module.as_ptr().cast(),
                put: Some(link::receive::<P>),
            }),
            GFP_KERNEL,
        )?;
        // SAFETY: The object stays where it is until UTCP is detached.
        to_result(unsafe { bindings::carisma_btcp_attach(upper.get()) })?;
        Ok(Self { _upper: upper })
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // SAFETY: It was attached by `new`.
        unsafe { bindings::carisma_btcp_detach() };
    }
}

/// Sends BTCP a message, in the context of the message's kind. Errors: BTCP's own.
pub fn put(net: &Net, msg: Msg<'_>) -> Result<u32> {
    // SAFETY: Both arguments are valid for the call. BTCP cannot be unloaded while we use its
    // symbols.
    link::answer(unsafe { bindings::carisma_btcp_put(net.as_ptr(), &msg.to_raw()) })
}
