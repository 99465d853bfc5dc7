// SPDX-License-Identifier: GPL-2.0

//! The front end's side of *frequent* mode (paper, section 5): a client's handshake is BTCP's, which
//! keeps nothing of it. TCP gets the connection, by adoption, when the request is this node's own.
//!
//! A SYN is answered by a cookie if TCP could adopt the connection, as far as can be known; else it goes
//! on to TCP, and all is as in rare mode.

use crate::{
    bounds::Pool,
    counters::Counter,
    flow::{FlowRef, InnerGuard, Stage},
    front::Deciding,
    leave::{self, Leave, Owed},
    packet,
    service::Mode,
    state::State,
    trace::{event, FRONT},
    used::Used,
};
use carisma_core::{
    back::Adoption,
    cookie::{Ends, Said, Verdict},
    front::{Front, COOKIE_WINDOW, COOKIE_WSCALE},
    tcp::{self, flag},
    tuple::Tuple,
};
use carisma_net::{
    adopt::{adopt, has_listener, may_adopt, Obstacle, Withheld},
    connection,
    netfilter::PacketContext,
    route::Return,
    skb::{Layout, Skb},
    slab::CacheBox,
    table::Refused,
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{Acquire, Atomic, Relaxed},
        rcu,
    },
    time::{delay::fsleep, Delta},
};

/// When TCP is asked again to adopt a connection, and how often: its accept queue may be full.
const RETRY_MS: u32 = 100;
const RETRIES: u32 = 50;

/// How long this module outlasts its last cookie: in that time its client has answered it, unless it
/// has nothing to say yet.
const GRACE_MS: u32 = 3_000;

/// When the last cookie was sent, in any namespace.
static LAST: Atomic<u32> = Atomic::new(0);
/// One was.
static SENT: Atomic<bool> = Atomic::new(false);
/// None is sent any more.
static LEAVING: Atomic<bool> = Atomic::new(false);

/// Waits, when it is dropped, for the answers to cookies: only this module knows them; and for TCP to
/// take what it is owed. UTCP is gone by then, and SYNs are TCP's, so there is nothing new. Process context.
pub(crate) struct Grace;

impl Drop for Grace {
    fn drop(&mut self) {
        LEAVING.store(true, Relaxed);
        // Who has not seen that has said when it sent one.
        rcu::synchronize_rcu();
        let age = connection::coarse_ms().wrapping_sub(LAST.load(Relaxed));
        if SENT.load(Relaxed) && age < GRACE_MS {
            fsleep(Delta::from_millis(i64::from(GRACE_MS.saturating_sub(age))));
        }
        leave::settle();
    }
}

/// A connection that TCP here is to adopt, as its request is this node's own.
pub(crate) struct Entering {
    _owed: Owed,
    deciding: CacheBox<Deciding>,
    leave: Leave,
    tries: u32,
    /// It enters by its request: there is nothing to wait for.
    whole: bool,
}

impl Entering {
    pub(crate) fn new(deciding: CacheBox<Deciding>, leave: Leave) -> Self {
        Self {
            _owed: Owed::new(),
            deciding,
            leave,
            tries: 0,
            whole: false,
        }
    }

    /// Whether its socket is to be withheld until TCP has the request.
    pub(crate) fn withholds(&self) -> bool {
        !self.whole
    }

    /// See [`Front::rtt`].
    pub(crate) fn rtt(&self) -> u16 {
        self.deciding.front.rtt()
    }
}

impl State {
    /// Answers a SYN with a cookie in TCP's place, as this `mode` has it, and says whether it did.
    pub(crate) fn front_cookie(
        &self,
        key: &Tuple,
        syn: &Skb,
        layout: &Layout,
        front: &Front,
        mode: Mode,
        ctx: &PacketContext,
    ) -> bool {
        if LEAVING.load(Relaxed) {
            return false;
        }
        let Some(route) = Return::of(&self.net, syn, ctx) else {
            return false;
        };
        let said = Said::of(front.client());
        let adoption = Adoption {
            mss: said.mss,
            window: COOKIE_WINDOW,
            wscale: said.wscale.map(|shift| (shift, COOKIE_WSCALE)),
            sack_ok: said.sack_ok,
            ts: front.client().options.ts,
            ecn: false,
        };
        let adoptable = || may_adopt(&self.net, syn, layout, &adoption).is_ok();
        // Another node's TCP may have it, and must know the cookie; or this one, if it has a server. Without
        // UTCP what TCP here cannot adopt is not for it. Over a socket that it has it makes none but of a SYN,
        // if at all.
        let fits = match mode {
            Mode::Always => {
                self.keys().are_shared(ctx.rcu())
                    && !connection::is_taken(&self.net, key)
                    && (!self.withholding.load(Acquire)
                        || !has_listener(&self.net, syn, layout)
                        || adoptable())
            }
            _ => adoptable(),
        };
        if !fits {
            self.counters.count(Counter::CookiesUnfit);
            return false;
        }
        let now = connection::coarse_ms();
        if LAST.load(Relaxed) != now {
            LAST.store(now, Relaxed);
            SENT.store(true, Relaxed);
        }
        let answer = {
            let Some(secret) = self.keys().cookies(ctx.rcu()).first() else {
                return false;
            };
            let now = connection::wall_ms();
            let ends = Ends::new(secret, key);
            let isn = ends.make(front.client().isn, &said, now);
            let mss = route.advertised_mss();
            let mss = self
                .tunnel_mss(&key.local, ctx)
                .map_or(mss, |room| room.min(mss));
            front.cookie_syn_ack(isn, mss, ends.clock(now))
        };
        if let Ok(skb) = packet::to_client(key, &answer) {
            // If it is lost, the client sends its SYN again.
            let _ = route.xmit(&self.net, skb, ctx);
            self.counters.count(Counter::CookiesSent);
        }
        true
    }

    /// A segment of a client's that belongs to no flow, and begins none: it may be TCP's or, as clients may
    /// answer cookies, such an answer.
    #[inline(never)]
    pub(crate) fn front_answered(
        &self,
        key: &Tuple,
        flags: u8,
        skb: Skb,
        ctx: &PacketContext,
    ) -> Option<Skb> {
        let mut skb = skb;
        let may = flags & (flag::ACK | flag::RST) == flag::ACK;
        if !may || connection::is_live(&self.net, key) {
            return Some(skb);
        }
        let Some(layout) = skb.layout() else {
            return Some(skb);
        };
        let header = skb.tcp(&layout).and_then(tcp::Header::parse)?;
        let (said, print, clock) = match self.front_verdict(key, &header, ctx.rcu()) {
            (Verdict::First(said, print), clock) => (said, print, clock),
            (Verdict::Early, _) => {
                // What comes before it is on its way, or another node has it.
                let acked = header.ack();
                self.front_overtaking(key, acked, skb);
                return None;
            }
            (Verdict::Stranger, _) => return Some(skb),
        };
        let now = connection::now_ms();
        let Some(front) = Front::of_cookie(&header, (&said, print), clock, now) else {
            self.counters.count(Counter::PacketsDroppedMalformed);
            return None;
        };
        if !skb.checksum_is_right(&layout) {
            self.counters.count(Counter::PacketsDroppedMalformed);
            return None;
        }
        // Only a copy is still on its way. Of what another node has in always mode, that knows.
        let is_used = |used: &Used| used.has(print);
        if self.used().is_some_and(is_used) {
            self.counters.count(Counter::CookiesUsed);
            return Some(skb);
        }
        match self.front_open(key, front, ctx.rcu()) {
            Ok(flow) => {
                let inner = flow.inner.lock();
                match inner.stage {
                    Stage::Deciding(_) | Stage::Asked(_) => {
                        self.front_input(&flow, inner, skb, &layout, ctx)
                    }
                    // Another CPU was faster: the client will send again what is missing.
                    _ => None,
                }
            }
            Err(counter) => {
                // It is served as if there were no CARISMA.
                self.counters.count(counter);
                let adopted = self.front_adopt(key, &front, None, ctx);
                adopted.ok().map(|()| skb)
            }
        }
    }

    /// What a segment is that may answer a cookie of any node with a key of ours; and the timestamp clock
    /// of that.
    pub(crate) fn front_verdict(
        &self,
        key: &Tuple,
        header: &tcp::Header<'_>,
        rcu: &rcu::Guard,
    ) -> (Verdict, u32) {
        let now = connection::wall_ms();
        let mut found = (Verdict::Stranger, 0);
        for secret in self.keys().cookies(rcu) {
            let ends = Ends::new(secret, key);
            match ends.check(header.seq(), header.ack(), now) {
                first @ Verdict::First(..) => return (first, ends.clock(now)),
                Verdict::Early => found.0 = Verdict::Early,
                Verdict::Stranger => {}
            }
        }
        found
    }

    /// The flow of a connection whose client has answered a cookie.
    fn front_open(&self, key: &Tuple, front: Front, rcu: &rcu::Guard) -> Result<FlowRef, Counter> {
        let limit = self.knobs.withheld_max();
        let place = self.bounds.ticket(Pool::Withheld, limit);
        let place = place.ok_or(Counter::WithheldRefusedLimit)?;
        let in_band = self.is_always(key, rcu);
        let deciding = Deciding::of_cookie(front, place, in_band);
        match self.front_insert(key, deciding, self.knobs.head_timeout_ms()) {
            Ok(flow) => {
                self.trace_flow(event::FLOW_BEGIN, key, FRONT, 0, 0);
                self.counters.count(Counter::CookiesAnswered);
                Ok(flow)
            }
            Err(Refused::Exists) => self.flows.lookup(key).ok_or(Counter::FlowsRefusedMemory),
            Err(Refused::Full) => Err(Counter::FlowsRefusedLimit),
            Err(Refused::NoMemory) => Err(Counter::FlowsRefusedMemory),
        }
    }

    /// Has TCP adopt a connection that is this node's own, by a segment of the client's or else by one of
    /// our making. An error says that it has not, and what was in the way, if that is known.
    fn front_adopt(
        &self,
        key: &Tuple,
        front: &Front,
        segment: Option<Skb>,
        ctx: &PacketContext,
    ) -> Result<(), Option<Obstacle>> {
        // By the timestamps of a client's segment TCP measures the round trip: that to the ACK before.
        let answered = segment.as_ref().and_then(|_| front.answered());
        let now = answered.unwrap_or_else(connection::now_ms);
        let mut back = front.back(key.local_port.get(), now);
        let adoption = back.adopt().ok_or(None)?;
        let segment = match segment {
            Some(segment) => Ok(segment),
            None => packet::from_client(key, &back.bare_ack(), &[]),
        };
        let ack = segment.map_err(|_| None)?;
        let said = adopt::<Self>(&self.net, ack, &adoption, Withheld::Maybe, ctx);
        // Whatever that is, a socket is what counts.
        if connection::is_live(&self.net, key) {
            self.note(front.print());
            return Ok(());
        }
        Err(said.err())
    }

    /// A connection that began with a cookie is about to be served: when it is over, a copy of its first
    /// segment, which this stands for, begins none.
    pub(crate) fn note(&self, print: u64) {
        if let Some(used) = self.used() {
            used.note(print, connection::coarse_ms());
        }
    }

    /// Whether there is nobody who could answer a connection as it is to be.
    fn is_alone(&self, entering: &Entering) -> bool {
        matches!(entering.leave, Leave::Answer(_)) && !self.withholding.load(Acquire)
    }

    /// TCP is to adopt a connection by the segment that brought its request, which is this node's own. If it
    /// does, that leaves us; if not, all is as before, and the client sends that again. `Deciding`.
    pub(crate) fn front_enter_whole(
        &self,
        flow: &FlowRef,
        mut inner: InnerGuard<'_>,
        mut skb: Skb,
        counter: Counter,
        ctx: &PacketContext,
    ) {
        let stage = core::mem::replace(&mut inner.stage, Stage::Gone);
        let Stage::Deciding(deciding) = stage else {
            inner.stage = stage;
            return;
        };
        let front = deciding.front;
        inner.stage = Stage::Entering(Entering {
            whole: true,
            ..Entering::new(deciding, Leave::Release)
        });
        flow.disarm();
        drop(inner);
        skb.park();
        let has = self.front_adopt(flow.key(), &front, Some(skb), ctx).is_ok();
        let mut inner = flow.inner.lock();
        let stage = core::mem::replace(&mut inner.stage, Stage::Gone);
        let Stage::Entering(Entering { mut deciding, .. }) = stage else {
            inner.stage = stage;
            return;
        };
        if !has {
            // The next time it enters without it, for which it may wait.
            deciding.front.gave_ack();
            inner.stage = Stage::Deciding(deciding);
            flow.arm(self.knobs.head_timeout_ms());
            return;
        }
        self.counters.count(Counter::CookiesAdopted);
        self.front_decided(flow, counter);
        let mut parked = core::mem::take(&mut inner.parked);
        self.end(flow, inner);
        while let Some(skb) = deciding.early.pop().or_else(|| parked.pop()) {
            self.inject(skb, ctx);
        }
    }

    /// TCP is to adopt a connection: as soon as it has, that leaves us; if it never does, the client
    /// is told that it is lost. `Entering`.
    pub(crate) fn front_enter(&self, flow: &FlowRef, ctx: &PacketContext) {
        let (front, alone) = match &flow.inner.lock().stage {
            Stage::Entering(it) if !it.whole => (it.deciding.front, self.is_alone(it)),
            _ => return,
        };
        let adopted = match alone {
            true => Err(Some(Obstacle::Listener)),
            false => self.front_adopt(flow.key(), &front, None, ctx),
        };
        let mut inner = flow.inner.lock();
        let stage = core::mem::replace(&mut inner.stage, Stage::Gone);
        let Stage::Entering(mut entering) = stage else {
            inner.stage = stage;
            return;
        };
        if adopted.is_ok() {
            entering.deciding.cookie = false;
            entering.deciding.front.adopted();
            inner.stage = Stage::Deciding(entering.deciding);
            self.counters.count(Counter::CookiesAdopted);
            self.front_leave(flow, inner, entering.leave, ctx);
            return;
        }
        entering.tries = entering.tries.saturating_add(1);
        // In always mode there mostly is no server here, and nothing to wait for.
        let hopeless = entering.deciding.in_band
            && matches!(
                adopted,
                Err(Some(
                    Obstacle::Listener | Obstacle::Conntrack | Obstacle::Syncookies
                ))
            );
        if entering.tries <= RETRIES && !hopeless {
            inner.stage = Stage::Entering(entering);
            flow.arm(RETRY_MS);
            return;
        }
        self.end(flow, inner);
        self.counters.count(Counter::FlowsReset);
        let (acked, _, _) = front.newest();
        self.reset_client(flow, acked, ctx);
    }
}
