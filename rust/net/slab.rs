// SPDX-License-Identifier: GPL-2.0

//! Memory for many objects of one type, without what the next bigger size of `kmalloc` would waste.
//!
//! C header: [`include/linux/slab.h`](srctree/include/linux/slab.h)

use crate::bindings;
use core::{
    marker::PhantomData,
    mem::MaybeUninit,
    ops::{Deref, DerefMut},
    ptr::{drop_in_place, NonNull},
    sync::atomic::{AtomicPtr, Ordering::Relaxed},
};
use kernel::{
    prelude::*,
    sync::rcu, //
};
use pin_init::InPlaceWrite;

/// A slab cache for `T`, which a module has as a static. It has memory from [`open`](Self::open) on.
pub struct Cache<T>(AtomicPtr<bindings::kmem_cache>, PhantomData<T>);

// SAFETY: A slab cache locks by itself; what is made in it is the maker's.
unsafe impl<T> Sync for Cache<T> {}

impl<T> Cache<T> {
    /// One that has no memory yet.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self(AtomicPtr::new(core::ptr::null_mut()), PhantomData)
    }

    /// Lets it have memory, until what this returns is dropped. Whatever makes objects comes after that,
    /// and goes before. Process context. Errors: `ENOMEM`.
    pub fn open(&'static self, name: &'static CStr) -> Result<Opened<T>> {
        // CAST: An object is far smaller than 4 GiB.
        let (size, align) = (size_of::<T>() as u32, align_of::<T>() as u32);
        // SAFETY: The name is static.
        let raw = unsafe { bindings::slab_create(name.as_char_ptr(), size, align) };
        if raw.is_null() {
            return Err(ENOMEM);
        }
        self.0.store(raw, Relaxed);
        Ok(Opened(self))
    }

    /// Makes an object, which is not moved. Any context. Errors: `ENOMEM`, and those of `init`.
    pub fn pin_init<E>(&self, init: impl PinInit<T, E>) -> Result<NonNull<T>>
    where
        T: 'static,
        Error: From<E>,
    {
        let cache = self.0.load(Relaxed);
        if cache.is_null() {
            return Err(ENOMEM);
        }
        // SAFETY: The cache is there: whoever makes objects ends before it does.
        let raw = unsafe { bindings::slab_alloc(cache) };
        let object = NonNull::new(raw.cast::<T>()).ok_or(ENOMEM)?;
        // SAFETY: It is ours until it is freed, and as big and as well aligned as a `T`.
        let slot: &'static mut MaybeUninit<T> = unsafe { object.cast().as_mut() };
        match slot.write_pin_init(init) {
            Ok(_) => Ok(object),
            Err(err) => {
                // SAFETY: It is of this cache, and nobody knows it.
                unsafe { bindings::kmem_cache_free(cache, raw) };
                Err(err.into())
            }
        }
    }

    /// Ends an object. Any context.
    ///
    /// # Safety
    ///
    /// It was made by [`pin_init`](Self::pin_init) of this cache, and nobody uses it any more.
    pub unsafe fn free(&self, object: NonNull<T>) {
        // SAFETY: The caller says so; the cache waits for RCU before it goes, and others do not free.
        unsafe {
            drop_in_place(object.as_ptr());
            bindings::kmem_cache_free(self.0.load(Relaxed), object.as_ptr().cast());
        }
    }
}

/// A [`Cache`] that has memory. When it is dropped, it waits until all that RCU was to do has been done,
/// and nothing may be left that was made in it.
pub struct Opened<T: 'static>(&'static Cache<T>);

impl<T> Drop for Opened<T> {
    fn drop(&mut self) {
        rcu::rcu_barrier();
        let raw = self.0 .0.swap(core::ptr::null_mut(), Relaxed);
        // SAFETY: It was made by `open`, and nothing of it is in use.
        unsafe { bindings::kmem_cache_destroy(raw) };
    }
}

/// What is made in a [`Cache`] of its type's.
pub trait Cached: Sized + 'static {
    /// The cache.
    fn cache() -> &'static Cache<Self>;
}

/// An object in its [`Cache`], with one owner.
///
/// # Invariants
///
/// It points to an object that was made in the cache, and is the only pointer to it.
pub struct CacheBox<T: Cached>(NonNull<T>);

// SAFETY: It is an owner, as a box is.
unsafe impl<T: Cached + Send> Send for CacheBox<T> {}
// SAFETY: As above.
unsafe impl<T: Cached + Sync> Sync for CacheBox<T> {}

impl<T: Cached> CacheBox<T> {
    /// Puts `value` there. Any context. Errors: `ENOMEM`.
    pub fn new(value: T) -> Result<Self> {
        // INVARIANT: Nobody else knows it.
        T::cache().pin_init(value).map(Self)
    }
}

impl<T: Cached> Deref for CacheBox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: By the type invariant.
        unsafe { self.0.as_ref() }
    }
}

impl<T: Cached> DerefMut for CacheBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: By the type invariant.
        unsafe { self.0.as_mut() }
    }
}

impl<T: Cached> Drop for CacheBox<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; nobody has it after this.
        unsafe { T::cache().free(self.0) };
    }
}
