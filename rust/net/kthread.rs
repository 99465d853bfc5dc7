// SPDX-License-Identifier: GPL-2.0

//! A kernel thread, and the bell that it waits for.
//!
//! C headers: [`include/linux/kthread.h`](srctree/include/linux/kthread.h),
//! [`include/linux/completion.h`](srctree/include/linux/completion.h)

use crate::bindings;
use core::ptr::NonNull;
use kernel::{
    error::from_err_ptr,
    ffi::{
        c_int,
        c_void, //
    },
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Release, //
        },
        Arc,
    },
    types::Opaque,
};

/// What wakes a thread: rung from any context, and remembered until the thread waits.
#[pin_data]
pub struct Bell {
    #[pin]
    inner: Opaque<bindings::completion>,
    stop: Atomic<bool>,
}

// SAFETY: A completion locks by itself.
unsafe impl Send for Bell {}
// SAFETY: As above.
unsafe impl Sync for Bell {}

impl Bell {
    /// A bell that has not rung.
    pub fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                // SAFETY: The memory is valid for writing.
                inner <- Opaque::ffi_init(|bell| unsafe { bindings::bell_init(bell) }),
                stop: Atomic::new(false),
            }),
            GFP_KERNEL,
        )
    }

    /// For calls into C.
    pub(crate) fn as_ptr(&self) -> *mut bindings::completion {
        self.inner.get()
    }

    /// Wakes the thread. Any context.
    pub fn ring(&self) {
        // SAFETY: The completion is initialised.
        unsafe { bindings::complete(self.as_ptr()) };
    }

    /// Waits until it rings, for `ms` milliseconds at most; `false` when the thread is to end. The
    /// thread only.
    pub fn wait(&self, ms: u32) -> bool {
        if !self.is_stopped() {
            // SAFETY: The completion is initialised, and nobody else waits for it.
            unsafe { bindings::bell_wait(self.as_ptr(), ms) };
        }
        !self.is_stopped()
    }

    /// Whether the thread is to end.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Acquire)
    }
}

/// What a thread does.
pub trait Run: Send + 'static {
    /// Its whole life. Returns soon after [`Bell::wait`] says so.
    fn run(self, bell: &Bell);
}

/// A running thread; dropping it ends it. Process context, may sleep.
///
/// # Invariants
///
/// `task` is a thread that was started, and owns a reference to it. `start` is what `main` gets from it,
/// and `discard` frees that if the thread never came to it.
pub struct Thread {
    task: NonNull<bindings::task_struct>,
    bell: Arc<Bell>,
    start: NonNull<c_void>,
    discard: unsafe fn(NonNull<c_void>),
}

// SAFETY: Any thread may stop another, and free what is `Send`, as `Run` is.
unsafe impl Send for Thread {}
// SAFETY: Nothing can be done with a shared reference but to ring the bell.
unsafe impl Sync for Thread {}

/// What the new thread is given.
struct Start<R> {
    body: R,
    bell: Arc<Bell>,
}

impl Thread {
    /// Starts a thread. Errors: `ENOMEM`, `EINTR`.
    pub fn new<R: Run>(name: &CStr, bell: Arc<Bell>, body: R) -> Result<Self> {
        let start = KBox::new(
            Start {
                body,
                bell: bell.clone(),
            },
            GFP_KERNEL,
        )?;
        // SAFETY: It is that of a box.
        let start = unsafe { NonNull::new_unchecked(KBox::into_raw(start)) }.cast();
        // SAFETY: `main` takes `start` over.
        let task = from_err_ptr(unsafe {
            bindings::kthread_create(Some(main::<R>), start.as_ptr(), name.as_char_ptr())
        });
        match task {
            Ok(task) => {
                // SAFETY: The thread was just made.
                unsafe { bindings::wake_up_process(task) };
                // INVARIANT: It was started, and the helper has taken a reference. `start` is of this `R`.
                Ok(Self {
                    // SAFETY: It is not an error, and not null.
                    task: unsafe { NonNull::new_unchecked(task) },
                    bell,
                    start,
                    discard: discard::<R>,
                })
            }
            Err(err) => {
                // SAFETY: There is no thread that could have taken it.
                unsafe { discard::<R>(start) };
                Err(err)
            }
        }
    }

    /// What wakes it.
    pub fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.bell.stop.store(true, Release);
        self.bell.ring();
        // SAFETY: By the type invariant. It waits for the thread's end.
        let ended = unsafe { bindings::kthread_stop_put(self.task.as_ptr()) };
        // It was stopped before it ever ran: `main`, which returns 0, was not called, nor will it be.
        if ended == EINTR.to_errno() {
            // SAFETY: By the type invariant.
            unsafe { (self.discard)(self.start) };
        }
    }
}

/// # Safety
///
/// Called by the new thread only, with the `Start<R>` of `Thread::new`. A thread that is stopped
/// before it has run never comes here, even if it was woken.
unsafe extern "C" fn main<R: Run>(start: *mut c_void) -> c_int {
    // SAFETY: The caller says so.
    let start = unsafe { KBox::from_raw(start.cast::<Start<R>>()) };
    let Start { body, bell } = KBox::into_inner(start);
    body.run(&bell);
    0
}

/// # Safety
///
/// `start` must be the `Start<R>` of `Thread::new`, and `main` not be called with it.
unsafe fn discard<R: Run>(start: NonNull<c_void>) {
    // SAFETY: The caller says so.
    drop(unsafe { KBox::from_raw(start.as_ptr().cast::<Start<R>>()) });
}
