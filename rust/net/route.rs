// SPDX-License-Identifier: GPL-2.0

//! What the routes of a namespace say of an address.
//!
//! C header: [`include/net/route.h`](srctree/include/net/route.h)

use crate::{
    bindings,
    pernet::Net, //
};

/// Whether any packet can be sent to the node at `addr` itself: it is a neighbour, reached without a
/// gateway. Any context.
pub fn is_on_link(net: &Net, addr: [u8; 4]) -> bool {
    // SAFETY: The namespace is valid.
    unsafe { bindings::is_on_link(net.as_ptr(), u32::from_ne_bytes(addr)) }
}

/// Whether packets to this address are this node's own. Any context.
pub fn is_local(net: &Net, addr: [u8; 4]) -> bool {
    // SAFETY: The namespace is valid.
    unsafe { bindings::is_local(net.as_ptr(), u32::from_ne_bytes(addr)) }
}
