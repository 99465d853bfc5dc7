// SPDX-License-Identifier: GPL-2.0

//! The front end's side: connections that clients open to a service of this node.

use crate::{
    config::Target,
    counters::{Counter, Gauge},
    early::Early,
    flow::{Flow, FlowRef, Inner, InnerGuard, Over, Stage},
    forward::Forward,
    lower, packet,
    state::State,
    trace::{event, FRONT},
};
use carisma_core::{
    answer::Answer,
    front::{Front, Input, Phase},
    http::{self, Scan, Scanned},
    seq::Seq,
    tcp::{self, flag},
    tuple::{v4_of, Tuple},
    wire::{self, Body, Data, Handoff, Reason, Req},
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

/// How much of a stream is held: more than the longest head, and less than a DATA record takes.
const HELD_MAX: usize = 48 << 10;
const _: () = assert!(HELD_MAX < wire::MAX_DATA);

/// A connection whose request is not decided yet, or not taken over yet.
pub(crate) struct Deciding {
    front: Front,
    /// What is held of the client's stream, from its first byte on.
    held: KVec<u8>,
    /// What came before its turn.
    early: Early,
    /// How far the head in it has been looked at.
    scan: Scan,
    /// Since the decision: the number of the handoff, and the node that was asked.
    id: u64,
    node: u32,
    /// Where that node takes forwarded segments.
    to: ([u8; 4], u16),
}

/// What a whole request head, or one that will not be, leads to.
enum Decision {
    /// More of it has to come.
    Wait,
    /// It is served here.
    Local(Counter),
    /// It is answered here, and the connection closed.
    Answer(Answer, Counter),
    /// That node is to serve it.
    Remote(u32, ([u8; 4], u16)),
}

impl State {
    /// A client's first segment to a service. Never keeps it from TCP.
    pub(crate) fn front_begin(&self, key: &Tuple, skb: &Skb, layout: &Layout) {
        if !self.withholding.load(Acquire) || !self.has_rules(key) {
            return;
        }
        let Some(header) = skb.tcp(layout).and_then(tcp::Header::parse) else {
            return;
        };
        let Some(front) = Front::new(&header) else {
            return;
        };
        let deciding = Deciding {
            front,
            held: KVec::new(),
            early: Early::new(),
            scan: Scan::new(),
            id: 0,
            node: 0,
            to: ([0; 4], 0),
        };
        let refused = match self.front_insert(key, deciding) {
            Ok(()) => {
                self.trace_flow(event::FLOW_BEGIN, key, FRONT, 0, 0);
                Counter::FlowsCreated
            }
            Err(Refused::Full) => Counter::FlowsRefusedLimit,
            // Another CPU was faster with the same SYN.
            Err(Refused::Exists) => return,
            Err(Refused::NoMemory) => Counter::FlowsRefusedMemory,
        };
        self.counters.count(refused);
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
        let flow = Flow::new(key, Stage::Deciding(deciding)).map_err(|_| Refused::NoMemory)?;
        // Under the lock nobody can end the flow before its timer runs.
        let _inner = flow.inner.lock();
        self.flows.insert(&flow, self.knobs.flows_max())?;
        self.counters.up(Gauge::Flows);
        flow.arm(HANDSHAKE_MS);
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
        let passed = self.front_segment(flow, inner, skb, layout, ctx);
        // What came before its turn may have it now.
        while let Some(mut skb) = front_next_early(flow) {
            let Some(layout) = skb.layout() else {
                continue;
            };
            if let Some(skb) = self.front_segment(flow, flow.inner.lock(), skb, &layout, ctx) {
                self.inject(skb, ctx);
            }
        }
        passed
    }

    fn front_segment(
        &self,
        flow: &FlowRef,
        inner: InnerGuard<'_>,
        skb: Skb,
        layout: &Layout,
        ctx: &PacketContext,
    ) -> Option<Skb> {
        let mut skb = skb;
        let mut inner = inner;
        let mut opened = false;
        loop {
            let (Stage::Deciding(deciding) | Stage::Asked(deciding)) = &mut inner.stage else {
                // What TCP did with the handshake's ACK ended the flow: the rest is TCP's too.
                return Some(skb);
            };
            let header = skb.tcp(layout).and_then(tcp::Header::parse)?;
            // CAST: A packet's length fits.
            let input = deciding.front.on_input(&header, layout.payload as u32);
            match input {
                Input::Pass => return Some(skb),
                Input::Open if !opened => {
                    opened = true;
                    let ack = deciding.front.ack();
                    drop(inner);
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
                    if skb.checksum_is_right(layout) {
                        self.front_early(&mut inner, seq, skb);
                        self.front_acknowledge(flow, &mut inner, ctx);
                    } else {
                        self.counters.count(Counter::PacketsDroppedMalformed);
                    }
                    return None;
                }
                Input::Reset => {
                    self.front_reset(flow, inner, ctx);
                    return None;
                }
                Input::Take { skip, fin } => {
                    if !skb.checksum_is_right(layout) {
                        self.counters.count(Counter::PacketsDroppedMalformed);
                        return None;
                    }
                    return self.front_take(flow, inner, skb, layout, skip, fin, ctx);
                }
            }
        }
    }

    /// Keeps a segment that came before its turn.
    fn front_early(&self, inner: &mut Inner, seq: Seq, skb: Skb) {
        match &mut inner.stage {
            Stage::Deciding(deciding) => {
                let deciding = &mut **deciding;
                let kept = deciding.early.push(&deciding.front, seq, skb);
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
        let deciding = match &mut inner.stage {
            Stage::Deciding(deciding) => &mut **deciding,
            _ => {
                self.park(&mut inner, skb);
                return None;
            }
        };
        // Whether all of the segment is in what is held.
        let mut whole = false;
        let first = deciding.held.is_empty();
        let decision = match skb.payload(layout) {
            // The usual case: the whole head in one segment, which is looked at where it lies.
            Some(payload) if first => self.decide(
                flow.key(),
                &deciding.front,
                &mut deciding.scan,
                payload,
                fin,
            ),
            _ => {
                whole = self.front_hold(deciding, &skb, layout, skip)?;
                self.decide(
                    flow.key(),
                    &deciding.front,
                    &mut deciding.scan,
                    &deciding.held,
                    fin,
                )
            }
        };
        match decision {
            Decision::Wait => {
                if deciding.held.is_empty() {
                    self.front_hold(deciding, &skb, layout, skip)?;
                }
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
            Decision::Remote(node, to) => {
                self.trace_decided(flow, node, Counter::RequestsRemote);
                if deciding.held.is_empty() {
                    whole = self.front_hold(deciding, &skb, layout, skip)?;
                }
                if fin || !whole {
                    self.park(&mut inner, skb);
                }
                self.front_ask(flow, inner, node, to, ctx);
                None
            }
        }
    }

    /// Counts what was decided about a request that is to be served here.
    fn front_decided(&self, flow: &FlowRef, counter: Counter) {
        self.counters.count(counter);
        self.trace_decided(flow, 0, counter);
    }

    fn trace_decided(&self, flow: &FlowRef, node: u32, counter: Counter) {
        self.trace_step(event::HEAD_DECIDED, flow.key(), node, 0, counter.name());
    }

    /// Appends a segment's payload, as far as there is room, to what is held; says whether it was
    /// all. `None` without memory: the client sends it again.
    fn front_hold(
        &self,
        deciding: &mut Deciding,
        skb: &Skb,
        layout: &Layout,
        skip: usize,
    ) -> Option<bool> {
        let before = deciding.held.len();
        let payload = layout.payload.saturating_sub(skip);
        let more = payload.min(HELD_MAX.saturating_sub(before));
        let copied = deciding
            .held
            .resize(before.saturating_add(more), 0, GFP_ATOMIC)
            .is_ok()
            && deciding
                .held
                .get_mut(before..)
                .is_some_and(|to| skb.copy_payload(layout, skip, to));
        if copied {
            // CAST: A packet's length fits.
            deciding.front.took(more as u32);
        } else {
            deciding.held.truncate(before);
            self.counters.count(Counter::FlowsRefusedMemory);
        }
        copied.then_some(more == payload)
    }

    /// Acknowledges what is held, so that a client that waits for that goes on (RFC 896).
    fn front_acknowledge(&self, flow: &FlowRef, inner: &mut Inner, ctx: &PacketContext) {
        // While another node is asked the clock must not run on: see `Req::ts_now`.
        if let Stage::Deciding(deciding) = &inner.stage {
            let ack = deciding.front.acknowledge(connection::now_ms());
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
            .map_or(Target::Local, |service| service.route(head));
        let Target::Node(index) = target else {
            return Decision::Local(Counter::RequestsLocal);
        };
        self.counters.count(Counter::RequestsRemote);
        let Some((node, addr)) = config
            .node(index)
            .and_then(|node| Some((node, v4_of(&node.at.addr)?)))
        else {
            return Decision::Local(Counter::RequestsLocalPeerDown);
        };
        if self.config.is_draining() {
            Decision::Local(Counter::RequestsLocalDraining)
        } else if !node.is_up() {
            Decision::Local(Counter::RequestsLocalPeerDown)
        } else if !front.is_portable() {
            Decision::Local(Counter::RequestsLocalOptions)
        } else {
            Decision::Remote(index, (addr, key.local_port.get()))
        }
    }

    /// The request is this node's own: the server gets the connection, TCP what is held of it. The
    /// flow ends.
    fn front_local(&self, flow: &FlowRef, inner: InnerGuard<'_>, ctx: &PacketContext) {
        self.front_leave(flow, inner, ctx, |key| {
            lower::put(&self.net, kind::CONN_RES, key)
        });
    }

    /// The request is answered here, without a server. TCP gets what is held, so as to acknowledge
    /// it and all that follows. The flow ends.
    fn front_answer(
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
        drop(inner);
        self.forget(flow);
        if let Stage::Deciding(mut deciding) | Stage::Asked(mut deciding) = was {
            // Without UTCP, or with a socket that has been closed meanwhile, it is TCP's alone.
            let _ = tell(flow.key());
            self.stream_to_tcp(
                flow,
                &deciding.held,
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
    fn front_discard(&self, flow: &FlowRef, deciding: &Deciding, ctx: &PacketContext) {
        self.to_tcp(flow, &deciding.front.reset(), &[], ctx);
        let _ = lower::put(&self.net, kind::CONN_DISCARD, flow.key());
    }

    /// Tells the node that was asked that it is not to have the connection.
    fn front_abort(&self, flow: &FlowRef, deciding: &Deciding) {
        let (addr, port) = deciding.to;
        // If it cannot be told, it gives up by itself: nothing was committed.
        let _ = self.record(
            deciding.node,
            deciding.id,
            theirs(flow.key(), addr, port),
            Body::Abort,
        );
    }

    /// Asks a node to take the connection over.
    fn front_ask(
        &self,
        flow: &FlowRef,
        mut inner: InnerGuard<'_>,
        node: u32,
        to: ([u8; 4], u16),
        ctx: &PacketContext,
    ) {
        let id = self.next_handoff();
        let stage = core::mem::replace(&mut inner.stage, Stage::Gone);
        let Stage::Deciding(mut deciding) = stage else {
            inner.stage = stage;
            return;
        };
        deciding.front.ask();
        deciding.id = id;
        deciding.node = node;
        deciding.to = to;
        while let Some(skb) = deciding.early.pop() {
            self.park(&mut inner, skb);
        }
        let key = flow.key();
        let sent = deciding
            .front
            .handshake()
            .ok_or(EINVAL)
            .and_then(|handshake| {
                let req = Req {
                    vip: key.local,
                    vip_port: key.local_port.get(),
                    ts_now: deciding.front.ts_now(connection::now_ms()),
                    handshake,
                };
                self.record(node, id, theirs(key, to.0, to.1), Body::Req(req))
            });
        inner.stage = Stage::Asked(deciding);
        if sent.is_err() {
            self.counters.count(Counter::RequestsLocalPeerDown);
            self.front_local(flow, inner, ctx);
            return;
        }
        self.counters.count(Counter::HandoffsStarted);
        flow.arm(self.knobs.handoff_timeout_ms());
    }

    /// The node that was asked has answered, or a node reports the end of what it served. Process
    /// context.
    pub(crate) fn front_record(&self, node: u32, handoff: &Handoff<'_>) {
        let Some(flow) = self.flows.lookup(&handoff.tuple) else {
            self.front_unknown(node, handoff);
            return;
        };
        let ctx = PacketContext::enter();
        let inner = flow.inner.lock();
        match (&inner.stage, handoff.body) {
            (Stage::Asked(it), body) if it.id == handoff.id && it.node == node => match body {
                Body::Accept => self.front_commit(&flow, inner, &ctx),
                Body::Reject(reason) => {
                    self.counters.count(Counter::HandoffsRejected);
                    if reason == Reason::Mismatch {
                        self.counters.count(Counter::HandoffsRejectedOptions);
                    }
                    self.front_local(&flow, inner, &ctx);
                }
                _ => self.counters.count(Counter::RecordsBad),
            },
            (Stage::Forward(it), Body::Closed { linger })
                if it.id == handoff.id && it.node == node =>
            {
                self.front_closed(&flow, inner, linger);
            }
            _ => {
                drop(inner);
                self.front_unknown(node, handoff);
            }
        }
    }

    /// A record about no flow of ours. An offer that came too late is turned down.
    fn front_unknown(&self, _node: u32, handoff: &Handoff<'_>) {
        // ABORT was sent when the flow ended; ACCEPT has crossed it. CLOSED may come after the
        // linger. Neither is an error.
        if !matches!(
            handoff.body,
            Body::Accept | Body::Reject(_) | Body::Closed { .. }
        ) {
            self.counters.count(Counter::RecordsBad);
        }
    }

    /// The back end's TCP has the connection: from here on it is the back end's.
    fn front_commit(&self, flow: &FlowRef, mut inner: InnerGuard<'_>, ctx: &PacketContext) {
        let stage = core::mem::replace(&mut inner.stage, Stage::Gone);
        let Stage::Asked(deciding) = stage else {
            inner.stage = stage;
            return;
        };
        let (ack, window, tsval) = deciding.front.newest();
        let data = Data {
            seq: deciding.front.first(),
            ack,
            tsval,
            window,
            bytes: &deciding.held,
        };
        let (addr, port) = deciding.to;
        let tuple = theirs(flow.key(), addr, port);
        let sent = lower::hold_modules()
            && self
                .record(deciding.node, deciding.id, tuple, Body::Data(data))
                .inspect_err(|_| lower::release_modules())
                .is_ok();
        if !sent {
            self.counters.count(Counter::HandoffsAborted);
            self.front_abort(flow, &deciding);
            inner.stage = Stage::Asked(deciding);
            self.front_local(flow, inner, ctx);
            return;
        }
        flow.disarm();
        inner.stage = Stage::Forward(Forward {
            id: deciding.id,
            node: deciding.node,
            to: deciding.to,
            acked: ack,
        });
        inner.draining = true;
        drop(inner);
        self.trace_flow(
            event::FLOW_HANDED_OFF,
            flow.key(),
            FRONT,
            deciding.node,
            deciding.id,
        );
        self.counters.count(Counter::HandoffsAccepted);
        self.counters.up(Gauge::HandedOffOut);
        self.front_discard(flow, &deciding, ctx);
        self.front_drain(flow, ctx);
    }

    /// The timer of an undecided connection has run out.
    pub(crate) fn front_timer(&self, flow: &FlowRef, inner: InnerGuard<'_>, ctx: &PacketContext) {
        match &inner.stage {
            Stage::Deciding(deciding) if deciding.front.phase() == Phase::Head => {
                if deciding.held.is_empty() {
                    self.front_decided(flow, Counter::HeadsAbsent);
                    self.front_local(flow, inner, ctx);
                } else {
                    self.front_decided(flow, Counter::HeadsTimedOut);
                    self.front_answer(flow, inner, Answer::Timeout, ctx);
                }
            }
            Stage::Asked(deciding) => {
                self.counters.count(Counter::HandoffsTimedOut);
                self.front_abort(flow, deciding);
                self.front_local(flow, inner, ctx);
            }
            _ => self.end(flow, inner),
        }
    }

    /// UTCP goes away: what is undecided becomes local.
    pub(crate) fn front_give_up(&self, flow: &FlowRef, inner: InnerGuard<'_>, ctx: &PacketContext) {
        match &inner.stage {
            Stage::Asked(deciding) => {
                self.counters.count(Counter::HandoffsAborted);
                self.front_abort(flow, deciding);
                self.front_local(flow, inner, ctx);
            }
            Stage::Deciding(deciding) if deciding.front.phase() == Phase::Head => {
                self.front_local(flow, inner, ctx);
            }
            _ => self.end(flow, inner),
        }
    }

    /// TCP has made a socket: whether it is to be withheld.
    pub(crate) fn front_child(&self, flow: &FlowRef, deciding: &mut Deciding) -> bool {
        let withhold = deciding.front.on_child();
        if withhold {
            flow.arm(self.knobs.head_timeout_ms());
        }
        withhold
    }

    /// A segment that TCP here sends to the client. Answers whether it may.
    pub(crate) fn front_output(&self, inner: &mut Inner, header: &tcp::Header<'_>) -> bool {
        match &mut inner.stage {
            Stage::Deciding(deciding) | Stage::Asked(deciding) => {
                deciding.front.on_output(header, connection::now_ms());
                true
            }
            // TCP here has nothing more to say to a client that another node serves.
            Stage::Forward(_) | Stage::Over(Over::Forward(_)) => false,
            _ => true,
        }
    }
}

impl Deciding {
    /// Whether TCP has made its socket.
    pub(crate) fn has_child(&self) -> bool {
        matches!(self.front.phase(), Phase::Head | Phase::Asked)
    }

    /// The number of the handoff.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Index of the node that was asked.
    pub(crate) fn node(&self) -> u32 {
        self.node
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
