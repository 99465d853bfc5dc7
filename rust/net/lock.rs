// SPDX-License-Identifier: GPL-2.0

//! A spin lock that keeps softirqs away, for what hooks and process context share.
//!
//! The kernel crate has a plain one and one that disables interrupts; the network stack's custom is
//! in between.
//!
//! C header: [`include/linux/spinlock.h`](srctree/include/linux/spinlock.h)

use kernel::{
    bindings,
    ffi::c_char,
    sync::lock::{Backend, Lock}, //
};

/// A spin lock whose holder runs with bottom halves disabled. Any context but hard interrupts.
pub type SpinLockBh<T> = Lock<T, SpinLockBhBackend>;

/// `spin_lock_bh()` and `spin_unlock_bh()`.
pub struct SpinLockBhBackend;

/// Makes the initialiser of a [`SpinLockBh`] with a lock class of its own.
#[macro_export]
macro_rules! new_spinlock_bh {
    ($inner:expr $(, $name:literal)? $(,)?) => {
        $crate::lock::SpinLockBh::new(
            $inner, ::kernel::optional_name!($($name)?), ::kernel::static_lock_class!())
    };
}
pub use new_spinlock_bh;

/// The raw lock, which is the first member of a `spinlock_t`.
fn raw(lock: *mut bindings::spinlock_t) -> *mut bindings::raw_spinlock_t {
    lock.cast()
}

// SAFETY: `_raw_spin_lock_bh` is what spin_lock_bh() calls; it ensures mutual exclusion. `relock`
// is the default one.
unsafe impl Backend for SpinLockBhBackend {
    type State = bindings::spinlock_t;
    type GuardState = ();

    unsafe fn init(ptr: *mut Self::State, name: *const c_char, key: *mut bindings::lock_class_key) {
        // SAFETY: The caller gives valid pointers.
        unsafe { bindings::__spin_lock_init(ptr, name, key) }
    }

    unsafe fn lock(ptr: *mut Self::State) -> Self::GuardState {
        // SAFETY: The caller says that the lock is initialised.
        unsafe { bindings::_raw_spin_lock_bh(raw(ptr)) }
    }

    unsafe fn unlock(ptr: *mut Self::State, _guard_state: &Self::GuardState) {
        // SAFETY: The caller owns the lock.
        unsafe { bindings::_raw_spin_unlock_bh(raw(ptr)) }
    }

    unsafe fn try_lock(ptr: *mut Self::State) -> Option<Self::GuardState> {
        // SAFETY: The caller says that the lock is initialised.
        (unsafe { bindings::_raw_spin_trylock_bh(raw(ptr)) } != 0).then_some(())
    }

    unsafe fn assert_is_held(ptr: *mut Self::State) {
        // Without lockdep it would be a call that does nothing.
        if cfg!(CONFIG_LOCKDEP) {
            // SAFETY: The caller says that the lock is initialised.
            unsafe { bindings::spin_assert_is_held(ptr) }
        }
    }
}
