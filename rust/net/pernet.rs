// SPDX-License-Identifier: GPL-2.0

//! State per network namespace.
//!
//! C header: [`include/net/net_namespace.h`](srctree/include/net/net_namespace.h)

use crate::bindings;
use core::{
    ffi::{
        c_uint,
        c_void, //
    },
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    error::to_result,
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Release, //
    },
    types::Opaque, //
};

/// A network namespace, borrowed.
#[repr(transparent)]
pub struct Net(Opaque<bindings::net>);

// SAFETY: A namespace is shared by all CPUs; what is called with it locks by itself.
unsafe impl Send for Net {}
// SAFETY: As above.
unsafe impl Sync for Net {}

impl Net {
    /// Borrows the namespace that C gave.
    ///
    /// # Safety
    ///
    /// `net` must be valid for `'a`.
    pub unsafe fn from_raw<'a>(net: *mut bindings::net) -> &'a Self {
        // SAFETY: The caller says so; the type is transparent.
        unsafe { &*net.cast() }
    }

    /// Whether the current task may change what belongs to the namespace. Process context.
    pub fn may_administrate(&self) -> bool {
        // CAST: The number of a capability is small.
        const CAP_NET_ADMIN: c_int = bindings::CAP_NET_ADMIN as c_int;
        // SAFETY: The namespace is valid and keeps the user namespace that owns it.
        unsafe { bindings::ns_capable((*self.as_ptr()).user_ns, CAP_NET_ADMIN) }
    }

    /// For calls into C.
    pub fn as_ptr(&self) -> *mut bindings::net {
        self.0.get()
    }
}

/// A namespace that is kept by something whose life lies inside the namespace's own: its
/// per-namespace state.
///
/// # Invariants
///
/// The pointer is valid as long as this object exists.
pub struct NetRef(NonNull<Net>);

// SAFETY: As for `Net`.
unsafe impl Send for NetRef {}
// SAFETY: As for `Net`.
unsafe impl Sync for NetRef {}

impl NetRef {
    /// Keeps `net`.
    ///
    /// # Safety
    ///
    /// The result must be dropped before the namespace is freed; state that [`PerNet::init`] makes
    /// is.
    pub unsafe fn new(net: &Net) -> Self {
        // INVARIANT: The caller promises it.
        Self(NonNull::from(net))
    }
}

impl Clone for NetRef {
    /// For another part of the same state.
    fn clone(&self) -> Self {
        // INVARIANT: Both live inside the namespace's state.
        Self(self.0)
    }
}

impl core::ops::Deref for NetRef {
    type Target = Net;

    fn deref(&self) -> &Net {
        // SAFETY: By the type invariant.
        unsafe { self.0.as_ref() }
    }
}

/// Where a [`PerNet`] type's state is found.
///
/// # Invariants
///
/// When `ready` is set, `id` is the index that the kernel has given the type, every namespace has a
/// place for it, and `id` does not change any more.
pub struct Slot {
    id: Opaque<c_uint>,
    ready: Atomic<bool>,
}

// SAFETY: `id` is written by register_pernet_subsys() only, before anybody reads it.
unsafe impl Sync for Slot {}

impl Slot {
    /// A slot that is not registered yet.
    #[expect(clippy::new_without_default)] // A static needs a const.
    pub const fn new() -> Self {
        // INVARIANT: It is not ready.
        Self {
            id: Opaque::new(0),
            ready: Atomic::new(false),
        }
    }
}

/// State that every network namespace has one of.
pub trait PerNet: Send + Sync + Sized + 'static {
    /// A static of the implementor's.
    fn slot() -> &'static Slot;

    /// Makes the state of `net`. Process context.
    fn init(net: NetRef) -> Result<Pin<KBox<Self>>>;

    /// The namespace, or the module, goes: nothing new may come in after this. An RCU grace period
    /// follows, then the state is given to `exit`. Process context.
    fn pre_exit(&self);

    /// Nothing comes in any more: ends what is left, timers among it. Another grace period follows,
    /// then the state is dropped. Process context.
    fn exit(&self);

    /// The state of `net`; `None` while there is none (the namespace is being made or torn down).
    ///
    /// Valid as long as the namespace is not torn down, which the borrow of `net` does not prove
    /// alone: callers run in the namespace's own packet, socket or netlink context, all of which
    /// end before `pre_exit` has returned plus a grace period.
    fn of(net: &Net) -> Option<&Self> {
        if !Self::slot().ready.load(Acquire) {
            return None;
        }
        // SAFETY: By the type invariant of `Slot` there is a place, which holds what `pernet_init`
        // put there, or null.
        unsafe {
            let state = bindings::pernet_state(net.as_ptr(), *Self::slot().id.get());
            state.cast::<Self>().as_ref()
        }
    }
}

/// Keeps a [`PerNet`] type registered; dropping it ends the state of every namespace. Process
/// context.
pub struct Registration<T: PerNet> {
    ops: Pin<KBox<Opaque<bindings::pernet_operations>>>,
    _state: PhantomData<T>,
}

// SAFETY: Only made and dropped, by whichever thread.
unsafe impl<T: PerNet> Send for Registration<T> {}
// SAFETY: Nothing can be done with a shared reference.
unsafe impl<T: PerNet> Sync for Registration<T> {}

impl<T: PerNet> Registration<T> {
    /// Makes the state of every namespace that is, and from now on of every new one.
    pub fn new() -> Result<Self> {
        let ops = KBox::pin(
            Opaque::new(bindings::pernet_operations {
                init: Some(pernet_init::<T>),
                pre_exit: Some(pernet_pre_exit::<T>),
                exit: Some(pernet_exit::<T>),
                id: T::slot().id.get(),
                size: core::mem::size_of::<*mut T>(),
                ..Default::default()
            }),
            GFP_KERNEL,
        )?;
        // SAFETY: The operations stay where they are until they are unregistered.
        to_result(unsafe { bindings::register_pernet_subsys(ops.get()) })?;
        // INVARIANT: The kernel has given an index, and made the places; a new namespace is given
        // them before anybody can be in it.
        T::slot().ready.store(true, Release);
        Ok(Self {
            ops,
            _state: PhantomData,
        })
    }
}

impl<T: PerNet> Registration<T> {
    /// Calls `f` for the state of every namespace that is not being made or torn down. Process
    /// context; `f` may sleep, but must not wait for a namespace to come or go.
    pub fn for_each(&self, mut f: impl FnMut(&T)) {
        /// # Safety
        ///
        /// `f` must be the closure's own.
        unsafe extern "C" fn call<T: PerNet>(net: *mut bindings::net, f: *mut c_void) {
            // SAFETY: The namespace is kept during the call, and so is its state.
            unsafe {
                if let Some(state) = T::of(Net::from_raw(net)) {
                    (*f.cast::<&mut dyn FnMut(&T)>())(state);
                }
            }
        }
        let mut f: &mut dyn FnMut(&T) = &mut f;
        // SAFETY: `call` gets the closure back.
        unsafe { bindings::for_each_net(Some(call::<T>), (&raw mut f).cast()) };
    }
}

impl<T: PerNet> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: They were registered by `new`.
        unsafe { bindings::unregister_pernet_subsys(self.ops.get()) };
    }
}

/// # Safety
///
/// Called by the namespace core only.
unsafe extern "C" fn pernet_init<T: PerNet>(net: *mut bindings::net) -> kernel::ffi::c_int {
    // SAFETY: The core gives a valid namespace, whose state is dropped by `pernet_exit`, before the
    // namespace is freed. The slot is ours.
    unsafe {
        match T::init(NetRef::new(Net::from_raw(net))) {
            Ok(state) => {
                let state = KBox::into_raw(Pin::into_inner_unchecked(state));
                bindings::pernet_state_set(net, *T::slot().id.get(), state.cast());
                0
            }
            Err(err) => err.to_errno(),
        }
    }
}

/// # Safety
///
/// Called by the namespace core only.
unsafe extern "C" fn pernet_pre_exit<T: PerNet>(net: *mut bindings::net) {
    // SAFETY: The core gives a valid namespace, with a place that holds what `pernet_init` put
    // there, or null.
    unsafe {
        let state = bindings::pernet_state(net, *T::slot().id.get()).cast::<T>();
        if let Some(state) = state.as_ref() {
            state.pre_exit();
        }
    }
}

/// # Safety
///
/// Called by the namespace core only, a grace period after `pernet_pre_exit`.
unsafe extern "C" fn pernet_exit<T: PerNet>(net: *mut bindings::net) {
    // SAFETY: The place holds what `pernet_init` put there or null. `exit` has stopped the timers;
    // those that were expiring, and whoever else has found the state before it was taken away,
    // are done a grace period later.
    unsafe {
        let id = *T::slot().id.get();
        let state: *mut T = bindings::pernet_state(net, id).cast();
        if state.is_null() {
            return;
        }
        (*state).exit();
        bindings::pernet_state_set(net, id, core::ptr::null_mut());
        bindings::synchronize_rcu();
        drop(KBox::from_raw(state));
    }
}
