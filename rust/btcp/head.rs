// SPDX-License-Identifier: GPL-2.0

//! The front end's side: what is held of a client's stream, and what its request head leads to.

use crate::{
    bounds::Held,
    counters::Counter,
    flow::{FlowRef, Inner, InnerGuard, Stage},
    front::Deciding,
    leave::Leave,
    service::{Candidate, Mode, Otherwise, Target},
    state::State,
    trace::event,
};
use carisma_core::{
    answer::Answer,
    front::Front,
    http::{self, Scan, Scanned},
    tcp,
    tuple::Tuple,
    wire,
};
use carisma_net::{
    connection,
    netfilter::PacketContext,
    skb::{Layout, Skb},
};
use kernel::prelude::*;

/// How much of a stream is held: more than the longest head, and less than a DATA record takes.
const HELD_MAX: usize = 48 << 10;
const _: () = assert!(HELD_MAX < wire::MAX_DATA);

/// Why bytes are not held.
enum Unheld {
    /// There is no memory.
    Memory,
    /// As many are as may be.
    Bound,
}

/// What a whole request head, or one that will not be, leads to.
pub(crate) enum Decision {
    /// More of it has to come.
    Wait,
    /// It is served here.
    Local(Counter),
    /// It is answered here, and the connection closed.
    Answer(Answer, Counter),
    /// Another node is to serve it.
    Remote(Target),
}

/// Whether TCP may adopt a connection, which began with a cookie, by this segment. In always mode there may be
/// nobody who would: the client is to hear of that at once.
fn may_enter(deciding: &Deciding, skb: &Skb, layout: &Layout) -> bool {
    let header = || skb.tcp(layout).and_then(tcp::Header::parse);
    let soon = |it| deciding.front.may_open(&it, connection::now_ms());
    let is_ours = deciding.cookie && !deciding.in_band;
    is_ours && layout.is_plain(skb) && layout.payload != 0 && header().is_some_and(soon)
}

impl State {
    /// The client's stream goes on. It was `decided` if the segment was already looked at.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn front_take(
        &self,
        flow: &FlowRef,
        mut inner: InnerGuard<'_>,
        mut skb: Skb,
        layout: &Layout,
        skip: u32,
        fin: bool,
        decided: Option<Decision>,
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
        let linear = skb.near_payload(layout).and_then(|bytes| bytes.get(skip..));
        // Whether all of the segment is in what is held.
        let mut whole = false;
        let decision = match linear {
            // The usual case: the whole head in one segment, which is looked at where it lies.
            Some(bytes) if first => decided.unwrap_or_else(|| {
                self.decide(key, &deciding.front, &mut deciding.scan, bytes, fin, ctx)
            }),
            _ => {
                match self.front_hold(deciding, held, &skb, layout, skip) {
                    Ok(all) => whole = all,
                    Err(why) => return self.front_unheld(flow, inner, skb, why, ctx),
                }
                let Deciding { scan, bytes, .. } = deciding;
                self.decide(key, &deciding.front, scan, bytes, fin, ctx)
            }
        };
        let keep = matches!(decision, Decision::Wait | Decision::Remote(_));
        if keep && deciding.bytes.is_empty() {
            match self.front_hold(deciding, held, &skb, layout, skip) {
                Ok(all) => whole = all,
                Err(why) => return self.front_unheld(flow, inner, skb, why, ctx),
            }
        }
        if let Decision::Remote(_) | Decision::Answer(_, Counter::RequestsUnavailable) = decision {
            self.count_remote(key, ctx);
        }
        match decision {
            Decision::Wait => {
                self.front_acknowledge(flow, inner, ctx);
                None
            }
            Decision::Local(counter) if first && may_enter(deciding, &skb, layout) => {
                self.front_enter_whole(flow, inner, skb, counter, ctx);
                None
            }
            Decision::Local(counter) => {
                self.front_decided(flow, counter);
                // TCP gets the segment itself, unless all that it brings was held.
                let skb = (fin || !whole).then_some(skb);
                self.front_leave_with(flow, inner, skb, Leave::Release, ctx)
            }
            Decision::Answer(answer, counter) => {
                self.front_decided(flow, counter);
                let skb = (fin || !whole).then_some(skb);
                self.front_leave_with(flow, inner, skb, Leave::Answer(answer), ctx)
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
                let leave = Leave::Answer(Answer::Unavailable);
                self.front_leave_with(flow, inner, Some(skb), leave, ctx)
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
        let copied = skb.append_payload(layout, skip, more, &mut deciding.bytes);
        if copied == Ok(true) {
            // CAST: A packet's length fits.
            deciding.front.took(more as u32);
            Ok(more == payload)
        } else {
            held.put(more);
            self.counters.count(Counter::FlowsRefusedMemory);
            Err(Unheld::Memory)
        }
    }

    /// Decides about the bytes at the beginning of the client's stream. What is local by that is counted.
    pub(crate) fn decide(
        &self,
        key: &Tuple,
        front: &Front,
        scan: &mut Scan,
        bytes: &[u8],
        fin: bool,
        ctx: &PacketContext,
    ) -> Decision {
        let bad = Decision::Local(Counter::HeadsBad);
        let too_long = Decision::Answer(Answer::TooLarge, Counter::HeadsTooLong);
        let max = self.knobs.head_max();
        if bytes.len() <= max && http::may_be_whole(bytes) {
            if let Ok(head) = http::Head::parse(bytes) {
                return self.route(key, front, &head, ctx);
            }
        }
        match scan.advance(bytes) {
            Scanned::Head(len) if len > max => too_long,
            Scanned::Head(len) => match bytes.get(..len).map(http::Head::parse) {
                Some(Ok(head)) => self.route(key, front, &head, ctx),
                _ => bad,
            },
            Scanned::Partial if fin => bad,
            Scanned::Partial if bytes.len() >= max => too_long,
            Scanned::Partial => Decision::Wait,
            Scanned::Bad(_) => bad,
        }
    }

    /// Decides about a request.
    fn route(
        &self,
        key: &Tuple,
        front: &Front,
        head: &http::Head<'_>,
        ctx: &PacketContext,
    ) -> Decision {
        let config = self.config.snapshot(ctx.rcu());
        let service = config.service(&key.local, key.local_port.get());
        let target = service.map_or(Target::HERE, |service| service.route(config, head));
        let here = target.is_here(config);
        let in_band = service.is_some_and(|service| service.mode == Mode::Always);
        if here {
            if let Some(service) = service {
                service.on_request(false);
            }
            return Decision::Local(Counter::RequestsLocal);
        }
        let obstacle = if self.config.is_draining() {
            Counter::RequestsLocalDraining
        } else if !front.is_portable() {
            Counter::RequestsLocalOptions
        } else {
            let mut candidates = target;
            match candidates.next(config, in_band) {
                Candidate::Node(..) => return Decision::Remote(target),
                Candidate::Here | Candidate::None => Counter::RequestsLocalPeerDown,
            }
        };
        match target.otherwise() {
            Otherwise::Unavailable if !target.may_be_here(config) => {
                Decision::Answer(Answer::Unavailable, Counter::RequestsUnavailable)
            }
            _ => {
                self.count_remote(key, ctx);
                Decision::Local(obstacle)
            }
        }
    }

    /// Counts a request that another node should serve.
    fn count_remote(&self, key: &Tuple, ctx: &PacketContext) {
        self.counters.count(Counter::RequestsRemote);
        let config = self.config.snapshot(ctx.rcu());
        if let Some(service) = config.service(&key.local, key.local_port.get()) {
            service.on_request(true);
        }
    }
}
