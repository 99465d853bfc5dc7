// SPDX-License-Identifier: GPL-2.0

//! Work that softirqs leave to process context, as a part of the object that it is about.
//!
//! The kernel crate's own items cannot be cancelled, which a module that is unloaded must.
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

use crate::bindings;
use core::marker::PhantomData;
use kernel::{
    container_of,
    prelude::*,
    types::Opaque, //
};

/// An object with a [`Work`] in it.
///
/// # Safety
///
/// `OFFSET` must be that of a field of type `Work<Self>`. Use [`impl_has_work!`].
pub unsafe trait HasWork: Sync + Sized + 'static {
    /// Where the field is.
    const OFFSET: usize;

    /// Does what there is to do. Process context, may sleep; never on two CPUs at once.
    fn run(&self);
}

/// Says which field of a type is its [`Work`], and which method does it.
#[macro_export]
macro_rules! impl_has_work {
    ($object:ty { $field:ident: $run:ident }) => {
        // SAFETY: The field's type is checked below.
        unsafe impl $crate::work::HasWork for $object {
            const OFFSET: usize = ::core::mem::offset_of!($object, $field);

            fn run(&self) {
                let _: &$crate::work::Work<$object> = &self.$field;
                self.$run();
            }
        }
    };
}
pub use impl_has_work;

/// A work item of `T`, on the system's own queue.
///
/// The object must be pinned, and must call [`Work::disable`] before it is dropped.
#[pin_data]
pub struct Work<T: HasWork> {
    #[pin]
    inner: Opaque<bindings::delayed_work>,
    _object: PhantomData<fn(&T)>,
}

// SAFETY: Work items lock by themselves.
unsafe impl<T: HasWork> Send for Work<T> {}
// SAFETY: As above.
unsafe impl<T: HasWork> Sync for Work<T> {}

impl<T: HasWork> Work<T> {
    /// An item that is not queued.
    pub fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: The memory is valid for writing, and pinned from then on.
            inner <- Opaque::ffi_init(|work| unsafe {
                bindings::delayed_work_init(work, Some(trampoline::<T>));
            }),
            _object: PhantomData,
        })
    }

    /// Has it run in `ms` milliseconds, unless it is to run sooner anyway. Any context.
    pub fn queue(&self, ms: u32) {
        // SAFETY: The item is initialised and pinned.
        unsafe { bindings::delayed_work_queue(self.inner.get(), ms) };
    }

    /// Has it run as soon as may be. Any context.
    pub fn hurry(&self) {
        // SAFETY: The item is initialised and pinned.
        unsafe { bindings::delayed_work_hurry(self.inner.get()) };
    }

    /// Has it never run again, and waits until it does not run any more. Process context, not the
    /// work's own.
    pub fn disable(&self) {
        // SAFETY: The item is initialised and pinned.
        unsafe { bindings::disable_delayed_work_sync(self.inner.get()) };
    }
}

/// # Safety
///
/// Called by the workqueue only, with the `work` of the `delayed_work` in a [`Work<T>`] of a live
/// `T`.
unsafe extern "C" fn trampoline<T: HasWork>(work: *mut bindings::work_struct) {
    // SAFETY: The caller says so. The `work` is the first field of a `delayed_work`, which is all
    // of a `Work<T>`, which is at `OFFSET` of a `T`.
    let object = unsafe {
        let work = container_of!(work, bindings::delayed_work, work);
        &*work.byte_sub(T::OFFSET).cast::<T>()
    };
    object.run();
}
