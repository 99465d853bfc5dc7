// SPDX-License-Identifier: GPL-2.0

//! Tunnels (RFC 2003, RFC 2473) from front ends to back ends that are no neighbours: this node as either end.
//!
//! A node takes out of a packet of IP in IP what another node of the cluster may have put into it: a
//! segment to a service, or an ICMP error about one. That comes in once more, by the same device, as
//! though the client were a neighbour; it then passes every rule that other packets of clients do.
//! All else of IP in IP is left alone, so that tunnels of other purposes go on between the same nodes.
//! In always mode connections come that way, too, and back comes what tells of their end.
//!
//! Who can send from a node's address can so send from any, to services; as he can who is a neighbour.

use crate::{counters::Counter, flow::FlowRef, node::Node, state::State};
use carisma_core::{
    ip,
    tcp::HEADER_LEN,
    translate,
    tuple::{Addr, Tuple},
};
use carisma_net::{
    netfilter::PacketContext,
    skb::{Layout, Skb},
    tunnel::{self, Outer},
};
use kernel::sync::rcu;

/// What came through a tunnel.
enum Within {
    /// From this node, a segment of a client's on this connection.
    Clients(u32, Tuple),
    /// From this node, a segment of its TCP's on this connection, to be passed on to the client; and the
    /// flow, if there is one.
    Servers(u32, Tuple, Option<FlowRef>),
    /// An ICMP error about such a segment.
    Other,
}

impl State {
    /// A packet that comes in, and is neither a TCP segment nor an ICMP error about one.
    pub(crate) fn tunnel_input(&self, mut skb: Skb, ctx: &PacketContext) -> Option<Skb> {
        if let Some(outer) = Outer::of(&skb) {
            let Some(within) = self.tunnel_within(&outer, &mut skb, ctx.rcu()) else {
                return Some(skb);
            };
            self.counters.count(match outer.strip(skb) {
                Ok(skb) => self.tunnel_take(within, skb, ctx),
                Err(_) => Counter::PacketsDroppedTunnel,
            });
            return None;
        }
        if let Some(error) = tunnel::too_big(&mut skb) {
            let may = |_: &Node, node: &Node| node.may_tunnel() || self.expects_cookies();
            if self
                .tunnel_peer(error.from, error.to, ctx.rcu(), may)
                .is_some()
            {
                // Nobody else would: this kind of packet has no owner here.
                tunnel::update_pmtu(&self.net, &mut skb, &error);
            }
        }
        Some(skb)
    }

    /// What a node may have sent us through a tunnel.
    fn tunnel_within(&self, outer: &Outer, skb: &mut Skb, rcu: &rcu::Guard) -> Option<Within> {
        let peer = |always: bool| {
            let may = |local: &Node, _: &Node| always || local.may_tunnel();
            self.tunnel_peer(outer.to, outer.from, rcu, may)
        };
        let Some(ends) = outer.ends(skb) else {
            let (addr, port) = outer.icmp_error(skb)?.source();
            let ours = self.is_endpoint(&addr, port, rcu);
            return peer(false).filter(|_| ours).map(|_| Within::Other);
        };
        let (from, from_port) = (ends.source, ends.source_port);
        let (to, to_port) = (ends.destination, ends.destination_port);
        if self.is_endpoint(&to, to_port, rcu) {
            let key = Tuple::new(from, from_port, to, to_port);
            let goes_on = |flow: FlowRef| flow.inner.lock().stage.in_band();
            let flow = || self.flows.lookup_under(&key, rcu);
            let always = self.is_always(&key, rcu) || flow().is_some_and(goes_on);
            return Some(Within::Clients(peer(always)?, key));
        }
        if self.is_endpoint(&from, from_port, rcu) {
            let key = Tuple::new(to, to_port, from, from_port);
            let flow = self.flow_of(&key, rcu);
            let in_band = match &flow {
                Some(flow) => flow.inner.lock().stage.in_band(),
                None => self.is_always(&key, rcu),
            };
            return peer(in_band)
                .filter(|_| in_band)
                .map(|node| Within::Servers(node, key, flow));
        }
        None
    }

    /// Takes what came through a tunnel, and says what is to be counted.
    fn tunnel_take(&self, within: Within, mut skb: Skb, ctx: &PacketContext) -> Counter {
        match within {
            Within::Servers(node, key, flow) => {
                if let Some(layout) = skb.layout() {
                    self.front_relayed(node, &key, flow, skb, &layout, ctx);
                }
                return Counter::PacketsUntunnelled;
            }
            Within::Clients(node, key) if self.expects_cookies() => {
                if !self.back_handed(node, &key, &mut skb, ctx) {
                    return Counter::PacketsUntunnelled;
                }
            }
            Within::Clients(..) | Within::Other => {}
        }
        match tunnel::receive(skb, ctx) {
            Ok(()) => Counter::PacketsUntunnelled,
            Err(_) => Counter::PacketsDroppedTunnel,
        }
    }

    /// The node whose address is `other`, if `own` is this one's, and `may` allows a tunnel between them.
    fn tunnel_peer(
        &self,
        own: Addr,
        other: Addr,
        rcu: &rcu::Guard,
        may: impl Fn(&Node, &Node) -> bool,
    ) -> Option<u32> {
        let config = self.config.snapshot(rcu);
        let local = config.local_node().filter(|local| local.has(&own))?;
        let is_it = |node: &&Node| !node.local && node.has(&other) && may(local, node);
        let found = config.nodes().find(is_it);
        found.map(|node| node.index)
    }

    /// The longest segment of a client's to this address that every tunnel from here takes; `None` if
    /// there is none.
    pub(crate) fn tunnel_mss(&self, vip: &Addr, ctx: &PacketContext) -> Option<u16> {
        let config = self.config.snapshot(ctx.rcu());
        let local = config.local_node()?;
        let mtus = config
            .nodes()
            .filter(|node| !node.local && node.reach(vip).forwarding.may_tunnel())
            .filter_map(|node| {
                let via = node.via(&self.net, local, vip, ctx);
                via.mtu(&self.net, &local.reach(&via.to()).addr, node.way(via), ctx)
            });
        // The shortest headers, which an MSS does not count (RFC 9293, section 3.7.1). CAST: Small numbers.
        let headers = (ip::header_len(vip) + HEADER_LEN) as u16;
        Some(mtus.min()?.saturating_sub(headers))
    }

    /// Lets a SYN-ACK of TCP's ask for segments that fit into the tunnels.
    pub(crate) fn tunnel_clamp(
        &self,
        key: &Tuple,
        mut skb: Skb,
        layout: &Layout,
        ctx: &PacketContext,
    ) -> Option<Skb> {
        if let Some(mss) = self.tunnel_mss(&key.local, ctx) {
            let partial = skb.checksum_is_partial();
            // Without memory it is sent once more.
            let (_, tcp) = skb.headers_mut(layout)?;
            // What TCP makes is well-formed.
            let _ = translate::clamp_mss(tcp, mss, partial);
        }
        Some(skb)
    }
}
