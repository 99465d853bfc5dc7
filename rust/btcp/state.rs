// SPDX-License-Identifier: GPL-2.0

//! What BTCP knows of one network namespace.

use crate::{
    bounds::{Bounds, Pool},
    config::{Config, Event},
    counters::{Counters, Gauge, Stat},
    flow::Flow,
    keys::Keys,
    knobs::Knobs,
    lower::{self, Steady},
    node::Node,
    recent::Recent,
    refused::Refused,
    seek::Rate,
    service::{Mode, Service},
    snapshot::Endpoint,
    used::Used,
};
use carisma_core::tuple::Tuple;
use carisma_net::{
    link::{kind, Kind, Msg},
    netfilter,
    pernet::{NetRef, PerNet, Slot},
    table::Table,
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        rcu,
        Arc,
        SetOnce, //
    },
};

static SLOT: Slot = Slot::new();

/// One namespace.
#[pin_data]
pub(crate) struct State {
    /// The namespace.
    pub(crate) net: NetRef,
    /// What is configured.
    #[pin]
    pub(crate) config: Config,
    /// What control connections are signed with, and SYN cookies made.
    #[pin]
    keys: Keys,
    /// What happened.
    pub(crate) counters: Counters,
    /// What can be changed.
    pub(crate) knobs: Knobs,
    /// What connections take up.
    pub(crate) bounds: Arc<Bounds>,
    /// Whose handshakes began last.
    #[pin]
    pub(crate) recent: Recent,
    /// Connections.
    #[pin]
    pub(crate) flows: Table<Flow>,
    /// UTCP is in this namespace: connections can be withheld.
    pub(crate) withholding: Atomic<bool>,
    /// Which cookies were used of late, once they are made.
    used: SetOnce<Used>,
    /// Clients may answer SYN cookies, of this node or of another.
    cookies: Atomic<bool>,
    /// How many connections other nodes were asked about of late.
    pub(crate) seeks: Rate,
    /// How many handoffs were begun.
    handoffs: Atomic<u64>,
    hooks: netfilter::Registration,
}

impl State {
    /// Tells UTCP all that is configured.
    pub(crate) fn tell_config(&self, steady: &Steady) -> Result {
        // Before the nodes, with which UTCP begins to connect.
        self.keys.tell(|keys| self.tell_keys(steady, keys))?;
        self.config.replay(|event| self.tell(steady, event))
    }

    /// Changes the keys; `change` is given what to tell UTCP by. No service is given another mode
    /// meanwhile. Process context.
    pub(crate) fn rekey<R>(&self, change: impl FnOnce(&Keys, &dyn Fn(&[u8]) -> Result) -> R) -> R {
        lower::steadily(|steady| change(&self.keys, &|keys| self.tell_keys(steady, keys)))
    }

    /// The keys, to be read. Process context.
    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Tells UTCP all keys.
    fn tell_keys(&self, steady: &Steady, keys: &[u8]) -> Result {
        steady.tell(&self.net, Msg::record(kind::KEYS, 0, keys))
    }

    /// A service is about to get this mode, by a change of which this is a part: the keys stay as they
    /// are until it is made. Process context.
    pub(crate) fn expect_cookies(&self, mode: Mode) -> Result<(), Refused> {
        if mode == Mode::Always && !self.keys.are_shared(&rcu::read_lock()) {
            return Err(Refused::KeyMissing);
        }
        if mode == Mode::Rare {
            return Ok(());
        }
        if self.used.as_ref().is_none() {
            // If another one was faster, its table is as good.
            self.used.populate(Used::new()?);
        }
        self.cookies.store(true, Relaxed);
        Ok(())
    }

    /// Which cookies were used of late, if there may be any. Any context.
    pub(crate) fn used(&self) -> Option<&Used> {
        self.used.as_ref()
    }

    /// Whether clients may answer cookies. Any context.
    pub(crate) fn expects_cookies(&self) -> bool {
        self.cookies.load(Relaxed)
    }

    /// Changes the configuration; `change` is given what to tell UTCP by. Process context.
    pub(crate) fn configure<R>(
        &self,
        change: impl FnOnce(&Config, &dyn Fn(Event<'_>) -> Result) -> R,
    ) -> R {
        lower::steadily(|steady| change(&self.config, &|event| self.tell(steady, event)))
    }

    /// Makes a change by which connections may cease to be ours. Those that are decided go on, as
    /// their packets are still looked at; the others are served here. Process context.
    pub(crate) fn unserve(
        &self,
        change: impl FnOnce(&Config, &dyn Fn(Event<'_>) -> Result) -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        self.config
            .keep_retired(|retired| self.endpoints_used(retired))?;
        self.configure(change)?;
        self.give_up(|key| {
            let rcu = rcu::read_lock();
            !self.config.snapshot(&rcu).is_served(local_of(key))
        });
        Ok(())
    }

    /// Those of the endpoints at which there are connections.
    fn endpoints_used(&self, endpoints: &[Endpoint]) -> Result<KVec<Endpoint>> {
        let mut used = KVec::with_capacity(endpoints.len(), GFP_KERNEL)?;
        self.flows.for_each(|flow| {
            let at = local_of(flow.key());
            if endpoints.contains(&at) && !used.contains(&at) {
                // There is room for all.
                let _ = used.push_within_capacity(at);
            }
        });
        Ok(used)
    }

    /// Whether `what` holds of the service that a client's connection is to; not of none. Any
    /// context.
    pub(crate) fn is_service(
        &self,
        key: &Tuple,
        rcu: &rcu::Guard,
        what: impl FnOnce(&Service) -> bool,
    ) -> bool {
        self.config
            .snapshot(rcu)
            .service(&key.local, key.local_port.get())
            .is_some_and(what)
    }

    /// Tells UTCP of a change.
    fn tell(&self, steady: &Steady, event: Event<'_>) -> Result {
        let service = |kind: Kind, at: Endpoint| Msg {
            tuple: Tuple {
                local: at.addr,
                local_port: at.port.into(),
                ..Tuple::default()
            },
            ..Msg::new(kind)
        };
        let node = |kind: Kind, node: &Node| Msg {
            node: node.index,
            name: node.name,
            tuple: Tuple {
                local: node.at.addr,
                local_port: node.at.port.into(),
                ..Tuple::default()
            },
            value: node.local.into(),
            ..Msg::new(kind)
        };
        let msg = match event {
            Event::EndpointAdd(it) => service(kind::SERVICE_ADD, it),
            Event::EndpointDel(it) => service(kind::SERVICE_DEL, it),
            Event::NodeAdd(it) => node(kind::NODE_ADD, it),
            Event::NodeDel(it) => node(kind::NODE_DEL, it),
        };
        steady.tell(&self.net, msg)
    }

    /// Whether the control connection to a node is up. Any context.
    pub(crate) fn is_up(&self, node: u32) -> bool {
        let rcu = rcu::read_lock();
        self.config
            .snapshot(&rcu)
            .node(node)
            .is_some_and(|node| node.is_up())
    }

    /// How many there are. Process context.
    pub(crate) fn level(&self, gauge: Gauge) -> u64 {
        match gauge {
            Gauge::Withheld => self.bounds.taken(Pool::Withheld),
            Gauge::Handshakes => self.bounds.taken(Pool::Handshakes),
            Gauge::HandoffsAsked => self.bounds.taken(Pool::Asked),
            Gauge::HandoffsReplayed => self.bounds.taken(Pool::Replayed),
            Gauge::HeldBytes => self.bounds.held(),
            _ => self.counters.level(gauge),
        }
    }

    /// What a counter came to, or how many there are. Process context.
    pub(crate) fn value(&self, stat: Stat) -> u64 {
        match stat {
            Stat::Counter(counter) => self.counters.value(counter),
            Stat::Upper(upper) => self.counters.upper(upper),
            Stat::Gauge(gauge) => self.level(gauge),
        }
    }

    /// The number of a new handoff, never used before.
    pub(crate) fn next_handoff(&self) -> u64 {
        self.handoffs.fetch_add(1, Relaxed).wrapping_add(1)
    }
}

impl PerNet for State {
    fn slot() -> &'static Slot {
        &SLOT
    }

    fn init(net: NetRef) -> Result<Pin<KBox<Self>>> {
        let state = KBox::pin_init(
            try_pin_init!(Self {
                config <- Config::new(),
                keys <- Keys::new(),
                counters: Counters::new()?,
                knobs: Knobs::new(),
                bounds: Bounds::new()?,
                recent <- Recent::new(),
                flows <- Table::new(&net),
                withholding: Atomic::new(false),
                used: SetOnce::new(),
                cookies: Atomic::new(false),
                seeks: Rate::new(),
                handoffs: Atomic::new(0u64),
                hooks: netfilter::Registration::new::<Self>()?,
                net,
            }? Error),
            GFP_KERNEL,
        )?;
        // SAFETY: The state is pinned, and dropped a grace period after `pre_exit`.
        unsafe { state.hooks.register(&state.net, &raw const *state)? };
        Ok(state)
    }

    fn pre_exit(&self) {
        self.hooks.unregister(&self.net);
    }

    fn exit(&self) {
        self.clear_flows();
    }
}

/// Where a connection arrived.
fn local_of(key: &Tuple) -> Endpoint {
    Endpoint {
        addr: key.local,
        port: key.local_port.get(),
    }
}
