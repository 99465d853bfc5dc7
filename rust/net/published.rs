// SPDX-License-Identifier: GPL-2.0

//! A value that readers see under RCU, and that writers replace whole, one after the other.
//!
//! C header: [`include/linux/rcupdate.h`](srctree/include/linux/rcupdate.h)

use core::{
    ops::{
        Deref,
        DerefMut, //
    },
    sync::atomic::{
        AtomicPtr,
        Ordering::{AcqRel, Acquire, Relaxed},
    },
};
use kernel::{
    prelude::*,
    str::CStr,
    sync::{
        lock::{
            mutex::MutexBackend,
            Guard, //
        },
        rcu,
        LockClassKey,
        Mutex, //
    },
};

/// A value `T` that is published, and what its writers keep among themselves, `W`.
///
/// # Invariants
///
/// `current` came from `KBox::into_raw` and is owned by this object. It is changed only with the mutex
/// held, and what it was before is freed a grace period later.
#[pin_data(PinnedDrop)]
pub struct Published<T: Send + Sync, W> {
    // Read for every packet, by an instruction in place; the kernel crate's would be a call of C.
    current: AtomicPtr<T>,
    #[pin]
    writer: Mutex<W>,
}

impl<T: Send + Sync, W> Published<T, W> {
    /// Publishes a first value. `name` and `key` are those of the mutex's lock class.
    pub fn new(
        value: KBox<T>,
        writer: W,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        // INVARIANT: The box gives up its value.
        pin_init!(Self {
            current: AtomicPtr::new(KBox::into_raw(value)),
            writer <- Mutex::new(writer, name, key),
        })
    }

    /// The value as it is now, for as long as the guard is held. Any context.
    pub fn read<'a>(&'a self, _rcu: &'a rcu::Guard) -> &'a T {
        // SAFETY: By the type invariant the pointer is valid, and stays so until a grace period has
        // passed, which the guard holds off.
        unsafe { &*self.current.load(Acquire) }
    }

    /// Becomes the only writer. Process context, may sleep.
    pub fn write(&self) -> Writer<'_, T, W> {
        Writer {
            published: self,
            guard: self.writer.lock(),
        }
    }
}

#[pinned_drop]
impl<T: Send + Sync, W> PinnedDrop for Published<T, W> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant the pointer came from a box; there are neither readers nor
        // writers any more.
        drop(unsafe { KBox::from_raw(self.current.load(Relaxed)) });
    }
}

/// The only writer of a [`Published`] value. It dereferences to what writers keep among themselves.
pub struct Writer<'a, T: Send + Sync, W> {
    published: &'a Published<T, W>,
    guard: Guard<'a, W, MutexBackend>,
}

impl<T: Send + Sync, W> Writer<'_, T, W> {
    /// The value as it is now.
    pub fn current(&self) -> &T {
        // SAFETY: By the type invariant of `Published` the pointer is valid, and does not change while
        // the mutex is held, except by `replace`, which would end this borrow.
        unsafe { &*self.published.current.load(Relaxed) }
    }

    /// Publishes another value, waits until no reader sees the one before, and drops that.
    pub fn replace(&mut self, value: KBox<T>) {
        // INVARIANT: The box gives up its value; the mutex is held.
        let before = self.published.current.swap(KBox::into_raw(value), AcqRel);
        rcu::synchronize_rcu();
        // SAFETY: By the type invariant it came from a box. It is no longer published, and its readers
        // are gone.
        drop(unsafe { KBox::from_raw(before) });
    }
}

impl<T: Send + Sync, W> Deref for Writer<'_, T, W> {
    type Target = W;

    fn deref(&self) -> &W {
        &self.guard
    }
}

impl<T: Send + Sync, W: Unpin> DerefMut for Writer<'_, T, W> {
    fn deref_mut(&mut self) -> &mut W {
        &mut self.guard
    }
}

/// Makes the initialiser of a [`Published`](crate::published::Published) value, with a lock class of
/// its own.
#[macro_export]
macro_rules! new_published {
    ($value:expr, $writer:expr, $name:literal) => {
        $crate::published::Published::new(
            $value,
            $writer,
            ::kernel::optional_name!($name),
            ::kernel::static_lock_class!(),
        )
    };
}
