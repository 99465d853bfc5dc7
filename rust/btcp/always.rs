// SPDX-License-Identifier: GPL-2.0

//! The front end's side of *always* mode (paper, section 6): every connection is handed off, in band,
//! and this node needs neither a server nor UTCP.
//!
//! `Deciding` → `Committed` → `Forward`. The node that is to serve a request is sent what is held of the
//! client's stream, as the client's own segments, through a tunnel by which it learns who the front end
//! is. They answer a cookie of the cluster's, and so prove themselves. They are repeated until that node
//! relays an acknowledgement of all of it, or the client acknowledges what it was answered; the client's
//! other segments wait so long. Of the end this node hears by what is relayed ([`Closing`]).

use crate::{
    counters::Counter,
    flow::{FlowRef, InnerGuard, Over, Stage},
    forward::Link,
    front::Deciding,
    lower, packet,
    state::State,
};
use carisma_core::{
    commit::Commit,
    inband::{Closing, Doubt, Left, Question, Watch, ANSWER, ASK_MS, REFUSED},
    ip,
    seq::Seq,
    tcp::{self, flag, Build},
    tuple::{link_of, Tuple},
    wire::Reason,
};
use carisma_net::{
    connection,
    netfilter::{self, PacketContext},
    route::Via,
    skb::{Layout, Skb},
};

/// How often a node is sent a request again that it has not acknowledged.
pub(crate) const REPEAT_MS: u32 = 200;
/// How far ahead of what was handed over a client's segment may be that is believed to be of this connection,
/// in bytes: an answer to it that has come first.
const AHEAD: u32 = 1 << 20;

/// What the front end knows of a connection that was handed off in band.
#[derive(Clone, Copy)]
pub(crate) struct InBand {
    pub(crate) closing: Closing,
    /// When something of the connection was seen last, in milliseconds.
    heard: u32,
    watch: Watch,
}

impl InBand {
    /// One whose client has sent everything from `first` up to `next`, and whose back end is there. The
    /// flow's lock is held.
    pub(crate) fn new(flow: &FlowRef, first: Seq, next: Seq) -> Self {
        let now = connection::coarse_ms();
        let it = Self {
            closing: Closing::new(first, next),
            heard: now,
            watch: Watch::new(now),
        };
        it.arm(flow);
        it
    }

    /// A segment of the client's with `payload` bytes; `answered` says that it acknowledges more than those
    /// before. The flow's lock is held.
    pub(crate) fn on_client(
        &mut self,
        flow: &FlowRef,
        header: &tcp::Header<'_>,
        payload: u32,
        answered: bool,
    ) {
        self.heard = connection::coarse_ms();
        let len = header.seq_len(payload);
        let again = len > 0 && header.seq().add(len).le(self.closing.next());
        if answered {
            self.watch = Watch::new(self.heard);
        }
        if self.closing.on_client(header, payload) {
            self.arm(flow);
        } else if again && !answered && self.closing.left() == Left::Open {
            if let Some(ms) = self.watch.on_repeat() {
                flow.arm(ms);
            }
        }
    }

    /// There is a sign of the back end.
    pub(crate) fn hear(&mut self) {
        self.watch = Watch::new(connection::coarse_ms());
    }

    /// A segment that the back end relays. The flow's lock is held.
    fn on_server(&mut self, flow: &FlowRef, header: &tcp::Header<'_>) {
        self.heard = connection::coarse_ms();
        self.watch = Watch::new(self.heard);
        if self.closing.on_server(header) {
            self.arm(flow);
        }
    }

    /// Has the flow looked at when there may be nothing left of it.
    fn arm(&self, flow: &FlowRef) {
        flow.arm(match self.closing.left() {
            // Then it is known how much longer there need be no sign of the back end.
            Left::Open => ASK_MS,
            Left::Idle(ms) => ms,
            // At once, but not under its lock.
            Left::Over { .. } => 1,
        });
    }
}

impl State {
    /// Gives a connection to a node, as soon as [`State::front_hand_bytes`] follows. An error may have a
    /// counter for what is in the way of it. The flow's lock is held.
    pub(crate) fn front_hand(
        &self,
        flow: &FlowRef,
        deciding: &mut Deciding,
        node: u32,
        ctx: &PacketContext,
    ) -> Result<(), Option<Counter>> {
        // What names the node is not what the client sent.
        let open = self.front_route(flow, deciding, node, ctx) && deciding.via.is_unchanged();
        if !open || self.tunnel_to(node, ctx).is_none() {
            self.counters.count(Counter::HandoffsRefusedRoute);
            return Err(None);
        }
        if !self.front_ticket(deciding) || !lower::hold_modules(true) {
            return Err(None);
        }
        deciding.front.ask();
        // The client may have been sent newer timestamps than it has echoed.
        deciding.front.tell_clock(connection::now_ms());
        (deciding.id, deciding.node) = (0, node);
        deciding.commit = Commit::new(connection::coarse_ms());
        self.counters.count(Counter::HandoffsStarted);
        flow.arm(REPEAT_MS);
        Ok(())
    }

    /// Sends a node what is held of the stream of a connection that it was given. No lock of a flow is
    /// held.
    pub(crate) fn front_hand_bytes(&self, flow: &FlowRef, ctx: &PacketContext) {
        let mut offset = 0;
        loop {
            let (node, via, room, made) = {
                let inner = flow.inner.lock();
                let Stage::Committed(deciding) = &inner.stage else {
                    return;
                };
                let node = deciding.node;
                let Some(via) = self.tunnel_to(node, ctx) else {
                    return;
                };
                let segment = Build {
                    // Without URG it says nothing to TCP.
                    urgent: deciding.front.handed_rtt(),
                    // CAST: Less than is held at most.
                    ..deciding.front.segment(offset as u32)
                };
                let mtu = self.with_way(node, via, ctx, |own, known| {
                    via.mtu(&self.net, own, known, ctx)
                });
                let Some(mtu) = mtu else {
                    self.counters.count(Counter::PacketsDroppedUnroutable);
                    return;
                };
                let headers =
                    ip::header_len(&flow.key().client).saturating_add(segment.header_len());
                let room = usize::from(mtu).saturating_sub(headers);
                let room = room.clamp(1, packet::SEGMENT);
                let rest = deciding.bytes.get(offset..).unwrap_or(&[]);
                let Some(chunk) = rest.chunks(room).next() else {
                    return;
                };
                (
                    node,
                    via,
                    room,
                    packet::from_client(flow.key(), &segment, chunk),
                )
            };
            // What is lost here is sent once more.
            if let Ok(skb) = made {
                self.counters
                    .count(match self.xmit_via(node, via, skb, ctx) {
                        Ok(()) => Counter::PacketsForwarded,
                        Err(_) => Counter::PacketsDroppedUnroutable,
                    });
            }
            offset = offset.saturating_add(room);
        }
    }

    /// Has a node reset a connection that it was given, whose client has sent everything up to `next`. Any
    /// context.
    pub(crate) fn front_hand_reset(&self, key: &Tuple, node: u32, next: Seq, ctx: &PacketContext) {
        let reset = Build::rst(key.client_port.get(), key.local_port.get(), next);
        if let (Some(via), Ok(skb)) = (
            self.tunnel_to(node, ctx),
            packet::from_client(key, &reset, &[]),
        ) {
            // If it is lost, the client's answers to the server do the same.
            let _ = self.xmit_via(node, via, skb, ctx);
        }
    }

    /// A segment of the client's on a connection that was given to a node, which has not said that it
    /// has it. It waits, and may say so itself. `Committed`.
    pub(crate) fn front_awaited(
        &self,
        flow: &FlowRef,
        mut inner: InnerGuard<'_>,
        mut skb: Skb,
        layout: &Layout,
        ctx: &PacketContext,
    ) {
        let Stage::Committed(deciding) = &inner.stage else {
            return;
        };
        let (before, _, _) = deciding.front.newest();
        let next = deciding.front.next();
        let answered = skb
            .tcp(layout)
            .and_then(tcp::Header::parse)
            .is_some_and(|header| {
                header.has(flag::ACK)
                    && header.ack().gt(before)
                    && header.seq().within(next.sub(1), AHEAD)
            })
            && skb.checksum_is_right(layout);
        self.park(&mut inner, skb);
        if answered {
            self.front_taken(flow, inner, ctx);
        }
    }

    /// A segment of TCP's at a back end, which that has sent here to be passed on to the client. If the
    /// connection is over here, TCP there is told so: it has not got the client's last acknowledgement.
    pub(crate) fn front_relayed(
        &self,
        node: u32,
        key: &Tuple,
        flow: Option<FlowRef>,
        mut skb: Skb,
        layout: &Layout,
        ctx: &PacketContext,
    ) {
        if !skb.checksum_is_right(layout) {
            self.counters.count(Counter::PacketsDroppedMalformed);
            return;
        }
        let header = skb.tcp(layout).and_then(tcp::Header::parse);
        let (Some(flow), Some(header)) = (flow.as_ref(), header) else {
            self.counters.count(Counter::PacketsDroppedStale);
            if let Some(header) = header.filter(|header| !header.has(flag::RST)) {
                self.front_hand_reset(key, node, header.ack(), ctx);
            }
            return;
        };
        let mut inner = flow.inner.lock();
        if header.flags() & ANSWER == ANSWER {
            return self.front_answered_for(flow, inner, node, &header, ctx);
        }
        if let Stage::Committed(deciding) = &inner.stage {
            if deciding.in_band && deciding.node == node {
                if header.flags() & REFUSED == REFUSED {
                    return self.front_refused(flow, inner, Reason::of(header.window()), ctx);
                }
                let acknowledges = header.has(flag::ACK) && header.ack().ge(deciding.front.next());
                if acknowledges || header.has(flag::RST) {
                    self.front_taken(flow, inner, ctx);
                    inner = flow.inner.lock();
                }
            }
        }
        let ours = match &mut inner.stage {
            Stage::Forward(forward) if forward.node == node => match &mut forward.link {
                // It has forgotten the connection.
                Link::InBand(_) if header.flags() & REFUSED == REFUSED => {
                    return self.front_lose(flow, inner, ctx);
                }
                Link::InBand(in_band) => {
                    in_band.on_server(flow, &header);
                    true
                }
                Link::Control { .. } => false,
            },
            Stage::Over(Over::Forward(forward)) => forward.node == node && forward.is_in_band(),
            _ => false,
        };
        drop(inner);
        if !ours || header.flags() & REFUSED == REFUSED {
            self.counters.count(Counter::PacketsDroppedStale);
            return;
        }
        // What was in a tunnel knows of no link.
        skb.set_link(link_of(&key.client));
        self.counters
            .count(match netfilter::xmit(&self.net, skb, ctx) {
                Ok(()) => Counter::PacketsRelayed,
                Err(_) => Counter::PacketsDroppedUnroutable,
            });
    }

    /// The timer of a connection that was handed off in band has run out. Softirq.
    pub(crate) fn front_idle(
        &self,
        flow: &FlowRef,
        mut inner: InnerGuard<'_>,
        ctx: &PacketContext,
    ) {
        let Stage::Forward(forward) = &mut inner.stage else {
            return;
        };
        let node = forward.node;
        let Link::InBand(in_band) = &mut forward.link else {
            return;
        };
        match in_band.closing.left() {
            Left::Over { time_wait } => self.front_closed(flow, inner, time_wait),
            Left::Open => {
                let patience = self.knobs.peer_timeout_ms();
                match in_band.watch.on_timer(connection::coarse_ms(), patience) {
                    Doubt::None(ms) => flow.arm(ms),
                    Doubt::Ask(ms) => {
                        flow.arm(ms);
                        let next = in_band.closing.next();
                        drop(inner);
                        let key = flow.key();
                        if self.front_inquire(key, node, Question::Presence, next, ctx) {
                            self.counters.count(Counter::PresenceAsked);
                        }
                    }
                    Doubt::Lost => {
                        let forward = *forward;
                        self.front_recall(flow, &forward, ctx);
                        self.front_missing(flow, inner, ctx);
                    }
                }
            }
            Left::Idle(patience) => {
                let idle = connection::coarse_ms().wrapping_sub(in_band.heard);
                if idle < patience {
                    flow.arm(patience.wrapping_sub(idle));
                } else {
                    self.counters.count(Counter::FlowsIdle);
                    self.front_closed(flow, inner, false);
                }
            }
        }
    }

    /// A back end has a connection no more. Unless its server has closed it, the client is told so.
    pub(crate) fn front_missing(&self, flow: &FlowRef, inner: InnerGuard<'_>, ctx: &PacketContext) {
        let Stage::Forward(forward) = &inner.stage else {
            return;
        };
        match forward.link {
            Link::InBand(in_band) if in_band.closing.is_said() => {
                self.front_closed(flow, inner, false)
            }
            _ => self.front_lose(flow, inner, ctx),
        }
    }

    /// The tunnel to a node.
    pub(crate) fn tunnel_to(&self, node: u32, ctx: &PacketContext) -> Option<Via> {
        let config = self.config.snapshot(ctx.rcu());
        Some(Via::Tunnel(config.node(node)?.at.addr))
    }
}
