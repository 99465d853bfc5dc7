// SPDX-License-Identifier: GPL-2.0

//! UTCP: what the module does above TCP, in one network namespace.
//!
//! Children of a service's listeners are withheld from `accept()` until BTCP says what shall become
//! of them; records go to and fro between this node's BTCP and the other nodes' over control
//! connections.
//!
//! Lock order: a socket's lock; a listener's `inner`; a child's state or an accept queue.
//! `listeners`, `discards` and the peers' locks are innermost. TCP is called with `inner` held at
//! one place only, where a child is appended to the accept queue. The writers' mutex of `services`
//! is taken before any of them, in process context.

mod answer;
mod attach;
mod child;
mod config;
mod conn;
mod control;
mod counters;
mod keys;
mod listener;
mod peer;
mod service;
mod withheld;

pub(crate) use self::withheld::{
    Memory,
    MEMORY, //
};
use self::{
    answer::Answers,
    counters::{
        Counter,
        Counters, //
    },
    listener::Listener,
    peer::Peers,
    service::{
        Service,
        Services, //
    },
    withheld::{
        Fate,
        Withheld, //
    },
};
use carisma_core::answer::Answer;
use carisma_net::{
    below, impl_has_work,
    kthread::Thread,
    link::{
        kind,
        Msg, //
    },
    listener::{
        Candidate,
        Held,
        HeldQueue, //
    },
    lock::{
        new_spinlock_bh,
        SpinLockBh, //
    },
    new_published,
    pernet::{
        Net,
        NetRef,
        PerNet,
        Slot, //
    },
    published::Published,
    sock::{
        Locked,
        Sock,
        State, //
    },
    table::Table,
    work::Work,
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full,
            Relaxed,
            Release, //
        },
        rcu,
        Arc, //
    },
};

/// Milliseconds until a full accept queue is tried again.
const RETRY_MS: u32 = 5;

/// Milliseconds until BTCP is asked for the configuration again, after there was no memory for it.
const RECONFIGURE_MS: u32 = 200;

/// The work that is left to process context.
#[derive(Clone, Copy)]
enum Todo {
    /// Ask BTCP for the configuration.
    Configure,
    /// Look for listeners.
    Scan,
    /// Append children that wait for room.
    Retry,
    /// Free children.
    Discard,
    /// Answer children, and see to those that were answered.
    Answer,
}

/// UTCP is being unloaded: no child is withheld any more.
static CLOSING: Atomic<bool> = Atomic::new(false);

/// What is changed in process context only.
struct Config {
    /// The namespace goes.
    closed: bool,
    /// Keeps the control connections.
    control: Option<Thread>,
}

/// UTCP in one namespace.
#[pin_data]
pub(crate) struct Ns {
    #[pin]
    work: Work<Self>,
    todo: [Atomic<bool>; 5],
    net: NetRef,
    counters: Counters,
    #[pin]
    services: Published<Services, Config>,
    /// There is a service, or was one, of which connections may be left.
    served: Atomic<bool>,
    #[pin]
    listeners: SpinLockBh<KVec<Arc<Listener>>>,
    /// Released children may wait for room in an accept queue.
    waiting: Atomic<bool>,
    #[pin]
    withheld: Table<Withheld>,
    #[pin]
    discards: SpinLockBh<HeldQueue>,
    #[pin]
    answers: Answers,
    peers: Arc<Peers>,
}

impl_has_work!(Ns { work: run });

static SLOT: Slot = Slot::new();

impl PerNet for Ns {
    fn slot() -> &'static Slot {
        &SLOT
    }

    fn init(net: NetRef) -> Result<Pin<KBox<Self>>> {
        let ns = KBox::pin_init(
            try_pin_init!(Self {
                work <- Work::new(),
                todo: [const { Atomic::new(false) }; 5],
                services <- new_published!(
                    Services::of(&[])?,
                    Config {
                        closed: false,
                        control: None,
                    },
                    "carisma_utcp_config"
                ),
                served: Atomic::new(false),
                listeners <- new_spinlock_bh!(KVec::new(), "carisma_listeners"),
                waiting: Atomic::new(false),
                withheld <- Table::new(&net),
                discards <- new_spinlock_bh!(HeldQueue::new(), "carisma_discards"),
                answers <- Answers::new(),
                peers: Peers::new()?,
                counters: Counters::new(net.clone()),
                net,
            }? Error),
            GFP_KERNEL,
        )?;
        ns.put_off(Todo::Configure, Some(0));
        Ok(ns)
    }

    fn pre_exit(&self) {
        let control = {
            let mut config = self.services.write();
            config.closed = true;
            config.control.take()
        };
        drop(control);
        while let Some(listener) = self.first_listener() {
            self.detach(&listener);
        }
        self.work.disable();
        // The work may have asked for the configuration since; then BTCP believes that somebody withholds.
        self.leave();
        self.discard_all();
        self.answers.finish(&self.counters);
    }

    fn exit(&self) {
        // Children are made, and asked about, under RCU, and none can have been withheld since
        // `pre_exit`.
        self.withheld.clear(|_| {});
    }
}

/// The module is being unloaded: from now on no child is withheld.
pub(crate) fn close() {
    CLOSING.store(true, Release);
}

impl Ns {
    /// The module is being unloaded: has BTCP say what shall become of the children that are
    /// withheld. Process context.
    pub(crate) fn leave(&self) {
        // Those that it does not speak of are given back when their listeners are detached.
        let _ = below::put(&self.net, Msg::new(kind::LEAVE_REQ));
    }

    /// Queues a record.
    fn record(&self, msg: &Msg<'_>) -> Result<u32> {
        let sent = self.peers.send(msg.node, msg.data);
        self.counters.count(match sent {
            Ok(()) => Counter::RecordsSent,
            Err(ENOBUFS) => Counter::RecordsUnsentFull,
            Err(_) => Counter::RecordsUnsentDown,
        });
        sent.map(|()| 0)
    }
}

/// Work for process context.
impl Ns {
    /// Leaves work to process context: at once, or after so many milliseconds. Any context.
    fn put_off(&self, what: Todo, ms: Option<u32>) {
        // CAST: The number of a variant.
        if let Some(flag) = self.todo.get(what as usize) {
            flag.store(true, Release);
        }
        match ms {
            None => self.work.hurry(),
            Some(ms) => self.work.queue(ms),
        }
    }

    /// Whether such work was left; it is then to be done.
    fn is_left(&self, what: Todo) -> bool {
        // CAST: The number of a variant.
        let flag = self.todo.get(what as usize);
        flag.is_some_and(|flag| flag.xchg(false, Full))
    }

    /// Does what was left.
    fn run(&self) {
        if self.is_left(Todo::Configure) {
            self.configure();
        }
        if self.is_left(Todo::Scan) {
            self.scan();
        }
        if self.is_left(Todo::Discard) {
            self.discard_all();
        }
        if self.is_left(Todo::Answer) && self.answers.run(&self.counters) {
            self.put_off(Todo::Answer, Some(answer::POLL_MS));
        }
        if self.is_left(Todo::Retry) {
            self.retry();
        }
    }

    /// Asks BTCP for the configuration, which comes by [`Ns::put`].
    fn configure(&self) {
        if CLOSING.load(Acquire) {
            return;
        }
        // The state may not be published yet; then what comes would find nobody.
        if Self::of(&self.net).is_none() {
            self.put_off(Todo::Configure, Some(RETRY_MS));
            return;
        }
        // BTCP may not know the namespace, if it is being made or torn down: then there is nothing
        // to configure. What it was told before an error, it may be told again.
        if let Err(ENOMEM) = below::put(&self.net, Msg::new(kind::CONFIG_REQ)) {
            self.put_off(Todo::Configure, Some(RECONFIGURE_MS));
        }
    }

    /// Frees the children that are to be.
    fn discard_all(&self) {
        loop {
            let Some(held) = self.discards.lock().pop() else {
                return;
            };
            held.discard();
        }
    }

    /// Leaves a child to be freed. Any context.
    fn discard(&self, held: Held) {
        self.discards.lock().push(held);
        self.put_off(Todo::Discard, None);
    }

    /// Leaves a child to be answered. At the bound it is reset. Any context.
    fn answer(&self, held: Held, answer: Answer) -> Result<u32> {
        match self.answers.push(held, answer) {
            Ok(()) => {
                self.put_off(Todo::Answer, None);
                Ok(0)
            }
            Err(held) => {
                self.counters.count(Counter::ConnectionsAnsweredLimit);
                self.discard(held);
                Err(ENOBUFS)
            }
        }
    }

    /// Tries the accept queues that were full.
    fn retry(&self) {
        let mut again = false;
        for listener in self.each_listener() {
            let (appended, mut orphans, rest) = listener.retry();
            // Each wakes one process that sleeps in accept().
            (0..appended).for_each(|_| listener.sk.wake());
            while let Some(held) = orphans.pop() {
                self.counters.count(Counter::ConnectionsOrphaned);
                self.discard(held);
            }
            again |= rest;
        }
        // Who begins to wait meanwhile has this done once more.
        self.waiting.store(again, Relaxed);
        if again {
            self.put_off(Todo::Retry, Some(RETRY_MS));
        }
    }
}

/// UTCP's put procedure.
pub(crate) struct Upper;

impl carisma_net::link::Put for Upper {
    fn put(net: &Net, msg: &Msg<'_>) -> Result<u32> {
        // A namespace that is being made asks for all of its configuration later.
        let ns = Ns::of(net).ok_or(ENOTCONN)?;
        match msg.kind {
            kind::CONN_RES => ns.decide(&msg.tuple, Fate::Release),
            kind::CONN_DISCARD => ns.decide(&msg.tuple, Fate::Discard),
            kind::CONN_ANSWER => {
                let answer = Answer::of(msg.value).ok_or(EINVAL)?;
                ns.decide(&msg.tuple, Fate::Answer(answer))
            }
            kind::RECORD_REQ => ns.record(msg),
            kind::SERVICE_ADD => ns.add_service(Service::of(&msg.tuple)),
            kind::SERVICE_DEL => ns.del_service(Service::of(&msg.tuple)),
            kind::NODE_ADD => ns.add_node(msg),
            kind::NODE_DEL => ns.del_node(msg.node),
            kind::KEYS => ns.set_keys(msg.data),
            _ => Err(EOPNOTSUPP),
        }
    }
}

/// What TCP tells us.
pub(crate) struct Gate;

impl carisma_net::listener::Gate for Gate {
    fn has_room(listener: &Sock) -> bool {
        Ns::of(listener.net()).is_none_or(|ns| ns.has_room(listener))
    }

    fn child(listener: &Sock, candidate: Candidate<'_>) {
        if let Some(ns) = Ns::of(listener.net()) {
            ns.child(listener, candidate);
        }
    }

    fn passed(listener: &Sock) {
        if let Some(ns) = Ns::of(listener.net()) {
            ns.counters.count(Counter::ConnectionsPassedFastOpen);
        }
    }

    fn quiet(listener: &Sock) {
        let _rcu = rcu::read_lock();
        if let Some(ns) = Ns::of(listener.net()) {
            ns.counters.count(Counter::WakeupsSpared);
        }
    }
}

impl carisma_net::tracepoint::Observer for Gate {
    fn heeds(old: State, new: State) -> bool {
        matches!(
            (old, new),
            (State::Opening, State::Established) | (_, State::Listening | State::Closed)
        )
    }

    fn state(sk: &Locked<'_>, old: State, new: State) {
        let Some(ns) = Ns::of(sk.net()) else {
            return;
        };
        match (old, new) {
            (_, State::Listening) => ns.attach(sk),
            (State::Listening, State::Closed) => ns.closing(sk),
            (State::Opening, State::Established) => ns.established(sk),
            (_, State::Closed) => ns.closed(sk, old),
            _ => {}
        }
    }
}
