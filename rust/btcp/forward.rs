// SPDX-License-Identifier: GPL-2.0

//! The front end's side: connections that another node serves (paper, section 4, "Packet
//! forwarding").

use crate::{
    counters::{Counter, Gauge},
    flow::{FlowRef, InnerGuard, Over, Stage},
    front::theirs,
    lower,
    state::State,
    trace::{event, FRONT},
};
use carisma_core::{
    seq::Seq,
    tcp::{self, flag},
    translate::{self, End},
    tuple::Tuple,
    wire::Body,
};
use carisma_net::{
    netfilter::{self, PacketContext, Unsent},
    skb::{Layout, Skb},
};

/// How long until a back end is asked again that could not be asked.
const CHECK_MS: u32 = 1_000;

/// A connection that another node serves.
#[derive(Clone, Copy)]
pub(crate) struct Forward {
    pub(crate) id: u64,
    pub(crate) node: u32,
    /// Where its segments go.
    pub(crate) to: ([u8; 4], u16),
    /// The newest acknowledgement of the client's.
    pub(crate) acked: Seq,
}

impl State {
    /// A segment of the client's on a connection that another node serves.
    pub(crate) fn front_forward(
        &self,
        flow: &FlowRef,
        mut inner: InnerGuard<'_>,
        skb: Skb,
        layout: &Layout,
        ctx: &PacketContext,
    ) {
        let inner_now = &mut *inner;
        let (Stage::Forward(forward) | Stage::Over(Over::Forward(forward))) = &mut inner_now.stage
        else {
            return;
        };
        if let Some(header) = skb.tcp(layout).and_then(tcp::Header::parse) {
            if header.has(flag::ACK) && header.ack().gt(forward.acked) {
                forward.acked = header.ack();
            }
        }
        let forward = *forward;
        if inner.draining {
            self.park(&mut inner, skb);
            return;
        }
        inner.packets = inner.packets.wrapping_add(1);
        drop(inner);
        self.forward(flow, &forward, skb, layout, ctx);
    }

    /// Sends a segment of the client's to the back end.
    pub(crate) fn forward(
        &self,
        flow: &FlowRef,
        forward: &Forward,
        mut skb: Skb,
        layout: &Layout,
        ctx: &PacketContext,
    ) {
        let (addr, port) = forward.to;
        let partial = skb.checksum_is_partial();
        let Some((ip, tcp)) = skb.headers_mut(layout) else {
            self.counters.count(Counter::FlowsRefusedMemory);
            return;
        };
        let rewritten = translate::rewrite_addr(ip, tcp, End::Destination, addr, partial)
            .and_then(|()| translate::rewrite_port(tcp, End::Destination, port, partial));
        if rewritten.is_err() {
            self.counters.count(Counter::PacketsDroppedMalformed);
            return;
        }
        skb.hop();
        let counter = match netfilter::xmit(&self.net, skb, ctx) {
            Ok(()) => Counter::PacketsForwarded,
            Err(Unsent::Lost) => Counter::PacketsDroppedUnroutable,
            Err(Unsent::TooBig(skb, mtu)) => {
                self.icmp_too_big(flow.key(), skb, layout, mtu, ctx);
                Counter::PacketsDroppedTooBig
            }
        };
        self.counters.count(counter);
    }

    /// Asks the back end whether it still has a connection: while the control connection was
    /// down, nobody could tell of its end. The flow's lock is held. Any context.
    pub(crate) fn front_check(&self, flow: &FlowRef, forward: &Forward) {
        let key = flow.key();
        let check = Body::Check {
            vip: key.local,
            vip_port: key.local_port.get(),
        };
        match self.record(forward.node, forward.id, forward.theirs(flow), check) {
            Ok(()) => flow.disarm(),
            Err(_) => flow.arm(CHECK_MS),
        }
    }

    /// The back end's socket is closed.
    pub(crate) fn front_closed(&self, flow: &FlowRef, mut inner: InnerGuard<'_>, linger: bool) {
        let Stage::Forward(forward) = inner.stage else {
            return;
        };
        inner.stage = Stage::Over(Over::Forward(forward));
        flow.arm(crate::flow::linger_ms(linger));
        drop(inner);
        self.trace_flow(
            event::FLOW_CLOSED,
            flow.key(),
            FRONT,
            forward.node,
            forward.id,
        );
        self.counters.count(Counter::ClosedHeard);
        self.counters.down(Gauge::HandedOffOut);
        lower::release_modules();
    }

    /// Ends a connection whose back end is gone, and tells the client so. Any context.
    pub(crate) fn front_lose(&self, flow: &FlowRef, inner: InnerGuard<'_>, ctx: &PacketContext) {
        let Some(forward) = self.front_drop(flow, inner) else {
            return;
        };
        self.reset_client(flow, forward.acked, ctx);
    }

    /// Ends a connection that another node serves, as though there had been none. Any context.
    pub(crate) fn front_drop(&self, flow: &FlowRef, inner: InnerGuard<'_>) -> Option<Forward> {
        let Stage::Forward(forward) = inner.stage else {
            return None;
        };
        let (node, id) = (forward.node, forward.id);
        self.trace_flow(event::FLOW_RESET, flow.key(), FRONT, node, id);
        self.end(flow, inner);
        self.counters.count(Counter::FlowsReset);
        self.counters.down(Gauge::HandedOffOut);
        lower::release_modules();
        Some(forward)
    }
}

impl Forward {
    /// The connection as the back end's TCP knows it.
    pub(crate) fn theirs(&self, flow: &FlowRef) -> Tuple {
        let (addr, port) = self.to;
        theirs(flow.key(), addr, port)
    }
}
