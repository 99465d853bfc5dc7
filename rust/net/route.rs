// SPDX-License-Identifier: GPL-2.0

//! What the routes of a namespace say of an address, and ways to nodes that packets do not name.
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
use carisma_core::tuple::{v4_of, Addr};
use core::ptr::NonNull;
use kernel::{
    error::to_result,
    prelude::*,
    types::Opaque, //
};

/// Whether packets to this address are this node's own. Any context.
pub fn is_local(net: &Net, addr: &Addr) -> bool {
    let _context = PacketContext::enter();
    // SAFETY: The namespace is valid, and so is the address, in the context that the helper asks for.
    unsafe { bindings::is_local(net.as_ptr(), addr.as_ptr()) }
}

/// The number of the link on which this address is a neighbour's; 0 if it is none, or the number too
/// big for [`tuple::on_link`](carisma_core::tuple::on_link). Any context.
pub fn link_to(net: &Net, addr: &Addr) -> u16 {
    let _context = PacketContext::enter();
    // SAFETY: The namespace is valid, and so is the address, in the context that the helper asks for.
    let link = unsafe { bindings::link_to(net.as_ptr(), addr.as_ptr(), core::ptr::null_mut()) };
    u16::try_from(link).unwrap_or(0)
}

/// The route of what answers a packet.
///
/// # Invariants
///
/// The pointer is a valid route, of which this owns a reference.
pub struct Return(NonNull<bindings::dst_entry>);

impl Return {
    /// That of a packet which came in; `None` if no route leads to its sender. Softirq.
    pub fn of(net: &Net, skb: &Skb, _context: &PacketContext) -> Option<Self> {
        // SAFETY: The namespace is valid, and so is the packet, in the context that the helper asks for.
        let dst = unsafe { bindings::route_back(net.as_ptr(), skb.as_ptr()) };
        // INVARIANT: The helper has taken the reference.
        NonNull::new(dst).map(Self)
    }

    /// What this node says that it takes in a segment from there.
    pub fn advertised_mss(&self) -> u16 {
        // SAFETY: By the type invariant.
        unsafe { bindings::dst_advmss(self.0.as_ptr()) }
    }

    /// Sends a whole packet there.
    pub fn xmit(self, net: &Net, skb: Skb, _context: &PacketContext) -> Result<(), Unsent> {
        let (raw, dst, mut mtu) = (skb.into_raw(), self.0.as_ptr(), 0);
        core::mem::forget(self);
        // SAFETY: The packet is ours and is given up, as is, by the type invariant, the reference to the
        // route, in the context that the helper asks for; what it says of the packet is told to `sent`.
        unsafe {
            let ret = bindings::xmit_by(net.as_ptr(), raw, dst, &mut mtu);
            sent(raw, ret, mtu)
        }
    }
}

impl Drop for Return {
    fn drop(&mut self) {
        // SAFETY: By the type invariant, the reference of which ends here.
        unsafe { bindings::dst_release(self.0.as_ptr()) };
    }
}

/// How a packet gets to a node. Each has the node's address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// With that as its destination.
    Named(Addr),
    /// As it is, to the MAC address of the node, which is reached without a gateway.
    Neighbour(Addr),
    /// As it is, in a packet to that (RFC 2003, RFC 2473).
    Tunnel(Addr),
}

impl Via {
    /// The destination of a packet that was for `vip`, when it gets there.
    pub fn destination(self, vip: &Addr) -> Addr {
        match self {
            Self::Named(to) => to,
            Self::Neighbour(_) | Self::Tunnel(_) => *vip,
        }
    }

    /// Whether packets get there as they are.
    pub fn is_unchanged(self) -> bool {
        !matches!(self, Self::Named(_))
    }

    /// Whether routes lead there from `own`, this node's address. `known` is of the same namespace.
    pub fn is_open(self, net: &Net, own: &Addr, known: Option<&Way>, ctx: &PacketContext) -> bool {
        let addr = match self {
            Self::Named(_) => return true,
            Self::Tunnel(_) => return self.mtu(net, own, known, ctx).is_some(),
            Self::Neighbour(addr) => addr,
        };
        // SAFETY: The namespace is valid, the context the one that the helper asks for. The cache is
        // initialised, if there is one, and of this address.
        unsafe {
            let cache = Way::cache(known, self);
            bindings::link_to(net.as_ptr(), addr.as_ptr(), cache) != 0
        }
    }

    /// How big a packet may be that a tunnel from `own` takes whole; `None` if no route leads there, and
    /// of all that is no tunnel. `known` is of the same namespace.
    pub fn mtu(
        self,
        net: &Net,
        own: &Addr,
        known: Option<&Way>,
        _context: &PacketContext,
    ) -> Option<u16> {
        let Self::Tunnel(to) = self else {
            return None;
        };
        // SAFETY: The namespace is valid, the context the one that the helper asks for. The cache is
        // initialised, if there is one, and of this address.
        let mtu = unsafe {
            let cache = Way::cache(known, self);
            bindings::tunnel_mtu(net.as_ptr(), own.as_ptr(), to.as_ptr(), cache)
        };
        // One of loopback's, of 64 KiB, is no limit.
        (mtu != 0).then(|| u16::try_from(mtu).unwrap_or(u16::MAX))
    }

    /// Whether a packet to `addr` can go there in that way: none has a destination of the other family.
    pub fn takes(self, addr: &Addr) -> bool {
        match self {
            Self::Named(to) => v4_of(&to).is_some() == v4_of(addr).is_some(),
            Self::Neighbour(_) | Self::Tunnel(_) => true,
        }
    }

    /// The node's address by which it leads there.
    pub fn to(self) -> Addr {
        match self {
            Self::Named(to) | Self::Neighbour(to) | Self::Tunnel(to) => to,
        }
    }
}

/// The route to a node in one of these ways, which each CPU remembers as long as it is valid.
///
/// # Invariants
///
/// The cache is initialised, and has routes of a tunnel to `addr` only, or to the neighbour there.
pub struct Way {
    addr: Addr,
    tunnel: bool,
    cache: Opaque<bindings::dst_cache>,
}

// SAFETY: What is in the cache is per CPU, and used with softirqs off.
unsafe impl Send for Way {}
// SAFETY: As above.
unsafe impl Sync for Way {}

impl Way {
    /// The way to a neighbour or, if that is to be one, of a tunnel; no route is known yet. Process
    /// context. Errors: `ENOMEM`.
    pub fn new(addr: Addr, tunnel: bool) -> Result<Self> {
        let cache = Opaque::new(bindings::dst_cache::default());
        // SAFETY: The cache is ours; it stays what it is when it moves.
        to_result(unsafe { bindings::dst_cache_init(cache.get(), bindings::GFP_KERNEL) })?;
        // INVARIANT: It was just initialised, and has no routes.
        Ok(Self {
            addr,
            tunnel,
            cache,
        })
    }

    /// The cache of this way, if it is that way's; else NULL.
    fn cache(known: Option<&Self>, via: Via) -> *mut bindings::dst_cache {
        let is_it =
            |known: &&Self| known.addr == via.to() && known.tunnel == matches!(via, Via::Tunnel(_));
        known
            .filter(is_it)
            .map_or(core::ptr::null_mut(), |known| known.cache.get())
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; nobody uses it any more.
        unsafe { bindings::dst_cache_destroy(self.cache.get()) };
    }
}

/// Sends a whole packet to a node from `own`, this node's address, whatever its header says; one that is
/// to name the node does. `known` is of the same namespace. It is lost, too, when no route leads there in
/// that way.
pub fn xmit_via(
    net: &Net,
    skb: Skb,
    via: Via,
    own: &Addr,
    known: Option<&Way>,
    _context: &PacketContext,
) -> Result<(), Unsent> {
    let cache = Way::cache(known, via);
    let mut mtu = 0;
    let raw = skb.into_raw();
    // SAFETY: The packet is ours and is given up, in the context that the helpers ask for; what they
    // say of it is told to `sent`. The cache is initialised, if there is one, and of this way.
    unsafe {
        let ret = match via {
            Via::Named(_) => bindings::xmit(net.as_ptr(), raw, &mut mtu),
            Via::Neighbour(to) => {
                bindings::xmit_direct(net.as_ptr(), raw, to.as_ptr(), cache, &mut mtu)
            }
            Via::Tunnel(to) => {
                let (from, to) = (own.as_ptr(), to.as_ptr());
                bindings::xmit_tunnel(net.as_ptr(), raw, from, to, cache, &mut mtu)
            }
        };
        sent(raw, ret, mtu)
    }
}
