// SPDX-License-Identifier: GPL-2.0

//! The back end's side of *always* mode: connections that are handed over by their clients' own segments
//! ([`crate::always`]), with or without UTCP.
//!
//! A segment that came by a tunnel from a node, and belongs to no connection here, hands one over if it
//! answers a cookie of the cluster's: nobody else can make one. TCP adopts the connection, or is given it
//! by a replay, before it gets the segment. What TCP sends goes straight to the client, but for FIN and
//! RST, and acknowledgements of the request: these go by way of the front end, which so hears of them.

use crate::{
    back::Origin,
    bounds::Ticket,
    counters::Counter,
    flow::{FlowRef, InnerGuard, Stage},
    packet,
    replay::Replay,
    service::{Migrate, Mode},
    state::State,
    uapi::carisma_migration_CARISMA_MIGRATION_REPLAY,
};
use carisma_core::{
    cookie::Verdict,
    front::Front,
    inband::{Question, Route, Standing, REFUSED},
    seq::Seq,
    tcp::{self, flag, Build},
    translate,
    tuple::Tuple,
    wire::Reason,
};
use carisma_net::{
    connection,
    netfilter::PacketContext,
    skb::{Layout, Skb},
};
use kernel::sync::rcu;

/// How often it is looked whether TCP still has a connection: nobody else says so without UTCP.
pub(crate) const LOOK_MS: u32 = 10_000;
/// The same when it has said that it is about to end.
const LOOK_SOON_MS: u32 = 1_000;

/// What is remembered of a connection with that fingerprint if this node has not taken it.
fn refusal(print: u64) -> u64 {
    !print
}

impl State {
    /// A segment of a client's that a node has sent here by a tunnel: whether TCP is to get it. Softirq, at
    /// PRE_ROUTING; no lock is held.
    pub(crate) fn back_handed(
        &self,
        node: u32,
        key: &Tuple,
        skb: &mut Skb,
        ctx: &PacketContext,
    ) -> bool {
        let Some(layout) = skb.layout() else {
            return true;
        };
        let Some(header) = skb.tcp(&layout).and_then(tcp::Header::parse) else {
            return true;
        };
        let before = self.flow_of(key, ctx.rcu());
        if header.flags() & REFUSED == REFUSED {
            let asked = (Question::of(header.window()), header.seq());
            if skb.checksum_is_right(&layout) {
                self.back_asked(node, key, before.as_ref(), asked, ctx);
            } else {
                self.counters.count(Counter::PacketsDroppedMalformed);
            }
            return false;
        }
        let handed = header.urgent() != 0 && !header.has(flag::URG);
        if handed {
            self.back_see_end(before.as_ref());
        }
        let (over, owner) = match before.as_ref().map(|flow| flow.inner.lock()).as_deref() {
            Some(inner) => match &inner.stage {
                // What was sought is not what begins now.
                Stage::Over(_) | Stage::Seeking(_) => (true, None),
                Stage::Live(it) => (false, it.origin.in_band.then_some(it.origin.node)),
                _ => (false, None),
            },
            None => (true, None),
        };
        if !over || connection::is_live(&self.net, key) {
            let (Some(flow), Some(owner)) = (before.as_ref(), owner) else {
                return true;
            };
            if owner == node && !handed {
                return true;
            }
            let verdict = self.front_verdict(key, &header, ctx.rcu()).0;
            // CAST: A packet's length fits.
            let end = header.seq().add(header.seq_len(layout.payload as u32));
            if !skb.checksum_is_right(&layout) {
                return true;
            }
            match verdict {
                // Another front end has got the client's first segment once more.
                Verdict::First(..) if owner != node => {
                    let _ = self.back_claimed(node, flow, ctx);
                }
                Verdict::First(..) | Verdict::Early if owner == node => {
                    return !self.back_handed_again(node, key, end, ctx);
                }
                _ => {}
            }
            return true;
        }
        if header.flags() & (flag::ACK | flag::SYN | flag::RST) != flag::ACK {
            return true;
        }
        let (said, print, clock) = match self.front_verdict(key, &header, ctx.rcu()) {
            (Verdict::First(said, print), clock) => (said, print, clock),
            // It ends, and TCP has it in TIME_WAIT.
            _ if before.is_some() || connection::is_in_time_wait(&self.net, key) => return true,
            // What comes before it will be sent again, and is to come first.
            (Verdict::Early, _) => return false,
            (Verdict::Stranger, _) if self.is_always(key, ctx.rcu()) => {
                self.counters.count(Counter::HandoffsInUnknown);
                self.back_refuse(node, key, Reason::Unknown, ctx);
                return false;
            }
            (Verdict::Stranger, _) => return true,
        };
        // The front end's: what this node would measure is the way from there.
        let rtt = header.urgent();
        let front = Front::of_cookie(&header, (&said, print), clock, connection::now_ms());
        let Some(front) = front.filter(|_| skb.checksum_is_right(&layout)) else {
            self.counters.count(Counter::PacketsDroppedMalformed);
            return false;
        };
        if self.used().is_some_and(|used| used.has(print)) {
            // A reset would end the connection, should it go on elsewhere.
            self.counters.count(Counter::HandoffsInUsed);
            return false;
        }
        // Its front end has given it to another node since, or does so when it hears of it.
        if self.used().is_some_and(|used| used.has(refusal(print))) {
            self.counters.count(Counter::HandoffsInRefused);
            self.back_refuse(node, key, Reason::Unanswered, ctx);
            return false;
        }
        if let Some(before) = before {
            let inner = before.inner.lock();
            if matches!(inner.stage, Stage::Over(_) | Stage::Seeking(_)) {
                self.end(&before, inner);
            }
        }
        match self.back_open(node, key, &front, rtt, ctx.rcu()) {
            Ok(flow) => {
                if !self.is_service(key, ctx.rcu(), |it| it.migrate == Migrate::Replay) {
                    self.back_adopt(&flow, ctx);
                }
                self.back_advance(&flow, ctx);
                // If that came to nothing, the front end has been told, and the client must not be.
                let inner = flow.inner.lock();
                !matches!(inner.stage, Stage::Gone)
            }
            // Another CPU was faster with a copy of it.
            Err(Reason::InUse) => true,
            Err(reason) => {
                self.counters.count(Counter::HandoffsInRefused);
                self.back_note_refused(print);
                self.back_refuse(node, key, reason, ctx);
                false
            }
        }
    }

    /// Whether this node's TCP has all up to the `end` of what its front end has handed over again: the front
    /// end, which has not heard that, is told so. To TCP, and so to the client, it would seem to be the
    /// client's.
    fn back_handed_again(&self, node: u32, key: &Tuple, end: Seq, ctx: &PacketContext) -> bool {
        let Some(next) = connection::expects(&self.net, key).filter(|next| end.le(*next)) else {
            return false;
        };
        self.back_answer(node, key, Standing::Present, Seq(0), next, ctx);
        true
    }

    /// Whether connections to a service may be handed over in band.
    pub(crate) fn is_always(&self, key: &Tuple, rcu: &rcu::Guard) -> bool {
        self.is_service(key, rcu, |service| service.mode == Mode::Always)
    }

    /// A connection with this fingerprint is not taken.
    pub(crate) fn back_note_refused(&self, print: u64) {
        if let Some(used) = self.used() {
            used.note(refusal(print), connection::coarse_ms());
        }
    }

    /// The flow of a connection that was handed over in band, if there is nothing against it.
    fn back_open(
        &self,
        node: u32,
        key: &Tuple,
        front: &Front,
        rtt: u16,
        rcu: &rcu::Guard,
    ) -> Result<FlowRef, Reason> {
        if !self.is_always(key, rcu) {
            return Err(Reason::NoService);
        }
        let back = front.back(key.local_port.get(), connection::now_ms());
        let origin = Origin {
            id: 0,
            node,
            vip: key.local,
            vip_port: key.local_port.get(),
            migration: carisma_migration_CARISMA_MIGRATION_REPLAY,
            in_band: true,
        };
        self.back_begin(key, |tickets: (Ticket, Ticket)| {
            Replay::new(back, origin, rtt, tickets).known_by(front.print())
        })
    }

    /// Tells a front end that this node does not take a connection, of which no server has seen anything.
    pub(crate) fn back_refuse(&self, node: u32, key: &Tuple, reason: Reason, ctx: &PacketContext) {
        let refused = Build {
            flags: REFUSED,
            window: reason.number(),
            ..Build::rst(key.local_port.get(), key.client_port.get(), Seq(0))
        };
        if let Ok(skb) = packet::to_client(key, &refused) {
            self.back_relay(node, skb, ctx);
        }
    }

    /// Has a front end pass something on. If it is lost, TCP or the front end asks for it again.
    pub(crate) fn back_relay(&self, node: u32, skb: Skb, ctx: &PacketContext) {
        let sent = self
            .tunnel_to(node, ctx)
            .map(|via| self.xmit_via(node, via, skb, ctx));
        self.counters.count(match sent {
            Some(Ok(())) => Counter::PacketsRelayed,
            _ => Counter::PacketsDroppedUnroutable,
        });
    }

    /// A segment of TCP's, in the client's numbers, on a connection that was handed over in band: what of
    /// it goes straight to the client. That is also what TCP says again, for nobody else may be the front
    /// end any more when the address has moved here. No lock of a flow is held.
    pub(crate) fn back_route(
        &self,
        flow: &FlowRef,
        origin: &Origin,
        first: Seq,
        mut skb: Skb,
        layout: &Layout,
    ) -> Option<Skb> {
        let header = skb.tcp(layout).and_then(tcp::Header::parse)?;
        let route = Route::of(&header, layout.payload, first);
        if route == Route::Direct {
            return Some(skb);
        }
        // CAST: A packet's length fits.
        let end = header.seq().add(layout.payload as u32);
        let ends = header.flags() & (flag::FIN | flag::RST) != 0;
        let mut again = false;
        if let Stage::Live(live) = &mut flow.inner.lock().stage {
            if ends {
                flow.arm(LOOK_SOON_MS);
            }
            again = live.relays(&header, end);
        }
        if again && !ends {
            return Some(skb);
        }
        let ctx = PacketContext::enter();
        if route == Route::Relayed && !again {
            self.back_relay(origin.node, skb, &ctx);
            return None;
        }
        let ts = header.options().ok().and_then(|options| options.ts);
        let (source, dest) = (header.source(), header.dest());
        let fin = Build {
            flags: flag::FIN | flag::ACK,
            ..Build::ack(source, dest, end, header.ack(), header.window(), ts)
        };
        let partial = skb.checksum_is_partial();
        let cut = |tcp| translate::clear_fin(tcp, partial).is_ok();
        if !again && !skb.headers_mut(layout).is_some_and(|(_, tcp)| cut(tcp)) {
            self.counters.count(Counter::PacketsDroppedMalformed);
            return None;
        }
        let key = origin.theirs(flow);
        if let Ok(fin) = packet::to_client(&key, &fin) {
            self.back_relay(origin.node, fin, &ctx);
        }
        Some(skb)
    }

    /// Looks at once whether TCP still has a connection, if a flow is one, as another of its client's may
    /// have come: without UTCP nobody says that the client has reset it. No lock of a flow is held.
    fn back_see_end(&self, flow: Option<&FlowRef>) {
        let Some(flow) = flow else {
            return;
        };
        let in_band = match &flow.inner.lock().stage {
            Stage::Live(live) => live.origin.in_band,
            _ => false,
        };
        if in_band && !connection::is_live(&self.net, flow.key()) {
            self.back_closed(flow, connection::is_in_time_wait(&self.net, flow.key()));
        }
    }

    /// It is time to look whether TCP still has a connection. Softirq; `Live`.
    pub(crate) fn back_look(&self, flow: &FlowRef, inner: InnerGuard<'_>) {
        if connection::is_live(&self.net, flow.key()) {
            flow.arm(LOOK_MS);
            return;
        }
        drop(inner);
        self.back_closed(flow, connection::is_in_time_wait(&self.net, flow.key()));
    }
}
