// SPDX-License-Identifier: GPL-2.0

//! The front end's side: how a flow begins, with a place among the handshakes, and a SYN that TCP is
//! shown without what a handoff cannot carry.

use crate::{
    bounds::{Pool, Ticket},
    counters::{Counter, Gauge},
    flow::{Flow, FlowRef, Stage},
    front::Deciding,
    service::{Mode, Service},
    state::State,
    trace::{event, FRONT},
};
use carisma_core::{
    front::Front,
    tcp::{self, option, Opt},
    translate,
    tuple::Tuple,
};
use carisma_net::{
    netfilter::PacketContext,
    skb::{Layout, Skb},
    slab::CacheBox,
    table::Refused,
};
use kernel::{
    prelude::*,
    sync::atomic::Acquire, //
};

/// How long a handshake may take: longer than TCP repeats its SYN-ACK
/// (net.ipv4.tcp_synack_retries).
pub(crate) const HANDSHAKE_MS: u32 = 75_000;

/// How many of the oldest handshakes are looked at for one that is still under way.
const EVICTIONS: usize = 32;

impl State {
    /// A client's first segment to a service. It goes on to TCP. This node's own connections are
    /// served here: IPv4 takes a segment from one of our addresses by loopback only, and with the
    /// route that it was sent by, which none has that was made or waited.
    pub(crate) fn front_begin(
        &self,
        key: &Tuple,
        skb: Skb,
        layout: &Layout,
        ctx: &PacketContext,
    ) -> Option<Skb> {
        let mut skb = skb;
        if skb.is_looped() {
            return Some(skb);
        }
        // TCP drops what has a wrong checksum, and counts it.
        let withholds = self.withholding.load(Acquire);
        let mut mode = Mode::Rare;
        let may = |service: &Service| {
            mode = service.current();
            !service.rules.is_empty() && (withholds || mode == Mode::Always)
        };
        if !self.is_service(key, ctx.rcu(), may) || !skb.checksum_is_right(layout) {
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
        if mode != Mode::Rare && self.front_cookie(key, &skb, layout, &front, mode, ctx) {
            return None;
        }
        if !withholds {
            return Some(skb);
        }
        let Some(handshake) = self.front_handshake(ctx) else {
            self.counters.count(Counter::FlowsRefusedHandshakes);
            return Some(skb);
        };
        let options = &front.client().options;
        let is_plain = layout.payload == 0 && !options.fast_open && !options.mptcp;
        let deciding = Deciding::new(front, handshake);
        let refused = match self.front_insert(key, deciding, HANDSHAKE_MS) {
            Ok(_) => {
                self.recent.push(key);
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
            Counter::FlowsCreated if !is_plain => self.front_strip(skb, layout),
            _ => Some(skb),
        }
    }

    /// A place among the handshakes; at the bound that of the oldest, which is TCP's alone then.
    fn front_handshake(&self, ctx: &PacketContext) -> Option<Ticket> {
        let limit = self.knobs.handshakes_max();
        let ticket = || self.bounds.ticket(Pool::Handshakes, limit);
        ticket().or_else(|| {
            for _ in 0..EVICTIONS {
                let key = self.recent.pop()?;
                let Some(flow) = self.flows.lookup(&key) else {
                    continue;
                };
                let inner = flow.inner.lock();
                if matches!(&inner.stage, Stage::Deciding(it) if !it.is_open()) {
                    self.counters.count(Counter::FlowsEvicted);
                    self.front_forsake(&flow, inner, ctx);
                    return ticket();
                }
            }
            None
        })
    }

    /// Keeps off a connection what a handoff cannot carry: TCP is shown a SYN that asks neither for
    /// Fast Open nor for Multipath TCP, and has no payload, which some accept without being asked;
    /// the client sends that again. `None` without memory: the client sends the SYN again.
    pub(crate) fn front_strip(&self, skb: Skb, layout: &Layout) -> Option<Skb> {
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

    /// Makes the flow of a connection, which ends in so many milliseconds.
    pub(crate) fn front_insert(
        &self,
        key: &Tuple,
        deciding: Deciding,
        wait_ms: u32,
    ) -> Result<FlowRef, Refused> {
        let deciding = CacheBox::new(deciding).map_err(|_| Refused::NoMemory)?;
        let flow = Flow::new(key, Stage::Deciding(deciding), &self.bounds)
            .map_err(|_| Refused::NoMemory)?;
        // Under the lock nobody can end the flow before its timer runs.
        let inner = flow.inner.lock();
        self.flows.insert(&flow, self.knobs.flows_max())?;
        self.counters.up(Gauge::Flows);
        flow.arm(wait_ms);
        drop(inner);
        Ok(flow)
    }
}
