// SPDX-License-Identifier: GPL-2.0

//! The front end's side: connections that clients open to a service of this node, until it is decided
//! who serves them.

use crate::{
    begin::HANDSHAKE_MS,
    bounds::{Pool, Ticket},
    counters::Counter,
    early::Early,
    flow::{FlowRef, Inner, InnerGuard, Over, Stage},
    head::Decision,
    leave::Leave,
    lower,
    service::Target,
    state::State,
};
use carisma_core::{
    commit::Commit,
    front::{Front, Input, Phase, HOLD_MS},
    http::Scan,
    seq::Seq,
    tcp::{self, flag, Build},
    tuple::{Addr, Tuple},
};
use carisma_net::{
    adopt::may_withhold,
    connection::{self, Now},
    link::kind,
    netfilter::PacketContext,
    route::Via,
    skb::{Layout, Skb},
    slab::{Cache, Cached, Opened},
};
use kernel::prelude::*;

/// The memory for connections whose request is not decided yet.
pub(crate) type Memory = Opened<Deciding>;

/// Where they are made.
pub(crate) static MEMORY: Cache<Deciding> = Cache::new();

/// A connection whose request is not decided yet, or not taken over yet.
pub(crate) struct Deciding {
    pub(crate) front: Front,
    /// What is held of the client's stream, from its first byte on.
    pub(crate) bytes: KVec<u8>,
    /// What came before its turn.
    pub(crate) early: Early,
    /// How far the head in it has been looked at.
    pub(crate) scan: Scan,
    /// When the ACK of its handshake came that is kept from TCP, as [`Now::us`] has it.
    held_us: u32,
    /// Its handshake is under way; then, its socket is withheld.
    pub(crate) handshake: Option<Ticket>,
    pub(crate) withheld: Option<Ticket>,
    /// Since the decision: who may serve the request.
    pub(crate) target: Target,
    /// Since a node was asked: that it was, the number of the handoff, and the node.
    pub(crate) asked: Option<Ticket>,
    pub(crate) id: u64,
    pub(crate) node: u32,
    /// How that node gets forwarded segments.
    pub(crate) via: Via,
    /// When that node was given the request.
    pub(crate) commit: Commit,
    /// Its handshake was BTCP's: TCP has no socket.
    pub(crate) cookie: bool,
    /// It is handed off in band.
    pub(crate) in_band: bool,
}

impl State {
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
        let mut turns = true;
        let passed = self.front_segment(flow, inner, skb, layout, Some(&mut turns), ctx);
        if turns {
            self.front_turns(flow, ctx);
        }
        passed
    }

    /// What came before its turn may have it now.
    fn front_turns(&self, flow: &FlowRef, ctx: &PacketContext) {
        while let Some(mut skb) = front_next_early(flow) {
            let Some(layout) = skb.layout() else {
                continue;
            };
            if let Some(skb) = self.front_segment(flow, flow.inner.lock(), skb, &layout, None, ctx)
            {
                self.inject(skb, ctx);
            }
        }
    }

    /// Does what is to be done with a segment whose checksum is right. One that came before its turn has no
    /// `turns`; by another that is made false if what waits for its turn goes on waiting.
    fn front_segment(
        &self,
        flow: &FlowRef,
        inner: InnerGuard<'_>,
        mut skb: Skb,
        layout: &Layout,
        turns: Option<&mut bool>,
        ctx: &PacketContext,
    ) -> Option<Skb> {
        let mut inner = inner;
        let mut opened = false;
        let mut decided = None;
        let kept = turns.is_none();
        let now = match kept {
            true => Now::default(),
            false => Now::read(),
        };
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
                false => deciding.front.on_input(&header, payload, now.ms()),
            };
            match input {
                // There is no socket yet that could want it.
                Input::Pass if deciding.is_open() && !deciding.has_child() => {
                    if header.has(flag::SYN) {
                        self.front_acknowledge(flow, inner, ctx);
                    }
                    return None;
                }
                Input::Pass if header.has(flag::SYN) => return self.front_strip(skb, layout),
                Input::Pass => return Some(skb),
                Input::Hold => {
                    deciding.held_us = now.us();
                    flow.arm(HOLD_MS);
                    if let Some(turns) = turns {
                        *turns = false;
                    }
                    return None;
                }
                Input::Open if !opened => {
                    let may = payload != 0 && deciding.front.may_open(&header, now.ms());
                    let fin = header.has(flag::FIN);
                    let bytes = may.then(|| skb.near_payload(layout)).flatten();
                    if let Some(bytes) = bytes {
                        let Deciding { front, scan, .. } = &mut **deciding;
                        let decision = self.decide(flow.key(), front, scan, bytes, fin, ctx);
                        match decision {
                            Decision::Local(counter) => {
                                // TCP makes the socket of this very segment.
                                if deciding.front.holds_ack() {
                                    let before = now.us().wrapping_sub(deciding.held_us);
                                    connection::answered(&self.net, flow.key(), before);
                                }
                                self.front_decided(flow, counter);
                                self.end(flow, inner);
                                if let Some(turns) = turns {
                                    *turns = false;
                                }
                                return Some(skb);
                            }
                            Decision::Remote(_) if may_withhold(&self.net, &skb, layout) => {
                                let decided = Some(decision);
                                return self
                                    .front_take(flow, inner, skb, layout, 0, fin, decided, ctx);
                            }
                            _ => decided = Some(decision),
                        }
                    }
                    opened = true;
                    flow.arm(HANDSHAKE_MS);
                    deciding.front.give_ack();
                    let ack = deciding.front.ack();
                    drop(inner);
                    connection::undefer(&self.net, flow.key());
                    self.to_tcp(flow, &ack, &[], ctx);
                    inner = flow.inner.lock();
                    inner.stage.gave_ack();
                }
                Input::Open => {
                    // TCP has taken the ACK. If it made a socket that is not withheld, the flow has
                    // no purpose; if it made none, as its accept queue is full and it goes on waiting
                    // for an ACK, the client will try again.
                    connection::expects(&self.net, flow.key())?;
                    self.front_decided(flow, Counter::RequestsLocal);
                    self.end(flow, inner);
                    return Some(skb);
                }
                Input::Known => {
                    self.front_acknowledge(flow, inner, ctx);
                    return None;
                }
                Input::Early => {
                    let seq = header.seq();
                    let end = seq.add(header.seq_len(payload));
                    self.front_early(&mut inner, seq, end, skb);
                    self.front_acknowledge(flow, inner, ctx);
                    return None;
                }
                Input::Reset => {
                    self.front_reset(flow, inner, ctx);
                    return None;
                }
                Input::Challenge => {
                    match &inner.stage {
                        Stage::Asked(_) => self.park(&mut inner, skb),
                        _ => self.front_acknowledge(flow, inner, ctx),
                    }
                    return None;
                }
                Input::Stray => return None,
                Input::Take { .. }
                    if header.has(flag::URG) && matches!(inner.stage, Stage::Deciding(_)) =>
                {
                    // What the server reads depends on what it makes of urgent data (RFC 6093).
                    self.front_decided(flow, Counter::HeadsBad);
                    return self.front_leave_with(flow, inner, Some(skb), Leave::Release, ctx);
                }
                Input::Take { skip, fin } => {
                    return self.front_take(flow, inner, skb, layout, skip, fin, decided, ctx);
                }
            }
        }
    }

    /// Gives TCP a handshake's ACK that was held; the flow goes on.
    pub(crate) fn front_give_ack(
        &self,
        flow: &FlowRef,
        mut inner: InnerGuard<'_>,
        ctx: &PacketContext,
    ) {
        if let Some(ack) = inner.stage.owed_ack() {
            flow.arm(HANDSHAKE_MS);
            drop(inner);
            self.to_tcp(flow, &ack, &[], ctx);
            flow.inner.lock().stage.gave_ack();
            // On another processor the request may have come meanwhile.
            self.front_turns(flow, ctx);
        }
    }

    /// Has TCP make a socket of a connection that is to be its own, and that it has none of yet. What the
    /// client sends meanwhile waits, and what other nodes say of it is not heard any more. `Deciding` or
    /// `Asked`.
    pub(crate) fn front_socket<'a>(
        &self,
        flow: &'a FlowRef,
        mut inner: InnerGuard<'a>,
        ctx: &PacketContext,
    ) -> InnerGuard<'a> {
        let stage = core::mem::replace(&mut inner.stage, Stage::Gone);
        let (Stage::Deciding(mut deciding) | Stage::Asked(mut deciding)) = stage else {
            inner.stage = stage;
            return inner;
        };
        if deciding.cookie || deciding.has_child() {
            inner.stage = Stage::Asked(deciding);
            return inner;
        }
        (deciding.node, deciding.id) = (0, 0);
        deciding.front.give_ack();
        let ack = deciding.front.ack();
        inner.stage = Stage::Asked(deciding);
        flow.arm(HANDSHAKE_MS);
        drop(inner);
        connection::undefer(&self.net, flow.key());
        self.to_tcp(flow, &ack, &[], ctx);
        let mut inner = flow.inner.lock();
        inner.stage.gave_ack();
        inner
    }

    /// Leaves a connection whose handshake is under way to TCP. The flow ends.
    pub(crate) fn front_forsake(
        &self,
        flow: &FlowRef,
        mut inner: InnerGuard<'_>,
        ctx: &PacketContext,
    ) {
        let ack = inner.stage.owed_ack();
        self.end(flow, inner);
        if let Some(ack) = ack {
            self.to_tcp(flow, &ack, &[], ctx);
        }
    }

    /// Keeps a segment that came before its turn.
    fn front_early(&self, inner: &mut Inner, seq: Seq, end: Seq, skb: Skb) {
        match &mut inner.stage {
            Stage::Deciding(deciding) => {
                let deciding = &mut **deciding;
                let size = skb.memory();
                let held = deciding.early.has_room(&deciding.front, seq)
                    && self.hold(&mut inner.held, size);
                let kept = held && deciding.early.push(seq, end, skb);
                if held && !kept {
                    inner.held.put(size);
                }
                self.counters.count(match kept {
                    true => Counter::SegmentsEarly,
                    false => Counter::SegmentsEarlyDropped,
                });
            }
            // The back end's TCP will know what to do with it.
            _ => self.park(inner, skb),
        }
    }

    /// Acknowledges what is held, so that a client that waits for that goes on (RFC 896).
    pub(crate) fn front_acknowledge(
        &self,
        flow: &FlowRef,
        mut inner: InnerGuard<'_>,
        ctx: &PacketContext,
    ) {
        // While another node is asked the clock must not run on: see `Req::ts_now`.
        let Stage::Deciding(deciding) = &mut inner.stage else {
            return;
        };
        let Deciding { front, early, .. } = &mut **deciding;
        let ack = front.acknowledge(connection::now_ms(), early.newest_first());
        // A rule that copies what is sent has our hook see the copy before this returns.
        drop(inner);
        self.tell_client(flow, &ack, ctx);
    }

    /// The client has reset the connection.
    fn front_reset(&self, flow: &FlowRef, inner: InnerGuard<'_>, ctx: &PacketContext) {
        match self.take_out(flow, inner) {
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
        if deciding.cookie {
            return;
        }
        self.to_tcp(flow, &deciding.front.reset(), &[], ctx);
        if deciding.has_child() {
            let _ = lower::put(&self.net, kind::CONN_DISCARD, flow.key());
        }
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

    /// A segment that TCP here sends to the client of `key`. Answers whether it may.
    pub(crate) fn front_output(
        &self,
        key: &Tuple,
        inner: &mut Inner,
        header: &tcp::Header<'_>,
    ) -> bool {
        match &mut inner.stage {
            Stage::Deciding(deciding) => {
                deciding.front.on_output(header, connection::now_ms());
                true
            }
            // TCP here has nothing to say to a client that another node serves, or may: if its
            // listener goes, it would reset it.
            Stage::Asked(_)
            | Stage::Committed(_)
            | Stage::Seeking(_)
            | Stage::Forward(_)
            | Stage::Over(Over::Forward(_)) => false,
            // On another processor the server may answer before we have seen that TCP has adopted it.
            Stage::Entering(_) => connection::is_live(&self.net, key),
            _ => true,
        }
    }
}

impl Cached for Deciding {
    fn cache() -> &'static Cache<Self> {
        &MEMORY
    }
}

impl Deciding {
    /// A connection whose handshake has begun, and takes this place.
    pub(crate) fn new(front: Front, handshake: Ticket) -> Self {
        Self {
            handshake: Some(handshake),
            ..Self::begun(front)
        }
    }

    fn begun(front: Front) -> Self {
        Self {
            front,
            bytes: KVec::new(),
            early: Early::new(),
            scan: Scan::new(),
            held_us: 0,
            handshake: None,
            withheld: None,
            target: Target::HERE,
            asked: None,
            id: 0,
            node: 0,
            via: Via::Named(Addr::default()),
            commit: Commit::default(),
            cookie: false,
            in_band: false,
        }
    }

    /// A connection whose client has answered a cookie, and takes this place.
    pub(crate) fn of_cookie(front: Front, withheld: Ticket, in_band: bool) -> Self {
        Self {
            in_band,
            handshake: None,
            withheld: Some(withheld),
            cookie: true,
            ..Self::begun(front)
        }
    }

    /// Whether its handshake is over.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.front.phase(), Phase::Head | Phase::Asked)
    }

    /// Whether TCP has made its socket, which is withheld.
    pub(crate) fn has_child(&self) -> bool {
        self.front.has_child()
    }
}

impl Stage {
    /// The ACK that TCP waits for, which it is about to get.
    fn owed_ack(&mut self) -> Option<Build> {
        match self {
            Self::Deciding(deciding) if deciding.front.holds_ack() => {
                deciding.front.give_ack();
                Some(deciding.front.ack())
            }
            _ => None,
        }
    }

    /// TCP has got an ACK.
    fn gave_ack(&mut self) {
        if let Self::Deciding(deciding) | Self::Asked(deciding) = self {
            deciding.front.gave_ack();
        }
    }
}

/// Takes a segment out that came before its turn, and has it now.
fn front_next_early(flow: &FlowRef) -> Option<Skb> {
    let mut inner = flow.inner.lock();
    let inner = &mut *inner;
    match &mut inner.stage {
        // Nor while TCP has no socket yet.
        Stage::Deciding(deciding) if !deciding.front.gives_ack() => {
            let deciding = &mut **deciding;
            let skb = deciding.early.next(&deciding.front)?;
            inner.held.put(skb.memory());
            Some(skb)
        }
        _ => None,
    }
}

/// The connection as the back end's TCP knows it.
pub(crate) fn theirs(key: &Tuple, via: Via) -> Tuple {
    key.with_local(via.destination(&key.local), key.local_port.get())
}

/// Whether a segment with these flags opens a connection.
pub(crate) fn is_opening(flags: u8) -> bool {
    flags & (flag::SYN | flag::ACK | flag::RST | flag::FIN) == flag::SYN
}
