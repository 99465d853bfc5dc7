// SPDX-License-Identifier: GPL-2.0

//! The front end's side: connections that another node serves (paper, section 4, "Packet
//! forwarding").

use crate::{
    always::InBand,
    counters::{Counter, Gauge},
    flow::{linger_ms, FlowRef, InnerGuard, Over, Stage},
    front::{is_opening, theirs},
    lower, packet,
    state::State,
    trace::{event, FRONT},
};
use carisma_core::{
    seq::Seq,
    tcp::{self, flag, Build},
    translate::{self, End},
    tuple::{Addr, Tuple},
    wire::Body,
};
use carisma_net::{
    connection::Moment,
    netfilter::{PacketContext, Unsent},
    route::{self, Via, Way},
    skb::{Layout, Skb},
};

/// How long until a back end is asked again that could not be asked, or has not answered.
const CHECK_MS: u32 = 1_000;

/// A connection that another node serves.
#[derive(Clone, Copy)]
pub(crate) struct Forward {
    pub(crate) node: u32,
    /// How its segments get there.
    pub(crate) via: Via,
    /// Since when there has been no such way to it.
    pub(crate) stuck: Option<Moment>,
    /// The newest acknowledgement of the client's.
    pub(crate) acked: Seq,
    /// Its back end keeps it in TIME_WAIT.
    pub(crate) time_wait: bool,
    /// How this node hears of its end.
    pub(crate) link: Link,
}

/// What a front end and a back end know a connection by.
#[derive(Clone, Copy)]
pub(crate) enum Link {
    /// Records of the control connection.
    Control {
        /// What they call the connection.
        id: u64,
        /// Since when the node is out of reach; `None` if it is not.
        down: Option<Moment>,
    },
    /// The connection's own segments.
    InBand(InBand),
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
        let over = matches!(inner_now.stage, Stage::Over(_));
        let (Stage::Forward(forward) | Stage::Over(Over::Forward(forward))) = &mut inner_now.stage
        else {
            return;
        };
        if inner_now.draining {
            self.park(inner_now, skb);
            return;
        }
        let flags = forward.note(flow, &skb, layout);
        // A TIME_WAIT may only begin now: the back end counts from its own FIN. And what is said in band
        // to what comes late comes by here.
        let again = match forward.time_wait {
            true => flags & flag::FIN != 0,
            false => forward.is_in_band(),
        };
        if over && again {
            flow.arm(linger_ms(forward.time_wait));
        }
        let forward = *forward;
        inner.packets = inner.packets.wrapping_add(1);
        drop(inner);
        self.forward(flow, &forward, skb, layout, flags, ctx);
    }

    /// Sends a segment of the client's, with these flags, to the back end. No lock of the flow is held.
    pub(crate) fn forward(
        &self,
        flow: &FlowRef,
        forward: &Forward,
        mut skb: Skb,
        layout: &Layout,
        flags: u8,
        ctx: &PacketContext,
    ) {
        if forward.via.is_unchanged() && is_opening(flags) {
            return self.front_question(flow, forward, skb, layout, ctx);
        }
        let partial = skb.checksum_is_partial();
        let Some((ip, tcp)) = skb.headers_mut(layout) else {
            self.counters.count(Counter::FlowsRefusedMemory);
            return;
        };
        let rewritten = match forward.via {
            Via::Named(addr) => {
                translate::rewrite_addr(ip, tcp, End::Destination, &addr, partial).is_ok()
            }
            _ => true,
        };
        if !rewritten {
            self.counters.count(Counter::PacketsDroppedMalformed);
            return;
        }
        skb.hop();
        let sent = self.xmit_via(forward.node, forward.via, skb, ctx);
        self.front_sent(flow, forward, sent, layout, ctx);
    }

    /// Asks a back end's TCP what becomes of a SYN of the client's, which it must not get unchanged: if
    /// the connection has ended, of which this node has not heard yet, it would take it for one of its
    /// own clients'.
    fn front_question(
        &self,
        flow: &FlowRef,
        forward: &Forward,
        mut skb: Skb,
        layout: &Layout,
        ctx: &PacketContext,
    ) {
        let right = skb.checksum_is_right(layout);
        let syn = skb.tcp(layout).and_then(tcp::Header::parse);
        let Some(syn) = syn.filter(|_| right) else {
            self.counters.count(Counter::PacketsDroppedMalformed);
            return;
        };
        let key = flow.key();
        let question = Build::question(
            key.client_port.get(),
            key.local_port.get(),
            syn.seq(),
            forward.acked,
        );
        // Without memory the client sends its SYN again.
        if let Ok(skb) = packet::from_client(key, &question, &[]) {
            let sent = self.xmit_via(forward.node, forward.via, skb, ctx);
            self.front_sent(flow, forward, sent, layout, ctx);
        }
    }

    /// Sends a packet to a node. Any context.
    pub(crate) fn xmit_via(
        &self,
        node: u32,
        via: Via,
        skb: Skb,
        ctx: &PacketContext,
    ) -> Result<(), Unsent> {
        self.with_way(node, via, ctx, |own, known| {
            route::xmit_via(&self.net, skb, via, own, known, ctx)
        })
    }

    /// Calls `f` with this node's address for a tunnel, unspecified if it has none any more or no tunnel is
    /// meant, and what is known of the way to a node, which may be none either.
    pub(crate) fn with_way<R>(
        &self,
        node: u32,
        via: Via,
        ctx: &PacketContext,
        f: impl FnOnce(&Addr, Option<&Way>) -> R,
    ) -> R {
        let config = self.config.snapshot(ctx.rcu());
        let own = match via {
            Via::Tunnel(to) => config.local_node().map(|local| local.reach(&to).addr),
            Via::Named(_) | Via::Neighbour(_) => None,
        };
        let way = config.node(node).and_then(|node| node.way(via));
        f(&own.unwrap_or_default(), way)
    }

    /// A segment was sent to the back end, or could not be.
    fn front_sent(
        &self,
        flow: &FlowRef,
        forward: &Forward,
        sent: Result<(), Unsent>,
        layout: &Layout,
        ctx: &PacketContext,
    ) {
        let (done, lost) = (sent.is_ok(), matches!(sent, Err(Unsent::Lost)));
        self.counters.count(match sent {
            Ok(()) => Counter::PacketsForwarded,
            Err(Unsent::Lost) => Counter::PacketsDroppedUnroutable,
            Err(Unsent::TooBig(skb, mtu)) => {
                self.icmp_too_big(flow.key(), skb, layout, mtu, ctx);
                Counter::PacketsDroppedTooBig
            }
        });
        let via = forward.via;
        let is_open = |own: &Addr, known: Option<&Way>| via.is_open(&self.net, own, known, ctx);
        match via {
            _ if lost && !self.with_way(forward.node, via, ctx, is_open) => {
                self.front_stuck(flow, ctx);
            }
            _ if done && forward.stuck.is_some() => {
                if let Stage::Forward(forward) = &mut flow.inner.lock().stage {
                    forward.stuck = None;
                }
            }
            _ => {}
        }
    }

    /// No route leads to the back end any more in the way in which it is forwarded to.
    /// The control connection to it may be well nevertheless, so that nothing else would end the
    /// client's wait.
    fn front_stuck(&self, flow: &FlowRef, ctx: &PacketContext) {
        let mut inner = flow.inner.lock();
        let Stage::Forward(forward) = &mut inner.stage else {
            return;
        };
        let since = *forward.stuck.get_or_insert_with(Moment::now);
        if since.left(self.knobs.peer_timeout_ms()) == 0 {
            let forward = *forward;
            self.front_recall(flow, &forward, ctx);
            self.front_lose(flow, inner, ctx);
        }
    }

    /// Has the back end end a connection by force. Any context.
    pub(crate) fn front_recall(&self, flow: &FlowRef, forward: &Forward, ctx: &PacketContext) {
        match forward.link {
            Link::InBand(in_band) => {
                self.front_hand_reset(flow.key(), forward.node, in_band.closing.next(), ctx)
            }
            Link::Control { id, .. } => {
                let _ = self.record(forward.node, id, forward.theirs(flow), Body::Abort);
            }
        }
    }

    /// Asks the back end whether it still has a connection: while the control connection was
    /// down, nobody could tell of its end. It is asked until it answers, as it may have no room
    /// for an answer. The flow's lock is held. Any context.
    pub(crate) fn front_check(&self, flow: &FlowRef, forward: &Forward) {
        let key = flow.key();
        let check = Body::Check {
            vip: key.local,
            vip_port: key.local_port.get(),
        };
        let _ = self.record(forward.node, forward.id(), forward.theirs(flow), check);
        flow.arm(CHECK_MS);
    }

    /// The timer of a connection that another node serves has run out. Softirq.
    pub(crate) fn front_overdue(&self, flow: &FlowRef, inner: InnerGuard<'_>, ctx: &PacketContext) {
        let Stage::Forward(forward) = inner.stage else {
            return;
        };
        let Link::Control { down, .. } = forward.link else {
            return self.front_idle(flow, inner, ctx);
        };
        if self.is_up(forward.node) {
            self.front_check(flow, &forward);
            return;
        }
        // The timer may be that of a question: its node has all the time that there is.
        match down.map(|since| since.left(self.knobs.peer_timeout_ms())) {
            Some(0) => self.front_lose(flow, inner, ctx),
            Some(left) => flow.arm(left),
            // The flow is about to be told.
            None => flow.arm(CHECK_MS),
        }
    }

    /// The back end's socket is closed.
    pub(crate) fn front_closed(&self, flow: &FlowRef, mut inner: InnerGuard<'_>, linger: bool) {
        let Stage::Forward(mut forward) = inner.stage else {
            return;
        };
        forward.time_wait = linger;
        inner.stage = Stage::Over(Over::Forward(forward));
        flow.arm(linger_ms(linger));
        drop(inner);
        self.trace_flow(
            event::FLOW_CLOSED,
            flow.key(),
            FRONT,
            forward.node,
            forward.id(),
        );
        self.counters.count(Counter::ClosedHeard);
        self.counters.down(Gauge::HandedOffOut);
        lower::release_modules(forward.is_in_band());
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
        let (node, id) = (forward.node, forward.id());
        self.trace_flow(event::FLOW_RESET, flow.key(), FRONT, node, id);
        self.end(flow, inner);
        self.counters.count(Counter::FlowsReset);
        self.counters.down(Gauge::HandedOffOut);
        lower::release_modules(forward.is_in_band());
        Some(forward)
    }
}

impl Forward {
    /// A segment of the client's is about to be forwarded. Its flags. The flow's lock is held.
    pub(crate) fn note(&mut self, flow: &FlowRef, skb: &Skb, layout: &Layout) -> u8 {
        let Some(header) = skb.tcp(layout).and_then(tcp::Header::parse) else {
            return 0;
        };
        let answered = header.has(flag::ACK) && header.ack().gt(self.acked);
        if answered {
            self.acked = header.ack();
        }
        if let Link::InBand(in_band) = &mut self.link {
            // CAST: A packet's length fits.
            in_band.on_client(flow, &header, layout.payload as u32, answered);
        }
        header.flags()
    }

    /// What records call it; 0 if none is about it.
    pub(crate) fn id(&self) -> u64 {
        match self.link {
            Link::Control { id, .. } => id,
            Link::InBand(_) => 0,
        }
    }

    /// Whether it was handed off, or found, in band.
    pub(crate) fn is_in_band(&self) -> bool {
        matches!(self.link, Link::InBand(_))
    }

    /// The connection as the back end's TCP knows it.
    pub(crate) fn theirs(&self, flow: &FlowRef) -> Tuple {
        theirs(flow.key(), self.via)
    }
}
