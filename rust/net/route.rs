// SPDX-License-Identifier: GPL-2.0

//! What the routes of a namespace say of an address, and ways to neighbours.
//!
//! C headers: [`include/net/route.h`](srctree/include/net/route.h),
//! [`include/net/dst_cache.h`](srctree/include/net/dst_cache.h)

use crate::{
    bindings,
    netfilter::{
        sent,
        PacketContext,
        Unsent, //
    },
    pernet::Net,
    skb::Skb, //
};
use kernel::{
    error::to_result,
    prelude::*,
    types::Opaque, //
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

/// The route to a neighbour, which each CPU remembers as long as it is valid.
///
/// # Invariants
///
/// The cache is initialised, and has routes to `addr` only.
pub struct Neighbour {
    addr: [u8; 4],
    cache: Opaque<bindings::dst_cache>,
}

// SAFETY: What is in the cache is per CPU, and used with softirqs off.
unsafe impl Send for Neighbour {}
// SAFETY: As above.
unsafe impl Sync for Neighbour {}

impl Neighbour {
    /// The neighbour at `addr`, to which no route is known yet. Process context. Errors: `ENOMEM`.
    pub fn new(addr: [u8; 4]) -> Result<Self> {
        let cache = Opaque::new(bindings::dst_cache::default());
        // SAFETY: The cache is ours; it stays what it is when it moves.
        to_result(unsafe { bindings::dst_cache_init(cache.get(), bindings::GFP_KERNEL) })?;
        // INVARIANT: It was just initialised, and has no routes.
        Ok(Self { addr, cache })
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; nobody uses it any more.
        unsafe { bindings::dst_cache_destroy(self.cache.get()) };
    }
}

/// Sends a whole IPv4 packet to the node at `via` itself, whatever its header says. `known` is of the
/// same namespace. It is lost, too, when the route does not lead to the node without a gateway.
pub fn xmit_direct(
    net: &Net,
    skb: Skb,
    via: [u8; 4],
    known: Option<&Neighbour>,
    _context: &PacketContext,
) -> Result<(), Unsent> {
    let known = known.filter(|known| known.addr == via);
    let cache = known.map_or(core::ptr::null_mut(), |known| known.cache.get());
    let via = u32::from_ne_bytes(via);
    let mut mtu = 0;
    let raw = skb.into_raw();
    // SAFETY: The packet is ours and is given up, in the context that the helper asks for; what it
    // says of it is told to `sent`. The cache is initialised, if there is one, and of this address.
    unsafe {
        let ret = bindings::xmit_direct(net.as_ptr(), raw, via, cache, &mut mtu);
        sent(raw, ret, mtu)
    }
}
