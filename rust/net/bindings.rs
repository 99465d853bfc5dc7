// SPDX-License-Identifier: GPL-2.0

//! The project's own bindings, made by bindgen from `rust/bindings/bindings_helper.h`.
//!
//! They are self-contained: a type that `kernel::bindings` has as well is a second type here, and
//! is cast at the border. They may not be used outside of this crate.

#![allow(
    clippy::all,
    clippy::as_ptr_cast_mut,
    clippy::as_underscore,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]
#![cfg_attr(not(CONFIG_RUSTC_HAS_UNNECESSARY_TRANSMUTES), allow(unknown_lints))]
#![allow(unnecessary_transmutes)]

// Types that bindgen is told to leave out.
type __kernel_size_t = usize;
type __kernel_ssize_t = isize;
type __kernel_ptrdiff_t = isize;

include!(concat!(
    env!("CARISMA_OBJ"),
    "/rust/bindings/bindings_generated.rs"
));
include!(concat!(
    env!("CARISMA_OBJ"),
    "/rust/bindings/helpers_generated.rs"
));
