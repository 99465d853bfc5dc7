// SPDX-License-Identifier: GPL-2.0

//! Which handshakes began last, so that in a flood of SYNs the oldest makes room for a new one, and
//! not the new one has to do without.

use crate::knobs::Knob;
use carisma_core::tuple::Tuple;
use carisma_net::lock::{
    new_spinlock_bh,
    SpinLockBh, //
};
use kernel::prelude::*;

/// How many are remembered, with what has become of them or not: at least as many as may be under
/// way. What is forgotten keeps its place until its timer runs out.
const RECENT: usize = 16_384;
// CAST: A knob has 32 bits.
const _: () = assert!(RECENT >= Knob::HandshakesMax.range().default as usize);

/// The connections, as a ring.
struct Ring {
    /// Empty, or `RECENT` of them.
    places: KVVec<Tuple>,
    /// The place of the oldest.
    oldest: usize,
    /// How many are in use, from there on.
    len: usize,
}

/// The connections whose handshakes began last.
#[pin_data]
pub(crate) struct Recent {
    #[pin]
    ring: SpinLockBh<Ring>,
}

impl Recent {
    /// None, and no room for any: most namespaces have no service.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            ring <- new_spinlock_bh!(
                Ring {
                    places: KVVec::new(),
                    oldest: 0,
                    len: 0,
                },
                "carisma_recent"
            ),
        })
    }

    /// Makes the room, if there is none. Process context, may sleep.
    pub(crate) fn prepare(&self) -> Result {
        if !self.ring.lock().places.is_empty() {
            return Ok(());
        }
        let mut places = KVVec::with_capacity(RECENT, GFP_KERNEL)?;
        for _ in 0..RECENT {
            places.push(Tuple::default(), GFP_KERNEL)?;
        }
        let mut ring = self.ring.lock();
        if ring.places.is_empty() {
            core::mem::swap(&mut ring.places, &mut places);
        }
        // What is not needed is freed without the lock.
        drop(ring);
        Ok(())
    }

    /// A handshake has begun. If there is no room, the oldest is forgotten. Any context.
    pub(crate) fn push(&self, key: &Tuple) {
        let mut ring = self.ring.lock();
        let at = ring.oldest.wrapping_add(ring.len) % RECENT;
        let Some(place) = ring.places.get_mut(at) else {
            return;
        };
        *place = *key;
        if ring.len < RECENT {
            ring.len = ring.len.wrapping_add(1);
        } else {
            ring.oldest = ring.oldest.wrapping_add(1) % RECENT;
        }
    }

    /// Takes out the oldest. Any context.
    pub(crate) fn pop(&self) -> Option<Tuple> {
        let mut ring = self.ring.lock();
        let len = ring.len.checked_sub(1)?;
        let key = *ring.places.get(ring.oldest)?;
        ring.oldest = ring.oldest.wrapping_add(1) % RECENT;
        ring.len = len;
        Some(key)
    }
}
