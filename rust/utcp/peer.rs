// SPDX-License-Identifier: GPL-2.0

//! The nodes of the cluster, and what waits to be sent to them.

use crate::utcp::keys::Keys;
use carisma_core::{
    tuple::Addr,
    wire::{
        Header,
        Name, //
    },
};
use carisma_net::{
    kthread::Bell,
    link::Msg,
    lock::{
        new_spinlock_bh,
        SpinLockBh, //
    },
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Release, //
        },
        Arc,
        Mutex, //
    },
};

/// Bytes that may wait for a peer: more than three of the longest records.
const QUEUE_LEN: usize = 1 << 18;

/// Records that wait to be sent, as one stream of bytes. A record says itself how long it is.
#[derive(Default)]
struct Queue {
    /// Empty while the peer is down, else [`QUEUE_LEN`] long.
    ring: KVVec<u8>,
    /// Where the first byte is.
    start: usize,
    /// How many bytes wait.
    len: usize,
}

impl Queue {
    /// Puts a record in as a whole. Errors: `ENOTCONN` when the peer is down, `ENOBUFS` when there
    /// is no room, `EINVAL` when it is not one record.
    fn put(&mut self, record: &[u8]) -> Result {
        if !Header::parse(record).is_ok_and(|header| header.len == record.len()) {
            return Err(EINVAL);
        }
        if self.ring.is_empty() {
            return Err(ENOTCONN);
        }
        if record.len() > self.ring.len().saturating_sub(self.len) {
            return Err(ENOBUFS);
        }
        let size = self.ring.len();
        // OVERFLOW: Both are at most QUEUE_LEN.
        let end = (self.start + self.len) % size;
        let (until_wrap, rest) = record.split_at(record.len().min(size - end));
        for (at, part) in [(end, until_wrap), (0, rest)] {
            if let Some(room) = self.ring.get_mut(at..at + part.len()) {
                room.copy_from_slice(part);
            }
        }
        self.len += record.len();
        Ok(())
    }

    /// The length of the first record; 0 if there is none.
    fn first_len(&self) -> usize {
        let byte = |at: usize| {
            // OVERFLOW: Both are at most QUEUE_LEN.
            let at = (self.start + at).checked_rem(self.ring.len())?;
            self.ring.get(at).copied()
        };
        match (byte(2), byte(3)) {
            (Some(high), Some(low)) if self.len != 0 => u16::from_be_bytes([high, low]).into(),
            _ => 0,
        }
    }

    /// Takes the first record out, if `out` holds it; its length, or 0.
    fn take(&mut self, out: &mut [u8]) -> usize {
        let size = self.ring.len();
        let n = self.first_len();
        if n > out.len() {
            return 0;
        }
        let until_wrap = n.min(size - self.start);
        let (first, rest) = out.split_at_mut(until_wrap);
        // OVERFLOW: All are at most QUEUE_LEN.
        if let Some(from) = self.ring.get(self.start..self.start + until_wrap) {
            first.copy_from_slice(from);
        }
        if let (Some(to), Some(from)) = (
            rest.get_mut(..n - until_wrap),
            self.ring.get(..n - until_wrap),
        ) {
            to.copy_from_slice(from);
        }
        if n != 0 {
            self.start = (self.start + n) % size;
            self.len -= n;
        }
        n
    }
}

/// A node.
#[pin_data]
pub(crate) struct Peer {
    /// Its index.
    pub(crate) node: u32,
    /// Its name.
    pub(crate) name: Name,
    /// The address of its control connections.
    pub(crate) addr: Addr,
    /// The port that it takes them at.
    pub(crate) port: u16,
    /// Whether it is this node.
    pub(crate) local: bool,
    gone: Atomic<bool>,
    #[pin]
    queue: SpinLockBh<Queue>,
}

impl Peer {
    /// The node that a message tells of. Errors: `EINVAL` when its name cannot be one.
    pub(crate) fn new(msg: &Msg<'_>) -> Result<Arc<Self>> {
        let name = Name::from_padded(msg.name).ok_or(EINVAL)?;
        Arc::pin_init(
            pin_init!(Self {
                node: msg.node,
                name,
                addr: msg.tuple.local,
                port: msg.tuple.local_port.get(),
                local: msg.value == 1,
                gone: Atomic::new(false),
                queue <- new_spinlock_bh!(Queue::default(), "carisma_peer"),
            }),
            GFP_KERNEL,
        )
    }

    /// Whether nothing has changed.
    fn is_as(&self, other: &Self) -> bool {
        self.node == other.node
            && self.name == other.name
            && self.addr == other.addr
            && self.port == other.port
            && self.local == other.local
    }

    /// Whether the node has been deleted, or changed.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Acquire)
    }

    /// From now on records are queued. Process context.
    pub(crate) fn up(&self) -> Result {
        let ring = KVVec::from_elem(0, QUEUE_LEN, GFP_KERNEL)?;
        *self.queue.lock() = Queue {
            ring,
            start: 0,
            len: 0,
        };
        Ok(())
    }

    /// From now on none are, and those that wait are dropped. Process context.
    pub(crate) fn down(&self) {
        // Freed when the lock has been released: that of a large ring may sleep.
        let _old = core::mem::take(&mut *self.queue.lock());
    }

    /// Takes a record to send, if there is one that `out` holds; its length, or 0.
    pub(crate) fn take(&self, out: &mut [u8]) -> usize {
        self.queue.lock().take(out)
    }
}

/// The nodes of a namespace's cluster.
#[pin_data]
pub(crate) struct Peers {
    bell: Arc<Bell>,
    changes: Atomic<u32>,
    #[pin]
    list: SpinLockBh<KVec<Arc<Peer>>>,
    #[pin]
    keys: Mutex<Arc<Keys>>,
    /// The keys were told, were it that there are none.
    keyed: Atomic<bool>,
}

impl Peers {
    /// None yet.
    pub(crate) fn new() -> Result<Arc<Self>> {
        let bell = Bell::new()?;
        let keys = Arc::new(Keys::default(), GFP_KERNEL)?;
        Arc::pin_init(
            pin_init!(Self {
                bell,
                changes: Atomic::new(0),
                list <- new_spinlock_bh!(KVec::new(), "carisma_peers"),
                keys <- new_mutex!(keys, "carisma_peer_keys"),
                keyed: Atomic::new(false),
            }),
            GFP_KERNEL,
        )
    }

    /// Wakes the thread that keeps the connections.
    pub(crate) fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }

    /// Grows whenever the list is changed.
    pub(crate) fn changes(&self) -> u32 {
        self.changes.load(Acquire)
    }

    fn changed(&self) {
        self.changes.fetch_add(1, Release);
        self.bell.ring();
    }

    /// The keys of the cluster. Process context.
    pub(crate) fn keys(&self) -> Arc<Keys> {
        self.keys.lock().clone()
    }

    /// Whether the keys were told, were it that there are none. Any context.
    pub(crate) fn are_keyed(&self) -> bool {
        self.keyed.load(Acquire)
    }

    /// Takes the keys that a message tells of, in place of those that there were. Process context;
    /// callers serialise among themselves.
    pub(crate) fn set_keys(&self, told: &[u8]) -> Result {
        let keys = Arc::new(Keys::read(told, &self.keys())?, GFP_KERNEL)?;
        let _old = core::mem::replace(&mut *self.keys.lock(), keys);
        self.keyed.store(true, Release);
        self.changed();
        Ok(())
    }

    /// Adds a node, in the place of one with its index. Process context; callers serialise among
    /// themselves.
    pub(crate) fn add(&self, peer: Arc<Peer>) -> Result {
        let mut next = self.snapshot()?;
        if let Some(old) = next.iter().position(|old| old.node == peer.node) {
            if let Ok(old) = next.remove(old) {
                if old.is_as(&peer) {
                    return Ok(());
                }
                old.gone.store(true, Release);
            }
        }
        next.push(peer, GFP_KERNEL)?;
        self.replace(next);
        Ok(())
    }

    /// Deletes a node, if it is there. It needs no memory. Context as above.
    pub(crate) fn del(&self, node: u32) {
        // Dropped when the lock has been released: to free its ring may sleep.
        let old = {
            let mut list = self.list.lock();
            let i = list.iter().position(|old| old.node == node);
            i.and_then(|i| list.remove(i).ok())
        };
        if let Some(old) = old {
            old.gone.store(true, Release);
            self.changed();
        }
    }

    fn replace(&self, next: KVec<Arc<Peer>>) {
        let _old = core::mem::replace(&mut *self.list.lock(), next);
        self.changed();
    }

    /// The nodes as they are now. Process context.
    pub(crate) fn snapshot(&self) -> Result<KVec<Arc<Peer>>> {
        let mut copy = KVec::new();
        loop {
            let len = self.list.lock().len();
            copy.reserve(len.saturating_add(1), GFP_KERNEL)?;
            let list = self.list.lock();
            if list.len() <= copy.capacity() {
                for peer in list.iter() {
                    // There is room.
                    let _ = copy.push_within_capacity(peer.clone());
                }
                return Ok(copy);
            }
        }
    }

    /// Queues a record for a node. Any context. Errors: `ENOTCONN`, `ENOBUFS`.
    pub(crate) fn send(&self, node: u32, record: &[u8]) -> Result {
        let peer = {
            let list = self.list.lock();
            list.iter().find(|peer| peer.node == node).cloned()
        };
        peer.ok_or(ENOTCONN)?.queue.lock().put(record)?;
        self.bell.ring();
        Ok(())
    }
}
