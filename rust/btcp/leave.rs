// SPDX-License-Identifier: GPL-2.0

//! The front end's side: a request that is this node's own, or answered here.
//!
//! What BTCP has acknowledged the client does not send again. TCP is therefore given it until it has
//! it, whatever keeps it from it at first: memory, the route, a rule of the firewall.

use crate::{
    cookie::Entering,
    counters::Counter,
    early::Early,
    flow::{FlowRef, InnerGuard, Stage},
    front::Deciding,
    lower,
    state::State,
};
use carisma_core::{answer::Answer, seq::Seq};
use carisma_net::{connection, link::kind, netfilter::PacketContext, skb::Skb, slab::CacheBox};
use kernel::{
    sync::atomic::{Atomic, Relaxed},
    time::{delay::fsleep, Delta},
};

/// When TCP is given again what it has not taken: at first, and at most. The time doubles.
const REPEAT_MS: u32 = 200;
const REPEAT_MAX_MS: u32 = 6_400;

/// Who answers a request.
#[derive(Clone, Copy)]
pub(crate) enum Leave {
    /// The server here.
    Release,
    /// This, in its place.
    Answer(Answer),
}

/// How long this module waits for TCP to take what is owed to it, and how often it looks.
const SETTLE_MS: u32 = 5_000;
const LOOK_MS: u32 = 10;

/// Connections, of all namespaces, to whose TCP something is owed.
static OWED: Atomic<u32> = Atomic::new(0);

/// TCP here has not taken yet what was acknowledged to a client.
pub(crate) struct Owed(());

impl Owed {
    pub(crate) fn new() -> Self {
        OWED.fetch_add(1, Relaxed);
        Self(())
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        OWED.fetch_sub(1, Relaxed);
    }
}

/// Waits until nothing is owed to TCP, for some seconds at most. There is nothing new: UTCP is gone.
/// Process context.
pub(crate) fn settle() {
    for _ in 0..SETTLE_MS / LOOK_MS {
        if OWED.load(Relaxed) == 0 {
            return;
        }
        fsleep(Delta::from_millis(LOOK_MS.into()));
    }
}

/// A connection of which TCP is being given what was held.
pub(crate) struct Leaving {
    _owed: Owed,
    /// What was held; `None` while TCP is being given it.
    deciding: Option<CacheBox<Deciding>>,
    /// The number behind the last byte of it.
    next: Seq,
    /// Until it is given that again.
    wait_ms: u32,
}

impl State {
    /// The request is this node's own: the server gets the connection, TCP what is held of it. The
    /// flow ends.
    pub(crate) fn front_local(&self, flow: &FlowRef, inner: InnerGuard<'_>, ctx: &PacketContext) {
        self.front_leave(flow, inner, Leave::Release, ctx);
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
        self.front_leave(flow, inner, Leave::Answer(answer), ctx);
    }

    /// The same, with a segment that TCP is to get itself: now, or when it has the connection.
    pub(crate) fn front_leave_with(
        &self,
        flow: &FlowRef,
        mut inner: InnerGuard<'_>,
        mut skb: Option<Skb>,
        leave: Leave,
        ctx: &PacketContext,
    ) -> Option<Skb> {
        if matches!(&inner.stage, Stage::Deciding(it) if it.cookie) {
            if let Some(skb) = skb.take() {
                self.park(&mut inner, skb);
            }
        }
        self.front_leave(flow, inner, leave, ctx);
        skb
    }

    /// The connection is this node's own: UTCP is told so, TCP gets what is held of it. The flow
    /// ends as soon as TCP has it. `Deciding` or `Asked`.
    pub(crate) fn front_leave(
        &self,
        flow: &FlowRef,
        inner: InnerGuard<'_>,
        leave: Leave,
        ctx: &PacketContext,
    ) {
        let mut inner = self.front_socket(flow, inner, ctx);
        let stage = core::mem::replace(&mut inner.stage, Stage::Gone);
        let (Stage::Deciding(mut deciding) | Stage::Asked(mut deciding)) = stage else {
            inner.stage = stage;
            return;
        };
        if deciding.cookie {
            deciding.asked = None;
            inner.stage = Stage::Entering(Entering::new(deciding, leave));
            drop(inner);
            self.front_enter(flow, ctx);
            return;
        }
        let mut early = core::mem::replace(&mut deciding.early, Early::new());
        let mut parked = core::mem::take(&mut inner.parked);
        (deciding.asked, deciding.withheld) = (None, None);
        let ends = deciding.bytes.is_empty();
        if ends {
            self.end(flow, inner);
        } else {
            flow.disarm();
            inner.stage = Stage::Leaving(Leaving {
                _owed: Owed::new(),
                deciding: None,
                next: deciding.front.next(),
                wait_ms: REPEAT_MS,
            });
            drop(inner);
        }
        // Without UTCP, or with a socket that has been closed meanwhile, it is TCP's alone.
        let _ = match leave {
            Leave::Release => lower::put(&self.net, kind::CONN_RES, flow.key()),
            Leave::Answer(answer) => lower::answer(&self.net, answer, flow.key()),
        };
        self.front_give(flow, deciding, ctx);
        while let Some(skb) = early.pop() {
            self.inject(skb, ctx);
        }
        while let Some(skb) = parked.pop() {
            self.inject(skb, ctx);
        }
        if !ends {
            self.front_left(flow);
        }
    }

    /// Gives TCP what was held, and keeps it for the next time: `Leaving`, or `Gone`.
    fn front_give(&self, flow: &FlowRef, deciding: CacheBox<Deciding>, ctx: &PacketContext) {
        self.stream_to_tcp(
            flow,
            &deciding.bytes,
            |offset| deciding.front.segment(offset),
            ctx,
        );
        if let Stage::Leaving(leaving) = &mut flow.inner.lock().stage {
            leaving.deciding = Some(deciding);
        }
    }

    /// Ends the flow if TCP has what was held, or no socket any more, and says so. If not, there
    /// will be a next time.
    fn front_left(&self, flow: &FlowRef) -> bool {
        let next = connection::expects(&self.net, flow.key());
        let mut inner = flow.inner.lock();
        let Stage::Leaving(leaving) = &mut inner.stage else {
            return true;
        };
        let left = next.is_none_or(|next| next.ge(leaving.next));
        if left {
            self.end(flow, inner);
        } else {
            flow.arm(leaving.wait_ms);
            leaving.wait_ms = leaving.wait_ms.saturating_mul(2).min(REPEAT_MAX_MS);
        }
        left
    }

    /// TCP has had time to take what was held. Softirq.
    pub(crate) fn front_leaving(&self, flow: &FlowRef, ctx: &PacketContext) {
        if self.front_left(flow) {
            return;
        }
        let held = match &mut flow.inner.lock().stage {
            Stage::Leaving(leaving) => leaving.deciding.take(),
            _ => None,
        };
        if let Some(deciding) = held {
            self.counters.count(Counter::HeldRepeated);
            self.front_give(flow, deciding, ctx);
        }
    }
}
