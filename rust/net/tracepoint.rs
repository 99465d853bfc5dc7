// SPDX-License-Identifier: GPL-2.0

//! The kernel's tracepoint `inet_sock_set_state`, by which TCP's sockets say what becomes of them.
//!
//! C headers: [`include/linux/tracepoint.h`](srctree/include/linux/tracepoint.h),
//! [`include/trace/events/sock.h`](srctree/include/trace/events/sock.h)

use crate::{
    bindings,
    sock::{
        Locked,
        Sock,
        State, //
    },
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    ffi::{
        c_int,
        c_void, //
    },
    prelude::*,
    sync::rcu,
};

/// Who is told.
pub trait Observer: 'static {
    /// Whether it is of any interest that a socket goes from one state to another. Most are not, and every
    /// socket of the node passes here. Any context.
    fn heeds(old: State, new: State) -> bool;

    /// A socket of TCP goes from one state to another that is heeded, and has not done so yet.
    ///
    /// Any context but hard interrupts, with the socket's lock held and RCU read-locked: must not
    /// sleep.
    fn state(sk: &Locked<'_>, old: State, new: State);
}

/// Keeps an [`Observer`] told. Dropping it waits until nobody is being told any more. Process
/// context.
pub struct Registration<T: Observer> {
    tp: NonNull<bindings::tracepoint>,
    _observer: PhantomData<T>,
}

// SAFETY: Tracepoints of the kernel itself stay; registering and unregistering lock by themselves.
unsafe impl<T: Observer> Send for Registration<T> {}
// SAFETY: Nothing can be done with a shared reference.
unsafe impl<T: Observer> Sync for Registration<T> {}

impl<T: Observer> Registration<T> {
    /// Begins to tell. Errors: `ENOENT` when the kernel has no such tracepoint.
    pub fn new() -> Result<Self> {
        let mut tp = core::ptr::null_mut::<bindings::tracepoint>();
        // SAFETY: The callback gets `tp` back, which outlives the call.
        unsafe { bindings::for_each_kernel_tracepoint(Some(find), (&raw mut tp).cast()) };
        let tp = NonNull::new(tp).ok_or(ENOENT)?;
        let probe: Probe = trampoline::<T>;
        // SAFETY: The probe has the prototype of the tracepoint.
        kernel::error::to_result(unsafe {
            bindings::tracepoint_probe_register(
                tp.as_ptr(),
                probe as *mut c_void,
                core::ptr::null_mut(),
            )
        })?;
        Ok(Self {
            tp,
            _observer: PhantomData,
        })
    }
}

impl<T: Observer> Drop for Registration<T> {
    fn drop(&mut self) {
        let probe: Probe = trampoline::<T>;
        // SAFETY: The probe was registered by `new`.
        unsafe {
            bindings::tracepoint_probe_unregister(
                self.tp.as_ptr(),
                probe as *mut c_void,
                core::ptr::null_mut(),
            );
            bindings::tracepoint_synchronize_unregister();
        }
    }
}

/// The prototype of a probe, `TP_PROTO` of the tracepoint after the probe's own data.
type Probe = unsafe extern "C" fn(*mut c_void, *const bindings::sock, c_int, c_int);

/// # Safety
///
/// Called by `for_each_kernel_tracepoint()` only, with the place for the answer as `data`.
unsafe extern "C" fn find(tp: *mut bindings::tracepoint, data: *mut c_void) {
    // SAFETY: The kernel gives a tracepoint with a name; `data` is as said above.
    unsafe {
        if CStr::from_char_ptr((*tp).name) == c"inet_sock_set_state" {
            data.cast::<*mut bindings::tracepoint>().write(tp);
        }
    }
}

/// # Safety
///
/// Called by the tracepoint only, which every protocol passes that has states of its own.
unsafe extern "C" fn trampoline<T: Observer>(
    _data: *mut c_void,
    sk: *const bindings::sock,
    old: c_int,
    new: c_int,
) {
    let (old, new) = (State::from_raw(old), State::from_raw(new));
    // SAFETY: The tracepoint gives a valid socket, whose states are changed under its lock only.
    unsafe {
        if T::heeds(old, new) {
            heeded::<T>(sk, old, new);
        }
    }
}

/// # Safety
///
/// As for [`trampoline`].
#[inline(never)]
unsafe fn heeded<T: Observer>(sk: *const bindings::sock, old: State, new: State) {
    // SAFETY: As there.
    unsafe {
        if bindings::sock_is_tcp(sk) {
            let _rcu = rcu::read_lock();
            T::state(&Locked::assume(Sock::from_raw(sk)), old, new);
        }
    }
}
