// SPDX-License-Identifier: GPL-2.0

//! The back end's side: a connection on its way to this node, whose TCP adopts it or, where that cannot
//! be, is given it by a replay of its handshake.
//!
//! `Replay` (REQ came; ACCEPT is sent when TCP has a socket) → `Live` (DATA came). DATA may come before
//! TCP has a socket: it waits for that.

use crate::{
    back::{Live, Origin, Undelivered, RETRY_MS},
    bounds::{Pool, Ticket},
    counters::{Counter, Gauge},
    flow::{Flow, FlowRef, InnerGuard, Over, Stage},
    inband::LOOK_MS,
    lower, packet,
    snapshot::Endpoint,
    state::State,
    trace::{event, reason_name, BACK},
    uapi::*,
};
use carisma_core::{
    back::{Back, Phase},
    seq::Seq,
    tcp::{self, flag},
    tuple::{is_link_local, link_of, Tuple},
    wire::{Body, Data, Handoff, Reason, Req},
};
use carisma_net::{
    adopt::{adopt, Obstacle, Withheld},
    connection,
    link::kind,
    netfilter::PacketContext,
    route,
    table::Refused,
};
use kernel::{
    prelude::*,
    sync::{rcu, Arc, UniqueArc},
};

/// How long, at the least, a front end may take to commit a connection that TCP has: it says so if
/// it does not want it any more, and one that it has committed must not be gone.
const COMMIT_MS: u32 = 5_000;

/// A connection that is being given to TCP here.
pub(crate) struct Replay {
    back: Back,
    pub(crate) origin: Origin,
    /// The round trip to the client, in milliseconds; 0 if it is not known.
    rtt: u16,
    tries: u32,
    /// A segment is being given to TCP, by whoever takes it further afterwards. Two at a time would meet
    /// there: one would have TCP make the socket while it still builds the SYN-ACK for the other, of a
    /// request that UTCP has marked by then.
    injecting: bool,
    /// TCP does not take it.
    pub(crate) failed: Option<Reason>,
    /// The front end was told that TCP has it.
    offered: bool,
    /// Of one in band: see [`Front::print`](carisma_core::front::Front::print).
    print: u64,
    /// DATA that came before, which waits until TCP has a socket.
    given: Option<(Newest, UniqueArc<Undelivered>)>,
    /// It is under way, and its socket is, or will be, withheld.
    _tickets: (Ticket, Ticket),
}

/// The client's newest acknowledgement, window and TSval.
type Newest = (Seq, u16, u32);

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
    /// A front end asks this node to take a connection over.
    pub(crate) fn back_request(&self, node: u32, handoff: &Handoff<'_>, req: &Req<'_>) {
        match self.back_replay(node, handoff, req) {
            Ok(flow) => {
                let ctx = PacketContext::enter();
                if !req.replay {
                    self.back_adopt(&flow, &ctx);
                }
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
        let origin = Origin {
            id: handoff.id,
            node,
            vip: req.vip,
            vip_port: req.vip_port,
            migration: carisma_migration_CARISMA_MIGRATION_REPLAY,
            in_band: false,
        };
        let back = Back::new(&req.handshake, key.local_port.get(), req.ts_now);
        self.back_replace(key)?;
        self.back_begin(key, |tickets| Replay::new(back, origin, req.rtt, tickets))
    }

    /// Makes the flow of what `make` makes, if there is nothing against it. Any context.
    pub(crate) fn back_begin(
        &self,
        key: &Tuple,
        make: impl FnOnce((Ticket, Ticket)) -> Replay,
    ) -> Result<FlowRef, Reason> {
        if self.config.is_draining() {
            return Err(Reason::Draining);
        }
        {
            let rcu = rcu::read_lock();
            let at = Endpoint {
                addr: key.local,
                port: key.local_port.get(),
            };
            if !self.config.snapshot(&rcu).is_served(at) {
                return Err(Reason::NoService);
            }
        }
        // What is injected, and forwarded, would be routed on.
        let nowhere = is_link_local(&key.client) && link_of(&key.client) == 0;
        if nowhere || !route::is_local(&self.net, &key.local) {
            return Err(Reason::NoAddress);
        }
        // IPv4 believes nobody who seems to be this node itself (RFC 1812, section 5.3.7).
        if key.is_v4() && route::is_local(&self.net, &key.client) {
            return Err(Reason::Unanswered);
        }
        if connection::is_live(&self.net, key) {
            return Err(Reason::InUse);
        }
        let tickets = self.back_tickets().ok_or(Reason::NoRoom)?;
        let replay = make(tickets);
        let in_band = replay.origin.in_band;
        if !lower::hold_modules(in_band) {
            return Err(Reason::Draining);
        }
        self.back_insert(key, replay)
            .inspect_err(|_| lower::release_modules(in_band))
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

    /// Makes way for a new connection with the tuple of one that has ended, or that its client must have
    /// forgotten, as its front end has. Process context, may sleep.
    fn back_replace(&self, key: &Tuple) -> Result<(), Reason> {
        let Some(old) = self.flows.lookup(key) else {
            return Ok(());
        };
        if matches!(&old.inner.lock().stage, Stage::Live(live) if live.origin.is_orphan()) {
            self.back_reset(&old);
        }
        let inner = old.inner.lock();
        match inner.stage {
            Stage::Over(_) => self.end(&old, inner),
            Stage::Gone => {}
            _ => return Err(Reason::InUse),
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

    /// Has TCP adopt the connection. If it does not, the replay is as it was, and the reason noted.
    pub(crate) fn back_adopt(&self, flow: &FlowRef, ctx: &PacketContext) {
        let mut inner = flow.inner.lock();
        let Stage::Replay(replay) = &mut inner.stage else {
            return;
        };
        let Some(adoption) = replay.back.adopt() else {
            replay.origin.migration = carisma_migration_CARISMA_MIGRATION_REPLAY_OPTIONS;
            return;
        };
        let (build, reset, origin) = (replay.back.bare_ack(), replay.back.reset(), replay.origin);
        drop(inner);
        self.trace_replay(flow, &origin, c"adopt");
        // What was handed over in band is the server's at once.
        let withheld = match origin.in_band {
            true => Withheld::Maybe,
            false => Withheld::Must,
        };
        let outcome = packet::from_client(flow.key(), &build, &[])
            .map_err(|_| Obstacle::Other)
            .and_then(|ack| adopt::<Self>(&self.net, ack, &adoption, withheld, ctx));

        let mut inner = flow.inner.lock();
        if matches!(inner.stage, Stage::Gone) {
            drop(inner);
            // It was given up before TCP had what was to be reset then.
            if outcome.is_ok() {
                self.to_tcp(flow, &reset, &[], ctx);
            }
            return;
        }
        if let Stage::Replay(replay) = &mut inner.stage {
            self.back_see(flow, replay);
            replay.origin.migration = match outcome {
                Ok(()) if replay.back.phase() != Phase::Adopt => {
                    carisma_migration_CARISMA_MIGRATION_ADOPTED
                }
                Ok(()) | Err(Obstacle::Other) => {
                    carisma_migration_CARISMA_MIGRATION_REPLAY_UNANSWERED
                }
                Err(Obstacle::Syncookies) => carisma_migration_CARISMA_MIGRATION_REPLAY_SYNCOOKIES,
                Err(Obstacle::Conntrack) => carisma_migration_CARISMA_MIGRATION_REPLAY_CONNTRACK,
                Err(Obstacle::Options) => carisma_migration_CARISMA_MIGRATION_REPLAY_OPTIONS,
                Err(Obstacle::Tuple) => carisma_migration_CARISMA_MIGRATION_REPLAY_TUPLE,
                Err(Obstacle::Listener) => carisma_migration_CARISMA_MIGRATION_REPLAY_LISTENER,
                Err(Obstacle::Filter) => carisma_migration_CARISMA_MIGRATION_REPLAY_FILTER,
                Err(Obstacle::Window) => carisma_migration_CARISMA_MIGRATION_REPLAY_WINDOW,
            };
            replay.back.replay();
        }
    }

    /// Takes a replay as far as it goes: TCP mostly answers before the injection of a segment
    /// returns.
    pub(crate) fn back_advance(&self, flow: &FlowRef, ctx: &PacketContext) {
        let mut last = None;
        loop {
            let mut inner = flow.inner.lock();
            let Stage::Replay(replay) = &mut inner.stage else {
                return;
            };
            if replay.injecting && last.is_none() {
                return;
            }
            replay.injecting = false;
            self.back_see(flow, replay);
            let phase = replay.back.phase();
            let step = match replay.failed {
                Some(reason) => Step::Fail(reason),
                // The same phase again: TCP did not answer, or not yet.
                None if last == Some(phase) => Step::Wait,
                None => match phase {
                    Phase::Adopt => Step::Wait,
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
                    replay.injecting = true;
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
                    if origin.in_band {
                        // The front end has committed itself.
                        replay.back.settle();
                        self.note(replay.print);
                        self.back_live(flow, inner, None);
                        // An acknowledgement alone would go by way of the front end.
                        connection::await_answer(&self.net, flow.key());
                        self.drain(flow, ctx);
                        return;
                    }
                    let given = replay.given.take();
                    // If it cannot be told, the front end's time runs out, and so does ours.
                    let _ = self.record(origin.node, origin.id, origin.theirs(flow), Body::Accept);
                    if let Some((newest, undelivered)) = given {
                        self.back_commit(flow, inner, newest, undelivered, ctx);
                    }
                    return;
                }
                Step::Fail(reason) => {
                    self.back_fail(flow, inner, Some(reason), ctx);
                    return;
                }
            }
        }
    }

    /// Looks whether TCP has a connection that was handed over in band: without UTCP nobody says so.
    fn back_see(&self, flow: &FlowRef, replay: &mut Replay) {
        let may_have = matches!(replay.back.phase(), Phase::Adopt | Phase::Ack);
        if replay.origin.in_band && may_have && connection::expects(&self.net, flow.key()).is_some()
        {
            replay.back.on_child();
        }
    }

    fn trace_replay(&self, flow: &FlowRef, origin: &Origin, what: &'static CStr) {
        self.trace_step(event::REPLAY_STEP, flow.key(), origin.node, origin.id, what);
    }

    /// Gives a replay up. TCP and UTCP forget it, and the front end is told `reason`, if there is
    /// one.
    pub(crate) fn back_fail(
        &self,
        flow: &FlowRef,
        inner: InnerGuard<'_>,
        reason: Option<Reason>,
        ctx: &PacketContext,
    ) {
        if let Stage::Replay(replay) = self.take_out(flow, inner) {
            let origin = replay.origin;
            self.trace_replay(flow, &origin, reason.map_or(c"abort", reason_name));
            self.counters.count(match reason {
                Some(_) => Counter::HandoffsInRefused,
                None => Counter::HandoffsInAborted,
            });
            match reason {
                Some(reason) if origin.in_band => {
                    self.back_note_refused(replay.print);
                    self.back_refuse(origin.node, flow.key(), reason, ctx);
                }
                Some(reason) => {
                    let reject = Body::Reject(reason);
                    let _ = self.record(origin.node, origin.id, origin.theirs(flow), reject);
                }
                None => {}
            }
            self.to_tcp(flow, &replay.back.reset(), &[], ctx);
            let _ = lower::put(&self.net, kind::CONN_DISCARD, flow.key());
            self.counters.down(Gauge::HandedOffIn);
            lower::release_modules(origin.in_band);
        }
    }

    /// The front end commits itself, and passes on what it holds of the client's stream.
    pub(crate) fn back_data(&self, node: u32, handoff: &Handoff<'_>, data: &Data<'_>) {
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
                if let Stage::Over(_) = inner.stage {
                    // Nor that it is over, and it will not ask.
                    self.back_tell_again(&flow, &live.origin);
                }
                return;
            }
        }
        let replay = match &mut inner.stage {
            Stage::Replay(replay) if replay.origin.is(node, handoff) => replay,
            _ => {
                drop(inner);
                self.back_unknown(node, handoff, data);
                return;
            }
        };
        if replay.failed.is_some() {
            // Its socket is gone: the front end is told so, and no server has seen anything.
            drop(inner);
            self.back_advance(&flow, &ctx);
            return;
        }
        if data.seq != replay.back.first() {
            self.counters.count(Counter::RecordsBad);
            return;
        }
        let newest = (data.ack, data.window, data.tsval);
        let Some(undelivered) = self.back_keep(&flow, replay.back, data.bytes) else {
            // What TCP does not take at once would be lost: no server has seen anything.
            self.back_fail(&flow, inner, Some(Reason::NoRoom), &ctx);
            return;
        };
        if replay.offered {
            return self.back_commit(&flow, inner, newest, undelivered, &ctx);
        }
        replay.given = Some((newest, undelivered));
    }

    /// The front end has committed itself to what it was offered: the server gets the connection.
    fn back_commit(
        &self,
        flow: &FlowRef,
        mut inner: InnerGuard<'_>,
        (acked, window, tsval): Newest,
        mut undelivered: UniqueArc<Undelivered>,
        ctx: &PacketContext,
    ) {
        let Stage::Replay(replay) = &mut inner.stage else {
            return;
        };
        if !replay.back.commit(acked, window, tsval) {
            return;
        }
        undelivered.back = replay.back;
        let undelivered = Arc::from(undelivered);
        self.back_taken(flow, &replay.origin);
        self.back_live(flow, inner, Some(undelivered.clone()));
        self.back_deliver(flow, &undelivered, ctx);
        self.drain(flow, ctx);
    }

    /// The server gets a connection, of which these bytes are still to be given to TCP. `Replay`; what is
    /// parked is to be drained next.
    fn back_live(
        &self,
        flow: &FlowRef,
        mut inner: InnerGuard<'_>,
        undelivered: Option<Arc<Undelivered>>,
    ) {
        let stage = core::mem::replace(&mut inner.stage, Stage::Gone);
        let Stage::Replay(replay) = stage else {
            inner.stage = stage;
            return;
        };
        let (back, origin) = (replay.back, replay.origin);
        flow.arm(match undelivered {
            Some(_) => RETRY_MS,
            None => LOOK_MS,
        });
        inner.stage = Stage::Live(Live {
            relayed: 0,
            origin,
            translation: back.translation(),
            first: back.first_sent(),
            undelivered,
            repeated: 0,
            untold: None,
            orphan: None,
        });
        inner.draining = true;
        drop(inner);
        // Its places are free for the next one.
        drop(replay);
        let (node, id) = (origin.node, origin.id);
        self.trace_flow(event::FLOW_HANDED_OFF, flow.key(), BACK, node, id);
        self.counters.count(Counter::HandoffsIn);
        if origin.migration == carisma_migration_CARISMA_MIGRATION_ADOPTED {
            self.counters.count(Counter::HandoffsInAdopted);
        }
        let _ = lower::put(&self.net, kind::CONN_RES, flow.key());
    }

    /// Tells the front end that DATA has come. If that cannot be told, the front end asks by
    /// repeating it, or by CHECK.
    pub(crate) fn back_taken(&self, flow: &FlowRef, origin: &Origin) {
        let _ = self.record(origin.node, origin.id, origin.theirs(flow), Body::Taken);
    }

    /// The same, that a connection is closed.
    fn back_tell_again(&self, flow: &FlowRef, origin: &Origin) {
        let linger = connection::is_in_time_wait(&self.net, flow.key());
        let closed = Body::Closed { linger };
        let _ = self.record(origin.node, origin.id, origin.theirs(flow), closed);
    }

    /// The front end commits what is not known here, or not any more.
    fn back_unknown(&self, node: u32, handoff: &Handoff<'_>, data: &Data<'_>) {
        self.counters.count(Counter::HandoffsInUnknown);
        let tuple = handoff.tuple.with_local(data.vip, data.vip_port);
        let reject = Body::Reject(Reason::Unknown);
        let _ = self.record(node, handoff.id, tuple, reject);
    }

    /// The timer of a connection that is being given to TCP here has run out. Softirq.
    pub(crate) fn back_wait(&self, flow: &FlowRef, mut inner: InnerGuard<'_>, ctx: &PacketContext) {
        let Stage::Replay(replay) = &mut inner.stage else {
            return;
        };
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

    /// UTCP or this node goes away: what is not committed is given up.
    pub(crate) fn back_give_up(&self, flow: &FlowRef, inner: InnerGuard<'_>, ctx: &PacketContext) {
        self.back_fail(flow, inner, Some(Reason::Draining), ctx);
    }
}

impl Replay {
    /// One that is about to begin, and takes these places.
    pub(crate) fn new(back: Back, origin: Origin, rtt: u16, tickets: (Ticket, Ticket)) -> Self {
        Self {
            back,
            origin,
            rtt,
            tries: 0,
            injecting: false,
            failed: None,
            offered: false,
            print: 0,
            given: None,
            _tickets: tickets,
        }
    }

    /// It is one in band, which this word stands for.
    pub(crate) fn known_by(self, print: u64) -> Self {
        Self { print, ..self }
    }

    /// Whether the front end was told that TCP has the connection.
    pub(crate) fn is_offered(&self) -> bool {
        self.offered
    }

    /// TCP has made a socket: the round trip to the client, if it is to be withheld.
    pub(crate) fn on_child(&mut self) -> Option<u16> {
        self.back.on_child().then_some(self.rtt)
    }

    /// A segment of TCP's, which nobody else gets to see.
    pub(crate) fn on_output(&mut self, header: &tcp::Header<'_>) {
        if self.back.is_stray(header) {
            // It answers an ACK that TCP was to adopt.
        } else if header.has(flag::RST) {
            // Nobody listens.
            self.failed = Some(Reason::NoService);
        } else if self.back.on_syn_ack(header).is_err() {
            self.failed = Some(Reason::Mismatch);
        }
    }
}
