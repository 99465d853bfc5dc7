// SPDX-License-Identifier: GPL-2.0

//! Dumps: requests that are answered with a list, a buffer at a time.

use super::{
    Family,
    Message, //
};
use crate::{
    bindings,
    pernet::Net, //
};
use core::{
    marker::PhantomData,
    ptr::{self, NonNull},
};
use kernel::{
    error::{Error, Result},
    prelude::*, //
};

/// A dump under way: one buffer is to be filled, and the next begins where this one ends.
///
/// # Invariants
///
/// Both pointers are valid, and nobody else uses the buffer.
pub struct Dump<'a> {
    skb: NonNull<bindings::sk_buff>,
    cb: NonNull<bindings::netlink_callback>,
    _cb: PhantomData<&'a mut bindings::netlink_callback>,
}

/// What a dump remembers from one buffer to the next. It is all zeroes at first.
pub type Cursor = [u64; 4];

impl<'a> Dump<'a> {
    /// Borrows the dump.
    ///
    /// # Safety
    ///
    /// The pointers must be what netlink passed to a `dumpit` callback, and `'a` must not outlive that
    /// call.
    unsafe fn from_raw(
        skb: NonNull<bindings::sk_buff>,
        cb: NonNull<bindings::netlink_callback>,
    ) -> Self {
        // INVARIANT: The caller says so.
        Self {
            skb,
            cb,
            _cb: PhantomData,
        }
    }

    /// The namespace of the socket that the request came from.
    pub fn net(&self) -> &'a Net {
        // SAFETY: By the type invariant; the socket keeps its namespace.
        unsafe { Net::from_raw(bindings::netlink_callback_net(self.cb.as_ptr())) }
    }

    /// Where the dump is.
    pub fn cursor(&mut self) -> &mut Cursor {
        const {
            // What the C union has room for, which is aligned for pointers.
            assert!(size_of::<Cursor>() <= bindings::NETLINK_CTX_SIZE as usize);
            assert!(align_of::<Cursor>() <= align_of::<*mut c_void>());
        };
        // SAFETY: By the type invariant. The room is the callback's own, and any bytes are a cursor.
        unsafe { &mut *ptr::addr_of_mut!((*self.cb.as_ptr()).__bindgen_anon_1).cast() }
    }

    /// Says which state of affairs the entries that follow belong to. When it changes during a dump,
    /// user space is told so.
    pub fn set_generation(&mut self, generation: u32) {
        // SAFETY: By the type invariant. Netlink takes 0 for "not known".
        unsafe { (*self.cb.as_ptr()).seq = generation.max(1) };
    }

    /// Adds an entry, which `fill` writes. `EMSGSIZE` says that the buffer is full.
    pub fn entry(
        &mut self,
        family: &Family,
        command: u32,
        fill: impl FnOnce(&mut Message<'_>) -> Result,
    ) -> Result {
        // SAFETY: By the type invariant; netlink gave the socket's own buffer.
        let (portid, seq) = unsafe {
            let request = (*self.cb.as_ptr()).skb;
            let control = ptr::addr_of!((*request).cb).cast::<bindings::netlink_skb_parms>();
            ((*control).portid, (*(*self.cb.as_ptr()).nlh).nlmsg_seq)
        };
        // CAST: A flag of 16 bits.
        let flags = bindings::NLM_F_MULTI as c_int;
        // SAFETY: By the type invariant nobody else writes to the buffer.
        unsafe {
            let header = Message::write(self.skb, portid, seq, family, flags, command, fill)?;
            bindings::genl_dump_check_consistent(self.cb.as_ptr(), header);
        }
        Ok(())
    }
}

/// What [`genl_dumpit!`](crate::genl_dumpit) expands to.
///
/// # Safety
///
/// The pointers must be what netlink passed to a `dumpit` callback.
#[doc(hidden)]
pub unsafe fn dumpit(
    skb: *mut c_void,
    cb: *mut c_void,
    run: impl FnOnce(&mut Dump<'_>) -> Result,
) -> c_int {
    let (Some(skb), Some(cb)) = (
        NonNull::<bindings::sk_buff>::new(skb.cast()),
        NonNull::new(cb.cast()),
    ) else {
        return EINVAL.to_errno();
    };
    // SAFETY: The caller says so.
    let mut dump = unsafe { Dump::from_raw(skb, cb) };
    match run(&mut dump) {
        // Nothing follows.
        Ok(()) => 0,
        Err(err) => {
            // SAFETY: The buffer is valid during the callback.
            let len = unsafe { skb.as_ref().len };
            // What fits is sent, and the callback called again. An entry that does not fit into an
            // empty buffer never will.
            match c_int::try_from(len) {
                Ok(len) if err == EMSGSIZE && len > 0 => len,
                _ => err.to_errno(),
            }
        }
    }
}

/// A dump that keeps something from its first buffer to its last.
pub trait DumpState {
    /// What it keeps.
    type Of<'a>: Send;

    /// Makes it, for a dump of this namespace. Process context.
    fn begin(net: &Net) -> Result<Self::Of<'_>>;

    /// Fills a buffer. Process context.
    fn fill(state: &mut Self::Of<'_>, dump: &mut Dump<'_>) -> Result;
}

/// What [`genl_dump!`](crate::genl_dump) expands to.
///
/// # Safety
///
/// `cb` must be what netlink passed to a `start` callback.
#[doc(hidden)]
pub unsafe fn dump_start<D: DumpState>(cb: *mut bindings::netlink_callback) -> c_int {
    let begin = || {
        // SAFETY: The callback is valid. The socket keeps its namespace, and netlink the module,
        // until `done` has been called, which drops what is made here.
        let net: &'static Net = unsafe { Net::from_raw(bindings::netlink_callback_net(cb)) };
        Ok(KBox::new(D::begin(net)?, GFP_KERNEL)?)
    };
    match begin() {
        Ok(state) => {
            // SAFETY: The callback is valid, and has room for a pointer that is nobody else's.
            unsafe {
                ptr::addr_of_mut!((*cb).__bindgen_anon_1)
                    .cast::<*mut D::Of<'static>>()
                    .write(KBox::into_raw(state));
            }
            0
        }
        Err(err) => Error::to_errno(err),
    }
}

/// What [`genl_dump!`](crate::genl_dump) expands to.
///
/// # Safety
///
/// The pointers must be what netlink passed to a `dumpit` callback whose `start` was
/// [`dump_start`] of the same `D`, and succeeded.
#[doc(hidden)]
pub unsafe fn dump_fill<D: DumpState>(
    skb: *mut c_void,
    cb: *mut bindings::netlink_callback,
) -> c_int {
    // SAFETY: `start` put the pointer there, and netlink fills one buffer of a dump at a time.
    let state =
        unsafe { &mut **ptr::addr_of_mut!((*cb).__bindgen_anon_1).cast::<*mut D::Of<'static>>() };
    // SAFETY: The caller says so.
    unsafe { dumpit(skb, cb.cast(), |dump| D::fill(state, dump)) }
}

/// What [`genl_dump!`](crate::genl_dump) expands to.
///
/// # Safety
///
/// `cb` must be what netlink passed to a `done` callback whose `start` was [`dump_start`] of the
/// same `D`, and succeeded.
#[doc(hidden)]
pub unsafe fn dump_done<D: DumpState>(cb: *mut bindings::netlink_callback) -> c_int {
    // SAFETY: `start` put the pointer there, which came from a box; nobody uses it after this.
    drop(unsafe {
        KBox::from_raw(
            ptr::addr_of_mut!((*cb).__bindgen_anon_1)
                .cast::<*mut D::Of<'static>>()
                .read(),
        )
    });
    0
}
