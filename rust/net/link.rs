// SPDX-License-Identifier: GPL-2.0

//! The messages between the two modules, as Rust sees them.
//!
//! C header: `include/carisma_msg.h`, which says what each kind means and in which context it is
//! sent.

use crate::{
    bindings,
    pernet::Net, //
};
use carisma_core::tuple::Tuple;
use core::mem::{align_of, size_of};
use kernel::{
    prelude::*,
    sync::{
        atomic::{Acquire, Atomic, Release},
        rcu, //
    },
    ThisModule,
};

pub use bindings::carisma_msg_kind as Kind;

/// The kinds of messages; `include/carisma_msg.h` says what each means.
pub mod kind {
    pub use crate::bindings::{
        carisma_msg_kind_CARISMA_CONFIG_REQ as CONFIG_REQ,
        carisma_msg_kind_CARISMA_CONN_ANSWER as CONN_ANSWER,
        carisma_msg_kind_CARISMA_CONN_ASK as CONN_ASK,
        carisma_msg_kind_CARISMA_CONN_DISCARD as CONN_DISCARD,
        carisma_msg_kind_CARISMA_CONN_IND as CONN_IND,
        carisma_msg_kind_CARISMA_CONN_RES as CONN_RES,
        carisma_msg_kind_CARISMA_COUNT_IND as COUNT_IND,
        carisma_msg_kind_CARISMA_DISCON_IND as DISCON_IND,
        carisma_msg_kind_CARISMA_KEYS as KEYS,
        carisma_msg_kind_CARISMA_LEAVE_REQ as LEAVE_REQ,
        carisma_msg_kind_CARISMA_NODE_ADD as NODE_ADD,
        carisma_msg_kind_CARISMA_NODE_DEL as NODE_DEL, //
        carisma_msg_kind_CARISMA_PEER_DOWN as PEER_DOWN,
        carisma_msg_kind_CARISMA_PEER_REFUSED as PEER_REFUSED,
        carisma_msg_kind_CARISMA_PEER_UP as PEER_UP,
        carisma_msg_kind_CARISMA_RECORD_IND as RECORD_IND,
        carisma_msg_kind_CARISMA_RECORD_REQ as RECORD_REQ,
        carisma_msg_kind_CARISMA_SERVICE_ADD as SERVICE_ADD,
        carisma_msg_kind_CARISMA_SERVICE_DEL as SERVICE_DEL,
    };
}

/// What a node is called, padded with zeroes.
pub type Name = [u8; bindings::CARISMA_NAME_LEN as usize];

// Cluster keys go as they are.
const _: () = assert!(bindings::CARISMA_SECRET_LEN as usize == carisma_core::auth::SECRET_LEN);

// `table.rs` and this file take the one tuple for the other.
const _: () = assert!(
    size_of::<Tuple>() == size_of::<bindings::carisma_tuple>()
        && align_of::<Tuple>() == align_of::<bindings::carisma_tuple>()
);

/// A message. Fields that its kind has no use for are zero.
#[derive(Clone, Copy)]
pub struct Msg<'a> {
    /// What it is.
    pub kind: Kind,
    /// Index of a node, from 1.
    pub node: u32,
    /// The connection, or the address and port in its `local` part.
    pub tuple: Tuple,
    /// Depends on the kind.
    pub value: u64,
    /// A wire record, or keys.
    pub data: &'a [u8],
    /// A node's name.
    pub name: Name,
}

impl<'a> Msg<'a> {
    /// A message of `kind` with nothing in it.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            node: 0,
            tuple: Tuple::default(),
            value: 0,
            data: &[],
            name: [0; bindings::CARISMA_NAME_LEN as usize],
        }
    }

    /// A message of `kind` about a connection.
    pub fn about(kind: Kind, tuple: &Tuple) -> Self {
        Self {
            tuple: *tuple,
            ..Self::new(kind)
        }
    }

    /// A record for, or from, a node.
    pub fn record(kind: Kind, node: u32, data: &'a [u8]) -> Self {
        Self {
            node,
            data,
            ..Self::new(kind)
        }
    }

    pub(crate) fn to_raw(self) -> bindings::carisma_msg {
        bindings::carisma_msg {
            kind: self.kind,
            node: self.node,
            // SAFETY: Both are the same 36 plain bytes (asserted above).
            tuple: unsafe { core::mem::transmute::<Tuple, bindings::carisma_tuple>(self.tuple) },
            // CAST: Records are shorter than 64 KiB.
            len: self.data.len() as u32,
            value: self.value,
            data: self.data.as_ptr(),
            name: self.name,
        }
    }

    /// Reads what C was given.
    ///
    /// # Safety
    ///
    /// `raw` must be a whole message, whose `len` bytes at `data` are valid for `'a`.
    pub unsafe fn from_raw(raw: &'a bindings::carisma_msg) -> Self {
        Self {
            kind: raw.kind,
            node: raw.node,
            // SAFETY: Both are the same 36 plain bytes (asserted above).
            tuple: unsafe { core::mem::transmute::<bindings::carisma_tuple, Tuple>(raw.tuple) },
            value: raw.value,
            data: if raw.len == 0 {
                &[]
            } else {
                // SAFETY: The caller says so.
                unsafe { core::slice::from_raw_parts(raw.data, raw.len as usize) }
            },
            name: raw.name,
        }
    }
}

/// A module's put procedure.
pub trait Put {
    /// Takes a message. The context is that of its kind. Answers a number of 0 or more, or an
    /// error.
    fn put(net: &Net, msg: &Msg<'_>) -> Result<u32>;
}

/// The body of a put procedure that C calls.
///
/// # Safety
///
/// `net` and `msg` must be valid for the call.
pub unsafe extern "C" fn receive<P: Put>(
    net: *mut bindings::net,
    msg: *const bindings::carisma_msg,
) -> kernel::ffi::c_int {
    // SAFETY: The caller says so.
    let answer = unsafe { P::put(Net::from_raw(net), &Msg::from_raw(&*msg)) };
    match answer {
        // CAST: Answers are small numbers.
        Ok(value) => value as kernel::ffi::c_int,
        Err(err) => err.to_errno(),
    }
}

pub(crate) fn answer(ret: kernel::ffi::c_int) -> Result<u32> {
    u32::try_from(ret).map_err(|_| Error::from_errno(ret))
}

/// BTCP's side: the UTCP that is attached, if one is.
///
/// # Invariants
///
/// The pointer is null, or valid until a grace period after it was cleared.
pub struct Upper(Atomic<*mut bindings::carisma_upper>);

impl Upper {
    /// Nobody.
    #[expect(clippy::new_without_default)] // A static needs a const.
    pub const fn new() -> Self {
        Self(Atomic::new(core::ptr::null_mut()))
    }

    /// Takes what UTCP gave to `carisma_btcp_attach()`. Process context. Errors: `EINVAL` when the
    /// modules are of different builds, `EBUSY` when there is one already.
    ///
    /// # Safety
    ///
    /// `upper` must stay valid until [`Upper::detach`] has returned.
    pub unsafe fn attach(&self, upper: *const bindings::carisma_upper) -> Result {
        // SAFETY: The caller says that it is valid.
        let (abi, size) = unsafe { ((*upper).abi, (*upper).msg_size) };
        if abi != bindings::CARISMA_MSG_ABI || size as usize != size_of::<bindings::carisma_msg>() {
            return Err(EINVAL);
        }
        if !self.0.load(Acquire).is_null() {
            return Err(EBUSY);
        }
        // INVARIANT: The caller says that it stays valid.
        self.0.store(upper.cast_mut(), Release);
        Ok(())
    }

    /// Forgets UTCP, and returns when no [`Upper::put`] into it is under way. Process context.
    pub fn detach(&self) {
        self.0.store(core::ptr::null_mut(), Release);
        rcu::synchronize_rcu();
    }

    /// Sends a message that does not sleep. Errors: `ENOTCONN` without UTCP, and UTCP's own.
    pub fn put(&self, net: &Net, msg: Msg<'_>) -> Result<u32> {
        let _rcu = rcu::read_lock();
        // SAFETY: By the type invariant, under RCU.
        unsafe { self.call(net, msg) }
    }

    /// Sends a message that may sleep. Process context.
    ///
    /// # Safety
    ///
    /// The caller holds the lock under which [`Upper::attach`] and [`Upper::detach`] are called.
    pub unsafe fn put_sleeping(&self, net: &Net, msg: Msg<'_>) -> Result<u32> {
        // SAFETY: The caller keeps UTCP from being detached.
        unsafe { self.call(net, msg) }
    }

    /// # Safety
    ///
    /// The attached UTCP, if any, must not go away during the call.
    unsafe fn call(&self, net: &Net, msg: Msg<'_>) -> Result<u32> {
        // SAFETY: The caller says so.
        let Some(upper) = (unsafe { self.0.load(Acquire).as_ref() }) else {
            return Err(ENOTCONN);
        };
        let put = upper.put.ok_or(ENOTCONN)?;
        // SAFETY: Both arguments are valid for the call.
        answer(unsafe { put(net.as_ptr(), &msg.to_raw()) })
    }

    /// Keeps the attached UTCP from being unloaded; `false` if it is going, or there is none.
    pub fn get(&self) -> bool {
        let _rcu = rcu::read_lock();
        // SAFETY: By the type invariant, under RCU.
        unsafe {
            self.0
                .load(Acquire)
                .as_ref()
                .is_some_and(|upper| bindings::try_module_get(upper.owner))
        }
    }

    /// Undoes a [`Upper::get`].
    pub fn put_module(&self) {
        let _rcu = rcu::read_lock();
        // SAFETY: By the type invariant, under RCU; a module that is held by `get` has not
        // detached.
        unsafe {
            if let Some(upper) = self.0.load(Acquire).as_ref() {
                bindings::module_put(upper.owner);
            }
        }
    }
}

/// Keeps `module`, which is the caller's own, from being unloaded; `false` if it is going already.
pub fn module_get(module: &ThisModule) -> bool {
    // SAFETY: The pointer is that of a live module.
    unsafe { bindings::try_module_get(module.as_ptr().cast()) }
}

/// Undoes a [`module_get`].
pub fn module_put(module: &ThisModule) {
    // SAFETY: As above.
    unsafe { bindings::module_put(module.as_ptr().cast()) }
}
