// SPDX-License-Identifier: GPL-2.0

//! The control connections of a namespace: one to each other node, made ahead and kept (paper,
//! section 4).
//!
//! Of two nodes the one whose name sorts lower connects, to the other's control address from its
//! own, and tries again with growing patience until it succeeds. The first record each way is
//! HELLO; then come the records of handoffs, which BTCP gets one by one.
//!
//! One thread keeps all connections of the namespace. It never blocks in a socket: whatever happens
//! to one of them, or is queued for one, rings its bell.

use crate::utcp::{
    counters::{
        Counter,
        Counters, //
    },
    peer::{
        Peer,
        Peers, //
    },
};
use carisma_core::wire::{
    Header,
    Kind,
    Name,
    Record,
    MAX_LEN, //
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
    sync::Arc,
    time::{
        Instant,
        Monotonic, //
    },
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
/// Milliseconds that an attempt to connect, and then the peer's HELLO, may take.
const PATIENCE_MS: u32 = 3_000;
/// Milliseconds after which the thread looks around though nothing has rung.
const IDLE_MS: u32 = 60_000;
/// Connections that may wait for their HELLO; a stranger cannot have more of us.
const STRANGERS_MAX: usize = 16;
/// The length of a HELLO.
const HELLO_LEN: usize = Kind::Hello.len_range().1;
/// Bytes that are sent in one go.
const CHUNK: usize = 1 << 14;
/// How many times a socket is read before the others get their turn.
const READS: usize = 16;

/// A time that something has to be done at.
#[derive(Clone, Copy)]
struct Deadline {
    since: Instant<Monotonic>,
    ms: u32,
}

impl Deadline {
    /// So many milliseconds from now.
    fn after(ms: u32) -> Self {
        Self {
            since: Instant::now(),
            ms,
        }
    }

    /// Milliseconds until then.
    fn left(&self) -> u32 {
        let gone = u32::try_from(self.since.elapsed().as_millis()).unwrap_or(u32::MAX);
        self.ms.saturating_sub(gone)
    }

    fn is_over(&self) -> bool {
        self.left() == 0
    }
}

/// Why a connection is closed.
enum End {
    /// TCP says so, or the time is up.
    Lost,
    /// It did not begin with the HELLO of the node that it should be to.
    Stranger,
    /// What came is no record.
    Malformed,
    /// There is no memory for it.
    NoMemory,
}

impl From<Error> for End {
    fn from(_: Error) -> Self {
        Self::Lost
    }
}

impl From<AllocError> for End {
    fn from(_: AllocError) -> Self {
        Self::NoMemory
    }
}

use kernel::alloc::AllocError;

/// How far a connection has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// TCP shakes hands.
    Connecting,
    /// The peer has not said HELLO.
    Greeting,
    /// It carries records.
    Up,
}

/// A connection to a peer.
struct Conn {
    sock: Socket,
    stage: Stage,
    /// Until when the next stage must be reached.
    deadline: Deadline,
    /// What was read and is no whole record yet.
    rx: KVVec<u8>,
    rx_len: usize,
    /// What is being sent.
    tx: KVec<u8>,
    tx_at: usize,
    tx_len: usize,
}

impl Conn {
    /// A connection that begins with our HELLO.
    fn new(sock: Socket, stage: Stage, hello: &[u8]) -> Result<Self> {
        let mut tx = KVec::from_elem(0, CHUNK, GFP_KERNEL)?;
        if let Some(to) = tx.get_mut(..hello.len()) {
            to.copy_from_slice(hello);
        }
        Ok(Self {
            sock,
            stage,
            deadline: Deadline::after(PATIENCE_MS),
            rx: KVVec::from_elem(0, MAX_LEN + 1, GFP_KERNEL)?,
            rx_len: 0,
            tx,
            tx_at: 0,
            tx_len: hello.len(),
        })
    }

    /// Sends what waits, as far as there is room.
    fn send(&mut self, peer: &Peer) -> Result<(), End> {
        loop {
            if self.tx_at == self.tx_len {
                self.tx_at = 0;
                self.tx_len = peer.take(&mut self.tx);
                if self.tx_len == 0 {
                    return Ok(());
                }
            }
            let Some(rest) = self.tx.get(self.tx_at..self.tx_len) else {
                return Err(End::Lost);
            };
            match self.sock.send(rest)? {
                // TCP never sends more than it was given.
                Some(n) => self.tx_at = self.tx_at.saturating_add(n).min(self.tx_len),
                None => return Ok(()),
            }
        }
    }

    /// Reads more; whether there was something.
    fn fill(&mut self) -> Result<bool, End> {
        let Some(room) = self.rx.get_mut(self.rx_len..) else {
            return Err(End::Lost);
        };
        match self.sock.recv(room)? {
            Some(n) => {
                self.rx_len = self.rx_len.saturating_add(n);
                Ok(n != 0)
            }
            None => Ok(false),
        }
    }

    /// Cuts what was read into records, and gives them to `take`.
    fn cut(&mut self, mut take: impl FnMut(Header, &[u8]) -> Result<(), End>) -> Result<(), End> {
        let mut rest = self.rx.get(..self.rx_len).unwrap_or(&[]);
        while rest.len() >= carisma_core::wire::HEADER_LEN {
            let header = Header::parse(rest).map_err(|_| End::Malformed)?;
            let Some((record, behind)) = rest.split_at_checked(header.len) else {
                break;
            };
            take(header, record)?;
            rest = behind;
        }
        let len = rest.len();
        self.skip(self.rx_len.saturating_sub(len));
        Ok(())
    }

    /// The first bytes of what was read, if there are so many.
    fn first(&self, len: usize) -> Option<&[u8]> {
        self.rx.get(..self.rx_len)?.get(..len)
    }

    /// Forgets the first bytes of what was read.
    fn skip(&mut self, len: usize) {
        let len = len.min(self.rx_len);
        // Within bounds, as `rx_len` is.
        self.rx.copy_within(len..self.rx_len, 0);
        self.rx_len -= len;
    }
}

/// A peer, and the connection to it.
struct Link {
    peer: Arc<Peer>,
    conn: Option<Conn>,
    /// When to connect, if it is up to us.
    next: Deadline,
    backoff: u32,
}

impl Link {
    /// Both, if there is a connection.
    fn parts(&mut self) -> Option<(&Peer, &mut Conn)> {
        Some((&self.peer, self.conn.as_mut()?))
    }
}

/// A connection that came in and has not said whose it is.
struct Stranger {
    sock: Socket,
    deadline: Deadline,
    hello: [u8; HELLO_LEN],
    len: usize,
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
    strangers: KVec<Stranger>,
}

impl Control {
    /// For a namespace that has nodes.
    pub(crate) fn new(net: NetRef, peers: Arc<Peers>, counters: Counters) -> Result<Self> {
        Ok(Self {
            net,
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

    /// Follows changes of the list of nodes.
    fn follow(&mut self) -> Result {
        let changes = self.peers.changes();
        if self.changes == Some(changes) {
            return Ok(());
        }
        let now = self.peers.snapshot()?;
        let local = now.iter().find(|peer| peer.local).cloned();
        let same = match (&self.local, &local) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        let mut i = 0;
        while let Some(link) = self.links.get(i) {
            if same && !link.peer.is_gone() {
                i += 1;
                continue;
            }
            self.end(i, End::Lost);
            // There is one, which was just looked at.
            let _ = self.links.remove(i);
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
        self.counters.count(match why {
            End::Stranger => Counter::PeersStrange,
            End::Malformed => Counter::PeersMalformed,
            End::Lost | End::NoMemory if conn.stage == Stage::Up => Counter::PeersLost,
            End::Lost | End::NoMemory => Counter::PeersUnreachable,
        });
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
    }

    /// Our HELLO.
    fn hello(&self) -> Option<[u8; HELLO_LEN]> {
        let mut hello = [0; HELLO_LEN];
        let name = self.local.as_ref()?.name;
        let epoch = self.epoch;
        (Record::Hello { epoch, name }.encode(&mut hello)? == HELLO_LEN).then_some(hello)
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
            sock.tune(&TUNING);
            let stranger = Stranger {
                sock,
                deadline: Deadline::after(PATIENCE_MS),
                hello: [0; HELLO_LEN],
                len: 0,
            };
            // There is room: see above.
            let _ = self.strangers.push_within_capacity(stranger);
        }
    }

    /// Reads the HELLOs of those that came in.
    fn greet(&mut self) {
        let mut i = 0;
        while let Some(stranger) = self.strangers.get_mut(i) {
            let read = match stranger.hello.get_mut(stranger.len..) {
                Some(room) => stranger.sock.recv(room),
                None => Err(EINVAL),
            };
            match read {
                Ok(Some(n)) => stranger.len = stranger.len.saturating_add(n),
                Ok(None) if !stranger.deadline.is_over() => {}
                Ok(None) | Err(_) => stranger.len = usize::MAX,
            }
            if stranger.len < HELLO_LEN {
                i += 1;
                continue;
            }
            // There is one, which was just looked at.
            let Ok(stranger) = self.strangers.remove(i) else {
                return;
            };
            if stranger.len != HELLO_LEN || self.admit(stranger).is_err() {
                self.counters.count(Counter::PeersStrange);
            }
        }
    }

    /// Makes a stranger the connection to the peer that he says he is, in place of one that there
    /// may be: the peer would not connect again if it were any good.
    fn admit(&mut self, stranger: Stranger) -> Result<(), End> {
        let (epoch, name) = hello_of(&stranger.hello)?;
        let addr = stranger.sock.peer();
        let local = self.local.as_ref().ok_or(End::Stranger)?.name;
        let i = self
            .links
            .iter()
            .position(|link| link.peer.name == name && link.peer.addr == addr && name < local)
            .ok_or(End::Stranger)?;
        let hello = self.hello().ok_or(End::Lost)?;
        let conn = Conn::new(stranger.sock, Stage::Greeting, &hello)?;
        self.end(i, End::Lost);
        if let Some(link) = self.links.get_mut(i) {
            link.conn = Some(conn);
        }
        self.raise(i, epoch);
        Ok(())
    }

    /// The connection is up.
    fn raise(&mut self, i: usize, epoch: u64) {
        let Some(link) = self.links.get_mut(i) else {
            return;
        };
        if link.peer.up().is_err() {
            self.end(i, End::NoMemory);
            return;
        }
        if let Some(conn) = &mut link.conn {
            conn.stage = Stage::Up;
        }
        link.backoff = BACKOFF_MS.0;
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
        let hello = self.hello().ok_or(End::Lost)?;
        let mut sock = Socket::bound(&self.net, &local.addr, 0)?;
        sock.watch(self.peers.bell())?;
        sock.tune(&TUNING);
        sock.connect(&link.peer.addr, link.peer.port)?;
        let conn = Conn::new(sock, Stage::Connecting, &hello)?;
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
        if conn.stage != Stage::Up && conn.deadline.is_over() {
            return Err(End::Lost);
        }
        if conn.stage == Stage::Connecting {
            if !conn.sock.is_connected()? {
                return Ok(false);
            }
            conn.stage = Stage::Greeting;
            conn.deadline = Deadline::after(PATIENCE_MS);
        }
        conn.send(&link.peer)?;
        for _ in 0..READS {
            if !self.read(i)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads from a link once; whether there was something.
    fn read(&mut self, i: usize) -> Result<bool, End> {
        let Some((_, conn)) = self.links.get_mut(i).and_then(Link::parts) else {
            return Ok(false);
        };
        if !conn.fill()? {
            return Ok(false);
        }
        if conn.stage != Stage::Up {
            // Behind the HELLO there may be records already, for which the peer must be up.
            let Some(hello) = conn.first(HELLO_LEN) else {
                return Ok(true);
            };
            let (epoch, name) = hello_of(hello)?;
            conn.skip(HELLO_LEN);
            if self.links.get(i).is_none_or(|link| link.peer.name != name) {
                return Err(End::Stranger);
            }
            self.raise(i, epoch);
        }
        let Some((peer, conn)) = self.links.get_mut(i).and_then(Link::parts) else {
            return Ok(false);
        };
        let (net, counters) = (&self.net, &self.counters);
        conn.cut(|header, record| {
            if header.kind == Kind::Hello {
                return Err(End::Malformed);
            }
            counters.count(Counter::RecordsReceived);
            // What BTCP makes of it is its business.
            let _ = below::put(net, Msg::record(kind::RECORD_IND, peer.node, record));
            Ok(())
        })?;
        Ok(true)
    }

    /// Milliseconds until something has to be done though nothing rings.
    fn patience(&self) -> u32 {
        let mut ms = IDLE_MS;
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
            // No memory: the change is still there to be followed.
            return false;
        }
        self.listen();
        self.accept();
        self.greet();
        let mut more = false;
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

/// What a HELLO says.
fn hello_of(bytes: &[u8]) -> Result<(u64, Name), End> {
    match Record::parse(bytes) {
        Ok(Record::Hello { epoch, name }) => Ok((epoch, name)),
        _ => Err(End::Stranger),
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
            self.end(i, End::Lost);
        }
    }
}
