// SPDX-License-Identifier: GPL-2.0

//! ICMP errors about connections that are handed off, without which there is no path MTU discovery
//! (RFC 1191).
//!
//! The segments of a back end bear the front end's address, so the front end is told what became of
//! them. It sends that on to the back end, in which it is translated for the TCP there. The segments
//! that the front end forwards bear the client's address, but another destination than the client
//! knows; the one error of the front end's own that matters is made here.
//!
//! One packet comes of one at most. Whether a segment of that number is under way is for TCP to say
//! (RFC 5927, section 4.1).

use crate::{
    counters::Counter,
    flow::{FlowRef, Over, Stage},
    state::State,
};
use carisma_core::{
    icmp::{End, Error, TooBig},
    ip, translate,
    tuple::{link_of, on_link, Tuple},
};
use carisma_net::{
    netfilter::{self, PacketContext},
    route::Via,
    skb::{Layout, Skb},
};
use kernel::sync::rcu;

impl State {
    /// A packet that comes in and is no TCP segment.
    #[inline(never)]
    pub(crate) fn icmp_input(&self, mut skb: Skb, ctx: &PacketContext) -> Option<Skb> {
        let Some(error) = skb.icmp_error() else {
            return self.tunnel_input(skb, ctx);
        };
        // What this node tells itself is in its own TCP's numbers: see `icmp_output()`.
        if skb.is_looped() {
            return Some(skb);
        }
        let flow = self.icmp_flow(&error);
        let Some(flow) = flow.or_else(|| self.icmp_flow_behind(&error)) else {
            return Some(skb);
        };
        let inner = flow.inner.lock();
        match &inner.stage {
            Stage::Forward(forward) | Stage::Over(Over::Forward(forward)) => {
                let (node, via) = (forward.node, forward.via);
                drop(inner);
                self.icmp_relay(skb, &error, node, via);
                None
            }
            // What was handed over in band may be served though nobody has said so yet: of an answer that
            // is too big the client acknowledges nothing.
            Stage::Committed(deciding) if deciding.in_band => {
                let (node, via) = (deciding.node, deciding.via);
                drop(inner);
                self.icmp_relay(skb, &error, node, via);
                None
            }
            Stage::Live(live) | Stage::Over(Over::Live(live)) => {
                let seq_delta = live.translation.seq_delta;
                drop(inner);
                self.icmp_translate(skb, &error, &flow, seq_delta)
            }
            // It is about what this node's TCP has sent, or it is made up.
            _ => Some(skb),
        }
    }

    /// A packet that this node sends and that is no TCP segment. What it has to say about a segment
    /// that it had translated already is for its own TCP. By way of the front end it would come back
    /// with this node's own address as the source, which is none that IP takes from others.
    #[inline(never)]
    pub(crate) fn icmp_output(&self, mut skb: Skb) -> Option<Skb> {
        let Some(error) = skb.icmp_error() else {
            return Some(skb);
        };
        if self.icmp_flow(&error).is_some() {
            // Not translated yet: a rule of LOCAL_OUT's refused it. Or a front end's.
            return Some(skb);
        }
        let Some(flow) = self.icmp_flow_behind(&error) else {
            return Some(skb);
        };
        let inner = flow.inner.lock();
        let (Stage::Live(live) | Stage::Over(Over::Live(live))) = &inner.stage else {
            return Some(skb);
        };
        let seq_delta = live.translation.seq_delta;
        drop(inner);
        let skb = self.icmp_translate(skb, &error, &flow, seq_delta)?;
        netfilter::reroute(&self.net, skb).ok()
    }

    /// The connection that an error is about, by the address that it quotes.
    fn icmp_flow(&self, error: &Error) -> Option<FlowRef> {
        let ((addr, port), (client, client_port)) = (error.source(), error.destination());
        if !self.is_endpoint(&addr, port, &rcu::read_lock()) {
            return None;
        }
        self.flows
            .lookup(&Tuple::new(client, client_port, addr, port))
    }

    /// The connection that an error is about, if that quotes the address of a front end, and this
    /// node serves it at one of its own.
    fn icmp_flow_behind(&self, error: &Error) -> Option<FlowRef> {
        let ((addr, port), (client, client_port)) = (error.source(), error.destination());
        let own = {
            let rcu = rcu::read_lock();
            let snapshot = self.config.snapshot(&rcu);
            let own = snapshot.local_node()?.reach(&addr).addr;
            snapshot.is_endpoint(&own, port).then_some(own)?
        };
        let flow = self
            .flows
            .lookup(&Tuple::new(client, client_port, own, port))?;
        let is_it = match &flow.inner.lock().stage {
            Stage::Live(live) | Stage::Over(Over::Live(live)) => {
                (live.origin.vip, live.origin.vip_port) == (addr, port)
            }
            _ => false,
        };
        is_it.then_some(flow)
    }

    /// Sends an error on to the back end.
    fn icmp_relay(&self, mut skb: Skb, error: &Error, node: u32, via: Via) {
        let (vip, port) = error.source();
        let source = (via.destination(&vip), port);
        if !self.icmp_rewrite(&mut skb, error, source, 0) {
            return;
        }
        skb.hop();
        let ctx = PacketContext::enter();
        let sent = self.xmit_via(node, via, skb, &ctx);
        self.counters.count(match sent {
            Ok(()) => Counter::IcmpRelayed,
            Err(_) => Counter::PacketsDroppedUnroutable,
        });
    }

    /// Makes an error one that TCP here understands.
    fn icmp_translate(
        &self,
        mut skb: Skb,
        error: &Error,
        flow: &FlowRef,
        seq_delta: u32,
    ) -> Option<Skb> {
        let own = own_end(flow);
        if !self.icmp_rewrite(&mut skb, error, own, seq_delta) {
            return None;
        }
        self.counters.count(Counter::IcmpTranslated);
        Some(skb)
    }

    /// Rewrites an error; if it cannot be, it is counted as dropped.
    fn icmp_rewrite(&self, skb: &mut Skb, error: &Error, source: End, seq_delta: u32) -> bool {
        let partial = skb.checksum_is_partial();
        let Some(head) = skb.head_mut(skb.icmp_len()) else {
            self.counters.count(Counter::FlowsRefusedMemory);
            return false;
        };
        let rewritten = error.rewrite(head, source, seq_delta, partial).is_ok();
        if !rewritten {
            self.counters.count(Counter::IcmpDroppedMalformed);
        }
        rewritten
    }

    /// Tells a client that its segment is too big for the way to the back end, where it was to be
    /// forwarded. IP's own words would be about a connection to the back end, of which the client
    /// knows nothing.
    pub(crate) fn icmp_too_big(
        &self,
        key: &Tuple,
        skb: Skb,
        layout: &Layout,
        mtu: u16,
        ctx: &PacketContext,
    ) {
        // What is lost for want of memory comes again with the segment.
        if let Some(told) = too_big(key, &skb, layout, mtu) {
            let _ = netfilter::xmit(&self.net, told, ctx);
        }
    }
}

/// The error about a segment that was already made one to the back end.
fn too_big(key: &Tuple, skb: &Skb, layout: &Layout, mtu: u16) -> Option<Skb> {
    let (src, dst) = (key.local, on_link(&key.client, 0));
    let len = skb.size().min(TooBig::quote_max(&src));
    let at = TooBig::quote_at(&src);
    let mut error = Skb::new(at.checked_add(len)?).ok()?;
    let bytes = error.bytes_mut();
    let quote = bytes.get_mut(at..)?;
    if !skb.copy(0, quote) {
        return None;
    }
    let (header, tcp) = quote.split_at_mut_checked(layout.ip)?;
    let partial = skb.checksum_is_partial();
    let end = translate::End::Destination;
    translate::rewrite_addr(header, tcp, end, &src, partial).ok()?;
    translate::rewrite_port(tcp, end, key.local_port.get(), partial).ok()?;
    TooBig { src, dst, mtu }.write(bytes)?;
    error.set_transport(ip::header_len(&src));
    error.set_link(link_of(&key.client));
    Some(error)
}

/// This node's end of a connection, as its TCP knows it.
fn own_end(flow: &FlowRef) -> End {
    let key = flow.key();
    (key.local, key.local_port.get())
}
