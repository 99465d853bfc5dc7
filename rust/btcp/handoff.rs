// SPDX-License-Identifier: GPL-2.0

//! The front end's side: a connection on its way to another node (paper, section 4, "TCP handoff
//! initiation"), and what becomes of it if that does not take it.
//!
//! `Deciding` → `Asked` (REQ was sent) → `Committed` (DATA was sent) → `Forward` (TAKEN came). Until
//! TAKEN has come this node keeps its half of the connection, so that the request can be served by
//! the next node, or here, whenever it is certain that the node that was asked will not serve it.
//!
//! DATA follows ACCEPT, so that a node that is silent has nothing to be in doubt about. One that was
//! heard of a moment ago is trusted to answer: it gets DATA with REQ.

use crate::{
    always::{self, InBand},
    bounds::Pool,
    counters::{Counter, Gauge},
    early::Early,
    flow::{FlowRef, Inner, InnerGuard, Stage},
    forward::{
        Forward,
        Link, //
    },
    front::{theirs, Deciding},
    lower, packet,
    service::{Candidate, Migrate, Otherwise},
    state::State,
    trace::{event, FRONT},
};
use carisma_core::{
    answer::Answer,
    commit::{Commit, Outcome},
    front::{Phase, NO_HEADERS},
    seq::Seq,
    tcp::Build,
    tuple::link_of,
    wire::{Body, Data, Handoff, Reason, Req},
};
use carisma_net::{
    connection,
    netfilter::{self, PacketContext},
    route::{self, Via},
};
use kernel::{prelude::*, sync::rcu};

impl State {
    /// Asks the next of the nodes that may serve the request. If there is none, it is served here or
    /// answered, as the rule says; `why` counts what was in the way. `Deciding` or `Asked`.
    pub(crate) fn front_place(
        &self,
        flow: &FlowRef,
        mut inner: InnerGuard<'_>,
        mut why: Option<Counter>,
        ctx: &PacketContext,
    ) {
        let (Stage::Deciding(deciding) | Stage::Asked(deciding)) = &mut inner.stage else {
            return;
        };
        let otherwise = loop {
            let in_band = deciding.in_band;
            let target = &mut deciding.target;
            let candidate = { target.next(self.config.snapshot(ctx.rcu()), in_band) };
            let node = match candidate {
                Candidate::Node(_) if self.config.is_draining() => continue,
                Candidate::Node(node) => node,
                Candidate::Here => break Otherwise::Local,
                Candidate::None => break target.otherwise(),
            };
            let asked = match in_band {
                true => self.front_hand(flow, deciding, node, ctx),
                false => self.front_ask(flow, deciding, node, ctx),
            };
            match asked {
                Ok(()) => {
                    // If the request cannot be sent as well, the node was only asked.
                    let given =
                        in_band || self.is_trusted(node) && self.front_entrust(flow, deciding);
                    if given && !in_band {
                        self.counters.count(Counter::HandoffsTrusted);
                    }
                    // From here on all that comes waits for whoever will get it.
                    let mut early = core::mem::replace(&mut deciding.early, Early::new());
                    inner.stage = match core::mem::replace(&mut inner.stage, Stage::Gone) {
                        Stage::Deciding(it) | Stage::Asked(it) if given => Stage::Committed(it),
                        Stage::Deciding(deciding) => Stage::Asked(deciding),
                        stage => stage,
                    };
                    while let Some(skb) = early.pop() {
                        inner.held.put(skb.memory());
                        self.park(&mut inner, skb);
                    }
                    drop(inner);
                    if in_band {
                        self.front_hand_bytes(flow, ctx);
                    }
                    return;
                }
                Err(counter) => why = counter,
            }
        };
        match otherwise {
            Otherwise::Local => {
                if let Some(why) = why {
                    self.counters.count(why);
                }
                self.front_local(flow, inner, ctx);
            }
            Otherwise::Unavailable => {
                self.front_decided(flow, Counter::RequestsUnavailable);
                self.front_answer(flow, inner, Answer::Unavailable, ctx);
            }
        }
    }

    /// Asks a node to take the connection over. An error may have a counter for what is in the way of
    /// it.
    fn front_ask(
        &self,
        flow: &FlowRef,
        deciding: &mut Deciding,
        node: u32,
        ctx: &PacketContext,
    ) -> Result<(), Option<Counter>> {
        if !self.front_route(flow, deciding, node, ctx) {
            self.counters.count(Counter::HandoffsRefusedRoute);
            return Err(None);
        }
        if !self.front_ticket(deciding) {
            return Err(None);
        }
        deciding.front.ask();
        deciding.id = self.next_handoff();
        deciding.node = node;
        let key = flow.key();
        let mut room = NO_HEADERS;
        let handshake = deciding.front.handshake(&mut room);
        let req = Req {
            vip: key.local,
            vip_port: key.local_port.get(),
            ts_now: deciding.front.ts_now(connection::now_ms()),
            rtt: deciding.front.rtt(),
            replay: self.is_service(key, ctx.rcu(), |service| service.migrate == Migrate::Replay),
            handshake: handshake.ok_or(Some(Counter::RequestsLocalOptions))?,
        };
        self.record(node, deciding.id, theirs(key, deciding.via), Body::Req(req))
            .map_err(|_| Some(Counter::RequestsLocalPeerDown))?;
        self.counters.count(Counter::HandoffsStarted);
        flow.arm(self.knobs.handoff_timeout_ms());
        Ok(())
    }

    /// Takes a place among the handoffs that are under way, if there is one.
    pub(crate) fn front_ticket(&self, deciding: &mut Deciding) -> bool {
        if deciding.asked.is_none() {
            let limit = self.knobs.handoffs_max();
            deciding.asked = self.bounds.ticket(Pool::Asked, limit);
        }
        if deciding.asked.is_none() {
            self.counters.count(Counter::HandoffsRefusedLimit);
        }
        deciding.handshake = None;
        deciding.asked.is_some()
    }

    /// Chooses how what the client sends is to get to a node; `false` if no route leads there in that
    /// way.
    pub(crate) fn front_route(
        &self,
        flow: &FlowRef,
        deciding: &mut Deciding,
        node: u32,
        ctx: &PacketContext,
    ) -> bool {
        let config = self.config.snapshot(ctx.rcu());
        let (Some(node), Some(local)) = (config.node(node), config.local_node()) else {
            return false;
        };
        let vip = flow.key().local;
        let via = match node.via(&self.net, local, &vip, ctx) {
            // It may lack another service's address only.
            Via::Named(addr) if deciding.in_band && node.is_auto(&vip) => node
                .via_unchanged(&self.net, local, &vip, ctx)
                .unwrap_or(Via::Named(addr)),
            via => via,
        };
        deciding.via = via;
        // Such a client has neighbours only.
        let link = link_of(&flow.key().client);
        if link != 0 && route::link_to(&self.net, &node.at.addr) != link {
            return false;
        }
        via.takes(&vip) && node.is_open(&self.net, local, via, ctx)
    }

    /// Whether a node is given a request at once.
    fn is_trusted(&self, node: u32) -> bool {
        let rcu = rcu::read_lock();
        let node = self.config.snapshot(&rcu).node(node);
        node.is_some_and(|node| node.was_heard(self.knobs.handoff_trust_ms()))
    }

    /// Whether a node that lacks the address of the service is to be asked once more, as the segments
    /// can name it.
    fn front_names(&self, node: u32) -> bool {
        let rcu = rcu::read_lock();
        let node = self.config.snapshot(&rcu).node(node);
        node.is_some_and(|node| node.on_lacking())
    }

    /// Tells the node that was asked that it is not to have the connection.
    pub(crate) fn front_abort(&self, flow: &FlowRef, deciding: &Deciding) {
        // It was told before.
        if deciding.node == 0 {
            return;
        }
        // If it cannot be told, it gives up by itself: nothing was committed.
        let _ = self.record(
            deciding.node,
            deciding.id,
            theirs(flow.key(), deciding.via),
            Body::Abort,
        );
    }

    /// A node was asked in vain: the next one is.
    fn front_elsewhere(
        &self,
        flow: &FlowRef,
        inner: InnerGuard<'_>,
        counter: Counter,
        ctx: &PacketContext,
    ) {
        self.counters.count(counter);
        self.front_place(flow, inner, None, ctx);
    }

    /// The node that was asked is not waited for any more: `Asked`.
    pub(crate) fn front_take_back(
        &self,
        flow: &FlowRef,
        inner: InnerGuard<'_>,
        counter: Counter,
        ctx: &PacketContext,
    ) {
        if let Stage::Asked(deciding) = &inner.stage {
            self.front_abort(flow, deciding);
        }
        self.front_elsewhere(flow, inner, counter, ctx);
    }

    /// The node that was asked has answered, or a node reports the end of what it served. Process
    /// context.
    pub(crate) fn front_record(&self, node: u32, handoff: &Handoff<'_>) {
        let Some(flow) = self.flows.lookup(&handoff.tuple) else {
            // ABORT was sent when the flow ended, and was crossed; or CLOSED comes after the linger.
            return;
        };
        let ctx = PacketContext::enter();
        let inner = flow.inner.lock();
        if matches!(&inner.stage, Stage::Seeking(seeking) if seeking.id == handoff.id) {
            return self.front_sought(&flow, inner, node, &handoff.body, &ctx);
        }
        if inner.stage.sent() != Some((node, handoff.id)) {
            return;
        }
        match (&inner.stage, handoff.body) {
            (Stage::Asked(_), Body::Accept) => self.front_commit(&flow, inner, &ctx),
            // It had been given the request by then.
            (Stage::Committed(_), Body::Accept) => {}
            (Stage::Asked(_), Body::Reject(reason)) => {
                self.front_rejected(&flow, inner, reason, &ctx);
            }
            (Stage::Committed(_), Body::Taken) => self.front_taken(&flow, inner, &ctx),
            (Stage::Committed(_), Body::Reject(reason)) => {
                self.front_refused(&flow, inner, reason, &ctx);
            }
            // That it has been taken is lost.
            (Stage::Committed(_), Body::Closed { linger }) => {
                self.front_taken(&flow, inner, &ctx);
                self.front_closed(&flow, flow.inner.lock(), linger);
            }
            // The answer to CHECK; or DATA was repeated, though it had come.
            (Stage::Forward(_), Body::Taken) => flow.disarm(),
            (Stage::Forward(_), Body::Closed { linger }) => {
                self.front_closed(&flow, inner, linger);
            }
            _ => self.counters.count(Counter::RecordsBad),
        }
    }

    /// The node that was asked will not serve the request: `Asked`. One that lacks the address of the
    /// service may have another way.
    fn front_rejected(
        &self,
        flow: &FlowRef,
        mut inner: InnerGuard<'_>,
        reason: Reason,
        ctx: &PacketContext,
    ) {
        let mut again = false;
        if let Stage::Asked(asked) = &mut inner.stage {
            again = reason == Reason::NoAddress
                && !asked.in_band
                && asked.via.is_unchanged()
                && self.front_names(asked.node);
            if again {
                asked.target.again();
            }
        }
        if !again {
            self.count_reject(reason);
        }
        self.front_elsewhere(flow, inner, Counter::HandoffsRejected, ctx);
    }

    /// The node that was given the request says that it will not serve it: `Committed`.
    pub(crate) fn front_refused(
        &self,
        flow: &FlowRef,
        mut inner: InnerGuard<'_>,
        reason: Reason,
        ctx: &PacketContext,
    ) {
        let Stage::Committed(deciding) = &inner.stage else {
            return;
        };
        match deciding.commit.on_reject(reason, connection::coarse_ms()) {
            Outcome::Elsewhere => {
                uncommit(&mut inner);
                self.front_rejected(flow, inner, reason, ctx);
            }
            _ => {
                self.count_reject(reason);
                self.front_break(flow, inner, ctx);
            }
        }
    }

    fn count_reject(&self, reason: Reason) {
        match reason {
            Reason::Mismatch => self.counters.count(Counter::HandoffsRejectedOptions),
            Reason::NoAddress => self.counters.count(Counter::HandoffsRejectedAddress),
            _ => {}
        }
    }

    /// The back end's TCP has the connection: the back end is given the request. From here on only
    /// it can say that another may serve it.
    fn front_commit(&self, flow: &FlowRef, mut inner: InnerGuard<'_>, ctx: &PacketContext) {
        let stage = core::mem::replace(&mut inner.stage, Stage::Gone);
        let Stage::Asked(mut deciding) = stage else {
            inner.stage = stage;
            return;
        };
        if !self.config.is_draining() && self.front_entrust(flow, &mut deciding) {
            inner.stage = Stage::Committed(deciding);
            flow.arm(self.knobs.handoff_timeout_ms());
        } else {
            inner.stage = Stage::Asked(deciding);
            self.front_take_back(flow, inner, Counter::HandoffsAborted, ctx);
        }
    }

    /// Gives the node that was asked what is held of the client's stream, and says whether it will be
    /// sent.
    fn front_entrust(&self, flow: &FlowRef, deciding: &mut Deciding) -> bool {
        if !lower::hold_modules(false) {
            return false;
        }
        if self.front_data(flow, deciding).is_err() {
            lower::release_modules(false);
            return false;
        }
        deciding.commit = Commit::new(connection::coarse_ms());
        if deciding.cookie {
            self.note(deciding.front.print());
        }
        true
    }

    /// Sends what is held of the client's stream.
    fn front_data(&self, flow: &FlowRef, deciding: &Deciding) -> Result {
        let (ack, window, tsval) = deciding.front.newest();
        let key = flow.key();
        let data = Data {
            vip: key.local,
            vip_port: key.local_port.get(),
            seq: deciding.front.first(),
            ack,
            tsval,
            window,
            bytes: &deciding.bytes,
        };
        let tuple = theirs(key, deciding.via);
        self.record(deciding.node, deciding.id, tuple, Body::Data(data))
    }

    /// The back end has the request: what comes from the client is forwarded.
    pub(crate) fn front_taken(
        &self,
        flow: &FlowRef,
        mut inner: InnerGuard<'_>,
        ctx: &PacketContext,
    ) {
        let stage = core::mem::replace(&mut inner.stage, Stage::Gone);
        let Stage::Committed(deciding) = stage else {
            inner.stage = stage;
            return;
        };
        flow.disarm();
        let (acked, _, _) = deciding.front.newest();
        inner.stage = Stage::Forward(Forward {
            node: deciding.node,
            via: deciding.via,
            stuck: None,
            time_wait: false,
            acked,
            link: match deciding.in_band {
                true => {
                    let (first, next) = (deciding.front.first(), deciding.front.next());
                    Link::InBand(InBand::new(flow, first, next))
                }
                false => Link::Control {
                    id: deciding.id,
                    down: None,
                },
            },
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
        self.drain(flow, ctx);
    }

    /// It cannot be known whether the back end serves what it was given: the client is told that the
    /// connection is lost. `Committed`.
    pub(crate) fn front_break(
        &self,
        flow: &FlowRef,
        mut inner: InnerGuard<'_>,
        ctx: &PacketContext,
    ) {
        let stage = core::mem::replace(&mut inner.stage, Stage::Gone);
        let Stage::Committed(deciding) = stage else {
            inner.stage = stage;
            return;
        };
        let (node, id) = (deciding.node, deciding.id);
        self.trace_flow(event::FLOW_RESET, flow.key(), FRONT, node, id);
        self.counters.count(Counter::FlowsReset);
        self.end(flow, inner);
        // The back end may have it after all.
        match deciding.in_band {
            true => self.front_hand_reset(flow.key(), node, deciding.front.next(), ctx),
            false => self.front_abort(flow, &deciding),
        }
        self.front_discard(flow, &deciding, ctx);
        let (acked, _, _) = deciding.front.newest();
        self.reset_client(flow, acked, ctx);
        lower::release_modules(deciding.in_band);
    }

    /// Resets the client's end, with the newest number that it is known to have acknowledged. If it has
    /// more, it passes that over; so a probe follows, to which it says the exact number, and TCP here,
    /// which knows of no such connection, answers with a reset of that (RFC 9293, section 3.10.7.1). The
    /// flow has ended. Any context.
    pub(crate) fn reset_client(&self, flow: &FlowRef, acked: Seq, ctx: &PacketContext) {
        let key = flow.key();
        let (port, client_port) = (key.local_port.get(), key.client_port.get());
        self.tell_client(flow, &Build::rst(port, client_port, acked), ctx);
        self.tell_client(flow, &Build::probe(port, client_port, acked), ctx);
    }

    /// Sends the client a segment. If it is lost, the client's next segment is answered in the same way.
    pub(crate) fn tell_client(&self, flow: &FlowRef, build: &Build, ctx: &PacketContext) {
        if let Ok(skb) = packet::to_client(flow.key(), build) {
            let _ = netfilter::xmit(&self.net, skb, ctx);
        }
    }

    /// The timer of a connection that is not handed off yet has run out.
    pub(crate) fn front_timer(&self, flow: &FlowRef, inner: InnerGuard<'_>, ctx: &PacketContext) {
        match &inner.stage {
            Stage::Deciding(deciding) if deciding.front.phase() == Phase::Head => {
                if deciding.bytes.is_empty() && deciding.cookie {
                    // When the client sends something, it has the cookie still.
                    self.front_decided(flow, Counter::HeadsAbsent);
                    self.end(flow, inner);
                } else if deciding.bytes.is_empty() {
                    self.front_decided(flow, Counter::HeadsAbsent);
                    self.front_local(flow, inner, ctx);
                } else {
                    self.front_decided(flow, Counter::HeadsTimedOut);
                    self.front_answer(flow, inner, Answer::Timeout, ctx);
                }
            }
            Stage::Asked(_) => {
                self.front_take_back(flow, inner, Counter::HandoffsTimedOut, ctx);
            }
            Stage::Committed(deciding) => {
                let patience = self.knobs.peer_timeout_ms();
                match deciding.commit.on_timer(connection::coarse_ms(), patience) {
                    Outcome::Repeat if deciding.in_band => {
                        flow.arm(always::REPEAT_MS);
                        drop(inner);
                        self.front_hand_bytes(flow, ctx);
                    }
                    Outcome::Repeat => {
                        // While the peer is down it cannot be; it is repeated when it is back.
                        let _ = self.front_data(flow, deciding);
                        flow.arm(self.knobs.handoff_timeout_ms());
                    }
                    _ => self.front_break(flow, inner, ctx),
                }
            }
            Stage::Deciding(deciding) if deciding.front.holds_ack() => {
                self.front_give_ack(flow, inner, ctx);
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
            Stage::Deciding(deciding)
                if deciding.front.phase() == Phase::Head
                    && !(deciding.cookie && deciding.bytes.is_empty()) =>
            {
                self.front_local(flow, inner, ctx);
            }
            _ => self.front_forsake(flow, inner, ctx),
        }
    }
}

/// The back end will not serve what it was given: another may. `Committed` → `Asked`.
fn uncommit(inner: &mut Inner) {
    let stage = core::mem::replace(&mut inner.stage, Stage::Gone);
    inner.stage = match stage {
        Stage::Committed(deciding) => {
            lower::release_modules(deciding.in_band);
            Stage::Asked(deciding)
        }
        stage => stage,
    };
}

impl Stage {
    /// Front end: the node that the connection was offered or given to by the control connection, and
    /// the number of the handoff.
    pub(crate) fn sent(&self) -> Option<(u32, u64)> {
        match self {
            _ if self.in_band() => None,
            Self::Asked(it) | Self::Committed(it) => Some((it.node, it.id)),
            Self::Forward(it) => Some((it.node, it.id())),
            _ => None,
        }
    }
}

impl Inner {
    /// Front end: whether that node was offered or given the connection.
    pub(crate) fn is_sent_to(&self, node: u32) -> bool {
        self.stage.sent().is_some_and(|(it, _)| it == node)
    }
}
