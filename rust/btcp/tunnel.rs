// SPDX-License-Identifier: GPL-2.0

//! Tunnels (RFC 2003) from front ends to back ends that are no neighbours: this node as either end.
//!
//! A node takes out of a packet of IP in IP what another node of the cluster may have put into it: a
//! segment to a service, or an ICMP error about one. That comes in once more, by the same device, as
//! though the client were a neighbour; it then passes every rule that other packets of clients do.
//! All else of IP in IP is left alone, so that tunnels of other purposes go on between the same nodes.
//!
//! Who can send from a node's address can so send from any, to services; as he can who is a neighbour.

use crate::{counters::Counter, node::Node, state::State};
use carisma_core::{
    translate,
    tuple::{v4_mapped, v4_of},
};
use carisma_net::{
    netfilter::PacketContext,
    route::Via,
    skb::{Layout, Skb},
    tunnel::{self, Outer},
};
use kernel::sync::rcu;

/// The shortest headers of a segment, which its MSS does not count (RFC 9293, section 3.7.1).
const HEADERS: u16 = 40;

impl State {
    /// A packet that comes in, and is neither a TCP segment nor an ICMP error about one.
    pub(crate) fn tunnel_input(&self, mut skb: Skb) -> Option<Skb> {
        if let Some(outer) = Outer::of(&skb) {
            if !self.tunnel_is_ours(&outer, &mut skb) {
                return Some(skb);
            }
            let ctx = PacketContext::enter();
            self.counters.count(match outer.receive(skb, &ctx) {
                Ok(()) => Counter::PacketsUntunnelled,
                Err(_) => Counter::PacketsDroppedTunnel,
            });
            return None;
        }
        if let Some(error) = tunnel::too_big(&mut skb) {
            if self.tunnel_is(error.from, error.to, |_, node| node.forwarding.may_tunnel()) {
                // Nobody else would: this kind of packet has no owner here.
                tunnel::update_pmtu(&self.net, &mut skb, &error);
            }
        }
        Some(skb)
    }

    /// Whether a node may have sent this to us on behalf of a client.
    fn tunnel_is_ours(&self, outer: &Outer, skb: &mut Skb) -> bool {
        if !self.tunnel_is(outer.to, outer.from, |local, _| {
            local.forwarding.may_tunnel()
        }) {
            return false;
        }
        let to = match outer.ends(skb) {
            Some(ends) => Some((ends.destination, ends.destination_port)),
            None => outer.icmp_error(skb).map(|error| error.source()),
        };
        to.is_some_and(|(addr, port)| self.is_endpoint(addr, port))
    }

    /// Whether these addresses are this node's and another's of the cluster, between which `may` allows a
    /// tunnel.
    fn tunnel_is(&self, own: [u8; 4], other: [u8; 4], may: impl Fn(&Node, &Node) -> bool) -> bool {
        let rcu = rcu::read_lock();
        let config = self.config.snapshot(&rcu);
        let (own, other) = (v4_mapped(own), v4_mapped(other));
        config.local_node().is_some_and(|local| {
            let is_it = |node: &Node| !node.local && node.at.addr == other && may(local, node);
            local.at.addr == own && config.nodes().any(is_it)
        })
    }

    /// The longest segment of a client's that every tunnel from here takes; `None` if there is none.
    pub(crate) fn tunnel_mss(&self) -> Option<u16> {
        let rcu = rcu::read_lock();
        let config = self.config.snapshot(&rcu);
        let own = v4_of(&config.local_node()?.at.addr)?;
        let mtus = config
            .nodes()
            .filter(|node| !node.local && node.forwarding.may_tunnel())
            .filter_map(|node| {
                let via @ Via::Tunnel(..) = node.via(&self.net, own)? else {
                    return None;
                };
                via.mtu(&self.net, node.way(via))
            });
        Some(mtus.min()?.saturating_sub(HEADERS))
    }

    /// Lets a SYN-ACK of TCP's ask for segments that fit into the tunnels.
    pub(crate) fn tunnel_clamp(&self, mut skb: Skb, layout: &Layout) -> Option<Skb> {
        if let Some(mss) = self.tunnel_mss() {
            let partial = skb.checksum_is_partial();
            // Without memory it is sent once more.
            let (_, tcp) = skb.headers_mut(layout)?;
            // What TCP makes is well-formed.
            let _ = translate::clamp_mss(tcp, mss, partial);
        }
        Some(skb)
    }
}
