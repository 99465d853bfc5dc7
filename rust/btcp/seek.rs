// SPDX-License-Identifier: GPL-2.0

//! A second chance for connections of which the front end knows nothing, though another node serves them:
//! their front end was another one, whose address this node has now, or this one has forgotten all.
//!
//! Front end: TCP here answers a client's segment with a reset, as it has no such connection. That is kept
//! back, and the nodes that serve requests of the service are asked: by control connection or, in always
//! mode, in band ([`crate::question`]), and again until they answer. If one has the connection, it is
//! forwarded from then on (`Seeking` → `Forward`); if none has, the reset goes out. The segment itself is
//! lost by then: the client sends it again, or the server what it acknowledged. In return this costs
//! nothing at all for what TCP here does know.
//!
//! TCP never sees a segment that answers a cookie but is not the first. It may be that of a connection that
//! another node serves, and whose server has not answered yet; so that is sought, too. If nobody has it, it
//! has yet to begin, and its client is told nothing.
//!
//! Back end: who asks is the front end of the connection from then on, and the one before is told to
//! forget it.

use crate::{
    always::{InBand, REPEAT_MS},
    bounds::{Pool, Ticket},
    counters::{Counter, Gauge},
    flow::{Flow, FlowRef, InnerGuard, Stage},
    forward::{
        Forward,
        Link, //
    },
    lower,
    node::Node,
    service::Mode,
    snapshot::{Snapshot, NODES_MAX},
    state::State,
    trace::{event, BACK, FRONT},
};
use carisma_core::{
    seq::Seq,
    tcp::{self, flag, Build},
    tuple::{Addr, Tuple},
    wire::{Body, Handoff, Reason},
};
use carisma_net::{
    connection::{self, Moment},
    netfilter::PacketContext,
    route::Via,
    skb::{Ends, Skb},
    table::Refused,
};
use kernel::sync::{
    atomic::{Atomic, Relaxed},
    rcu,
};

/// How many connections other nodes are asked about in a second; the others are reset.
const RATE: u32 = 1_000;

// A node has a bit.
const _: () = assert!(NODES_MAX <= u64::BITS as usize);

/// A connection about which other nodes were asked.
pub(crate) struct Seeking {
    pub(crate) id: u64,
    /// What the client has acknowledged: the number of the reset that TCP here had for it.
    pub(crate) acked: Seq,
    /// The nodes that have not answered, by their indexes.
    pub(crate) pending: u64,
    /// Since when they are asked in band; `None` if by control connections.
    pub(crate) asked: Option<Moment>,
    /// It may have yet to begin.
    pub(crate) young: bool,
    _ticket: Ticket,
}

impl Seeking {
    /// Whether nodes are asked in band.
    pub(crate) fn in_band(&self) -> bool {
        self.asked.is_some()
    }

    /// A node has answered. Whether it was asked, and has not answered before.
    pub(crate) fn on_answer(&mut self, node: u32) -> bool {
        let asked = self.pending & bit(node) != 0;
        self.pending &= !bit(node);
        asked
    }
}

/// How many events there were in this second.
pub(crate) struct Rate {
    second: Atomic<u32>,
    events: Atomic<u32>,
}

impl Rate {
    pub(crate) const fn new() -> Self {
        Self {
            second: Atomic::new(0),
            events: Atomic::new(0),
        }
    }

    /// Whether one more is within the limit. Those that come at the turn of a second on several CPUs may
    /// be counted to the wrong one. Any context.
    fn allows(&self, limit: u32) -> bool {
        let second = connection::now_ms() / 1_000;
        if self.second.load(Relaxed) != second {
            self.second.store(second, Relaxed);
            self.events.store(0, Relaxed);
        }
        self.events.fetch_add(1, Relaxed) < limit
    }
}

/// The bit of a node.
fn bit(node: u32) -> u64 {
    1u64.checked_shl(node.wrapping_sub(1)).unwrap_or(0)
}

/// The nodes that have bits.
pub(crate) fn nodes_of(bits: u64) -> impl Iterator<Item = u32> {
    // CAST: A small number.
    (1..=NODES_MAX as u32).filter(move |node| bits & bit(*node) != 0)
}

impl State {
    /// A segment of this node's TCP on a connection that is no flow. Answers it, unless it is a reset
    /// that is to wait. At LOCAL_OUT.
    pub(crate) fn front_stray(&self, key: &Tuple, ends: &Ends, mut skb: Skb) -> Option<Skb> {
        // This is how TCP answers a segment with an acknowledgement of a connection that it does not
        // have (RFC 9293, section 3.10.7.1); what ends one that it has acknowledges something itself.
        let kind = flag::SYN | flag::ACK | flag::FIN | flag::RST;
        if ends.flags & kind != flag::RST {
            return Some(skb);
        }
        let acked = skb
            .layout()
            .and_then(|layout| Some(skb.tcp(&layout).and_then(tcp::Header::parse)?.seq()));
        match acked.and_then(|acked| self.front_seek(key, acked, None)) {
            Some(()) => None,
            None => Some(skb),
        }
    }

    /// Asks for a connection whose client has acknowledged `acked`, if there is anybody to be asked. It is
    /// one that TCP here has a reset for, or this is a segment of its client's, who gets none.
    pub(crate) fn front_seek(&self, key: &Tuple, acked: Seq, early: Option<Skb>) -> Option<()> {
        let (in_band, mut pending) = self.front_nodes(key);
        if pending == 0 || self.config.is_draining() {
            return None;
        }
        let limit = self.knobs.handoffs_max();
        let ticket = match self.seeks.allows(RATE) {
            true => self.bounds.ticket(Pool::Asked, limit),
            false => None,
        };
        let Some(ticket) = ticket else {
            self.counters.count(Counter::SeeksRefusedLimit);
            return None;
        };
        if in_band {
            // Nothing is claimed that could not be forwarded.
            let way = |node: &u32| self.front_way_to(key, *node, &key.local, key.local_port.get());
            let open = nodes_of(pending).filter(|node| way(node).is_some());
            pending = open.fold(0, |nodes, node| nodes | bit(node));
            if pending == 0 {
                return None;
            }
        }
        let id = match in_band {
            true => 0,
            false => self.next_handoff(),
        };
        let seeking = Seeking {
            id,
            acked,
            pending,
            asked: in_band.then(Moment::now),
            young: early.is_some(),
            _ticket: ticket,
        };
        let flow = Flow::new(key, Stage::Seeking(seeking), &self.bounds).ok()?;
        // Under the lock no answer comes too early.
        let mut inner = flow.inner.lock();
        match self.flows.insert(&flow, self.knobs.flows_max()) {
            Ok(()) => {}
            // Another CPU was faster with another segment of the same client's.
            Err(Refused::Exists) => return Some(()),
            Err(Refused::Full | Refused::NoMemory) => return None,
        }
        self.counters.up(Gauge::Flows);
        self.trace_flow(event::FLOW_BEGIN, key, FRONT, 0, id);
        if let Some(skb) = early {
            self.park(&mut inner, skb);
        }
        if in_band {
            self.counters.count(Counter::SeeksStarted);
            flow.arm(REPEAT_MS);
            drop(inner);
            self.front_claim(key, acked, pending, &PacketContext::enter());
            return Some(());
        }
        for node in nodes_of(pending) {
            if self.record(node, id, *key, Body::Seek).is_err() {
                pending &= !bit(node);
            }
        }
        if pending == 0 {
            self.end(&flow, inner);
            return None;
        }
        if let Stage::Seeking(seeking) = &mut inner.stage {
            seeking.pending = pending;
        }
        flow.arm(self.knobs.handoff_timeout_ms());
        self.counters.count(Counter::SeeksStarted);
        Some(())
    }

    /// Whether nodes are asked in band for a connection to this service; and those that may serve it, and can
    /// be asked. A control connection that is down says nothing of what was handed off in band.
    fn front_nodes(&self, key: &Tuple) -> (bool, u64) {
        let rcu = rcu::read_lock();
        let config = self.config.snapshot(&rcu);
        let Some(service) = config.service(&key.local, key.local_port.get()) else {
            return (false, 0);
        };
        let in_band = service.mode == Mode::Always;
        let may = |index: &u32| {
            let node = config.node(*index);
            node.is_some_and(|node| !node.local && (in_band || node.is_up()))
        };
        let nodes = service.rules.iter().flat_map(|rule| rule.target.nodes());
        let found = nodes.filter(may).fold(0, |nodes, node| nodes | bit(node));
        (in_band, found)
    }

    /// A node has answered whether it has a connection. Process context.
    pub(crate) fn front_sought(
        &self,
        flow: &FlowRef,
        mut inner: InnerGuard<'_>,
        node: u32,
        body: &Body<'_>,
        ctx: &PacketContext,
    ) {
        let Stage::Seeking(seeking) = &mut inner.stage else {
            return;
        };
        if seeking.in_band() || !seeking.on_answer(node) {
            return;
        }
        let way = match body {
            Body::Own { addr, port } => self.front_way_to(flow.key(), node, addr, *port),
            _ => None,
        };
        self.front_told(flow, inner, node, way, None, ctx);
    }

    /// A node has answered: segments get to it in this way, if it has the connection. In band it has said
    /// what TCP there expects next of the client.
    pub(crate) fn front_told(
        &self,
        flow: &FlowRef,
        mut inner: InnerGuard<'_>,
        node: u32,
        way: Option<Via>,
        next: Option<Seq>,
        ctx: &PacketContext,
    ) {
        let Stage::Seeking(seeking) = &inner.stage else {
            return;
        };
        let (id, acked, last) = (seeking.id, seeking.acked, seeking.pending == 0);
        if let Some(via) = way.filter(|_| lower::hold_modules(next.is_some())) {
            flow.disarm();
            inner.stage = Stage::Forward(Forward {
                node,
                via,
                stuck: None,
                time_wait: false,
                acked,
                link: match next {
                    Some(next) => Link::InBand(InBand::new(flow, next, next)),
                    None => Link::Control { id, down: None },
                },
            });
            inner.draining = true;
            drop(inner);
            self.trace_flow(event::FLOW_HANDED_OFF, flow.key(), FRONT, node, id);
            self.counters.count(Counter::SeeksFound);
            self.counters.up(Gauge::HandedOffOut);
            self.drain(flow, ctx);
        } else if last {
            self.front_unknown(flow, inner, ctx);
        }
    }

    /// How segments get to a node whose TCP has a connection at this address.
    pub(crate) fn front_way_to(
        &self,
        key: &Tuple,
        node: u32,
        addr: &Addr,
        port: u16,
    ) -> Option<Via> {
        if port != key.local_port.get() {
            return None;
        }
        if *addr != key.local {
            return Some(Via::Named(*addr)).filter(|via| via.takes(&key.local));
        }
        let ctx = PacketContext::enter();
        let config = self.config.snapshot(ctx.rcu());
        let own = config.local_node()?;
        let node = config.node(node)?;
        let via = Some(node.via(&self.net, own, addr, &ctx));
        let via = via.filter(|via| via.is_unchanged() && via.takes(addr));
        via.or_else(|| node.via_unchanged(&self.net, own, addr, &ctx))
    }

    /// Nobody has a connection, as far as can be found out: its client is told so, unless it may begin.
    pub(crate) fn front_unknown(&self, flow: &FlowRef, inner: InnerGuard<'_>, ctx: &PacketContext) {
        let Stage::Seeking(seeking) = &inner.stage else {
            return;
        };
        let (key, young) = (flow.key(), seeking.young);
        let reset = Build::rst(key.local_port.get(), key.client_port.get(), seeking.acked);
        self.end(flow, inner);
        if !young {
            self.tell_client(flow, &reset, ctx);
        }
    }

    /// A front end asks for a connection of a client's. Process context.
    pub(crate) fn back_sought(&self, node: u32, handoff: &Handoff<'_>) {
        let key = &handoff.tuple;
        let body = match self.back_find(key) {
            Some(flow) if self.back_move(&flow, node, handoff) => Body::Own {
                addr: flow.key().local,
                port: flow.key().local_port.get(),
            },
            _ => Body::Reject(Reason::Unknown),
        };
        // Without an answer the front end resets the client.
        let _ = self.record(node, handoff.id, *key, body);
    }

    /// The flow of a connection that this node serves, by its client and where that connected to.
    fn back_find(&self, key: &Tuple) -> Option<FlowRef> {
        let is_it = |flow: &FlowRef| match &flow.inner.lock().stage {
            Stage::Live(live) => !live.origin.in_band && live.origin.theirs(flow) == *key,
            _ => false,
        };
        let own = {
            let rcu = rcu::read_lock();
            let config: &Snapshot = self.config.snapshot(&rcu);
            config
                .local_node()
                .map(|node: &Node| node.reach(&key.local).addr)
        };
        let by_own = own.map(|own| key.with_local(own, key.local_port.get()));
        [Some(*key), by_own]
            .into_iter()
            .flatten()
            .find_map(|key| self.flows.lookup(&key).filter(is_it))
    }

    /// Has another front end than before forward a connection.
    fn back_move(&self, flow: &FlowRef, node: u32, handoff: &Handoff<'_>) -> bool {
        let mut inner = flow.inner.lock();
        let Stage::Live(live) = &mut inner.stage else {
            return false;
        };
        let before = live.origin;
        live.origin.node = node;
        live.origin.id = handoff.id;
        live.orphan = None;
        drop(inner);
        if !before.is_orphan() && before.node != node {
            let closed = Body::Closed { linger: false };
            // If it cannot be told, it asks when it can be again.
            let _ = self.record(before.node, before.id, handoff.tuple, closed);
        }
        self.trace_flow(event::FLOW_HANDED_OFF, flow.key(), BACK, node, handoff.id);
        self.counters.count(Counter::HandoffsMoved);
        true
    }
}
