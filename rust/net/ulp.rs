// SPDX-License-Identifier: GPL-2.0

//! A TCP upper layer protocol that is a label: it says, in `ss -tlie`, on which listeners UTCP
//! sits.
//!
//! It has no owner: with one, every listener would pin the module, and a child's clean-up would
//! give back a reference that nobody took. No process can attach it, and no child inherits it, so
//! that the server's own protocol (kTLS) finds its place free; nor anything else of ours
//! (`listener.rs`).
//!
//! C header: [`include/net/tcp.h`](srctree/include/net/tcp.h)

use crate::{
    bindings,
    listener, //
};
use kernel::{
    error::to_result,
    ffi::c_int,
    prelude::*,
    types::Opaque, //
};

/// The operations, which listeners that have the label point to.
struct Ops(Opaque<bindings::tcp_ulp_ops>);

// SAFETY: The operations are changed by their registration only, under its own lock.
unsafe impl Sync for Ops {}

static OPS: Ops = Ops(Opaque::new(bindings::tcp_ulp_ops {
    init: Some(init),
    clone: Some(clone),
    name: name(*b"carisma"),
    // SAFETY: All zeroes say that there is nothing: no other operation, no owner, no list.
    ..unsafe { core::mem::zeroed() }
}));

/// A name with zeroes behind it.
const fn name(from: [u8; 7]) -> [u8; bindings::TCP_ULP_NAME_MAX as usize] {
    let mut to = [0; bindings::TCP_ULP_NAME_MAX as usize];
    let mut i = 0;
    while i < from.len() {
        to[i] = from[i];
        i += 1;
    }
    to
}

/// What a listener that has the label points to.
pub(crate) fn ops() -> *const bindings::tcp_ulp_ops {
    OPS.0.get()
}

/// Keeps the protocol `carisma` registered. Process context.
pub struct Ulp(());

impl Ulp {
    /// Registers it. Errors: `EEXIST`.
    pub fn new() -> Result<Self> {
        // SAFETY: The operations are a static.
        to_result(unsafe { bindings::tcp_register_ulp(OPS.0.get()) })?;
        Ok(Self(()))
    }
}

impl Drop for Ulp {
    fn drop(&mut self) {
        // SAFETY: `new` registered them. This waits for the readers of the list; that no socket
        // points here any more is the business of whoever attached it (`listener.rs`).
        unsafe { bindings::tcp_unregister_ulp(OPS.0.get()) };
    }
}

/// Refuses: only UTCP attaches this protocol, and not by this way.
///
/// # Safety
///
/// Called by TCP only.
unsafe extern "C" fn init(_sk: *mut bindings::sock) -> c_int {
    EOPNOTSUPP.to_errno()
}

/// Leaves the child without, and with what stock TCP gives it.
///
/// # Safety
///
/// Called by TCP only, with a child that is still locked.
unsafe extern "C" fn clone(
    _req: *const bindings::request_sock,
    child: *mut bindings::sock,
    _priority: bindings::gfp_t,
) {
    // SAFETY: The child is valid, and nobody else knows it.
    unsafe { listener::restore(child) };
}
