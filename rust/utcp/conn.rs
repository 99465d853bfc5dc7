// SPDX-License-Identifier: GPL-2.0

//! One control connection: how it begins, and how its stream is made of records.
//!
//! What is said first, and in which order, is in docs/handoff-protocol.md, "The control connection".

use crate::utcp::{
    keys::{
        ClusterKey,
        Keys, //
    },
    peer::Peer,
};
use carisma_core::{
    auth::{
        self,
        Fault,
        Session,
        Trouble,
        SIGNED_KEY_LEN,
        TAG_LEN, //
    },
    wire::{
        self,
        Header,
        Hello,
        Kind,
        Record,
        Refused,
        HELLO_LEN,
        MAX_LEN, //
    },
};
use carisma_net::{
    hmac,
    ksock::Socket, //
};
use kernel::{
    alloc::AllocError,
    prelude::*,
    sync::Arc,
    time::{
        Instant,
        Monotonic, //
    },
};

/// Milliseconds that an attempt to connect, and then all until the connection is up, may take.
const PATIENCE_MS: u32 = 3_000;
/// Room for what is read: the longest record and its tag.
const RX_LEN: usize = MAX_LEN + TAG_LEN;
/// Room for what is sent: a KEY before the longest record.
const TX_LEN: usize = SIGNED_KEY_LEN + MAX_LEN + TAG_LEN;

// What comes before the connection is up fits into the room that there is until then.
const _: () = assert!(SIGNED_KEY_LEN <= HELLO_LEN);

/// A time that something has to be done at.
#[derive(Clone, Copy)]
pub(crate) struct Deadline {
    since: Instant<Monotonic>,
    ms: u32,
}

impl Deadline {
    /// So many milliseconds from now.
    pub(crate) fn after(ms: u32) -> Self {
        Self {
            since: Instant::now(),
            ms,
        }
    }

    /// Milliseconds until then.
    pub(crate) fn left(&self) -> u32 {
        let gone = u32::try_from(self.since.elapsed().as_millis()).unwrap_or(u32::MAX);
        self.ms.saturating_sub(gone)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.left() == 0
    }
}

/// Why a connection is closed.
#[derive(Clone, Copy)]
pub(crate) enum End {
    /// TCP says so, or the time is up.
    Lost,
    /// There is no memory for it.
    NoMemory,
    /// There is no use for it any more.
    Unwanted,
    /// The keys that it was built on, or that there were none, is not so any more.
    Rekeyed,
    /// It is no connection to the node that it should be to.
    Refused(Trouble),
    /// What came is no record.
    Malformed,
    /// A record is longer than its kind can be.
    Oversized,
    /// It ended within a record.
    Truncated,
    /// A record was not signed for this connection.
    Forged,
    /// A record came again.
    Replayed,
    /// A record came before its turn.
    Reordered,
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

impl From<Refused> for End {
    fn from(why: Refused) -> Self {
        match why {
            Refused::Oversize => Self::Oversized,
            _ => Self::Malformed,
        }
    }
}

impl From<Fault<AllocError>> for End {
    fn from(fault: Fault<AllocError>) -> Self {
        match fault {
            Fault::Unproven => Self::Refused(Trouble::Unproven),
            Fault::UnknownKey => Self::Refused(Trouble::UnknownKey),
            Fault::Replayed => Self::Replayed,
            Fault::Reordered => Self::Reordered,
            Fault::Forged => Self::Forged,
            Fault::Malformed => Self::Malformed,
            Fault::Failed(AllocError) => Self::NoMemory,
        }
    }
}

/// How far a connection has come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// TCP shakes hands.
    Connecting,
    /// The peer has not said HELLO.
    Greeting,
    /// The peer has not proved that it has its key.
    Proving,
    /// It carries records.
    Up,
}

/// A connection to a node, or to somebody who may be one.
pub(crate) struct Conn {
    pub(crate) sock: Socket,
    pub(crate) stage: Stage,
    /// Until when the next stage must be reached.
    pub(crate) deadline: Deadline,
    /// The peer's epoch, once it has said HELLO.
    pub(crate) epoch: u64,
    /// Which end this is.
    end: auth::End,
    /// Our HELLO.
    hello: [u8; HELLO_LEN],
    /// Whether it says that records are signed.
    signs: bool,
    /// Signs and checks records, if they are signed and both have said HELLO.
    session: Option<Session<hmac::Key>>,
    /// The key that we sign with, and the peer's.
    ours: Option<Arc<ClusterKey>>,
    theirs: Option<Arc<ClusterKey>>,
    /// What was read and is no whole record yet.
    rx: KVVec<u8>,
    rx_len: usize,
    /// What is being sent.
    tx: KVVec<u8>,
    tx_at: usize,
    tx_len: usize,
}

impl Conn {
    /// A connection of which nothing is known yet. It has little room until it is up.
    pub(crate) fn new(sock: Socket, end: auth::End, hello: &Hello) -> Result<Self> {
        let mut bytes = [0; HELLO_LEN];
        Record::Hello(*hello).encode(&mut bytes).ok_or(EINVAL)?;
        let mut conn = Self {
            sock,
            stage: match end {
                auth::End::Connector => Stage::Connecting,
                auth::End::Acceptor => Stage::Greeting,
            },
            deadline: Deadline::after(PATIENCE_MS),
            epoch: 0,
            end,
            hello: bytes,
            signs: hello.signs,
            session: None,
            ours: None,
            theirs: None,
            rx: KVVec::from_elem(0, HELLO_LEN, GFP_KERNEL)?,
            rx_len: 0,
            tx: KVVec::from_elem(0, HELLO_LEN, GFP_KERNEL)?,
            tx_at: 0,
            tx_len: 0,
        };
        if end == auth::End::Connector {
            conn.say_hello();
        }
        Ok(conn)
    }

    /// TCP is connected.
    pub(crate) fn connected(&mut self) {
        self.stage = Stage::Greeting;
        self.deadline = Deadline::after(PATIENCE_MS);
    }

    /// Gives up when the next stage was not reached in time.
    pub(crate) fn check_deadline(&self) -> Result<(), End> {
        match self.stage {
            Stage::Up => Ok(()),
            _ if !self.deadline.is_over() => Ok(()),
            _ => Err(self.overdue()),
        }
    }

    /// Why it ends that is not waited for any longer.
    pub(crate) fn overdue(&self) -> End {
        match self.stage {
            Stage::Proving => End::Refused(Trouble::Unproven),
            _ => End::Lost,
        }
    }

    /// Whether it is built on keys that there are.
    pub(crate) fn stands_on(&self, keys: &Keys) -> bool {
        let has = |key: &Option<Arc<ClusterKey>>| key.as_ref().is_none_or(|key| keys.has(key));
        self.signs == keys.signing().is_some() && has(&self.ours) && has(&self.theirs)
    }

    /// Leaves our HELLO to be sent. Nothing else waits to be.
    fn say_hello(&mut self) {
        let hello = self.hello;
        self.tx_at = 0;
        self.tx_len = 0;
        self.put(&hello);
    }

    /// Appends to what is to be sent, for which there is room.
    fn put(&mut self, bytes: &[u8]) {
        let end = self.tx_len.saturating_add(bytes.len());
        if let Some(room) = self.tx.get_mut(self.tx_len..end) {
            room.copy_from_slice(bytes);
            self.tx_len = end;
        }
    }

    /// Goes on until the connection can carry records; `true` when it can. `expected` says whether
    /// a HELLO is that of the node that it should be to.
    pub(crate) fn shake_hands(
        &mut self,
        keys: &Keys,
        expected: impl Fn(&Hello) -> bool,
    ) -> Result<bool, End> {
        loop {
            self.send(None, keys)?;
            if self.stage == Stage::Greeting {
                if let Some(hello) = self.greeted(keys)? {
                    self.meet(keys, &hello, expected(&hello))?;
                    self.send(None, keys)?;
                }
            }
            if self.stage == Stage::Proving && self.judged(keys)? {
                self.rx.resize(RX_LEN, 0, GFP_KERNEL)?;
                self.tx.resize(TX_LEN, 0, GFP_KERNEL)?;
                self.stage = Stage::Up;
                return Ok(true);
            }
            if !self.fill()? {
                return Ok(false);
            }
        }
    }

    /// The peer's HELLO, if it is there.
    fn greeted(&mut self, keys: &Keys) -> Result<Option<Hello>, End> {
        let read = self.rx.get(..self.rx_len).unwrap_or(&[]);
        if wire::is_foreign(read) {
            // It may know what to make of ours.
            self.answer(keys)?;
            return Err(End::Refused(Trouble::Version));
        }
        let Some(bytes) = read.first_chunk::<HELLO_LEN>() else {
            return Ok(None);
        };
        let Ok(Record::Hello(hello)) = Record::parse(bytes) else {
            return Err(End::Refused(Trouble::Strange));
        };
        Ok(Some(hello))
    }

    /// Says HELLO, if it was for the peer to say it first.
    fn answer(&mut self, keys: &Keys) -> Result<(), End> {
        if self.end == auth::End::Acceptor {
            self.say_hello();
            self.send(None, keys)?;
        }
        Ok(())
    }

    /// The peer has said HELLO.
    fn meet(&mut self, keys: &Keys, hello: &Hello, expected: bool) -> Result<(), End> {
        if !expected {
            return Err(End::Refused(Trouble::Strange));
        }
        self.answer(keys)?;
        if hello.signs != self.signs {
            return Err(End::Refused(Trouble::Unauthenticated));
        }
        let Some(theirs) = self.rx.first_chunk::<HELLO_LEN>().copied() else {
            return Err(End::Lost);
        };
        self.skip(HELLO_LEN);
        self.epoch = hello.epoch;
        self.stage = Stage::Proving;
        if self.signs {
            self.session = Some(Session::new(self.end, self.hello, theirs));
        }
        Ok(())
    }

    /// Whether the peer has proved that it has its key, if that is wanted. A connector that has not is told
    /// so by a KEY that proves nothing.
    fn judged(&mut self, keys: &Keys) -> Result<bool, End> {
        let proved = self.proved(keys);
        if let (Err(End::Refused(_)), auth::End::Acceptor) = (&proved, self.end) {
            if let Some(signing) = keys.signing() {
                let mut said = [0; SIGNED_KEY_LEN];
                // It fits.
                let _ = Record::Key(signing.id).encode(&mut said);
                self.put(&said);
                // Whether it is sent or not: that was all.
                let _ = self.send(None, keys);
            }
        }
        proved
    }

    /// See [`Conn::judged`].
    fn proved(&mut self, keys: &Keys) -> Result<bool, End> {
        if !self.signs {
            return Ok(true);
        }
        let read = self.rx.get(..self.rx_len).unwrap_or(&[]);
        // Of anything but a KEY no more is waited for.
        if read.len() >= wire::HEADER_LEN && Header::parse(read)?.kind != Kind::Key {
            return Err(End::Refused(Trouble::Unproven));
        }
        let Some(cut) = auth::cut(read, true)? else {
            return Ok(false);
        };
        let Some(session) = &mut self.session else {
            return Err(End::Lost);
        };
        let id = session.open(cut.record, cut.tag, |id| Some(&keys.find(id)?.key))?;
        self.theirs = id.and_then(|id| keys.find(id)).cloned();
        let len = cut.rest.len();
        self.skip(self.rx_len.saturating_sub(len));
        Ok(true)
    }

    /// Sends what waits, as far as there is room.
    pub(crate) fn send(&mut self, peer: Option<&Peer>, keys: &Keys) -> Result<(), End> {
        if self.stage == Stage::Connecting {
            return Ok(());
        }
        loop {
            if self.tx_at == self.tx_len {
                self.refill(peer, keys)?;
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

    /// Takes what is to be sent next: a KEY, if another key is to be signed with than before, and as
    /// many records as there are or fit.
    fn refill(&mut self, peer: Option<&Peer>, keys: &Keys) -> Result<(), End> {
        self.tx_at = 0;
        self.tx_len = 0;
        // A connector whose key is none of ours is not to believe that it is connected.
        let proves = self.end == auth::End::Connector || self.stage == Stage::Up;
        if let Some(session) = self.session.as_mut().filter(|_| proves) {
            let signing = keys.signing().ok_or(End::Rekeyed)?;
            let same = |key: &Arc<ClusterKey>| Arc::ptr_eq(key, signing);
            if !self.ours.as_ref().is_some_and(same) {
                let signed = session.sign_with(signing.id, &signing.key)?;
                self.ours = Some(signing.clone());
                self.put(&signed);
            }
        }
        let Some(peer) = peer else {
            return Ok(());
        };
        loop {
            let Some(room) = self.tx.get_mut(self.tx_len..) else {
                return Err(End::Lost);
            };
            let end = room.len().saturating_sub(TAG_LEN);
            let len = peer.take(room.get_mut(..end).unwrap_or_default());
            if len == 0 {
                return Ok(());
            }
            let end = self.tx_len.saturating_add(len);
            let record = self.tx.get(self.tx_len..end).unwrap_or(&[]);
            let tag = self.session.as_mut().map(|it| it.seal(record));
            self.tx_len = end;
            if let Some(tag) = tag {
                self.put(&tag.ok_or(End::Lost)?);
            }
        }
    }

    /// Reads more; whether there was something.
    pub(crate) fn fill(&mut self) -> Result<bool, End> {
        let Some(room) = self.rx.get_mut(self.rx_len..) else {
            return Err(End::Lost);
        };
        match self.sock.recv(room) {
            Ok(Some(n)) => {
                self.rx_len = self.rx_len.saturating_add(n);
                Ok(n != 0)
            }
            Ok(None) => Ok(false),
            Err(_) if self.stage == Stage::Up && self.rx_len != 0 => Err(End::Truncated),
            Err(err) => Err(err.into()),
        }
    }

    /// Cuts what was read into records, and gives those to `take` that are about handoffs.
    pub(crate) fn cut(&mut self, keys: &Keys, mut take: impl FnMut(&[u8])) -> Result<(), End> {
        let mut rest = self.rx.get(..self.rx_len).unwrap_or(&[]);
        while let Some(cut) = auth::cut(rest, self.signs)? {
            if let Some(session) = &mut self.session {
                let id = session.open(cut.record, cut.tag, |id| Some(&keys.find(id)?.key))?;
                if let Some(id) = id {
                    self.theirs = keys.find(id).cloned();
                }
            }
            match cut.header.kind {
                Kind::Key if self.signs => {}
                Kind::Key | Kind::Hello => return Err(End::Malformed),
                _ => take(cut.record),
            }
            rest = cut.rest;
        }
        let len = rest.len();
        self.skip(self.rx_len.saturating_sub(len));
        Ok(())
    }

    /// Forgets the first bytes of what was read.
    fn skip(&mut self, len: usize) {
        let len = len.min(self.rx_len);
        // Within bounds, as `rx_len` is.
        self.rx.copy_within(len..self.rx_len, 0);
        self.rx_len -= len;
    }
}
