// SPDX-License-Identifier: GPL-2.0

//! What the connections of a namespace may take up at a time.
//!
//! What a connection takes it has as a [`Ticket`] or [`Held`], and gives back when that is dropped.
//! A bound is kept give or take what other CPUs take at the same moment.

use carisma_core::tuple::Addr;
use carisma_net::random;
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc, //
    },
};

/// Clients are told apart by so many bits of a hash of their addresses. Two of them may share what
/// one may have; who has not the hash's key cannot make himself share with a certain other.
const CLIENT_BITS: u32 = 12;

/// Something of which there may be so many at a time.
#[derive(Clone, Copy)]
pub(crate) enum Pool {
    /// Front end: flows whose handshake is under way.
    Handshakes,
    /// Sockets that are kept from `accept()`.
    Withheld,
    /// Front end: handoffs that a back end was asked for, and has not answered.
    Asked,
    /// Back end: handoffs that a front end asked for, and has not committed.
    Replayed,
}

impl Pool {
    const COUNT: usize = 4;
}

/// The bounds of a namespace.
pub(crate) struct Bounds {
    pools: [Atomic<usize>; Pool::COUNT],
    /// Bytes that are held, in all.
    held: Atomic<usize>,
    /// Bytes that are held of a client.
    clients: KVVec<Atomic<u32>>,
    /// The key of the hash.
    key: [u64; 4],
}

impl Bounds {
    /// Nothing is taken. Process context.
    pub(crate) fn new() -> Result<Arc<Self>> {
        let mut clients = KVVec::with_capacity(1 << CLIENT_BITS, GFP_KERNEL)?;
        for _ in 0..1 << CLIENT_BITS {
            clients.push(Atomic::new(0), GFP_KERNEL)?;
        }
        let bounds = Self {
            pools: [const { Atomic::new(0) }; Pool::COUNT],
            held: Atomic::new(0),
            clients,
            // A multiplier must be odd.
            key: [(); 4].map(|()| random::u64() | 1),
        };
        Ok(Arc::new(bounds, GFP_KERNEL)?)
    }

    /// Takes one of a pool; `None` if as many as `limit` are taken. Any context.
    pub(crate) fn ticket(self: &Arc<Self>, pool: Pool, limit: usize) -> Option<Ticket> {
        // CAST: The number of a variant.
        let taken = self.pools.get(pool as usize)?;
        if taken.fetch_add(1, Relaxed) >= limit {
            taken.fetch_sub(1, Relaxed);
            return None;
        }
        Some(Ticket {
            bounds: self.clone(),
            pool,
        })
    }

    /// How many of a pool are taken.
    pub(crate) fn taken(&self, pool: Pool) -> u64 {
        // CAST: The number of a variant; a count.
        let taken = self.pools.get(pool as usize);
        taken.map_or(0, |taken| taken.load(Relaxed) as u64)
    }

    /// Bytes that are held, in all.
    pub(crate) fn held(&self) -> u64 {
        // CAST: A count.
        self.held.load(Relaxed) as u64
    }

    /// The place of a client: multiply-shift, which is universal.
    fn place(&self, client: &Addr) -> u16 {
        let [add_high, high_by, add_low, low_by] = self.key;
        let client = u128::from_be_bytes(*client);
        // CAST: Its halves.
        let (high, low) = ((client >> 64) as u64, client as u64);
        let mixed = (high ^ add_high)
            .wrapping_mul(high_by)
            .wrapping_add((low ^ add_low).wrapping_mul(low_by));
        // CAST: The upper bits, which depend on all others.
        (mixed >> (u64::BITS - CLIENT_BITS)) as u16
    }
}

/// One of a pool.
pub(crate) struct Ticket {
    bounds: Arc<Bounds>,
    pool: Pool,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // CAST: The number of a variant.
        if let Some(taken) = self.bounds.pools.get(self.pool as usize) {
            taken.fetch_sub(1, Relaxed);
        }
    }
}

/// How many bytes may be held.
pub(crate) struct Limits {
    /// Of a connection.
    pub(crate) connection: u32,
    /// Of a client.
    pub(crate) client: u32,
    /// In all.
    pub(crate) total: u32,
}

/// Which limit was in the way.
#[derive(Clone, Copy)]
pub(crate) enum Full {
    Connection,
    Client,
    Total,
}

/// The bytes that are held of a connection.
pub(crate) struct Held {
    bounds: Arc<Bounds>,
    client: u16,
    bytes: u32,
}

impl Held {
    /// None yet.
    pub(crate) fn new(bounds: &Arc<Bounds>, client: &Addr) -> Self {
        Self {
            bounds: bounds.clone(),
            client: bounds.place(client),
            bytes: 0,
        }
    }

    /// Takes so many more, or says what is in the way.
    pub(crate) fn take(&mut self, more: usize, limits: &Limits) -> Result<(), Full> {
        let (Ok(bytes), Some(client)) = (
            u32::try_from(more),
            self.bounds.clients.get(usize::from(self.client)),
        ) else {
            return Err(Full::Connection);
        };
        if self.bytes.saturating_add(bytes) > limits.connection {
            return Err(Full::Connection);
        }
        let of_client = client.fetch_add(bytes, Relaxed).saturating_add(bytes);
        let in_all = self
            .bounds
            .held
            .fetch_add(more, Relaxed)
            .saturating_add(more);
        self.bytes = self.bytes.saturating_add(bytes);
        // CAST: The limit has 32 bits.
        let full = if in_all > limits.total as usize {
            Full::Total
        } else if of_client > limits.client {
            Full::Client
        } else {
            return Ok(());
        };
        self.put(more);
        Err(full)
    }

    /// Gives back so many of those that were taken.
    pub(crate) fn put(&mut self, less: usize) {
        // CAST: As many were taken, which have 32 bits.
        let bytes = less as u32;
        if let Some(client) = self.bounds.clients.get(usize::from(self.client)) {
            client.fetch_sub(bytes, Relaxed);
        }
        self.bounds.held.fetch_sub(less, Relaxed);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Gives all back.
    pub(crate) fn clear(&mut self) {
        if self.bytes != 0 {
            // CAST: It has 32 bits.
            self.put(self.bytes as usize);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.clear();
    }
}
