// SPDX-License-Identifier: GPL-2.0

//! BTCP's end of the messages to and from UTCP.

use crate::{
    counters::Counter,
    flow::{FlowRef, InnerGuard, Over, Stage},
    forward::{Forward, Link},
    state::State,
    trace::event,
};
use carisma_core::{
    answer::Answer,
    tuple::{is_link_local, Tuple},
    wire::{Body, Handoff, Record},
};
use carisma_net::{
    bindings,
    connection::Moment,
    link::{self, kind, Kind, Msg, Upper},
    netfilter::PacketContext,
    pernet::{Net, PerNet},
    route,
};
use kernel::{
    module::this_module,
    prelude::*,
    sync::{
        atomic::Release,
        rcu, //
    },
};

/// The UTCP that is attached.
static UPPER: Upper = Upper::new();

kernel::sync::global_lock! {
    /// Held while UTCP attaches or detaches, and while the configuration changes, so that UTCP is
    /// told of every change once.
    ///
    /// SAFETY: Initialised by `init()`, before anything else of the module runs.
    unsafe(uninit) static ATTACH: Mutex<()> = ();
}

/// Must be called first, once.
pub(crate) fn init() {
    // SAFETY: Called once, from the module's init.
    unsafe { ATTACH.init() };
}

/// Attaches UTCP and tells it the whole configuration. Process context.
///
/// # Safety
///
/// `upper` must stay valid until [`detach`] has returned.
pub(crate) unsafe fn attach(upper: *const bindings::carisma_upper) -> Result {
    let _attach = ATTACH.lock();
    // SAFETY: The caller says so.
    unsafe { UPPER.attach(upper) }
}

/// Detaches UTCP; no message to it is under way afterwards. Process context.
pub(crate) fn detach() {
    let _attach = ATTACH.lock();
    UPPER.detach();
}

/// Says that UTCP can neither attach nor detach now, and that no one else changes the
/// configuration.
pub(crate) struct Steady(());

impl Steady {
    /// Tells UTCP of a change. Process context, may sleep. Errors: UTCP's own; without one all is
    /// well.
    pub(crate) fn tell(&self, net: &Net, msg: Msg<'_>) -> Result {
        // SAFETY: `ATTACH` is held as long as there is a `Steady`.
        match unsafe { UPPER.put_sleeping(net, msg) } {
            Ok(_) | Err(ENOTCONN) => Ok(()),
            Err(err) => Err(err),
        }
    }
}

/// Changes the configuration, or tells it. Process context.
pub(crate) fn steadily<R>(change: impl FnOnce(&Steady) -> R) -> R {
    let _attach = ATTACH.lock();
    change(&Steady(()))
}

/// Sends UTCP a message about a connection, which does not sleep. No lock of a flow is held.
pub(crate) fn put(net: &Net, kind: Kind, tuple: &Tuple) -> Result {
    UPPER.put(net, Msg::about(kind, tuple)).map(drop)
}

/// Has UTCP answer a connection. No lock of a flow is held. Errors: `ENOBUFS` when it was reset
/// instead; others when there is no such connection.
pub(crate) fn answer(net: &Net, answer: Answer, tuple: &Tuple) -> Result {
    let msg = Msg {
        value: answer.status().into(),
        ..Msg::about(kind::CONN_ANSWER, tuple)
    };
    UPPER.put(net, msg).map(drop)
}

/// Queues a record for a node. Any context.
pub(crate) fn send(net: &Net, node: u32, record: &[u8]) -> Result {
    UPPER
        .put(net, Msg::record(kind::RECORD_REQ, node, record))
        .map(drop)
}

/// Keeps the modules from being unloaded that a connection needs; `false` if one of them is going. One
/// that was handed off in band needs only this.
pub(crate) fn hold_modules(in_band: bool) -> bool {
    let this = this_module::<crate::LocalModule>();
    if !link::module_get(this) {
        return false;
    }
    let held = in_band || UPPER.get();
    if !held {
        link::module_put(this);
    }
    held
}

/// Undoes a [`hold_modules`].
pub(crate) fn release_modules(in_band: bool) {
    if !in_band {
        UPPER.put_module();
    }
    link::module_put(this_module::<crate::LocalModule>());
}

/// Takes what UTCP puts.
pub(crate) struct Lower;

impl link::Put for Lower {
    fn put(net: &Net, msg: &Msg<'_>) -> Result<u32> {
        let state = State::of(net).ok_or(ENOENT)?;
        match msg.kind {
            kind::CONFIG_REQ => {
                steadily(|steady| state.tell_config(steady))?;
                state.withholding.store(true, Release);
                Ok(0)
            }
            kind::LEAVE_REQ => {
                state.withholding.store(false, Release);
                state.give_up(|_| true);
                Ok(0)
            }
            kind::CONN_ASK => Ok(state.withholds(&msg.tuple).into()),
            kind::CONN_IND => Ok(state
                .on_child(&msg.tuple)
                .map_or(0, |rtt| u32::from(rtt) + 1)),
            kind::DISCON_IND => {
                state.on_closed(&msg.tuple, msg.value != 0);
                Ok(0)
            }
            kind::RECORD_IND => {
                state.on_record(msg.node, msg.data);
                Ok(0)
            }
            kind::PEER_UP => {
                state.on_peer_up(msg.node, msg.value);
                Ok(0)
            }
            kind::PEER_DOWN => {
                state.on_peer_down(msg.node);
                Ok(0)
            }
            kind::PEER_REFUSED => {
                let rcu = rcu::read_lock();
                if let Some(node) = state.config.snapshot(&rcu).node(msg.node) {
                    node.set_trouble(msg.value);
                }
                Ok(0)
            }
            kind::COUNT_IND => {
                // CAST: A number that is too large is no counter's.
                state.counters.count_upper(msg.value as usize);
                Ok(0)
            }
            _ => Err(EOPNOTSUPP),
        }
    }
}

impl State {
    /// TCP has made a socket: whether it may be one to be withheld. Softirq, with the socket's lock held.
    fn withholds(&self, tuple: &Tuple) -> bool {
        self.flows
            .lookup(tuple)
            .is_some_and(|flow| match &flow.inner.lock().stage {
                Stage::Deciding(_) | Stage::Replay(_) => true,
                Stage::Asked(asked) => !asked.has_child(),
                Stage::Entering(entering) => entering.withholds(),
                _ => false,
            })
    }

    /// TCP has made a socket. If UTCP is to withhold it, the answer is how long a round trip to the
    /// client takes, in milliseconds; 0 if it is not known. Softirq, with the socket's lock held.
    fn on_child(&self, tuple: &Tuple) -> Option<u16> {
        let flow = self.flows.lookup(tuple)?;
        let mut inner = flow.inner.lock();
        match &mut inner.stage {
            Stage::Deciding(deciding) | Stage::Asked(deciding) => self
                .front_child(&flow, deciding)
                .then(|| deciding.front.rtt()),
            Stage::Replay(replay) => replay.on_child(),
            Stage::Entering(entering) => Some(entering.rtt()),
            _ => None,
        }
    }

    /// A socket was closed. Any context, with its lock held.
    fn on_closed(&self, tuple: &Tuple, time_wait: bool) {
        let Some(flow) = self.flows.lookup(tuple) else {
            return;
        };
        let inner = flow.inner.lock();
        match &inner.stage {
            // The client reset it, or TCP gave up.
            Stage::Deciding(deciding) if deciding.has_child() => self.end(&flow, inner),
            Stage::Leaving(_) => self.end(&flow, inner),
            Stage::Live(_) | Stage::Replay(_) => {
                drop(inner);
                self.back_closed(&flow, time_wait);
            }
            _ => {}
        }
    }

    /// A record of a peer. Process context.
    fn on_record(&self, node: u32, bytes: &[u8]) {
        let Ok(Record::Handoff(handoff)) = Record::parse(bytes) else {
            self.counters.count(Counter::RecordsBad);
            return;
        };
        self.trace_record(event::RECORD_RECEIVED, node, &handoff, bytes.len());
        {
            let rcu = rcu::read_lock();
            if let Some(node) = self.config.snapshot(&rcu).node(node) {
                node.hear();
            }
        }
        let handoff = Handoff {
            tuple: self.on_link_of(node, handoff.tuple),
            ..handoff
        };
        match handoff.body {
            Body::Req(_) | Body::Data(_) | Body::Abort | Body::Check { .. } | Body::Seek => {
                self.back_record(node, &handoff);
            }
            Body::Accept
            | Body::Reject(_)
            | Body::Taken
            | Body::Closed { .. }
            | Body::Own { .. } => {
                self.front_record(node, &handoff);
            }
        }
    }

    /// A connection of a record's from a node: such a client as has neighbours only is on the link on
    /// which the node is one.
    fn on_link_of(&self, node: u32, tuple: Tuple) -> Tuple {
        if !is_link_local(&tuple.client) {
            return tuple;
        }
        let rcu = rcu::read_lock();
        let node = self.config.snapshot(&rcu).node(node);
        tuple.on_link(node.map_or(0, |node| route::link_to(&self.net, &node.at.addr)))
    }

    /// The control connection to a node is up. If its module was loaded anew, it has forgotten our
    /// connections. Process context.
    fn on_peer_up(&self, index: u32, epoch: u64) {
        self.trace_peer(true, index, epoch);
        let anew = {
            let rcu = rcu::read_lock();
            let node = self.config.snapshot(&rcu).node(index);
            node.is_some_and(|node| node.set_up(epoch))
        };
        if anew {
            self.lose_peer(index);
        } else {
            // What may have been lost with the old connection is sent again.
            self.of_node(index, |flow, mut inner| match &mut inner.stage {
                Stage::Committed(_) => flow.arm(1),
                Stage::Forward(forward) => {
                    if let Link::Control { down, .. } = &mut forward.link {
                        *down = None;
                    }
                    self.front_check(flow, forward);
                }
                _ => {}
            });
        }
    }

    /// The control connection to a node is down. Its connections go on for a while: what they need
    /// does not pass through it. Process context.
    fn on_peer_down(&self, index: u32) {
        self.trace_peer(false, index, 0);
        {
            let rcu = rcu::read_lock();
            if let Some(node) = self.config.snapshot(&rcu).node(index) {
                node.set_down();
            }
        }
        self.of_node(index, |flow, mut inner| match &mut inner.stage {
            Stage::Asked(_) => {
                let ctx = PacketContext::enter();
                self.front_take_back(flow, inner, Counter::HandoffsAborted, &ctx);
            }
            Stage::Forward(Forward {
                link: Link::Control { down, .. },
                ..
            }) => {
                *down = Some(Moment::now());
                flow.arm(self.knobs.peer_timeout_ms());
            }
            _ => {}
        });
    }

    /// Calls `f` for the connections that a node was offered or given, with their lock held.
    fn of_node(&self, index: u32, f: impl Fn(&FlowRef, InnerGuard<'_>)) {
        self.flows.for_each(|flow| {
            let inner = flow.inner.lock();
            if inner.is_sent_to(index) {
                f(flow, inner);
            }
        });
    }

    /// Ends what a node served that does not know of it any more. What this one served for it goes on:
    /// whoever gets the client's next segment asks for it ([`crate::seek`]). Process context.
    fn lose_peer(&self, index: u32) {
        self.flows.for_each(|flow| {
            // For each by itself: between any two, softirqs have their turn.
            let ctx = PacketContext::enter();
            let mut inner = flow.inner.lock();
            match &mut inner.stage {
                // What was handed off in band needs nothing of the other module.
                stage if stage.in_band() => {}
                Stage::Live(live) if live.origin.node == index => self.back_orphan(flow, live),
                Stage::Forward(forward) if forward.node == index => {
                    self.front_lose(flow, inner, &ctx);
                }
                Stage::Over(Over::Forward(forward)) if forward.node == index => {
                    self.end(flow, inner);
                }
                Stage::Asked(deciding) if deciding.node == index => {
                    self.front_take_back(flow, inner, Counter::HandoffsAborted, &ctx);
                }
                Stage::Committed(deciding) if deciding.node == index => {
                    self.front_break(flow, inner, &ctx);
                }
                _ => {}
            }
        });
    }

    /// UTCP leaves these connections: what is undecided is served here, what was not committed is
    /// given back. Process context.
    pub(crate) fn give_up(&self, which: impl Fn(&Tuple) -> bool) {
        self.flows.for_each(|flow| {
            if !which(flow.key()) {
                return;
            }
            let ctx = PacketContext::enter();
            let inner = flow.inner.lock();
            match inner.stage {
                Stage::Deciding(_) | Stage::Asked(_) => self.front_give_up(flow, inner, &ctx),
                Stage::Replay(_) => self.back_give_up(flow, inner, &ctx),
                _ => {}
            }
        });
    }
}
