// SPDX-License-Identifier: GPL-2.0

//! The back end's side: connections that other nodes hand to this one.

use crate::{
    bounds::{Held, Pool, Ticket},
    counters::{Counter, Gauge},
    flow::{linger_ms, Flow, FlowRef, Inner, InnerGuard, Over, Stage},
    lower,
    snapshot::Endpoint,
    state::State,
    trace::{event, reason_name, BACK},
};
use carisma_core::{
    back::{Back, Phase},
    seq::Seq,
    tcp::{self, flag},
    translate::{self, End, Translation},
    tuple::{v4_of, Addr, Tuple},
    wire::{Body, Data, Handoff, Reason, Req},
};
use carisma_net::{
    connection,
    link::kind,
    netfilter::PacketContext,
    skb::{Layout, Skb},
    table::Refused,
};
use kernel::{prelude::*, sync::rcu};

/// How often a replay is taken further when TCP has not answered at once, and bytes are given to it
/// that it has not acknowledged.
const RETRY_MS: u32 = 100;

/// How long, at the least, a front end may take to commit a connection that TCP has: it says so if
/// it does not want it any more, and one that it has committed must not be gone.
const COMMIT_MS: u32 = 5_000;

/// How often bytes are given to TCP that it does not acknowledge.
const DELIVERIES: u8 = 50;

/// Who handed the connection over, and what the client calls it.
#[derive(Clone, Copy)]
pub(crate) struct Origin {
    pub(crate) id: u64,
    pub(crate) node: u32,
    vip: [u8; 4],
    vip_port: u16,
}

/// A connection that is being given to TCP here.
pub(crate) struct Replay {
    back: Back,
    pub(crate) origin: Origin,
    tries: u32,
    /// TCP does not take it.
    failed: Option<Reason>,
    /// The front end was told that TCP has it.
    offered: bool,
    /// It is under way, and its socket is, or will be, withheld.
    _tickets: (Ticket, Ticket),
}

/// A connection that this node serves for a front end.
pub(crate) struct Live {
    pub(crate) origin: Origin,
    pub(crate) translation: Translation,
    /// What the front end passed on and TCP has not acknowledged.
    undelivered: Option<KBox<Undelivered>>,
    /// The front end has yet to be told that it is closed, and whether TCP keeps it in TIME_WAIT.
    pub(crate) untold: Option<bool>,
}

/// Bytes for which the front end, not the client, answers.
struct Undelivered {
    back: Back,
    bytes: KVec<u8>,
    tries: u8,
    _held: Held,
}

impl Undelivered {
    /// The number behind the last byte.
    fn end(&self) -> Seq {
        // CAST: A record is shorter than 64 KiB.
        self.back.first().add(self.bytes.len() as u32)
    }
}

/// What came of a step of a replay.
enum Step {
    /// TCP has yet to answer.
    Wait,
    /// This is TCP's next segment.
    Inject(tcp::Build),
    /// TCP has a socket, which is withheld.
    Offer,
    /// It will not be.
    Fail(Reason),
}

impl State {
    /// A record of a front end. Process context.
    pub(crate) fn back_record(&self, node: u32, handoff: &Handoff<'_>) {
        match handoff.body {
            Body::Req(req) => self.back_request(node, handoff, &req),
            Body::Data(data) => self.back_data(node, handoff, &data),
            Body::Check { vip, vip_port } => self.back_check(node, handoff, vip, vip_port),
            _ => self.back_abort(node, handoff),
        }
    }

    /// A front end asks this node to take a connection over.
    fn back_request(&self, node: u32, handoff: &Handoff<'_>, req: &Req<'_>) {
        match self.back_replay(node, handoff, req) {
            Ok(flow) => {
                let ctx = PacketContext::enter();
                self.back_advance(&flow, &ctx);
            }
            Err(reason) => {
                self.counters.count(Counter::HandoffsInRefused);
                let tuple = handoff.tuple.with_local(req.vip, req.vip_port);
                let _ = self.record(node, handoff.id, tuple, Body::Reject(reason));
            }
        }
    }

    /// Makes the flow of a replay, if there is nothing against it.
    fn back_replay(
        &self,
        node: u32,
        handoff: &Handoff<'_>,
        req: &Req<'_>,
    ) -> Result<FlowRef, Reason> {
        let key = &handoff.tuple;
        let port = key.local_port.get();
        if self.config.is_draining() {
            return Err(Reason::Draining);
        }
        {
            let rcu = rcu::read_lock();
            let at = Endpoint {
                addr: key.local,
                port,
            };
            if !self.config.snapshot(&rcu).is_served(at) {
                return Err(Reason::NoService);
            }
        }
        let vip = v4_of(&req.vip).ok_or(Reason::NoService)?;
        self.back_replace(key)?;
        if connection::is_live(&self.net, key) {
            return Err(Reason::InUse);
        }
        let tickets = self.back_tickets().ok_or(Reason::NoRoom)?;
        if !lower::hold_modules() {
            return Err(Reason::Draining);
        }
        let replay = Replay {
            back: Back::new(&req.handshake, port, req.ts_now),
            origin: Origin {
                id: handoff.id,
                node,
                vip,
                vip_port: req.vip_port,
            },
            tries: 0,
            failed: None,
            offered: false,
            _tickets: tickets,
        };
        self.back_insert(key, replay)
            .inspect_err(|_| lower::release_modules())
    }

    /// What a replay takes of what there may be.
    fn back_tickets(&self) -> Option<(Ticket, Ticket)> {
        let under_way = self
            .bounds
            .ticket(Pool::Replayed, self.knobs.handoffs_max());
        let Some(under_way) = under_way else {
            self.counters.count(Counter::HandoffsRefusedLimit);
            return None;
        };
        let withheld = self
            .bounds
            .ticket(Pool::Withheld, self.knobs.withheld_max());
        if withheld.is_none() {
            self.counters.count(Counter::WithheldRefusedLimit);
        }
        Some((under_way, withheld?))
    }

    /// Makes way for a new connection with the tuple of one that has ended.
    fn back_replace(&self, key: &Tuple) -> Result<(), Reason> {
        if let Some(old) = self.flows.lookup(key) {
            let inner = old.inner.lock();
            match inner.stage {
                Stage::Over(_) => self.end(&old, inner),
                Stage::Gone => {}
                _ => return Err(Reason::InUse),
            }
        }
        Ok(())
    }

    fn back_insert(&self, key: &Tuple, replay: Replay) -> Result<FlowRef, Reason> {
        let origin = replay.origin;
        let replay = KBox::new(replay, GFP_ATOMIC).map_err(|_| Reason::NoRoom)?;
        let flow =
            Flow::new(key, Stage::Replay(replay), &self.bounds).map_err(|_| Reason::NoRoom)?;
        let inner = flow.inner.lock();
        self.flows
            .insert(&flow, self.knobs.flows_max())
            .map_err(|refused| match refused {
                Refused::Exists => Reason::InUse,
                Refused::Full | Refused::NoMemory => Reason::NoRoom,
            })?;
        self.counters.up(Gauge::Flows);
        self.counters.up(Gauge::HandedOffIn);
        self.trace_flow(event::FLOW_BEGIN, key, BACK, origin.node, origin.id);
        flow.arm(RETRY_MS);
        drop(inner);
        Ok(flow)
    }

    /// Takes a replay as far as it goes: TCP mostly answers before the injection of a segment
    /// returns.
    fn back_advance(&self, flow: &FlowRef, ctx: &PacketContext) {
        let mut last = None;
        loop {
            let mut inner = flow.inner.lock();
            let Stage::Replay(replay) = &mut inner.stage else {
                return;
            };
            let phase = replay.back.phase();
            let step = match replay.failed {
                Some(reason) => Step::Fail(reason),
                // The same phase again: TCP did not answer, or not yet.
                None if last == Some(phase) => Step::Wait,
                None => match phase {
                    Phase::Syn => Step::Inject(replay.back.syn()),
                    Phase::Ack => Step::Inject(replay.back.ack()),
                    Phase::Offered if replay.offered => Step::Wait,
                    Phase::Offered => Step::Offer,
                    Phase::Live => Step::Wait,
                },
            };
            last = Some(phase);
            let origin = replay.origin;
            match step {
                Step::Wait => return,
                Step::Inject(build) => {
                    let what = if phase == Phase::Syn { c"syn" } else { c"ack" };
                    self.trace_replay(flow, &origin, what);
                    drop(inner);
                    if phase == Phase::Ack {
                        connection::undefer(&self.net, flow.key());
                    }
                    self.to_tcp(flow, &build, &[], ctx);
                }
                Step::Offer => {
                    replay.offered = true;
                    self.trace_replay(flow, &origin, c"offer");
                    // If it cannot be told, the front end's time runs out, and so does ours.
                    let _ = self.record(origin.node, origin.id, origin.theirs(flow), Body::Accept);
                    return;
                }
                Step::Fail(reason) => {
                    self.back_fail(flow, inner, Some(reason), ctx);
                    return;
                }
            }
        }
    }

    fn trace_replay(&self, flow: &FlowRef, origin: &Origin, what: &'static CStr) {
        self.trace_step(event::REPLAY_STEP, flow.key(), origin.node, origin.id, what);
    }

    /// Gives a replay up. TCP and UTCP forget it, and the front end is told `reason`, if there is
    /// one.
    fn back_fail(
        &self,
        flow: &FlowRef,
        mut inner: InnerGuard<'_>,
        reason: Option<Reason>,
        ctx: &PacketContext,
    ) {
        let was = core::mem::replace(&mut inner.stage, Stage::Gone);
        inner.held.clear();
        drop(inner);
        self.forget(flow);
        if let Stage::Replay(replay) = was {
            let origin = replay.origin;
            self.trace_replay(flow, &origin, reason.map_or(c"abort", reason_name));
            self.counters.count(match reason {
                Some(_) => Counter::HandoffsInRefused,
                None => Counter::HandoffsInAborted,
            });
            if let Some(reason) = reason {
                let _ = self.record(
                    origin.node,
                    origin.id,
                    origin.theirs(flow),
                    Body::Reject(reason),
                );
            }
            self.to_tcp(flow, &replay.back.reset(), &[], ctx);
            let _ = lower::put(&self.net, kind::CONN_DISCARD, flow.key());
            self.counters.down(Gauge::HandedOffIn);
            lower::release_modules();
        }
    }

    /// The front end commits itself, and passes on what it holds of the client's stream.
    fn back_data(&self, node: u32, handoff: &Handoff<'_>, data: &Data<'_>) {
        let Some(flow) = self.flows.lookup(&handoff.tuple) else {
            self.back_unknown(node, handoff, data);
            return;
        };
        let ctx = PacketContext::enter();
        let mut inner = flow.inner.lock();
        if let Stage::Live(live) | Stage::Over(Over::Live(live)) = &inner.stage {
            if live.origin.is(node, handoff) {
                // It was repeated, as the front end has not heard that it came.
                self.back_taken(&flow, &live.origin);
                return;
            }
        }
        let stage = core::mem::replace(&mut inner.stage, Stage::Gone);
        let mut replay = match stage {
            Stage::Replay(replay) if replay.origin.is(node, handoff) => replay,
            other => {
                inner.stage = other;
                drop(inner);
                self.back_unknown(node, handoff, data);
                return;
            }
        };
        if data.seq != replay.back.first() || !replay.back.commit(data.ack, data.window, data.tsval)
        {
            inner.stage = Stage::Replay(replay);
            self.counters.count(Counter::RecordsBad);
            return;
        }
        let back = replay.back;
        let undelivered = self.back_keep(&flow, back, data.bytes);
        inner.stage = Stage::Live(Live {
            origin: replay.origin,
            translation: back.translation(),
            undelivered,
            untold: None,
        });
        inner.draining = true;
        flow.arm(RETRY_MS);
        let origin = replay.origin;
        self.back_taken(&flow, &origin);
        drop(inner);
        self.trace_flow(
            event::FLOW_HANDED_OFF,
            flow.key(),
            BACK,
            origin.node,
            origin.id,
        );
        self.counters.count(Counter::HandoffsIn);
        let _ = lower::put(&self.net, kind::CONN_RES, flow.key());
        self.stream_to_tcp(&flow, data.bytes, |offset| back.segment(offset), &ctx);
        self.drain(&flow, &ctx);
    }

    /// Tells the front end that DATA has come. If that cannot be told, the front end asks by
    /// repeating it.
    fn back_taken(&self, flow: &FlowRef, origin: &Origin) {
        let _ = self.record(origin.node, origin.id, origin.theirs(flow), Body::Taken);
    }

    /// The front end commits what is not known here, or not any more.
    fn back_unknown(&self, node: u32, handoff: &Handoff<'_>, data: &Data<'_>) {
        self.counters.count(Counter::HandoffsInUnknown);
        let tuple = handoff.tuple.with_local(data.vip, data.vip_port);
        let reject = Body::Reject(Reason::Unknown);
        let _ = self.record(node, handoff.id, tuple, reject);
    }

    /// A copy of the front end's bytes. Without memory for one, or at the bound, they are given to
    /// TCP just once.
    fn back_keep(&self, flow: &FlowRef, back: Back, bytes: &[u8]) -> Option<KBox<Undelivered>> {
        let mut held = Held::new(&self.bounds, &flow.key().client);
        if !self.hold(&mut held, bytes.len()) {
            return None;
        }
        let mut copy = KVec::new();
        let kept = copy
            .extend_from_slice(bytes, GFP_ATOMIC)
            .ok()
            .and_then(|()| {
                let undelivered = Undelivered {
                    back,
                    bytes: copy,
                    tries: 0,
                    _held: held,
                };
                KBox::new(undelivered, GFP_ATOMIC).ok()
            });
        if kept.is_none() {
            self.counters.count(Counter::FlowsRefusedMemory);
        }
        kept
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
        let (translation, origin) = match &mut inner.stage {
            Stage::Replay(replay) => {
                replay.on_output(&header);
                return None;
            }
            Stage::Live(live) => {
                live.on_output(flow, &header);
                (live.translation, live.origin)
            }
            Stage::Over(Over::Live(live)) => (live.translation, live.origin),
            _ => return Some(skb),
        };
        drop(inner);
        let partial = skb.checksum_is_partial();
        let translated = skb.headers_mut(layout).is_some_and(|(ip, tcp)| {
            translation.outbound(tcp, partial).is_ok()
                && translate::rewrite_addr(ip, tcp, End::Source, origin.vip, partial).is_ok()
                && translate::rewrite_port(tcp, End::Source, origin.vip_port, partial).is_ok()
        });
        if !translated {
            self.counters.count(Counter::PacketsDroppedMalformed);
            return None;
        }
        self.counters.count(Counter::PacketsTranslatedOut);
        Some(skb)
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
                lower::release_modules();
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

    /// The front end asks whether this node still has a connection. It is told if not.
    fn back_check(&self, node: u32, handoff: &Handoff<'_>, vip: Addr, vip_port: u16) {
        let mut linger = false;
        if let Some(flow) = self.flows.lookup(&handoff.tuple) {
            match &flow.inner.lock().stage {
                Stage::Replay(replay) if replay.origin.is(node, handoff) => return,
                Stage::Live(live) if live.origin.is(node, handoff) => return,
                Stage::Over(Over::Live(live)) => linger = live.origin.is(node, handoff),
                _ => {}
            }
        }
        let tuple = handoff.tuple.with_local(vip, vip_port);
        let _ = self.record(node, handoff.id, tuple, Body::Closed { linger });
    }

    /// The timer of a connection that was handed to this node has run out. Softirq.
    pub(crate) fn back_timer(
        &self,
        flow: &FlowRef,
        mut inner: InnerGuard<'_>,
        ctx: &PacketContext,
    ) {
        match &mut inner.stage {
            Stage::Replay(replay) => {
                replay.tries = replay.tries.saturating_add(1);
                let waited = replay.tries.saturating_mul(RETRY_MS);
                let mut limit = self.knobs.handoff_timeout_ms().saturating_mul(2);
                if replay.offered {
                    limit = limit.max(COMMIT_MS);
                }
                if waited > limit && replay.failed.is_none() {
                    replay.failed = Some(Reason::Unanswered);
                }
                if replay.failed.is_none() {
                    flow.arm(RETRY_MS);
                }
                drop(inner);
                self.back_advance(flow, ctx);
            }
            Stage::Live(live) => {
                let Some(mut undelivered) = live.undelivered.take() else {
                    return;
                };
                if undelivered.tries >= DELIVERIES {
                    return;
                }
                undelivered.tries = undelivered.tries.saturating_add(1);
                drop(inner);
                let back = undelivered.back;
                self.stream_to_tcp(flow, &undelivered.bytes, |offset| back.segment(offset), ctx);
                let mut inner = flow.inner.lock();
                if let Stage::Live(live) = &mut inner.stage {
                    live.undelivered = Some(undelivered);
                    flow.arm(RETRY_MS);
                }
            }
            _ => {}
        }
    }

    /// UTCP goes away, or the namespace: what is not committed is given up.
    pub(crate) fn back_give_up(&self, flow: &FlowRef, inner: InnerGuard<'_>, ctx: &PacketContext) {
        self.back_fail(flow, inner, Some(Reason::Draining), ctx);
    }
}

impl Origin {
    /// The connection as the front end's TCP knows it.
    fn theirs(&self, flow: &FlowRef) -> Tuple {
        flow.key()
            .with_local(carisma_core::tuple::v4_mapped(self.vip), self.vip_port)
    }

    /// What the client connected to.
    pub(crate) fn vip(&self) -> Endpoint {
        Endpoint {
            addr: carisma_core::tuple::v4_mapped(self.vip),
            port: self.vip_port,
        }
    }

    /// Whether a record is about this handoff.
    fn is(&self, node: u32, handoff: &Handoff<'_>) -> bool {
        self.id == handoff.id && self.node == node
    }
}

impl Replay {
    /// Whether the front end was told that TCP has the connection.
    pub(crate) fn is_offered(&self) -> bool {
        self.offered
    }

    /// TCP has made a socket: whether it is to be withheld.
    pub(crate) fn on_child(&mut self) -> bool {
        self.back.on_child()
    }

    /// A segment of TCP's, which nobody else gets to see.
    fn on_output(&mut self, header: &tcp::Header<'_>) {
        if header.has(flag::RST) {
            // Nobody listens.
            self.failed = Some(Reason::NoService);
        } else if self.back.on_syn_ack(header).is_err() {
            self.failed = Some(Reason::Mismatch);
        }
    }
}

impl Live {
    /// A segment of TCP's: what it acknowledges need not be given to it again.
    fn on_output(&mut self, flow: &FlowRef, header: &tcp::Header<'_>) {
        if let Some(undelivered) = &self.undelivered {
            if header.has(flag::ACK) && header.ack().ge(undelivered.end()) {
                self.undelivered = None;
                flow.disarm();
            }
        }
    }
}
