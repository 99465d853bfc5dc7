// SPDX-License-Identifier: GPL-2.0

//! Packets that came through a tunnel of IP in IP (RFC 2003, RFC 2473), and what is said of those that were sent
//! through one.
//!
//! C header: [`include/net/ip_tunnels.h`](srctree/include/net/ip_tunnels.h)

use crate::{
    bindings,
    netfilter::PacketContext,
    pernet::Net,
    skb::{Ends, Skb},
};
use carisma_core::{icmp, tuple::Addr};
use kernel::{error::to_result, prelude::*};

/// The outer header of a packet that came in.
#[derive(Clone, Copy)]
pub struct Outer {
    /// Who sent it.
    pub from: Addr,
    /// Whom it was for.
    pub to: Addr,
    /// How long it is.
    len: u32,
}

impl Outer {
    /// The outer header of a packet of IP in IP that is no fragment; `None` for everything else.
    pub fn of(skb: &Skb) -> Option<Self> {
        let (mut from, mut to, mut len) = (Addr::default(), Addr::default(), 0);
        // SAFETY: The packet is valid, and there is room for what the helper fills in.
        unsafe {
            let (from, to) = (from.as_mut_ptr(), to.as_mut_ptr());
            bindings::skb_peek_tunnel(skb.as_ptr(), from, to, &mut len)
        }
        .then_some(Self { from, to, len })
    }

    /// The ends of the TCP segment in it, if it is one.
    pub fn ends(&self, skb: &Skb) -> Option<Ends> {
        skb.ends_at(self.len)
    }

    /// What the ICMP error in it says of a TCP segment, if it is one.
    pub fn icmp_error(&self, skb: &mut Skb) -> Option<icmp::Error> {
        let error = icmp::Error::parse(skb.icmp_at(self.len)?)?;
        Some(error.on_link(skb.link()))
    }

    /// Takes it off the packet that it is of. Softirq, at PRE_ROUTING. Errors: `ENOMEM`; `EINVAL` if
    /// congestion was noted of what does not know of that (RFC 6040).
    pub fn strip(self, skb: Skb) -> Result<Skb> {
        // SAFETY: The packet is ours; its outer header is of that length.
        to_result(unsafe { bindings::tunnel_strip(skb.as_ptr(), self.len) })?;
        Ok(skb)
    }
}

/// Has what [`Outer::strip`] found come in anew. Softirq, at PRE_ROUTING. Errors: `ENOBUFS` when too much
/// comes in.
pub fn receive(skb: Skb, _context: &PacketContext) -> Result {
    // SAFETY: The packet is ours and is given up.
    to_result(unsafe { bindings::tunnel_receive(skb.into_raw()) })
}

/// What an ICMP error says of the room in a tunnel that leads from this node elsewhere; `None` for
/// everything else. Softirq, at PRE_ROUTING.
pub fn too_big(skb: &mut Skb) -> Option<icmp::Tunnelled> {
    let error = icmp::Tunnelled::parse(skb.icmp_at(0)?)?;
    let protocol = match skb.is_v6() {
        false => bindings::IPPROTO_ICMP,
        true => bindings::IPPROTO_ICMPV6,
    };
    // CAST: A small number.
    skb.is_summed(error.icmp, protocol as u8).then_some(error)
}

/// Takes note of what an error says that [`too_big`] read from this packet, for the routes. Softirq, at
/// PRE_ROUTING.
pub fn update_pmtu(net: &Net, skb: &mut Skb, error: &icmp::Tunnelled) {
    // SAFETY: The packet is valid and ours, and the quoted header was read in its linear part. CAST: An
    // offset within it.
    unsafe {
        bindings::tunnel_update_pmtu(
            net.as_ptr(),
            skb.as_ptr(),
            error.quote as u32,
            u32::from(error.mtu),
        );
    }
}
