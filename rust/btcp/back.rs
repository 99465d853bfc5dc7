// SPDX-License-Identifier: GPL-2.0

//! The back end's side: connections that this node serves for others.

use crate::{
    bounds::Held,
    counters::{Counter, Gauge},
    flow::{linger_ms, FlowRef, Inner, InnerGuard, Over, Stage},
    lower,
    snapshot::Endpoint,
    state::State,
    trace::{event, BACK},
};
use carisma_core::{
    back::Back,
    seq::Seq,
    tcp::{self, flag, Build},
    translate::{self, End, Translation},
    tuple::{Addr, Tuple},
    wire::{Body, Handoff, Reason},
};
use carisma_net::{
    connection::{self, Moment},
    netfilter::PacketContext,
    skb::{Layout, Skb},
};
use kernel::{
    prelude::*,
    sync::{Arc, UniqueArc},
};

/// How often a replay is taken further when TCP has not answered at once, and bytes are given to it
/// that it has not acknowledged.
pub(crate) const RETRY_MS: u32 = 100;

/// How often bytes are given to TCP that it does not acknowledge.
const DELIVERIES: u8 = 50;

/// Who handed the connection over, and what the client calls it.
#[derive(Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) id: u64,
    pub(crate) node: u32,
    pub(crate) vip: Addr,
    pub(crate) vip_port: u16,
    /// How the connection entered TCP here, or is about to: a `CARISMA_MIGRATION_…`.
    pub(crate) migration: u32,
    /// It was handed over in band: no record is about it.
    pub(crate) in_band: bool,
}

/// A connection that this node serves for a front end.
pub(crate) struct Live {
    pub(crate) origin: Origin,
    pub(crate) translation: Translation,
    /// The number of the server's first byte, as the client knows it.
    pub(crate) first: Seq,
    /// The lower bits of the number by which what goes by way of the front end is known: the last one.
    pub(crate) relayed: u16,
    /// What the front end passed on and TCP has not acknowledged.
    pub(crate) undelivered: Option<Arc<Undelivered>>,
    /// How often TCP was given that again.
    pub(crate) repeated: u8,
    /// The front end has yet to be told that it is closed, and whether TCP keeps it in TIME_WAIT.
    pub(crate) untold: Option<bool>,
    /// Since when no front end has known of it.
    pub(crate) orphan: Option<Moment>,
}

/// Bytes for which the front end, not the client, answers, and which are accounted for.
pub(crate) struct Undelivered {
    /// As it is when the front end has committed itself.
    pub(crate) back: Back,
    bytes: KVec<u8>,
    _held: Held,
}

impl Undelivered {
    fn new(back: Back, bytes: &[u8], held: Held) -> Result<UniqueArc<Self>> {
        let mut copy = KVec::new();
        copy.extend_from_slice(bytes, GFP_ATOMIC)?;
        let undelivered = Self {
            back,
            bytes: copy,
            _held: held,
        };
        Ok(UniqueArc::new(undelivered, GFP_ATOMIC)?)
    }

    /// The number behind the last byte.
    fn end(&self) -> Seq {
        // CAST: A record is shorter than 64 KiB.
        self.back.first().add(self.bytes.len() as u32)
    }
}

impl State {
    /// A record of a front end. Process context.
    pub(crate) fn back_record(&self, node: u32, handoff: &Handoff<'_>) {
        match handoff.body {
            Body::Req(req) => self.back_request(node, handoff, &req),
            Body::Data(data) => self.back_data(node, handoff, &data),
            Body::Check { vip, vip_port } => self.back_check(node, handoff, vip, vip_port),
            Body::Seek => self.back_sought(node, handoff),
            _ => self.back_abort(node, handoff),
        }
    }

    /// A copy of the front end's bytes; `None` without memory for one, or at the bound.
    pub(crate) fn back_keep(
        &self,
        flow: &FlowRef,
        back: Back,
        bytes: &[u8],
    ) -> Option<UniqueArc<Undelivered>> {
        let mut held = Held::new(&self.bounds, &flow.key().client);
        if !self.hold(&mut held, bytes.len()) {
            return None;
        }
        let kept = Undelivered::new(back, bytes, held);
        if kept.is_err() {
            self.counters.count(Counter::FlowsRefusedMemory);
        }
        kept.ok()
    }

    /// Gives TCP what the front end passed on.
    pub(crate) fn back_deliver(
        &self,
        flow: &FlowRef,
        undelivered: &Undelivered,
        ctx: &PacketContext,
    ) {
        let build = |offset| undelivered.back.segment(offset);
        self.stream_to_tcp(flow, &undelivered.bytes, build, ctx);
    }

    /// A segment of the client's, forwarded by the front end.
    pub(crate) fn back_input(
        &self,
        mut inner: InnerGuard<'_>,
        skb: Skb,
        layout: &Layout,
    ) -> Option<Skb> {
        let parks = inner.draining || matches!(inner.stage, Stage::Replay(_));
        if parks {
            self.park(&mut inner, skb);
            return None;
        }
        let (Stage::Live(live) | Stage::Over(Over::Live(live))) = &inner.stage else {
            return Some(skb);
        };
        let translation = live.translation;
        inner.packets = inner.packets.wrapping_add(1);
        drop(inner);
        self.translate_in(&translation, skb, layout)
    }

    /// Makes a segment of the client's one that TCP here understands.
    pub(crate) fn translate_in(
        &self,
        translation: &Translation,
        mut skb: Skb,
        layout: &Layout,
    ) -> Option<Skb> {
        // TCP here has adopted the connection.
        if translation.is_identity() {
            return Some(skb);
        }
        let partial = skb.checksum_is_partial();
        let translated = skb
            .headers_mut(layout)
            .is_some_and(|(_, tcp)| translation.inbound(tcp, partial).is_ok());
        if !translated {
            self.counters.count(Counter::PacketsDroppedMalformed);
            return None;
        }
        self.counters.count(Counter::PacketsTranslatedIn);
        Some(skb)
    }

    /// A segment that TCP here sends on a connection of a front end's; it goes on translated, or
    /// not at all.
    pub(crate) fn back_output(
        &self,
        flow: &FlowRef,
        mut inner: InnerGuard<'_>,
        mut skb: Skb,
        layout: &Layout,
    ) -> Option<Skb> {
        let header = skb.tcp(layout).and_then(tcp::Header::parse)?;
        let (translation, origin, first) = match &mut inner.stage {
            Stage::Replay(replay) => {
                replay.on_output(&header);
                return None;
            }
            Stage::Live(live) => {
                live.on_output(flow, &header);
                (live.translation, live.origin, live.first)
            }
            Stage::Over(Over::Live(live)) => (live.translation, live.origin, live.first),
            _ => return Some(skb),
        };
        drop(inner);
        let adopted = translation.is_identity();
        if adopted && origin.theirs(flow) == *flow.key() {
            return match origin.in_band {
                true => self.back_route(flow, &origin, first, skb, layout),
                false => Some(skb),
            };
        }
        let partial = skb.checksum_is_partial();
        let translated = skb.headers_mut(layout).is_some_and(|(ip, tcp)| {
            (adopted || translation.outbound(tcp, partial).is_ok())
                && translate::rewrite_addr(ip, tcp, End::Source, &origin.vip, partial).is_ok()
                && translate::rewrite_port(tcp, End::Source, origin.vip_port, partial).is_ok()
        });
        if !translated {
            self.counters.count(Counter::PacketsDroppedMalformed);
            return None;
        }
        self.counters.count(Counter::PacketsTranslatedOut);
        match origin.in_band {
            true => self.back_route(flow, &origin, first, skb, layout),
            false => Some(skb),
        }
    }

    /// The front end takes its request back, or ends by force what it handed over. Process context.
    fn back_abort(&self, node: u32, handoff: &Handoff<'_>) {
        let Some(flow) = self.flows.lookup(&handoff.tuple) else {
            return;
        };
        {
            let ctx = PacketContext::enter();
            let inner = flow.inner.lock();
            match &inner.stage {
                Stage::Replay(replay) if replay.origin.is(node, handoff) => {
                    self.back_fail(&flow, inner, None, &ctx);
                    return;
                }
                Stage::Live(live) if live.origin.is(node, handoff) => {}
                _ => return,
            }
        }
        self.back_reset(&flow);
    }

    /// Ends a live connection by force: both the client and the server are told. Process context,
    /// may sleep.
    pub(crate) fn back_reset(&self, flow: &FlowRef) {
        let origin = match &flow.inner.lock().stage {
            Stage::Live(live) => Some(live.origin),
            _ => None,
        };
        if let Some(origin) = origin {
            self.trace_flow(event::FLOW_RESET, flow.key(), BACK, origin.node, origin.id);
        }
        self.counters.count(Counter::FlowsReset);
        // Without a socket there is nobody to be told.
        let _ = connection::abort(&self.net, flow.key());
        // It has told of its end already, unless there was none or UTCP did not hear it.
        self.back_closed(flow, false);
    }

    /// A socket with the flow's connection was closed. Any context, the socket's lock may be held.
    pub(crate) fn back_closed(&self, flow: &FlowRef, time_wait: bool) {
        let mut inner = flow.inner.lock();
        let stage = core::mem::replace(&mut inner.stage, Stage::Gone);
        match stage {
            Stage::Live(live) => {
                let origin = live.origin;
                inner.stage = Stage::Over(Over::Live(Live {
                    undelivered: None,
                    untold: Some(time_wait),
                    ..live
                }));
                self.trace_flow(event::FLOW_CLOSED, flow.key(), BACK, origin.node, origin.id);
                self.back_tell(flow, &mut inner);
                drop(inner);
                self.counters.down(Gauge::HandedOffIn);
                lower::release_modules(origin.in_band);
            }
            Stage::Replay(mut replay) => {
                // Not by us, or the flow would be gone: the listener was closed, or out of memory.
                replay.failed = Some(Reason::Unanswered);
                inner.stage = Stage::Replay(replay);
                flow.arm(1);
            }
            other => inner.stage = other,
        }
    }

    /// Tells the front end that a connection is closed, or tries again later. Any context.
    pub(crate) fn back_tell(&self, flow: &FlowRef, inner: &mut Inner) {
        let Stage::Over(Over::Live(live)) = &mut inner.stage else {
            return;
        };
        let Some(linger) = live.untold else {
            return;
        };
        let origin = live.origin;
        if origin.in_band {
            // The front end hears what TCP says.
            live.untold = None;
            flow.arm(linger_ms(linger));
            return;
        }
        let closed = Body::Closed { linger };
        let told = self.record(origin.node, origin.id, origin.theirs(flow), closed);
        if told.is_ok() {
            self.counters.count(Counter::ClosedNotified);
        }
        // A front end that cannot be reached asks when it can be again.
        if told.is_ok() || !self.is_up(origin.node) {
            live.untold = None;
            flow.arm(linger_ms(linger));
        } else {
            flow.arm(RETRY_MS);
        }
    }

    /// The front end asks whether this node still has a connection. If it cannot be told, it asks
    /// again.
    fn back_check(&self, node: u32, handoff: &Handoff<'_>, vip: Addr, vip_port: u16) {
        let mut linger = false;
        if let Some(flow) = self.flows.lookup(&handoff.tuple) {
            match &flow.inner.lock().stage {
                Stage::Replay(replay) if replay.origin.is(node, handoff) => return,
                Stage::Live(live) if live.origin.is(node, handoff) => {
                    self.back_taken(&flow, &live.origin);
                    return;
                }
                Stage::Over(Over::Live(live)) => linger = live.origin.is(node, handoff),
                _ => {}
            }
        }
        let tuple = handoff.tuple.with_local(vip, vip_port);
        let _ = self.record(node, handoff.id, tuple, Body::Closed { linger });
    }

    /// A front end has forgotten a connection. Another, or the same one, may ask for it.
    pub(crate) fn back_orphan(&self, flow: &FlowRef, live: &mut Live) {
        live.origin.forget();
        live.orphan = Some(Moment::now());
        flow.arm(match live.undelivered {
            Some(_) => RETRY_MS,
            None => self.knobs.peer_timeout_ms(),
        });
    }

    /// No front end has asked for a connection: its client is gone, or idle, and would hear of an end
    /// when it speaks. TCP hears it as though the client had reset it. Softirq, no lock held.
    fn back_abandon(&self, flow: &FlowRef, origin: &Origin, ctx: &PacketContext) {
        let key = flow.key();
        if let Some(seq) = connection::expects(&self.net, key) {
            self.trace_flow(event::FLOW_RESET, key, BACK, origin.node, origin.id);
            self.counters.count(Counter::FlowsReset);
            let reset = Build::rst(key.client_port.get(), key.local_port.get(), seq);
            self.to_tcp(flow, &reset, &[], ctx);
        }
    }

    /// The timer of a connection that this node serves has run out. Softirq.
    pub(crate) fn back_timer(
        &self,
        flow: &FlowRef,
        mut inner: InnerGuard<'_>,
        ctx: &PacketContext,
    ) {
        let Stage::Live(live) = &mut inner.stage else {
            return;
        };
        if live.origin.in_band {
            return self.back_look(flow, inner);
        }
        if let Some(since) = live.orphan {
            let left = since.left(self.knobs.peer_timeout_ms());
            // Where the socket is owned by its process just then, TCP gets the reset later, or never.
            flow.arm(if left == 0 { RETRY_MS } else { left });
            if left == 0 {
                let origin = live.origin;
                drop(inner);
                return self.back_abandon(flow, &origin, ctx);
            }
        }
        if live.repeated >= DELIVERIES {
            live.undelivered = None;
        }
        let Some(undelivered) = live.undelivered.clone() else {
            return;
        };
        live.repeated = live.repeated.saturating_add(1);
        flow.arm(RETRY_MS);
        drop(inner);
        self.counters.count(Counter::HeldRepeated);
        self.back_deliver(flow, &undelivered, ctx);
    }
}

impl Origin {
    /// The connection as the front end's TCP knows it.
    pub(crate) fn theirs(&self, flow: &FlowRef) -> Tuple {
        flow.key().with_local(self.vip, self.vip_port)
    }

    /// What the client connected to.
    pub(crate) fn vip(&self) -> Endpoint {
        Endpoint {
            addr: self.vip,
            port: self.vip_port,
        }
    }

    /// The front end has forgotten it: no record is about it. Numbers of handoffs begin at 1.
    fn forget(&mut self) {
        self.id = 0;
    }

    /// Whether the front end has forgotten it.
    pub(crate) fn is_orphan(&self) -> bool {
        self.id == 0 && !self.in_band
    }

    /// Whether a record is about this handoff.
    pub(crate) fn is(&self, node: u32, handoff: &Handoff<'_>) -> bool {
        !self.in_band && self.id == handoff.id && self.node == node
    }
}

impl Live {
    /// A segment of TCP's, with payload up to `end`, that goes by way of the front end: whether that has been
    /// told the same last.
    pub(crate) fn relays(&mut self, header: &tcp::Header<'_>, end: Seq) -> bool {
        let number = match header.has(flag::FIN) {
            true => end,
            false => header.ack(),
        };
        // CAST: The lower bits will do: what is taken for the same goes straight, where it may.
        let number = number.0 as u16;
        core::mem::replace(&mut self.relayed, number) == number && !header.has(flag::RST)
    }

    /// A segment of TCP's: what it acknowledges need not be given to it again.
    fn on_output(&mut self, flow: &FlowRef, header: &tcp::Header<'_>) {
        if let Some(undelivered) = &self.undelivered {
            if header.has(flag::ACK) && header.ack().ge(undelivered.end()) {
                self.undelivered = None;
                // For one that no front end knows of, the timer has more to do.
                if self.orphan.is_none() {
                    flow.disarm();
                }
            }
        }
    }
}
