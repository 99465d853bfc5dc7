// SPDX-License-Identifier: GPL-2.0

//! Files in `/proc/net` that are read in one go.
//!
//! C header: [`include/linux/proc_fs.h`](srctree/include/linux/proc_fs.h)

use crate::{
    bindings,
    pernet::Net, //
};
use core::ptr::NonNull;
use kernel::{
    ffi::{
        c_int,
        c_void, //
    },
    prelude::*,
    seq_file::SeqFile, //
};

/// What a file shows.
pub trait Show: Send + Sync + 'static {
    /// Writes the whole text. Process context.
    fn show(&self, file: &SeqFile);
}

/// A file in a namespace's `/proc/net`; dropping it removes it, and waits for its readers. Process
/// context.
///
/// # Invariants
///
/// `entry` is a file of this object's own, whose data points to `shown`.
pub struct File<T: Show> {
    entry: NonNull<bindings::proc_dir_entry>,
    _shown: Pin<KBox<T>>,
}

// SAFETY: Only made and dropped, by whichever thread.
unsafe impl<T: Show> Send for File<T> {}
// SAFETY: Nothing can be done with a shared reference.
unsafe impl<T: Show> Sync for File<T> {}

impl<T: Show> File<T> {
    /// Makes a file that everybody may read. Must be dropped before the namespace goes. Errors:
    /// `ENOMEM`, also when there is one of that name.
    pub fn new(net: &Net, name: &CStr, shown: T) -> Result<Self> {
        let shown = KBox::pin(shown, GFP_KERNEL)?;
        let data: *const T = &raw const *shown;
        // SAFETY: The namespace is valid; `shown` stays where it is until the file is removed.
        let entry = unsafe {
            bindings::proc_create_net_single(
                name.as_char_ptr(),
                0o444,
                (*net.as_ptr()).proc_net,
                Some(show::<T>),
                data.cast_mut().cast(),
            )
        };
        // INVARIANT: It was just made so.
        Ok(Self {
            entry: NonNull::new(entry).ok_or(ENOMEM)?,
            _shown: shown,
        })
    }
}

impl<T: Show> Drop for File<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::proc_remove(self.entry.as_ptr()) };
    }
}

/// # Safety
///
/// Called by procfs only, for a file whose data is a `T`.
unsafe extern "C" fn show<T: Show>(file: *mut bindings::seq_file, _: *mut c_void) -> c_int {
    // SAFETY: The caller says so.
    unsafe {
        let shown = bindings::seq_data(file).cast::<T>();
        (*shown).show(SeqFile::from_raw(file.cast()));
    }
    0
}
