// SPDX-License-Identifier: GPL-2.0

//! Generic netlink: requests, replies and dumps of a family whose tables are generated from a YAML
//! description.
//!
//! The kernel's generator makes the `genl_family`, its policies and the prototypes of the callbacks;
//! [`genl_doit!`](crate::genl_doit) and [`genl_dumpit!`](crate::genl_dumpit) define the callbacks,
//! each of which calls one safe function.
//!
//! C header: [`include/net/genetlink.h`](srctree/include/net/genetlink.h)

mod dump;
mod message;
mod request;

pub use dump::{
    dump_done,
    dump_fill,
    dump_start,
    dumpit,
    Cursor,
    Dump,
    DumpState, //
};
pub use message::Message;
pub use request::{
    doit,
    At,
    Attr,
    Refusal,
    Request, //
};

use crate::bindings;
use kernel::{
    error::{to_result, Result},
    types::Opaque, //
};

/// A family, as the generated C defines it.
#[repr(transparent)]
pub struct Family(Opaque<bindings::genl_family>);

// SAFETY: Generic netlink serialises what it writes to a family.
unsafe impl Sync for Family {}

/// Keeps a family registered.
///
/// Once this is dropped, none of the family's callbacks runs or will run.
pub struct Registration(&'static Family);

impl Registration {
    /// Registers the family. Requests may come in before this returns.
    pub fn new(family: &'static Family) -> Result<Self> {
        // SAFETY: The family lives as long as the module, and the generated code filled it in.
        to_result(unsafe { bindings::genl_register_family(family.0.get()) })?;
        Ok(Self(family))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: The family is registered. It fails only for one that is not.
        unsafe { bindings::genl_unregister_family(self.0 .0.get()) };
    }
}

/// Defines the callbacks `$start`, `$dumpit` and `$done` of a dump that is a [`DumpState`].
#[macro_export]
macro_rules! genl_dump {
    ($($start:ident, $dumpit:ident, $done:ident => $dump:ty;)*) => { $(
        /// Begins a dump.
        ///
        /// # Safety
        ///
        /// Only called by generic netlink.
        #[no_mangle]
        pub unsafe extern "C" fn $start(
            cb: *mut $crate::bindings::netlink_callback,
        ) -> ::kernel::ffi::c_int {
            // SAFETY: The pointer is netlink's.
            unsafe { $crate::genl::dump_start::<$dump>(cb) }
        }

        /// Fills a buffer of a dump.
        ///
        /// # Safety
        ///
        /// Only called by generic netlink.
        #[no_mangle]
        pub unsafe extern "C" fn $dumpit(
            skb: *mut ::kernel::ffi::c_void,
            cb: *mut $crate::bindings::netlink_callback,
        ) -> ::kernel::ffi::c_int {
            // SAFETY: The pointers are netlink's, which has called `$start` before.
            unsafe { $crate::genl::dump_fill::<$dump>(skb, cb) }
        }

        /// Ends a dump.
        ///
        /// # Safety
        ///
        /// Only called by generic netlink.
        #[no_mangle]
        pub unsafe extern "C" fn $done(
            cb: *mut $crate::bindings::netlink_callback,
        ) -> ::kernel::ffi::c_int {
            // SAFETY: The pointer is netlink's, which has called `$start` before.
            unsafe { $crate::genl::dump_done::<$dump>(cb) }
        }
    )* };
}

/// Declares the generated family `$symbol` as the static `$name`.
#[macro_export]
macro_rules! genl_family {
    ($(#[$meta:meta])* $vis:vis static $name:ident = $symbol:ident;) => {
        // SAFETY: The generated code defines it, and generic netlink serialises what it writes to it.
        unsafe extern "C" {
            $(#[$meta])*
            #[link_name = stringify!($symbol)]
            $vis safe static $name: $crate::genl::Family;
        }
    };
}

/// Defines the `doit` callback `$symbol`, which calls the safe function `$run`.
#[macro_export]
macro_rules! genl_doit {
    ($($symbol:ident => $run:path;)*) => { $(
        /// Answers a request.
        ///
        /// # Safety
        ///
        /// Only called by generic netlink.
        #[no_mangle]
        pub unsafe extern "C" fn $symbol(
            _skb: *mut ::kernel::ffi::c_void,
            info: *mut ::kernel::ffi::c_void,
        ) -> ::kernel::ffi::c_int {
            // SAFETY: The pointer is generic netlink's.
            unsafe { $crate::genl::doit(info, |request| $run(request)) }
        }
    )* };
}

/// Defines the `dumpit` callback `$symbol`, which calls the safe function `$run`.
#[macro_export]
macro_rules! genl_dumpit {
    ($($symbol:ident => $run:path;)*) => { $(
        /// Fills a buffer of a dump.
        ///
        /// # Safety
        ///
        /// Only called by generic netlink.
        #[no_mangle]
        pub unsafe extern "C" fn $symbol(
            skb: *mut ::kernel::ffi::c_void,
            cb: *mut ::kernel::ffi::c_void,
        ) -> ::kernel::ffi::c_int {
            // SAFETY: The pointers are netlink's.
            unsafe { $crate::genl::dumpit(skb, cb, |dump| $run(dump)) }
        }
    )* };
}
