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
mod conn;
mod control;
mod counters;
mod keys;
mod listener;
mod peer;
mod service;
mod withheld;

use self::{
    answer::Answers,
    control::Control,
    counters::{
        Counter,
        Counters, //
    },
    listener::{
        Appended,
        Listener, //
    },
    peer::{
        Peer,
        Peers, //
    },
    service::{
        Service,
        Services, //
    },
    withheld::{
        Fate,
        Taken,
        Withheld, //
    },
};
use carisma_core::{
    answer::Answer,
    tuple::Tuple, //
};
use carisma_net::{
    below, impl_has_work,
    kthread::Thread,
    link::{
        kind,
        Msg, //
    },
    listener::{
        Candidate,
        Foreign,
        Held,
        HeldQueue,
        Hooks, //
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
        Listeners,
        Locked,
        Sock,
        State, //
    },
    table::{
        Entry,
        Refused,
        Table, //
    },
    work::Work,
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full,
            Release, //
        },
        rcu,
        Arc, //
    },
};

/// Children that may be withheld at a time in one namespace.
const WITHHELD_MAX: usize = 65536;
/// Milliseconds until a full accept queue is tried again.
const RETRY_MS: u32 = 5;
/// Milliseconds after which listeners are looked for again that were between `listen()` and their
/// table when a service was added.
const RESCAN_MS: u32 = 200;

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
    #[pin]
    listeners: SpinLockBh<KVec<Arc<Listener>>>,
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
                listeners <- new_spinlock_bh!(KVec::new(), "carisma_listeners"),
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
        // to configure.
        let _ = below::put(&self.net, Msg::new(kind::CONFIG_REQ));
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
        let mut i = 0;
        while let Some(listener) = self.listener_at(i) {
            i += 1;
            let (appended, mut orphans, rest) = listener.retry();
            if appended != 0 {
                listener.sk.wake();
            }
            while let Some(held) = orphans.pop() {
                self.counters.count(Counter::ConnectionsOrphaned);
                self.discard(held);
            }
            again |= rest;
        }
        if again {
            self.put_off(Todo::Retry, Some(RETRY_MS));
        }
    }
}

/// Listeners.
impl Ns {
    fn listener_at(&self, i: usize) -> Option<Arc<Listener>> {
        self.listeners.lock().get(i).cloned()
    }

    fn first_listener(&self) -> Option<Arc<Listener>> {
        self.listener_at(0)
    }

    fn find_listener(&self, sk: &Sock) -> Option<Arc<Listener>> {
        let list = self.listeners.lock();
        list.iter().find(|listener| listener.is(sk)).cloned()
    }

    /// Takes a listener out of the list; the first to do so has to see to its children.
    fn remove_listener(&self, sk: &Sock) -> Option<Arc<Listener>> {
        let mut list = self.listeners.lock();
        let i = list.iter().position(|listener| listener.is(sk))?;
        list.remove(i).ok()
    }

    /// Whether a listener takes connections to a service of ours. Any context.
    fn serves(&self, sk: &Sock) -> bool {
        self.services.read(&rcu::read_lock()).are_of(sk)
    }

    /// Whether a connection is one to a service of ours. Any context.
    fn has(&self, tuple: &Tuple) -> bool {
        self.services.read(&rcu::read_lock()).have(tuple)
    }

    /// Attaches a listener, or a socket that is about to be one. Any context.
    fn attach(&self, sk: &Locked<'_>) {
        if CLOSING.load(Acquire) || !self.serves(sk) || self.find_listener(sk).is_some() {
            return;
        }
        if let Err(why) = Hooks::<Gate>::attach(sk) {
            self.counters.count(match why {
                Foreign::Mptcp => Counter::ListenersSkippedMptcp,
                Foreign::Kernel => Counter::ListenersSkippedKernel,
                Foreign::Ulp => Counter::ListenersSkippedUlp,
                Foreign::Ops => Counter::ListenersSkippedOps,
            });
            return;
        }
        let listed = Listener::new(sk)
            .and_then(|listener| Ok(self.listeners.lock().push(listener, GFP_ATOMIC)?));
        match listed {
            Ok(()) => self.counters.count(Counter::ListenersAttached),
            Err(_) => {
                Hooks::<Gate>::detach(sk);
                self.counters.count(Counter::ListenersSkippedMemory);
            }
        }
    }

    /// Attaches the listeners that there are. Process context.
    fn scan(&self) {
        for sk in Listeners::of(&self.net) {
            if !self.serves(&sk) {
                continue;
            }
            let sk = sk.lock();
            if sk.state() == State::Listening {
                self.attach(&sk);
            }
        }
    }

    /// Detaches a listener that goes on. Process context.
    fn detach(&self, listener: &Arc<Listener>) {
        let sk = listener.sk.lock();
        if self.remove_listener(&sk).is_some() {
            self.restore(&sk);
            self.give_back(listener);
            drop(sk);
            listener.sk.wake();
        }
    }

    fn restore(&self, sk: &Locked<'_>) {
        if !Hooks::<Gate>::detach(sk) {
            self.counters.count(Counter::ListenersOverridden);
        }
        self.counters.count(Counter::ListenersDetached);
    }

    /// Appends a listener's withheld children to its accept queue, whatever the backlog: it has
    /// been taken out of the list. Process context; the listener's lock is held, so that it still
    /// listens.
    fn give_back(&self, listener: &Arc<Listener>) {
        let mut queue = listener.close();
        self.withheld.for_each(|entry| {
            if !Arc::ptr_eq(&entry.listener, listener) {
                return;
            }
            if let Some((held, settled)) = entry.take_anyhow() {
                self.withheld.remove(entry);
                if !settled {
                    held.child().barrier();
                }
                queue.push(held);
            }
        });
        while let Some(held) = queue.pop() {
            match held.append() {
                Ok(()) => self.counters.count(Counter::ConnectionsGivenBack),
                Err(held) => {
                    self.counters.count(Counter::ConnectionsOrphaned);
                    self.discard(held);
                }
            }
        }
    }

    /// A listener goes to CLOSE, its lock held. What is in its accept queue TCP resets, or hands to
    /// another listener of the group.
    fn closing(&self, sk: &Locked<'_>) {
        if let Some(listener) = self.remove_listener(sk) {
            self.restore(sk);
            self.give_back(&listener);
        }
    }
}

/// Children.
impl Ns {
    /// TCP has made a child.
    fn child(&self, sk: &Sock, candidate: Candidate<'_>) {
        if CLOSING.load(Acquire) {
            return;
        }
        let child = candidate.child();
        let tuple = child.tuple();
        if !self.has(&tuple) {
            return;
        }
        let Some(listener) = self.find_listener(sk) else {
            return;
        };
        let entry = Entry::new(&tuple, Withheld::new(listener.clone(), child), GFP_ATOMIC);
        let Ok(entry) = entry else {
            self.counters.count(Counter::ConnectionsPassedMemory);
            return;
        };
        if let Err(why) = self.withheld.insert(&entry, WITHHELD_MAX) {
            self.counters.count(match why {
                Refused::Full => Counter::ConnectionsPassedLimit,
                Refused::Exists | Refused::NoMemory => Counter::ConnectionsPassedMemory,
            });
            return;
        }
        let Some(held) = candidate.hold() else {
            self.withheld.remove(&entry);
            self.counters.count(Counter::ConnectionsPassedMemory);
            return;
        };
        if below::put(&self.net, Msg::about(kind::CONN_IND, &tuple)) != Ok(1) {
            self.withheld.remove(&entry);
            held.pass();
            self.counters.count(Counter::ConnectionsPassedDecided);
            return;
        }
        self.counters.count(Counter::ConnectionsWithheld);

        let mut held = Some(held);
        let outcome = listener.unless_closing(|| match held.take() {
            Some(held) => entry.hold(held),
            None => Ok(()),
        });
        match outcome {
            Some(Ok(())) => {}
            Some(Err((held, fate))) => {
                self.withheld.remove(&entry);
                match fate {
                    Fate::Release => {
                        held.pass();
                        self.counters.count(Counter::ConnectionsReleased);
                    }
                    Fate::Discard => {
                        self.discard(held);
                        self.counters.count(Counter::ConnectionsDiscarded);
                    }
                    // At the bound it was discarded, and counted.
                    Fate::Answer(answer) => drop(self.answer(held, answer)),
                }
            }
            None => {
                self.withheld.remove(&entry);
                if let Some(held) = held {
                    held.pass();
                }
                self.counters.count(Counter::ConnectionsPassedClosing);
            }
        }
    }

    /// The withheld child of a connection, if it is this socket, or whichever.
    fn lookup(&self, tuple: &Tuple, sk: Option<&Sock>) -> Option<Entry<Withheld>> {
        self.withheld
            .lookup(tuple)
            .filter(|entry| sk.is_none_or(|sk| entry.is_of(sk)))
    }

    /// A socket goes to ESTABLISHED, its lock held: TCP is through with its request.
    fn established(&self, sk: &Sock) {
        if self.withheld.is_empty() {
            return;
        }
        let tuple = sk.tuple();
        if let Some(entry) = self.lookup(&tuple, Some(sk)) {
            if let Some(held) = entry.settle() {
                self.release(&entry, held);
            }
        }
    }

    /// A socket goes to CLOSE, its lock held.
    fn closed(&self, sk: &Sock, old: State) {
        if self.services.read(&rcu::read_lock()).is_empty() && self.withheld.is_empty() {
            return;
        }
        let tuple = sk.tuple();
        if let Some(entry) = self.lookup(&tuple, Some(sk)) {
            // Its owner frees it after it has had the lock.
            if let Some((held, _)) = entry.take_anyhow() {
                self.withheld.remove(&entry);
                self.counters.count(Counter::ConnectionsDied);
                self.discard(held);
            }
        } else if old == State::Opening {
            // Of a handshake that two segments end at the same time TCP makes two children, and
            // drops the one that comes second to its tables: the connection goes on.
            if self.has(&tuple) {
                self.counters.count(Counter::ConnectionsTwin);
            }
            return;
        }
        if self.has(&tuple) {
            self.counters.count(Counter::ConnectionsClosed);
            let waits = old == State::Closing && !sk.has_error();
            let msg = Msg {
                value: u64::from(waits),
                ..Msg::about(kind::DISCON_IND, &tuple)
            };
            // What BTCP does not know is not its business.
            let _ = below::put(&self.net, msg);
        }
    }

    /// Appends a child, which has just been taken, to the accept queue. Any context.
    fn release(&self, entry: &Entry<Withheld>, held: Held) {
        self.withheld.remove(entry);
        self.counters.count(Counter::ConnectionsReleased);
        match entry.listener.append(held) {
            Appended::Now => entry.listener.sk.wake(),
            Appended::Later => {
                self.counters.count(Counter::ConnectionsReleasedLate);
                self.put_off(Todo::Retry, Some(RETRY_MS));
            }
            Appended::Never(held) => {
                self.counters.count(Counter::ConnectionsOrphaned);
                self.discard(held);
            }
        }
    }

    /// BTCP says what shall become of a child.
    fn decide(&self, tuple: &Tuple, fate: Fate) -> Result<u32> {
        let entry = self.lookup(tuple, None).ok_or(ENOENT)?;
        match entry.take(fate) {
            Taken::Never => return Err(ENOENT),
            Taken::Later => {}
            Taken::Now(held) => match fate {
                Fate::Release => self.release(&entry, held),
                Fate::Discard => {
                    self.withheld.remove(&entry);
                    self.counters.count(Counter::ConnectionsDiscarded);
                    self.discard(held);
                }
                Fate::Answer(answer) => {
                    self.withheld.remove(&entry);
                    return self.answer(held, answer);
                }
            },
        }
        Ok(0)
    }
}

/// Configuration.
impl Ns {
    /// Adds a service; one that is there already is left as it is.
    fn add_service(&self, service: Service) -> Result<u32> {
        let mut config = self.services.write();
        if config.closed {
            return Err(ENODEV);
        }
        if !config.current().contains(service) {
            let next = config.current().with(service)?;
            config.replace(next);
            self.scan();
            self.put_off(Todo::Scan, Some(RESCAN_MS));
        }
        Ok(0)
    }

    /// Deletes a service: its children are released, and listeners that serve no other are
    /// detached.
    fn del_service(&self, service: Service) -> Result<u32> {
        let mut config = self.services.write();
        if !config.current().contains(service) {
            return Err(ENOENT);
        }
        let next = config.current().without(service)?;
        config.replace(next);

        let mut i = 0;
        while let Some(listener) = self.listener_at(i) {
            if listener.serves(&service) && !self.serves(&listener.sk) {
                self.detach(&listener);
            } else {
                i += 1;
            }
        }
        self.withheld.for_each(|entry| {
            if service.has(entry.key()) {
                if let Taken::Now(held) = entry.take(Fate::Release) {
                    self.release(entry, held);
                }
            }
        });
        Ok(0)
    }

    /// Adds a node, or changes it.
    fn add_node(&self, msg: &Msg<'_>) -> Result<u32> {
        let mut config = self.services.write();
        if config.closed {
            return Err(ENODEV);
        }
        self.peers.add(Peer::new(msg)?)?;
        if config.control.is_none() {
            let control =
                Control::new(self.net.clone(), self.peers.clone(), self.counters.clone())?;
            config.control = Some(Thread::new(
                c"carisma_control",
                self.peers.bell().clone(),
                control,
            )?);
        }
        Ok(0)
    }

    /// Deletes a node.
    fn del_node(&self, node: u32) -> Result<u32> {
        let _config = self.services.write();
        self.peers.del(node).map(|()| 0)
    }

    /// Takes the keys of the cluster.
    fn set_keys(&self, told: &[u8]) -> Result<u32> {
        let config = self.services.write();
        if config.closed {
            return Err(ENODEV);
        }
        self.peers.set_keys(told).map(|()| 0)
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
