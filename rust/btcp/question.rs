// SPDX-License-Identifier: GPL-2.0

//! Questions between nodes in *always* mode, in band: whether a back end has a connection, which its front
//! end has not heard of for long ([`crate::always`]), or of which a front end knows nothing
//! ([`crate::seek`]).
//!
//! A back end relays to one front end, the last that has claimed a connection or handed it over. The one
//! before is told so, and told again when it asks: it then forgets the connection, and its client, who
//! does not go by way of it any more, hears nothing of that.

use crate::{
    always::REPEAT_MS,
    counters::Counter,
    flow::{FlowRef, InnerGuard, Over, Stage},
    forward::{Forward, Link},
    packet,
    seek::nodes_of,
    state::State,
    trace::{event, BACK},
};
use carisma_core::{
    cookie::Verdict,
    inband::{Question, Standing, ANSWER, REFUSED},
    seq::Seq,
    tcp::{self, flag, Build},
    tuple::Tuple,
};
use carisma_net::{
    connection,
    netfilter::PacketContext,
    skb::{Layout, Skb},
};
use kernel::sync::rcu;

impl State {
    /// Asks a node about a connection, and says whether the question was sent. No lock of a flow is held.
    pub(crate) fn front_inquire(
        &self,
        key: &Tuple,
        node: u32,
        question: Question,
        number: Seq,
        ctx: &PacketContext,
    ) -> bool {
        let build = Build {
            flags: REFUSED,
            window: question.number(),
            ..Build::rst(key.client_port.get(), key.local_port.get(), number)
        };
        let sent = match (
            self.tunnel_to(node, ctx),
            packet::from_client(key, &build, &[]),
        ) {
            (Some(via), Ok(skb)) => self.xmit_via(node, via, skb, ctx).is_ok(),
            _ => false,
        };
        if !sent {
            // What is lost is asked once more.
            self.counters.count(Counter::PacketsDroppedUnroutable);
        }
        sent
    }

    /// A segment that acknowledges `acked` and answers a cookie, but is not the client's first. It waits or, if
    /// nobody can be asked, is lost: the client sends it again. At PRE_ROUTING.
    pub(crate) fn front_overtaking(&self, key: &Tuple, acked: Seq, skb: Skb) {
        self.counters.count(Counter::CookiesEarly);
        let _ = self.front_seek(key, acked, Some(skb));
    }

    /// Whether a segment begins the very connection that is sought, so that it need not be any more.
    pub(crate) fn front_begins(
        &self,
        key: &Tuple,
        stage: &Stage,
        skb: &Skb,
        at: &Layout,
        rcu: &rcu::Guard,
    ) -> bool {
        if !matches!(stage, Stage::Seeking(seeking) if seeking.young) {
            return false;
        }
        let header = skb.tcp(at).and_then(tcp::Header::parse);
        header.is_some_and(|header| {
            header.flags() & (flag::SYN | flag::ACK | flag::RST) == flag::ACK
                && matches!(
                    self.front_verdict(key, &header, rcu),
                    (Verdict::First(..), _)
                )
        })
    }

    /// Claims a connection of these nodes, in band. No lock of a flow is held.
    pub(crate) fn front_claim(&self, key: &Tuple, acked: Seq, nodes: u64, ctx: &PacketContext) {
        for node in nodes_of(nodes) {
            // One that cannot be asked is one that does not answer.
            let _ = self.front_inquire(key, node, Question::Claim, acked, ctx);
        }
    }

    /// The timer of a connection that is sought has run out. Softirq.
    pub(crate) fn front_seek_on(&self, flow: &FlowRef, inner: InnerGuard<'_>, ctx: &PacketContext) {
        let Stage::Seeking(seeking) = &inner.stage else {
            return;
        };
        let (acked, pending) = (seeking.acked, seeking.pending);
        let patience = self.knobs.handoff_timeout_ms();
        let left = seeking.asked.map_or(0, |since| since.left(patience));
        if left == 0 {
            return self.front_unknown(flow, inner, ctx);
        }
        flow.arm(left.min(REPEAT_MS));
        drop(inner);
        self.front_claim(flow.key(), acked, pending, ctx);
    }

    /// A node has answered whether it has a connection that is sought. Softirq.
    fn front_sought_in_band(
        &self,
        flow: &FlowRef,
        mut inner: InnerGuard<'_>,
        node: u32,
        header: &tcp::Header<'_>,
        ctx: &PacketContext,
    ) {
        let Stage::Seeking(seeking) = &mut inner.stage else {
            return;
        };
        if header.ack() != seeking.acked || !seeking.on_answer(node) {
            self.counters.count(Counter::PacketsDroppedStale);
            return;
        }
        let key = flow.key();
        let way = match Standing::of(header.window()) {
            Standing::Present => self.front_way_to(key, node, &key.local, key.local_port.get()),
            _ => None,
        };
        self.front_told(flow, inner, node, way, Some(header.seq()), ctx);
    }

    /// A back end says what it has of a connection. Until it was asked the client may have begun another.
    pub(crate) fn front_answered_for<'a>(
        &self,
        flow: &'a FlowRef,
        mut inner: InnerGuard<'a>,
        node: u32,
        header: &tcp::Header<'_>,
        ctx: &PacketContext,
    ) {
        let standing = Standing::of(header.window());
        let is_taken = match &inner.stage {
            Stage::Seeking(seeking) if seeking.in_band() => {
                return self.front_sought_in_band(flow, inner, node, header, ctx);
            }
            Stage::Committed(it) if it.in_band && it.node == node => match standing {
                // So it has it, which it has said to another front end only.
                Standing::Moved => it.front.has(header.ack()),
                Standing::Present => it.front.next() == header.ack(),
                Standing::Absent => false,
            },
            _ => false,
        };
        if is_taken {
            self.front_taken(flow, inner, ctx);
            inner = flow.inner.lock();
        }
        match &mut inner.stage {
            Stage::Forward(Forward {
                node: its,
                link: Link::InBand(in_band),
                ..
            }) if *its == node && in_band.closing.has(header.ack()) => match standing {
                Standing::Present => in_band.hear(),
                Standing::Moved => self.front_closed(flow, inner, false),
                Standing::Absent => self.front_missing(flow, inner, ctx),
            },
            _ => self.counters.count(Counter::PacketsDroppedStale),
        }
    }

    /// A front end asks about a connection. Softirq; no lock is held.
    pub(crate) fn back_asked(
        &self,
        node: u32,
        key: &Tuple,
        flow: Option<&FlowRef>,
        (question, number): (Question, Seq),
        ctx: &PacketContext,
    ) {
        let (next, standing) = match question {
            Question::Presence => (Seq(0), self.back_standing(node, key, flow)),
            Question::Claim => {
                let enters = |flow: &FlowRef| matches!(flow.inner.lock().stage, Stage::Replay(_));
                if flow.is_some_and(enters) {
                    // It is asked again when that is over.
                    return;
                }
                match flow.and_then(|flow| self.back_claimed(node, flow, ctx)) {
                    Some(next) => (next, Standing::Present),
                    None => (Seq(0), Standing::Absent),
                }
            }
        };
        self.back_answer(node, key, standing, next, number, ctx);
    }

    /// What this node has of a connection for the front end that gave it.
    fn back_standing(&self, node: u32, key: &Tuple, flow: Option<&FlowRef>) -> Standing {
        let (enters, moved) = match flow.map(|flow| flow.inner.lock()).as_deref() {
            Some(inner) => match &inner.stage {
                Stage::Replay(_) => (true, false),
                Stage::Live(it) | Stage::Over(Over::Live(it)) => {
                    (false, it.origin.in_band && it.origin.node != node)
                }
                _ => (false, false),
            },
            None => (false, false),
        };
        if moved {
            return Standing::Moved;
        }
        let has = enters
            || connection::is_live(&self.net, key)
            || connection::is_in_time_wait(&self.net, key);
        match has {
            true => Standing::Present,
            false => Standing::Absent,
        }
    }

    /// A connection that was handed over in band is for this front end from now on; what TCP expects next
    /// of its client. `None` if there is no such connection, or it is over. No lock of a flow is held.
    pub(crate) fn back_claimed(
        &self,
        node: u32,
        flow: &FlowRef,
        ctx: &PacketContext,
    ) -> Option<Seq> {
        let key = flow.key();
        let mut inner = flow.inner.lock();
        let Stage::Live(live) = &mut inner.stage else {
            return None;
        };
        if !live.origin.in_band {
            return None;
        }
        let next = connection::expects(&self.net, key)?;
        let before = core::mem::replace(&mut live.origin.node, node);
        drop(inner);
        if before != node {
            // If that is lost, it will ask.
            self.back_answer(before, key, Standing::Moved, Seq(0), next, ctx);
            self.trace_flow(event::FLOW_HANDED_OFF, key, BACK, node, 0);
            self.counters.count(Counter::HandoffsMoved);
        }
        Some(next)
    }

    /// Tells a front end what this node has of a connection: the answer to a question with that `number`, or
    /// to none.
    pub(crate) fn back_answer(
        &self,
        node: u32,
        key: &Tuple,
        standing: Standing,
        next: Seq,
        number: Seq,
        ctx: &PacketContext,
    ) {
        let answer = Build {
            flags: ANSWER,
            ack: number,
            window: standing.number(),
            ..Build::rst(key.local_port.get(), key.client_port.get(), next)
        };
        if let Ok(skb) = packet::to_client(key, &answer) {
            self.back_relay(node, skb, ctx);
        }
    }
}
