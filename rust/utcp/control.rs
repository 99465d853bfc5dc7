// SPDX-License-Identifier: GPL-2.0

//! The control connections of a namespace: one to each other node, made ahead and kept (paper,
//! section 4).
//!
//! Of two nodes the one whose name sorts lower connects, to the other's control address from its
//! own, and tries again with growing patience until it succeeds. When both have said who they are, and
//! proved it if they have keys, the records of handoffs come, which BTCP gets one by one.
//!
//! One thread keeps all connections of the namespace. It never blocks in a socket: whatever happens
//! to one of them, or is queued for one, rings its bell.

use crate::utcp::{
    conn::{
        Conn,
        Deadline,
        End,
        Stage, //
    },
    counters::{
        Counter,
        Counters, //
    },
    keys::Keys,
    peer::{
        Peer,
        Peers, //
    },
};
use carisma_core::{
    auth::{
        self,
        Trouble, //
    },
    tuple::Addr,
    wire::Hello, //
};
use carisma_net::{
    below,
    ksock::{
        Socket,
        Tuning, //
    },
    kthread::{
        Bell,
        Run, //
    },
    link::{
        kind,
        Msg, //
    },
    pernet::NetRef,
    random, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// What TCP is asked for. A peer that is gone is noticed within 11 seconds, also when records are
/// under way to it.
const TUNING: Tuning = Tuning {
    idle: 5,
    interval: 2,
    probes: 3,
    user_timeout: 10_000,
};
/// Milliseconds until the first new attempt to connect, and at most.
const BACKOFF_MS: (u32, u32) = (100, 2_000);
/// Milliseconds after which the thread looks around though nothing has rung.
const IDLE_MS: u32 = 60_000;
/// Connections that may wait for their HELLO and proof; a stranger cannot have more of us.
const STRANGERS_MAX: usize = 16;
/// How many of them may come from one node's address: the oldest makes room for a newer one, so that
/// who only has that address keeps neither the node nor others out.
const STRANGERS_OF_ONE: usize = 4;
/// How many times a socket is read before the others get their turn.
const READS: usize = 16;

/// A peer, and the connection to it.
struct Link {
    peer: Arc<Peer>,
    conn: Option<Conn>,
    /// When to connect, if it is up to us.
    next: Deadline,
    backoff: u32,
    /// What BTCP was told of why there is none.
    trouble: Option<Trouble>,
}

impl Link {
    /// Both, if there is a connection.
    fn parts(&mut self) -> Option<(&Peer, &mut Conn)> {
        Some((&self.peer, self.conn.as_mut()?))
    }
}

/// What the thread knows.
pub(crate) struct Control {
    net: NetRef,
    peers: Arc<Peers>,
    counters: Counters,
    epoch: u64,
    changes: Option<u32>,
    /// This node.
    local: Option<Arc<Peer>>,
    listener: Option<Socket>,
    /// When to listen again, if that failed.
    relisten: Deadline,
    links: KVec<Link>,
    /// Connections that came in and have not said, or not proved, whose they are.
    strangers: KVec<Conn>,
    keys: Arc<Keys>,
}

impl Control {
    /// For a namespace that has nodes.
    pub(crate) fn new(net: NetRef, peers: Arc<Peers>, counters: Counters) -> Result<Self> {
        Ok(Self {
            net,
            keys: peers.keys(),
            peers,
            counters,
            epoch: random::u64(),
            changes: None,
            local: None,
            listener: None,
            relisten: Deadline::after(0),
            links: KVec::new(),
            strangers: KVec::with_capacity(STRANGERS_MAX, GFP_KERNEL)?,
        })
    }

    fn tell(&self, msg: Msg<'_>) {
        // What BTCP makes of it is its business.
        let _ = below::put(&self.net, msg);
    }

    /// Follows changes of the keys and of the list of nodes.
    fn follow(&mut self) -> Result {
        let changes = self.peers.changes();
        if self.changes == Some(changes) {
            return Ok(());
        }
        let now = self.peers.snapshot()?;
        self.keys = self.peers.keys();
        let local = now.iter().find(|peer| peer.local).cloned();
        let same = match (&self.local, &local) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        let mut i = 0;
        while let Some(link) = self.links.get(i) {
            if same && !link.peer.is_gone() {
                let stands = |conn: &Conn| conn.stands_on(&self.keys);
                if !link.conn.as_ref().is_none_or(stands) {
                    self.end(i, End::Rekeyed);
                }
                i += 1;
                continue;
            }
            self.end(i, End::Unwanted);
            self.note(i, None);
            // There is one, which was just looked at.
            let _ = self.links.remove(i);
        }
        let keys = &self.keys;
        let before = self.strangers.len();
        self.strangers.retain(|conn| conn.stands_on(keys));
        for _ in self.strangers.len()..before {
            self.counters.count(Counter::PeersRekeyed);
        }
        if !same {
            self.listener = None;
            self.strangers.clear();
            self.relisten = Deadline::after(0);
            self.local = local;
        }
        for peer in &now {
            let known = self.links.iter().any(|link| Arc::ptr_eq(&link.peer, peer));
            if !known && !peer.local && self.local.is_some() {
                self.links.push(
                    Link {
                        peer: peer.clone(),
                        conn: None,
                        next: Deadline::after(0),
                        backoff: BACKOFF_MS.0,
                        trouble: None,
                    },
                    GFP_KERNEL,
                )?;
            }
        }
        self.changes = Some(changes);
        Ok(())
    }

    /// Closes a link's connection, if it has one.
    fn end(&mut self, i: usize, why: End) {
        let Some(link) = self.links.get_mut(i) else {
            return;
        };
        let Some(conn) = link.conn.take() else {
            return;
        };
        self.counters.count(cause(why, conn.stage));
        link.next = Deadline::after(link.backoff);
        link.backoff = link.backoff.saturating_mul(2).min(BACKOFF_MS.1);
        let (up, node) = (conn.stage == Stage::Up, link.peer.node);
        if up {
            link.peer.down();
        }
        drop(conn);
        if up {
            self.tell(Msg::record(kind::PEER_DOWN, node, &[]));
        }
        self.note(i, trouble(why));
    }

    /// Tells why there is no connection to a node, or that nothing is known against one.
    fn note(&mut self, i: usize, trouble: Option<Trouble>) {
        let Some(link) = self.links.get_mut(i) else {
            return;
        };
        if link.conn.is_some() || link.trouble == trouble {
            return;
        }
        link.trouble = trouble;
        let msg = Msg {
            // CAST: The number of a variant.
            value: trouble.map_or(0, |it| u64::from(it as u8) + 1),
            ..Msg::record(kind::PEER_REFUSED, link.peer.node, &[])
        };
        self.tell(msg);
    }

    /// Our HELLO on a new connection.
    fn hello(&self) -> Result<Hello> {
        Ok(Hello {
            epoch: self.epoch,
            name: self.local.as_ref().ok_or(ENOTCONN)?.name,
            nonce: random::bytes(),
            signs: self.keys.signing().is_some(),
        })
    }

    /// Listens, if we do not yet.
    fn listen(&mut self) {
        let Some(local) = &self.local else {
            return;
        };
        if self.listener.is_some() || !self.relisten.is_over() {
            return;
        }
        let listen = || -> Result<Socket> {
            let mut sock = Socket::bound(&self.net, &local.addr, local.port)?;
            sock.watch(self.peers.bell())?;
            // CAST: A small number.
            sock.listen(STRANGERS_MAX as i32)?;
            Ok(sock)
        };
        match listen() {
            Ok(sock) => self.listener = Some(sock),
            Err(_) => self.relisten = Deadline::after(BACKOFF_MS.1),
        }
    }

    /// Takes connections that came in.
    fn accept(&mut self) {
        while self.strangers.len() < STRANGERS_MAX {
            let Some(listener) = &self.listener else {
                return;
            };
            let Ok(Some(mut sock)) = listener.accept() else {
                return;
            };
            // Only nodes may wait here, so that nobody else can take their places.
            let addr = sock.peer();
            let known = self.links.iter().any(|link| link.peer.addr == addr);
            if !known || sock.watch(self.peers.bell()).is_err() {
                self.counters.count(Counter::PeersStrange);
                continue;
            }
            self.make_room(&addr);
            sock.tune(&TUNING);
            let conn = self
                .hello()
                .and_then(|hello| Conn::new(sock, auth::End::Acceptor, &hello));
            if let Ok(conn) = conn {
                // There is room: see above.
                let _ = self.strangers.push_within_capacity(conn);
            }
        }
    }

    /// Gives up the oldest of an address from which as many wait as may.
    fn make_room(&mut self, addr: &Addr) {
        let mut theirs = (self.strangers.iter().enumerate())
            .filter(|(_, conn)| conn.sock.peer() == *addr)
            .map(|(i, _)| i);
        let oldest = theirs.next();
        if theirs.count().saturating_add(1) < STRANGERS_OF_ONE {
            return;
        }
        if let Some(conn) = oldest.and_then(|i| self.strangers.remove(i).ok()) {
            let (why, stage) = (conn.overdue(), conn.stage);
            drop(conn);
            self.refuse(addr, why, stage);
        }
    }

    /// Listens to those that came in.
    fn greet(&mut self) {
        let mut i = 0;
        while i < self.strangers.len() {
            let met = self.meet(i);
            if matches!(met, Ok(None)) {
                i += 1;
                continue;
            }
            // There is one, which was just looked at.
            let Ok(conn) = self.strangers.remove(i) else {
                return;
            };
            match met {
                Ok(Some(link)) => self.admit(link, conn),
                Ok(None) => {}
                Err(why) => {
                    let stage = conn.stage;
                    let addr = conn.sock.peer();
                    drop(conn);
                    self.refuse(&addr, why, stage);
                }
            }
        }
    }

    /// Goes on with a stranger as far as it can. When it is the connection to a peer, to which.
    fn meet(&mut self, i: usize) -> Result<Option<usize>, End> {
        let (Some(local), Some(conn)) = (&self.local, self.strangers.get_mut(i)) else {
            return Err(End::Lost);
        };
        conn.check_deadline()?;
        let addr = conn.sock.peer();
        let position = |hello: &Hello| {
            self.links.iter().position(|link| {
                link.peer.name == hello.name && link.peer.addr == addr && hello.name < local.name
            })
        };
        if !conn.shake_hands(&self.keys, |hello| position(hello).is_some())? {
            return Ok(None);
        }
        // An address is that of one node.
        let link = self.links.iter().position(|link| link.peer.addr == addr);
        link.map(Some).ok_or(End::Lost)
    }

    /// Counts why a stranger was none of ours, and remembers it of the node that has its address.
    fn refuse(&mut self, addr: &Addr, why: End, stage: Stage) {
        self.counters.count(match (why, stage) {
            // It has not even said who it is.
            (End::Lost, Stage::Greeting) => Counter::PeersStrange,
            _ => cause(why, stage),
        });
        let link = self.links.iter().position(|link| link.peer.addr == *addr);
        if let (Some(i), Some(trouble)) = (link, trouble(why)) {
            self.note(i, Some(trouble));
        }
    }

    /// Makes a stranger the connection to a peer, in place of one that there may be: the peer would
    /// not connect again if it were any good.
    fn admit(&mut self, i: usize, conn: Conn) {
        self.end(i, End::Lost);
        if let Some(link) = self.links.get_mut(i) {
            link.conn = Some(conn);
        }
        self.raise(i);
    }

    /// The connection is up.
    fn raise(&mut self, i: usize) {
        let Some((link, epoch)) = self.links.get_mut(i).and_then(|link| {
            let epoch = link.conn.as_ref()?.epoch;
            Some((link, epoch))
        }) else {
            return;
        };
        if link.peer.up().is_err() {
            self.end(i, End::NoMemory);
            return;
        }
        link.backoff = BACKOFF_MS.0;
        link.trouble = None;
        let node = link.peer.node;
        self.counters.count(Counter::PeersConnected);
        self.tell(Msg {
            value: epoch,
            ..Msg::record(kind::PEER_UP, node, &[])
        });
    }

    /// Connects to a peer, if it is up to us and the time has come.
    fn connect(&mut self, i: usize) -> Result<(), End> {
        let (Some(local), Some(link)) = (&self.local, self.links.get(i)) else {
            return Ok(());
        };
        let ours = local.name < link.peer.name;
        if link.conn.is_some() || !ours || !link.next.is_over() {
            return Ok(());
        }
        let hello = self.hello()?;
        let mut sock = Socket::bound(&self.net, &local.addr, 0)?;
        sock.watch(self.peers.bell())?;
        sock.tune(&TUNING);
        sock.connect(&link.peer.addr, link.peer.port)?;
        let conn = Conn::new(sock, auth::End::Connector, &hello)?;
        if let Some(link) = self.links.get_mut(i) {
            link.conn = Some(conn);
        }
        Ok(())
    }

    /// Goes on with a link as far as it can. Whether there is more to read at once.
    fn step(&mut self, i: usize) -> Result<bool, End> {
        self.connect(i)?;
        let Some(link) = self.links.get_mut(i) else {
            return Ok(false);
        };
        let Some(conn) = &mut link.conn else {
            return Ok(false);
        };
        conn.check_deadline()?;
        if conn.stage == Stage::Connecting {
            if !conn.sock.is_connected()? {
                return Ok(false);
            }
            conn.connected();
        }
        if conn.stage != Stage::Up {
            let name = link.peer.name;
            if !conn.shake_hands(&self.keys, |hello| hello.name == name)? {
                return Ok(false);
            }
            self.raise(i);
        }
        let Some((peer, conn)) = self.links.get_mut(i).and_then(Link::parts) else {
            return Ok(false);
        };
        let mut more = true;
        for _ in 0..READS {
            // There may be records from the time before it was up.
            conn.cut(&self.keys, |record| {
                self.counters.count(Counter::RecordsReceived);
                // What BTCP makes of it is its business.
                let _ = below::put(&self.net, Msg::record(kind::RECORD_IND, peer.node, record));
            })?;
            // Its answers go before anything else is read.
            conn.send(Some(peer), &self.keys)?;
            more = conn.fill()?;
            if !more {
                break;
            }
        }
        Ok(more)
    }

    /// Milliseconds until something has to be done though nothing rings.
    fn patience(&self) -> u32 {
        let mut ms = IDLE_MS;
        if self.changes != Some(self.peers.changes()) {
            // There was no memory to follow them.
            ms = BACKOFF_MS.0;
        }
        if self.local.is_some() && self.listener.is_none() {
            ms = ms.min(self.relisten.left());
        }
        for stranger in &self.strangers {
            ms = ms.min(stranger.deadline.left());
        }
        for link in &self.links {
            match &link.conn {
                Some(conn) if conn.stage == Stage::Up => {}
                Some(conn) => ms = ms.min(conn.deadline.left()),
                None if self
                    .local
                    .as_ref()
                    .is_some_and(|local| local.name < link.peer.name) =>
                {
                    ms = ms.min(link.next.left());
                }
                None => {}
            }
        }
        ms.saturating_add(1)
    }

    /// Does all that there is to do now. Whether there is more at once.
    fn round(&mut self) -> bool {
        if self.follow().is_err() {
            return false;
        }
        self.listen();
        self.accept();
        let full = self.strangers.len() >= STRANGERS_MAX;
        self.greet();
        // Nothing rings for those that waited for a place, which there may be now.
        let mut more = full && self.strangers.len() < STRANGERS_MAX;
        let mut i = 0;
        while i < self.links.len() {
            match self.step(i) {
                Ok(busy) => more |= busy,
                Err(why) => self.fail(i, why),
            }
            i += 1;
        }
        more
    }

    /// What a link tried came to nothing.
    fn fail(&mut self, i: usize, why: End) {
        match self.links.get_mut(i) {
            Some(link) if link.conn.is_none() => {
                self.counters.count(Counter::PeersUnreachable);
                link.next = Deadline::after(link.backoff);
                link.backoff = link.backoff.saturating_mul(2).min(BACKOFF_MS.1);
            }
            _ => self.end(i, why),
        }
    }
}

/// What a closed connection is counted as.
fn cause(why: End, stage: Stage) -> Counter {
    match why {
        End::Refused(Trouble::Strange) => Counter::PeersStrange,
        End::Refused(Trouble::Version) => Counter::PeersVersion,
        End::Refused(Trouble::Unauthenticated) => Counter::PeersUnauthenticated,
        End::Refused(Trouble::UnknownKey) => Counter::PeersUnknownKey,
        End::Refused(Trouble::Unproven) => Counter::PeersUnproven,
        End::Malformed => Counter::PeersMalformed,
        End::Rekeyed => Counter::PeersRekeyed,
        End::Oversized => Counter::RecordsOversized,
        End::Truncated => Counter::RecordsTruncated,
        End::Forged => Counter::RecordsForged,
        End::Replayed => Counter::RecordsReplayed,
        End::Reordered => Counter::RecordsReordered,
        End::Lost | End::NoMemory | End::Unwanted => match stage {
            Stage::Up => Counter::PeersLost,
            _ => Counter::PeersUnreachable,
        },
    }
}

/// What people are told of why there is no connection.
fn trouble(why: End) -> Option<Trouble> {
    match why {
        End::Refused(trouble) => Some(trouble),
        _ => None,
    }
}

impl Run for Control {
    fn run(mut self, bell: &Bell) {
        loop {
            if self.round() {
                bell.ring();
            }
            if !bell.wait(self.patience()) {
                break;
            }
        }
        for i in 0..self.links.len() {
            self.end(i, End::Unwanted);
        }
    }
}
