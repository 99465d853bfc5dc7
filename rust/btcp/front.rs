// SPDX-License-Identifier: GPL-2.0

//! The front end's side: connections that clients open to a service of this node.

use crate::{
    bounds::{Held, Pool, Ticket},
    counters::{Counter, Gauge},
    early::Early,
    flow::{Flow, FlowRef, Inner, InnerGuard, Over, Stage},
    lower, packet,
    service::{Candidate, Otherwise, Target},
    state::State,
    trace::{event, FRONT},
};
use carisma_core::{
    answer::Answer,
    commit::Commit,
    front::{Front, Input, Phase},
    http::{self, Scan, Scanned},
    seq::Seq,
    tcp::{self, flag, option, Opt},
    translate,
    tuple::Tuple,
    wire,
};
use carisma_net::{
    connection,
    link::kind,
    netfilter::{self, PacketContext},
    skb::{self, Layout, Skb},
    table::Refused,
};
use kernel::{
    prelude::*,
    sync::{
        atomic::Acquire,
        rcu, //
    },
};

/// How long a handshake may take: longer than TCP repeats its SYN-ACK
/// (net.ipv4.tcp_synack_retries).
const HANDSHAKE_MS: u32 = 75_000;

/// How many of the oldest handshakes are looked at for one that is still under way.
const EVICTIONS: usize = 32;

/// How much of a stream is held: more than the longest head, and less than a DATA record takes.
const HELD_MAX: usize = 48 << 10;
const _: () = assert!(HELD_MAX < wire::MAX_DATA);

/// A connection whose request is not decided yet, or not taken over yet.
pub(crate) struct Deciding {
    pub(crate) front: Front,
    /// What is held of the client's stream, from its first byte on.
    pub(crate) bytes: KVec<u8>,
    /// What came before its turn.
    pub(crate) early: Early,
    /// How far the head in it has been looked at.
    scan: Scan,
    /// Its handshake is under way; then, its socket is withheld.
    handshake: Option<Ticket>,
    withheld: Option<Ticket>,
    /// Since the decision: who may serve the request.
    pub(crate) target: Target,
    /// Since a node was asked: that it was, the number of the handoff, and the node.
    pub(crate) asked: Option<Ticket>,
    pub(crate) id: u64,
    pub(crate) node: u32,
    /// Where that node takes forwarded segments.
    pub(crate) to: ([u8; 4], u16),
    /// When that node was given the request.
    pub(crate) commit: Commit,
}

/// Why bytes are not held.
enum Unheld {
    /// There is no memory.
    Memory,
    /// As many are as may be.
    Bound,
}

/// What a whole request head, or one that will not be, leads to.
enum Decision {
    /// More of it has to come.
    Wait,
    /// It is served here.
    Local(Counter),
    /// It is answered here, and the connection closed.
    Answer(Answer, Counter),
    /// Another node is to serve it.
    Remote(Target),
}

impl State {
    /// A client's first segment to a service. It goes on to TCP.
    pub(crate) fn front_begin(&self, key: &Tuple, skb: Skb, layout: &Layout) -> Option<Skb> {
        let mut skb = skb;
        // TCP drops what has a wrong checksum, and counts it.
        if !self.withholding.load(Acquire) || !self.has_rules(key) || !skb.checksum_is_right(layout)
        {
            return Some(skb);
        }
        let header = skb.tcp(layout).and_then(tcp::Header::parse);
        let Some(front) = header.and_then(|header| Front::new(&header)) else {
            return Some(skb);
        };
        if front.is_signed() {
            self.counters.count(Counter::FlowsRefusedOptions);
            return Some(skb);
        }
        let Some(handshake) = self.front_handshake() else {
            self.counters.count(Counter::FlowsRefusedHandshakes);
            return Some(skb);
        };
        let deciding = Deciding {
            front,
            bytes: KVec::new(),
            early: Early::new(),
            scan: Scan::new(),
            handshake: Some(handshake),
            withheld: None,
            target: Target::HERE,
            asked: None,
            id: 0,
            node: 0,
            to: ([0; 4], 0),
            commit: Commit::default(),
        };
        let refused = match self.front_insert(key, deciding) {
            Ok(()) => {
                self.trace_flow(event::FLOW_BEGIN, key, FRONT, 0, 0);
                Counter::FlowsCreated
            }
            Err(Refused::Full) => Counter::FlowsRefusedLimit,
            // Another CPU was faster with the same SYN.
            Err(Refused::Exists) => return self.front_strip(skb, layout),
            Err(Refused::NoMemory) => Counter::FlowsRefusedMemory,
        };
        self.counters.count(refused);
        match refused {
            Counter::FlowsCreated => self.front_strip(skb, layout),
            _ => Some(skb),
        }
    }

    /// A place among the handshakes; at the bound that of the oldest, which is TCP's alone then.
    fn front_handshake(&self) -> Option<Ticket> {
        let limit = self.knobs.handshakes_max();
        let ticket = || self.bounds.ticket(Pool::Handshakes, limit);
        ticket().or_else(|| {
            for _ in 0..EVICTIONS {
                let key = self.recent.pop()?;
                let Some(flow) = self.flows.lookup(&key) else {
                    continue;
                };
                let inner = flow.inner.lock();
                if matches!(&inner.stage, Stage::Deciding(it) if !it.has_child()) {
                    self.counters.count(Counter::FlowsEvicted);
                    self.end(&flow, inner);
                    return ticket();
                }
            }
            None
        })
    }

    /// Keeps off a connection what a handoff cannot carry: TCP is shown a SYN that asks neither for
    /// Fast Open nor for Multipath TCP, and has no payload, which some accept without being asked;
    /// the client sends that again. `None` without memory: the client sends the SYN again.
    fn front_strip(&self, skb: Skb, layout: &Layout) -> Option<Skb> {
        let mut skb = skb;
        let unwanted = |opt: &Opt<'_>| opt.is_fast_open() || opt.kind == option::MPTCP;
        let header = skb.tcp(layout).and_then(tcp::Header::parse)?;
        if layout.payload == 0 && !header.walk().flatten().any(|opt| unwanted(&opt)) {
            return Some(skb);
        }
        let partial = skb.checksum_is_partial();
        let Some((_, tcp)) = skb.headers_mut(layout) else {
            self.counters.count(Counter::FlowsRefusedMemory);
            return None;
        };
        // A list that cannot be walked would be read by TCP up to where it can.
        if translate::strip_options(tcp, unwanted, partial).is_err() {
            self.counters.count(Counter::PacketsDroppedMalformed);
            return None;
        }
        if layout.payload != 0 && !skb.cut(layout) {
            self.counters.count(Counter::FlowsRefusedMemory);
            return None;
        }
        Some(skb)
    }

    /// Whether any request to this service may be another node's.
    fn has_rules(&self, key: &Tuple) -> bool {
        let rcu = rcu::read_lock();
        self.config
            .snapshot(&rcu)
            .service(&key.local, key.local_port.get())
            .is_some_and(|service| !service.rules.is_empty())
    }

    fn front_insert(&self, key: &Tuple, deciding: Deciding) -> Result<(), Refused> {
        let deciding = KBox::new(deciding, GFP_ATOMIC).map_err(|_| Refused::NoMemory)?;
        let flow = Flow::new(key, Stage::Deciding(deciding), &self.bounds)
            .map_err(|_| Refused::NoMemory)?;
        // Under the lock nobody can end the flow before its timer runs.
        let _inner = flow.inner.lock();
        self.flows.insert(&flow, self.knobs.flows_max())?;
        self.counters.up(Gauge::Flows);
        flow.arm(HANDSHAKE_MS);
        self.recent.push(key);
        Ok(())
    }

    /// A segment of the client's while the place is undecided.
    pub(crate) fn front_input(
        &self,
        flow: &FlowRef,
        inner: InnerGuard<'_>,
        skb: Skb,
        layout: &Layout,
        ctx: &PacketContext,
    ) -> Option<Skb> {
        let mut skb = skb;
        if !skb.checksum_is_right(layout) {
            self.counters.count(Counter::PacketsDroppedMalformed);
            return None;
        }
        let passed = self.front_segment(flow, inner, skb, layout, false, ctx);
        // What came before its turn may have it now.
        while let Some(mut skb) = front_next_early(flow) {
            let Some(layout) = skb.layout() else {
                continue;
            };
            if let Some(skb) = self.front_segment(flow, flow.inner.lock(), skb, &layout, true, ctx)
            {
                self.inject(skb, ctx);
            }
        }
        passed
    }

    /// Does what is to be done with a segment whose checksum is right; `kept` says that it came
    /// before its turn.
    fn front_segment(
        &self,
        flow: &FlowRef,
        inner: InnerGuard<'_>,
        skb: Skb,
        layout: &Layout,
        kept: bool,
        ctx: &PacketContext,
    ) -> Option<Skb> {
        let mut inner = inner;
        let mut opened = false;
        loop {
            let (Stage::Deciding(deciding) | Stage::Asked(deciding)) = &mut inner.stage else {
                // What TCP did with the handshake's ACK ended the flow: the rest is TCP's too.
                return Some(skb);
            };
            let header = skb.tcp(layout).and_then(tcp::Header::parse)?;
            // CAST: A packet's length fits.
            let payload = layout.payload as u32;
            let input = match kept {
                true => deciding.front.on_kept(&header, payload),
                false => deciding.front.on_input(&header, payload),
            };
            match input {
                Input::Pass if header.has(flag::SYN) => return self.front_strip(skb, layout),
                Input::Pass => return Some(skb),
                Input::Open if !opened => {
                    opened = true;
                    let ack = deciding.front.ack();
                    drop(inner);
                    connection::undefer(&self.net, flow.key());
                    self.to_tcp(flow, &ack, &[], ctx);
                    inner = flow.inner.lock();
                }
                Input::Open => {
                    // TCP has taken the ACK. If it made a socket that is not withheld, the flow has
                    // no purpose; if it made none, the client will try again.
                    if !connection::is_live(&self.net, flow.key()) {
                        return None;
                    }
                    self.front_decided(flow, Counter::RequestsLocal);
                    self.end(flow, inner);
                    return Some(skb);
                }
                Input::Known => {
                    self.front_acknowledge(flow, &mut inner, ctx);
                    return None;
                }
                Input::Early => {
                    let seq = header.seq();
                    let end = seq.add(header.seq_len(payload));
                    self.front_early(&mut inner, seq, end, skb);
                    self.front_acknowledge(flow, &mut inner, ctx);
                    return None;
                }
                Input::Reset => {
                    self.front_reset(flow, inner, ctx);
                    return None;
                }
                Input::Challenge => {
                    match &inner.stage {
                        Stage::Asked(_) => self.park(&mut inner, skb),
                        _ => self.front_acknowledge(flow, &mut inner, ctx),
                    }
                    return None;
                }
                Input::Stray => return None,
                Input::Take { .. }
                    if header.has(flag::URG) && matches!(inner.stage, Stage::Deciding(_)) =>
                {
                    // What the server reads depends on what it makes of urgent data (RFC 6093).
                    self.front_decided(flow, Counter::HeadsBad);
                    self.front_local(flow, inner, ctx);
                    return Some(skb);
                }
                Input::Take { skip, fin } => {
                    return self.front_take(flow, inner, skb, layout, skip, fin, ctx);
                }
            }
        }
    }

    /// Keeps a segment that came before its turn.
    fn front_early(&self, inner: &mut Inner, seq: Seq, end: Seq, skb: Skb) {
        match &mut inner.stage {
            Stage::Deciding(deciding) => {
                let deciding = &mut **deciding;
                let kept = deciding.early.has_room(&deciding.front, seq)
                    && self.hold(&mut inner.held, skb.size())
                    && deciding.early.push(seq, end, skb);
                self.counters.count(match kept {
                    true => Counter::SegmentsEarly,
                    false => Counter::SegmentsEarlyDropped,
                });
            }
            // The back end's TCP will know what to do with it.
            _ => self.park(inner, skb),
        }
    }

    /// The client's stream goes on.
    #[allow(clippy::too_many_arguments)]
    fn front_take(
        &self,
        flow: &FlowRef,
        mut inner: InnerGuard<'_>,
        skb: Skb,
        layout: &Layout,
        skip: u32,
        fin: bool,
        ctx: &PacketContext,
    ) -> Option<Skb> {
        let skip = skip as usize;
        let Inner { stage, held, .. } = &mut *inner;
        let Stage::Deciding(deciding) = stage else {
            self.park(&mut inner, skb);
            return None;
        };
        let deciding = &mut **deciding;
        let key = flow.key();
        let first = deciding.bytes.is_empty();
        let linear = skb.payload(layout).and_then(|bytes| bytes.get(skip..));
        // Whether all of the segment is in what is held.
        let mut whole = false;
        let decision = match linear {
            // The usual case: the whole head in one segment, which is looked at where it lies.
            Some(bytes) if first => {
                self.decide(key, &deciding.front, &mut deciding.scan, bytes, fin)
            }
            _ => {
                match self.front_hold(deciding, held, &skb, layout, skip) {
                    Ok(all) => whole = all,
                    Err(why) => return self.front_unheld(flow, inner, skb, why, ctx),
                }
                let Deciding { scan, bytes, .. } = deciding;
                self.decide(key, &deciding.front, scan, bytes, fin)
            }
        };
        let keep = matches!(decision, Decision::Wait | Decision::Remote(_));
        if keep && deciding.bytes.is_empty() {
            match self.front_hold(deciding, held, &skb, layout, skip) {
                Ok(all) => whole = all,
                Err(why) => return self.front_unheld(flow, inner, skb, why, ctx),
            }
        }
        match decision {
            Decision::Wait => {
                self.front_acknowledge(flow, &mut inner, ctx);
                None
            }
            Decision::Local(counter) => {
                self.front_decided(flow, counter);
                self.front_local(flow, inner, ctx);
                // TCP gets the segment itself, unless all that it brings was held.
                (fin || !whole).then_some(skb)
            }
            Decision::Answer(answer, counter) => {
                self.front_decided(flow, counter);
                self.front_answer(flow, inner, answer, ctx);
                (fin || !whole).then_some(skb)
            }
            Decision::Remote(target) => {
                deciding.target = target;
                let node = target.nodes().next().unwrap_or(0);
                self.trace_decided(flow, node, Counter::RequestsRemote);
                if fin || !whole {
                    self.park(&mut inner, skb);
                }
                self.front_place(flow, inner, Some(Counter::RequestsLocalPeerDown), ctx);
                None
            }
        }
    }

    /// What must be held cannot be. Without memory the client sends it again; at a bound the request
    /// is answered.
    fn front_unheld(
        &self,
        flow: &FlowRef,
        inner: InnerGuard<'_>,
        skb: Skb,
        why: Unheld,
        ctx: &PacketContext,
    ) -> Option<Skb> {
        match why {
            Unheld::Memory => None,
            Unheld::Bound => {
                self.front_decided(flow, Counter::RequestsUnavailable);
                self.front_answer(flow, inner, Answer::Unavailable, ctx);
                Some(skb)
            }
        }
    }

    /// Counts what was decided about a request that is to be served here.
    pub(crate) fn front_decided(&self, flow: &FlowRef, counter: Counter) {
        self.counters.count(counter);
        self.trace_decided(flow, 0, counter);
    }

    fn trace_decided(&self, flow: &FlowRef, node: u32, counter: Counter) {
        self.trace_step(event::HEAD_DECIDED, flow.key(), node, 0, counter.name());
    }

    /// Appends a segment's payload, as far as there is room, to what is held; says whether it was
    /// all.
    fn front_hold(
        &self,
        deciding: &mut Deciding,
        held: &mut Held,
        skb: &Skb,
        layout: &Layout,
        skip: usize,
    ) -> Result<bool, Unheld> {
        let before = deciding.bytes.len();
        let payload = layout.payload.saturating_sub(skip);
        let more = payload.min(HELD_MAX.saturating_sub(before));
        if !self.hold(held, more) {
            return Err(Unheld::Bound);
        }
        let copied = deciding
            .bytes
            .resize(before.saturating_add(more), 0, GFP_ATOMIC)
            .is_ok()
            && deciding
                .bytes
                .get_mut(before..)
                .is_some_and(|to| skb.copy_payload(layout, skip, to));
        if copied {
            // CAST: A packet's length fits.
            deciding.front.took(more as u32);
            Ok(more == payload)
        } else {
            deciding.bytes.truncate(before);
            self.counters.count(Counter::FlowsRefusedMemory);
            Err(Unheld::Memory)
        }
    }

    /// Acknowledges what is held, so that a client that waits for that goes on (RFC 896).
    fn front_acknowledge(&self, flow: &FlowRef, inner: &mut Inner, ctx: &PacketContext) {
        // While another node is asked the clock must not run on: see `Req::ts_now`.
        if let Stage::Deciding(deciding) = &inner.stage {
            let early = deciding.early.newest_first();
            let ack = deciding.front.acknowledge(connection::now_ms(), early);
            if let Ok(skb) = packet::to_client(flow.key(), &ack) {
                // A lost acknowledgement is what the client's timer is for.
                let _ = netfilter::xmit(&self.net, skb, ctx);
            }
        }
    }

    /// Decides about the bytes at the beginning of the client's stream.
    fn decide(
        &self,
        key: &Tuple,
        front: &Front,
        scan: &mut Scan,
        bytes: &[u8],
        fin: bool,
    ) -> Decision {
        let bad = Decision::Local(Counter::HeadsBad);
        let too_long = Decision::Answer(Answer::TooLarge, Counter::HeadsTooLong);
        match scan.advance(bytes) {
            Scanned::Head(len) if len > self.knobs.head_max() => too_long,
            Scanned::Head(len) => match bytes.get(..len).map(http::Head::parse) {
                Some(Ok(head)) => self.route(key, front, &head),
                _ => bad,
            },
            Scanned::Partial if fin => bad,
            Scanned::Partial if bytes.len() >= self.knobs.head_max() => too_long,
            Scanned::Partial => Decision::Wait,
            Scanned::Bad(_) => bad,
        }
    }

    /// Decides about a request.
    fn route(&self, key: &Tuple, front: &Front, head: &http::Head<'_>) -> Decision {
        let rcu = rcu::read_lock();
        let config = self.config.snapshot(&rcu);
        let target = config
            .service(&key.local, key.local_port.get())
            .map_or(Target::HERE, |service| service.route(head));
        if target.is_here(config) {
            return Decision::Local(Counter::RequestsLocal);
        }
        self.counters.count(Counter::RequestsRemote);
        let obstacle = if self.config.is_draining() {
            Counter::RequestsLocalDraining
        } else if !front.is_portable() {
            Counter::RequestsLocalOptions
        } else {
            let mut candidates = target;
            match candidates.next(config) {
                Candidate::Node(..) => return Decision::Remote(target),
                Candidate::Here | Candidate::None => Counter::RequestsLocalPeerDown,
            }
        };
        match target.otherwise() {
            Otherwise::Unavailable if !target.may_be_here(config) => {
                Decision::Answer(Answer::Unavailable, Counter::RequestsUnavailable)
            }
            _ => Decision::Local(obstacle),
        }
    }

    /// The request is this node's own: the server gets the connection, TCP what is held of it. The
    /// flow ends.
    pub(crate) fn front_local(&self, flow: &FlowRef, inner: InnerGuard<'_>, ctx: &PacketContext) {
        self.front_leave(flow, inner, ctx, |key| {
            lower::put(&self.net, kind::CONN_RES, key)
        });
    }

    /// The request is answered here, without a server. TCP gets what is held, so as to acknowledge
    /// it and all that follows. The flow ends.
    pub(crate) fn front_answer(
        &self,
        flow: &FlowRef,
        inner: InnerGuard<'_>,
        answer: Answer,
        ctx: &PacketContext,
    ) {
        self.front_leave(flow, inner, ctx, |key| {
            lower::answer(&self.net, answer, key)
        });
    }

    /// The connection is this node's own: UTCP is told so, TCP gets what is held of it. The flow
    /// ends.
    fn front_leave(
        &self,
        flow: &FlowRef,
        mut inner: InnerGuard<'_>,
        ctx: &PacketContext,
        tell: impl FnOnce(&Tuple) -> Result,
    ) {
        let was = core::mem::replace(&mut inner.stage, Stage::Gone);
        let mut parked = core::mem::take(&mut inner.parked);
        inner.held.clear();
        drop(inner);
        self.forget(flow);
        if let Stage::Deciding(mut deciding) | Stage::Asked(mut deciding) = was {
            // Without UTCP, or with a socket that has been closed meanwhile, it is TCP's alone.
            let _ = tell(flow.key());
            self.stream_to_tcp(
                flow,
                &deciding.bytes,
                |offset| deciding.front.segment(offset),
                ctx,
            );
            while let Some(skb) = deciding.early.pop() {
                self.inject(skb, ctx);
            }
        }
        while let Some(skb) = parked.pop() {
            self.inject(skb, ctx);
        }
    }

    /// The client has reset the connection.
    fn front_reset(&self, flow: &FlowRef, mut inner: InnerGuard<'_>, ctx: &PacketContext) {
        let was = core::mem::replace(&mut inner.stage, Stage::Gone);
        inner.held.clear();
        drop(inner);
        self.forget(flow);
        match was {
            Stage::Asked(deciding) => {
                self.counters.count(Counter::HandoffsAborted);
                self.front_abort(flow, &deciding);
                self.front_discard(flow, &deciding, ctx);
            }
            Stage::Deciding(deciding) => self.front_discard(flow, &deciding, ctx),
            _ => {}
        }
    }

    /// This node's TCP forgets the connection, of which it has seen no payload, and UTCP its
    /// socket.
    pub(crate) fn front_discard(&self, flow: &FlowRef, deciding: &Deciding, ctx: &PacketContext) {
        self.to_tcp(flow, &deciding.front.reset(), &[], ctx);
        let _ = lower::put(&self.net, kind::CONN_DISCARD, flow.key());
    }

    /// TCP has made a socket: whether it is to be withheld.
    pub(crate) fn front_child(&self, flow: &FlowRef, deciding: &mut Deciding) -> bool {
        if deciding.withheld.is_none() {
            let limit = self.knobs.withheld_max();
            deciding.withheld = self.bounds.ticket(Pool::Withheld, limit);
            if deciding.withheld.is_none() {
                self.counters.count(Counter::WithheldRefusedLimit);
                return false;
            }
        }
        deciding.handshake = None;
        let withhold = deciding.front.on_child();
        if withhold {
            flow.arm(self.knobs.head_timeout_ms());
        } else {
            deciding.withheld = None;
        }
        withhold
    }

    /// A segment that TCP here sends to the client. Answers whether it may.
    pub(crate) fn front_output(&self, inner: &mut Inner, header: &tcp::Header<'_>) -> bool {
        match &mut inner.stage {
            Stage::Deciding(deciding) => {
                deciding.front.on_output(header, connection::now_ms());
                true
            }
            // TCP here has nothing to say to a client that another node serves, or may: if its
            // listener goes, it would reset it.
            Stage::Asked(_)
            | Stage::Committed(_)
            | Stage::Forward(_)
            | Stage::Over(Over::Forward(_)) => false,
            _ => true,
        }
    }
}

impl Deciding {
    /// Whether TCP has made its socket.
    pub(crate) fn has_child(&self) -> bool {
        matches!(self.front.phase(), Phase::Head | Phase::Asked)
    }
}

/// Takes a segment out that came before its turn, and has it now.
fn front_next_early(flow: &FlowRef) -> Option<Skb> {
    match &mut flow.inner.lock().stage {
        Stage::Deciding(deciding) => {
            let deciding = &mut **deciding;
            deciding.early.next(&deciding.front)
        }
        _ => None,
    }
}

/// The connection as the back end's TCP knows it.
pub(crate) fn theirs(key: &Tuple, addr: [u8; 4], port: u16) -> Tuple {
    key.with_local(carisma_core::tuple::v4_mapped(addr), port)
}

/// Whether a segment with these flags opens a connection.
pub(crate) fn is_opening(ends: &skb::Ends) -> bool {
    ends.flags & (flag::SYN | flag::ACK | flag::RST | flag::FIN) == flag::SYN
}
