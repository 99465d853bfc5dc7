// SPDX-License-Identifier: GPL-2.0

//! Connections that BTCP has to do with.
//!
//! A flow is found by its [`Tuple`](carisma_core::tuple::Tuple), as this node's TCP sees it, for
//! both directions. All that changes is in [`Inner`], under the flow's lock. That lock may be taken
//! under a socket's lock, and sends records under it; it is never held while a segment is given to
//! TCP or a message to UTCP that takes locks of TCP's, nor while one is sent but in a tunnel: a rule
//! that copies it (`dup`, TEE) shows the copy to our own hook at once.
//!
//! At the front end: `Deciding` → `Asked` → `Committed` → `Forward` → `Over`; if the request is this
//! node's to serve, the flow ends, at once or after `Leaving`; in frequent mode after `Entering`. What
//! another front end has begun: `Seeking` → `Forward`. At the back end: `Replay` → `Live` → `Over`.

use crate::{
    back::Live,
    bounds::{Bounds, Full, Held},
    cookie::Entering,
    counters::{Counter, Gauge},
    forward::{
        Forward,
        Link, //
    },
    front::Deciding,
    leave::Leaving,
    lower, packet,
    replay::Replay,
    seek::Seeking,
    snapshot::Endpoint,
    state::State,
    trace::{event, FRONT},
    uapi::{
        carisma_flow_state_CARISMA_FLOW_STATE_ACCEPTED as STATE_ACCEPTED,
        carisma_flow_state_CARISMA_FLOW_STATE_HANDED_OFF as STATE_HANDED_OFF,
        carisma_flow_state_CARISMA_FLOW_STATE_HANDSHAKE as STATE_HANDSHAKE,
        carisma_flow_state_CARISMA_FLOW_STATE_HEAD as STATE_HEAD,
        carisma_flow_state_CARISMA_FLOW_STATE_LEAVING as STATE_LEAVING,
        carisma_flow_state_CARISMA_FLOW_STATE_LINGERING as STATE_LINGERING,
        carisma_flow_state_CARISMA_FLOW_STATE_REPLAY as STATE_REPLAY,
        carisma_flow_state_CARISMA_FLOW_STATE_REQUESTED as STATE_REQUESTED,
        carisma_flow_state_CARISMA_FLOW_STATE_SEEKING as STATE_SEEKING,
        carisma_role_CARISMA_ROLE_BACK_END as ROLE_BACK,
        carisma_role_CARISMA_ROLE_FRONT_END as ROLE_FRONT, //
    },
};
use carisma_core::{
    tcp::Build,
    tuple::{on_link, Tuple},
    wire::{Body, Handoff, Record},
};
use carisma_net::{
    bytes::zeroes,
    connection,
    lock::SpinLockBh,
    netfilter::{self, PacketContext},
    new_spinlock_bh,
    skb::{Queue, Skb},
    slab::{Cache, CacheBox, Opened},
    table::{Entry, Node, Value},
};
use kernel::{
    prelude::*,
    sync::{rcu, Arc},
};

/// A flow of the table.
pub(crate) type FlowRef = Entry<Flow>;

/// The memory for flows.
pub(crate) type Memory = Opened<Node<Flow>>;

/// Where flows are made.
pub(crate) static MEMORY: Cache<Node<Flow>> = Cache::new();

// With up to three words in its table, 256 bytes are to be enough. Where locks are larger, that is not so.
const _: () = assert!(
    FlowRef::SIZE <= 224
        || cfg!(CONFIG_DEBUG_SPINLOCK)
        || cfg!(CONFIG_DEBUG_LOCK_ALLOC)
        || cfg!(CONFIG_PREEMPT_RT)
);

/// A connection.
#[pin_data]
pub(crate) struct Flow {
    #[pin]
    pub(crate) inner: SpinLockBh<Inner>,
}

/// What is under a flow's lock.
pub(crate) struct Inner {
    pub(crate) stage: Stage,
    /// Segments of the client's that wait until it is known who gets them.
    pub(crate) parked: Queue,
    /// What is held of the client's, parked segments included.
    pub(crate) held: Held,
    /// Somebody is giving the parked segments on, in order: others have to queue behind them.
    pub(crate) draining: bool,
    /// Packets that were forwarded or translated.
    pub(crate) packets: u64,
    /// When it began, by [`connection::uptime_tenths`].
    since: u32,
}

/// How many segments may wait.
const PARKED_MAX: usize = 64;

/// Where a connection stands.
pub(crate) enum Stage {
    /// Here it is the front end, and the request is not whole yet.
    Deciding(CacheBox<Deciding>),
    /// Another node was asked to take it over.
    Asked(CacheBox<Deciding>),
    /// That node was given the request, and has not said that it has it.
    Committed(CacheBox<Deciding>),
    /// This node serves it, and TCP is to adopt it.
    Entering(Entering),
    /// This node serves it, and TCP is being given what was held of it.
    Leaving(Leaving),
    /// Another node serves it.
    Forward(Forward),
    /// Another node may serve it: all that may were asked.
    Seeking(Seeking),
    /// Here it is the back end, whose TCP is being given the connection.
    Replay(KBox<Replay>),
    /// This node serves it for another.
    Live(Live),
    /// It has ended, but its last segments may still come.
    Over(Over),
    /// It is no flow any more, and is in no table.
    Gone,
}

impl Stage {
    /// Whether it is, or is being, handed off in band, or sought so.
    pub(crate) fn in_band(&self) -> bool {
        match self {
            Self::Deciding(it) | Self::Asked(it) | Self::Committed(it) => it.in_band,
            Self::Forward(it) | Self::Over(Over::Forward(it)) => it.is_in_band(),
            Self::Seeking(it) => it.in_band(),
            Self::Replay(it) => it.origin.in_band,
            Self::Live(it) | Self::Over(Over::Live(it)) => it.origin.in_band,
            _ => false,
        }
    }
}

/// How long the last segments of a connection may come: as long as a TIME_WAIT answers them
/// (include/net/tcp.h, TCP_TIMEWAIT_LEN), or as long as one may be on its way.
pub(crate) const fn linger_ms(time_wait: bool) -> u32 {
    if time_wait {
        60_000
    } else {
        1_000
    }
}

/// What is done with the segments of a connection that has ended.
pub(crate) enum Over {
    /// They are forwarded.
    Forward(Forward),
    /// They are translated.
    Live(Live),
}

impl Flow {
    /// A flow to be put into the table.
    pub(crate) fn new(key: &Tuple, stage: Stage, bounds: &Arc<Bounds>) -> Result<FlowRef> {
        let inner = Inner {
            stage,
            parked: Queue::new(),
            held: Held::new(bounds, &key.client),
            draining: false,
            packets: 0,
            since: connection::uptime_tenths(),
        };
        FlowRef::new(
            key,
            try_pin_init!(Self {
                inner <- new_spinlock_bh!(inner, "carisma_flow"),
            }? Error),
        )
    }
}

impl Value for Flow {
    type Owner = State;

    fn cache() -> &'static Cache<Node<Self>> {
        &MEMORY
    }

    fn expired(flow: &FlowRef, state: &State) {
        state.on_timer(flow);
    }
}

impl State {
    /// Makes the flow [`Stage::Gone`] and takes it out of the table, under its lock: who finds it gone will
    /// not find it in the table. Answers what it was. Any context.
    pub(crate) fn take_out(&self, flow: &FlowRef, mut inner: InnerGuard<'_>) -> Stage {
        let was = core::mem::replace(&mut inner.stage, Stage::Gone);
        inner.held.clear();
        flow.disarm();
        if self.flows.remove(flow) {
            self.counters.down(Gauge::Flows);
            self.trace_flow(event::FLOW_END, flow.key(), FRONT, 0, 0);
        }
        was
    }

    /// The flow of a connection, unless it is just going. Any context.
    pub(crate) fn flow_of(&self, key: &Tuple, rcu: &rcu::Guard) -> Option<FlowRef> {
        let flow = self.flows.lookup_under(key, rcu)?;
        let gone = matches!(flow.inner.lock().stage, Stage::Gone);
        (!gone).then_some(flow)
    }

    /// Gives this node's TCP a segment that seems to be the client's. An error, which is memory's
    /// or the route's, is as if the wire had lost it.
    pub(crate) fn to_tcp(
        &self,
        flow: &FlowRef,
        build: &Build,
        payload: &[u8],
        ctx: &PacketContext,
    ) {
        if let Ok(skb) = packet::from_client(flow.key(), build, payload) {
            self.inject(skb, ctx);
        }
    }

    /// Gives this node's TCP a segment of the client's. No lock of a flow or socket is held.
    pub(crate) fn inject(&self, skb: Skb, ctx: &PacketContext) {
        if netfilter::inject::<State>(&self.net, skb, ctx).is_err() {
            self.counters.count(Counter::PacketsDroppedUnroutable);
        }
    }

    /// Gives this node's TCP `bytes` as segments that `build` makes for each offset.
    pub(crate) fn stream_to_tcp(
        &self,
        flow: &FlowRef,
        bytes: &[u8],
        build: impl Fn(u32) -> Build,
        ctx: &PacketContext,
    ) {
        let mut offset: u32 = 0;
        for chunk in bytes.chunks(packet::SEGMENT) {
            self.to_tcp(flow, &build(offset), chunk, ctx);
            // CAST: A chunk is small.
            offset = offset.wrapping_add(chunk.len() as u32);
        }
    }

    /// Lets a segment of the client's wait. At the bound it is dropped, and sent again.
    pub(crate) fn park(&self, inner: &mut Inner, skb: Skb) {
        let size = skb.memory();
        if !self.hold(&mut inner.held, size) {
            return;
        }
        self.counters
            .count(match inner.parked.push(skb, PARKED_MAX) {
                true => Counter::PacketsParked,
                false => {
                    inner.held.put(size);
                    Counter::PacketsDroppedStale
                }
            });
    }

    /// Gives on what was parked, in order, until nothing is left: to the node that serves the
    /// connection, or to TCP here.
    pub(crate) fn drain(&self, flow: &FlowRef, ctx: &PacketContext) {
        loop {
            let mut inner = flow.inner.lock();
            let Some(mut skb) = inner.parked.pop() else {
                inner.draining = false;
                inner.held.clear();
                return;
            };
            match &mut inner.stage {
                Stage::Forward(forward) => {
                    if let Some(layout) = skb.layout() {
                        let flags = forward.note(flow, &skb, &layout);
                        let forward = *forward;
                        drop(inner);
                        self.forward(flow, &forward, skb, &layout, flags, ctx);
                    }
                }
                &mut Stage::Live(Live { translation, .. }) => {
                    drop(inner);
                    if let Some(skb) = skb
                        .layout()
                        .and_then(|layout| self.translate_in(&translation, skb, &layout))
                    {
                        self.inject(skb, ctx);
                    }
                }
                _ => {}
            }
        }
    }

    /// Whether so many bytes of memory more may be held; they are then accounted for.
    pub(crate) fn hold(&self, held: &mut Held, more: usize) -> bool {
        match held.take(more, &self.knobs.held()) {
            Ok(()) => true,
            Err(full) => {
                self.counters.count(match full {
                    Full::Connection => Counter::HeldRefusedConnection,
                    Full::Client => Counter::HeldRefusedClient,
                    Full::Total => Counter::HeldRefusedTotal,
                });
                false
            }
        }
    }

    /// Queues a record for a node. Any context. An error says that it will not be sent.
    pub(crate) fn record(&self, node: u32, id: u64, tuple: Tuple, body: Body<'_>) -> Result {
        // What a link is called here is nothing to others.
        let tuple = tuple.on_link(0);
        let handoff = Handoff { id, tuple, body };
        let record = Record::Handoff(handoff);
        let sent = self.try_record(node, &record);
        let event = match sent {
            Ok(()) => event::RECORD_SENT,
            Err(_) => {
                self.counters.count(Counter::RecordsUnsent);
                event::RECORD_UNSENT
            }
        };
        self.trace_record(event, node, &handoff, record.encoded_len());
        sent
    }

    fn try_record(&self, node: u32, record: &Record<'_>) -> Result {
        let mut bytes = zeroes(record.encoded_len(), GFP_ATOMIC)?;
        let len = record.encode(&mut bytes).ok_or(EMSGSIZE)?;
        let record = bytes.get(..len).ok_or(EMSGSIZE)?;
        lower::send(&self.net, node, record)
    }

    /// The timer of a flow has run out. Softirq.
    fn on_timer(&self, flow: &FlowRef) {
        let ctx = PacketContext::enter();
        let mut inner = flow.inner.lock();
        // Whoever had the lock until now has other plans.
        if flow.is_armed() {
            return;
        }
        match inner.stage {
            Stage::Deciding(_) | Stage::Asked(_) | Stage::Committed(_) => {
                self.front_timer(flow, inner, &ctx);
            }
            Stage::Entering(_) => {
                drop(inner);
                self.front_enter(flow, &ctx);
            }
            Stage::Leaving(_) => {
                drop(inner);
                self.front_leaving(flow, &ctx);
            }
            Stage::Replay(_) => self.back_wait(flow, inner, &ctx),
            Stage::Live(_) => self.back_timer(flow, inner, &ctx),
            Stage::Over(Over::Live(Live {
                untold: Some(_), ..
            })) => self.back_tell(flow, &mut inner),
            // It began when the client's FIN came, not when the server's went.
            Stage::Over(Over::Live(_)) if connection::is_in_time_wait(&self.net, flow.key()) => {
                flow.arm(linger_ms(false));
            }
            Stage::Over(_) => self.end(flow, inner),
            Stage::Forward(_) => self.front_overdue(flow, inner, &ctx),
            Stage::Seeking(_) => self.front_seek_on(flow, inner, &ctx),
            Stage::Gone => {}
        }
    }

    /// Whether a SYN on such a flow begins a new connection: the old one has ended, or has no one
    /// at its other end any more. On all others it is for the TCP that has the connection to say
    /// what it is (RFC 9293, section 3.10.7.4; RFC 5961, section 4).
    pub(crate) fn is_superseded(&self, key: &Tuple, stage: &Stage) -> bool {
        match stage {
            Stage::Over(_) | Stage::Seeking(_) => true,
            Stage::Leaving(_) => !connection::is_live(&self.net, key),
            Stage::Forward(forward) => match &forward.link {
                Link::InBand(in_band) => in_band.closing.is_reset(),
                Link::Control { .. } => !self.is_up(forward.node),
            },
            _ => false,
        }
    }

    /// Ends a flow whose tuple a new connection has.
    pub(crate) fn supersede(&self, flow: &FlowRef, inner: InnerGuard<'_>) {
        match inner.stage {
            Stage::Forward(_) => drop(self.front_drop(flow, inner)),
            _ => self.end(flow, inner),
        }
    }

    /// Ends a flow of which nothing is left to be done.
    pub(crate) fn end(&self, flow: &FlowRef, inner: InnerGuard<'_>) {
        drop(self.take_out(flow, inner));
    }
}

/// What users see of a connection.
pub(crate) struct FlowInfo {
    /// A `CARISMA_ROLE_…`.
    pub(crate) role: u32,
    /// A `CARISMA_FLOW_STATE_…`.
    pub(crate) state: u32,
    pub(crate) client: Endpoint,
    pub(crate) local: Endpoint,
    /// Index of the node at the other end of the handoff, or 0.
    pub(crate) node: u32,
    /// Packets of the client that were forwarded or translated.
    pub(crate) packets: u64,
    /// What the client connected to.
    pub(crate) vip: Endpoint,
    /// The number of the handoff, or 0.
    pub(crate) id: u64,
    /// Milliseconds since this node knows of it.
    pub(crate) age_ms: u64,
    /// A `CARISMA_MIGRATION_…`, at its back end.
    pub(crate) migration: Option<u32>,
}

impl FlowInfo {
    /// What there is to be seen; `None` of a flow that is no more.
    pub(crate) fn of(flow: &FlowRef) -> Option<Self> {
        let inner = flow.inner.lock();
        let (role, state, node, id) = match &inner.stage {
            Stage::Deciding(it) if it.is_open() => (ROLE_FRONT, STATE_HEAD, 0, 0),
            Stage::Deciding(_) => (ROLE_FRONT, STATE_HANDSHAKE, 0, 0),
            Stage::Asked(it) | Stage::Committed(it) => {
                (ROLE_FRONT, STATE_REQUESTED, it.node, it.id)
            }
            Stage::Entering(_) | Stage::Leaving(_) => (ROLE_FRONT, STATE_LEAVING, 0, 0),
            Stage::Forward(it) => (ROLE_FRONT, STATE_HANDED_OFF, it.node, it.id()),
            Stage::Seeking(it) => (ROLE_FRONT, STATE_SEEKING, 0, it.id),
            Stage::Over(Over::Forward(it)) => (ROLE_FRONT, STATE_LINGERING, it.node, it.id()),
            Stage::Replay(it) => {
                let state = match it.is_offered() {
                    true => STATE_ACCEPTED,
                    false => STATE_REPLAY,
                };
                (ROLE_BACK, state, it.origin.node, it.origin.id)
            }
            Stage::Live(it) => (ROLE_BACK, STATE_HANDED_OFF, it.origin.node, it.origin.id),
            Stage::Over(Over::Live(it)) => {
                (ROLE_BACK, STATE_LINGERING, it.origin.node, it.origin.id)
            }
            Stage::Gone => return None,
        };
        let key = flow.key();
        let endpoint = |addr: [u8; 16], port: u16| Endpoint { addr, port };
        let local = endpoint(key.local, key.local_port.get());
        let origin = match &inner.stage {
            Stage::Replay(it) => Some(it.origin),
            Stage::Live(it) | Stage::Over(Over::Live(it)) => Some(it.origin),
            _ => None,
        };
        Some(Self {
            role,
            state,
            client: endpoint(on_link(&key.client, 0), key.client_port.get()),
            local,
            node,
            packets: inner.packets,
            vip: origin.map_or(local, |origin| origin.vip()),
            id,
            age_ms: u64::from(connection::uptime_tenths().wrapping_sub(inner.since)) * 100,
            migration: origin.map(|origin| origin.migration),
        })
    }
}

impl State {
    /// Ends all handed-off connections, with a reset to both ends; those that are not the server's yet go
    /// back to their front ends. This node is draining: no new ones come about. Process context, may sleep.
    /// Errors: `ENOMEM`; some may be left then.
    pub(crate) fn end_handed_off(&self) -> Result {
        // What one walk passes over, as others end connections meanwhile, the next one finds.
        while self.end_found()? {}
        Ok(())
    }

    /// Ends what one walk finds; whether that was any.
    fn end_found(&self) -> Result<bool> {
        let mut walk = self.flows.walk()?;
        let mut any = false;
        loop {
            // What sleeps cannot be done within the walk.
            let mut some = [const { None::<FlowRef> }; 64];
            let mut free = some.iter_mut();
            let paused = walk.go_on(|flow| {
                if is_handed_off(&flow.inner.lock().stage) {
                    *free.next().ok_or(EAGAIN)? = Some(flow.clone());
                }
                Ok(())
            });
            for flow in some.iter().flatten() {
                any = true;
                self.reset(flow);
            }
            if paused.is_ok() {
                return Ok(any);
            }
        }
    }

    fn reset(&self, flow: &FlowRef) {
        let ctx = PacketContext::enter();
        let inner = flow.inner.lock();
        match &inner.stage {
            Stage::Committed(_) => self.front_break(flow, inner, &ctx),
            Stage::Forward(forward) => {
                // The back end resets it; this node has no more to do with it either way.
                self.front_recall(flow, forward, &ctx);
                self.front_lose(flow, inner, &ctx);
            }
            Stage::Replay(_) => self.back_give_up(flow, inner, &ctx),
            Stage::Live(_) => {
                drop(inner);
                drop(ctx);
                self.back_reset(flow);
            }
            _ => {}
        }
    }

    /// Ends all flows, as the namespace ends. Process context.
    pub(crate) fn clear_flows(&self) {
        self.flows.clear(|flow| {
            let mut inner = flow.inner.lock();
            let was = core::mem::replace(&mut inner.stage, Stage::Gone);
            drop(inner);
            if is_handed_off(&was) {
                lower::release_modules(was.in_band());
            }
        });
    }
}

fn is_handed_off(stage: &Stage) -> bool {
    matches!(
        stage,
        Stage::Committed(_) | Stage::Forward(_) | Stage::Replay(_) | Stage::Live(_)
    )
}

/// The lock of a flow, held.
pub(crate) type InnerGuard<'a> =
    kernel::sync::lock::Guard<'a, Inner, carisma_net::lock::SpinLockBhBackend>;
