// SPDX-License-Identifier: GPL-2.0

//! Segments of a client's that came before one that is missing (RFC 9293, section 3.10.7.4).

use carisma_core::{front::Front, seq::Seq};
use carisma_net::skb::Skb;
use kernel::prelude::*;

/// How many may wait for a connection.
const EARLY_MAX: usize = 32;

/// How far ahead a segment may begin: what is held is no more than that either.
const AHEAD_MAX: u32 = 48 << 10;

/// The segments, and their first and next number, in the order in which they came. Any context.
pub(crate) struct Early(KVec<(Seq, Seq, Skb)>);

impl Early {
    /// None.
    pub(crate) const fn new() -> Self {
        Self(KVec::new())
    }

    /// Whether there is room for a segment that begins at `seq`.
    pub(crate) fn has_room(&self, front: &Front, seq: Seq) -> bool {
        self.0.len() < EARLY_MAX && front.gap(seq) <= AHEAD_MAX
    }

    /// Keeps a segment that begins at `seq` and ends before `end`; without memory it is dropped.
    pub(crate) fn push(&mut self, seq: Seq, end: Seq, mut skb: Skb) -> bool {
        skb.park();
        self.0.push((seq, end, skb), GFP_ATOMIC).is_ok()
    }

    /// First and next number of each, the newest segment first.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = (Seq, Seq)> + Clone + '_ {
        self.0.iter().rev().map(|(seq, end, _)| (*seq, *end))
    }

    /// Takes a segment out whose turn has come.
    pub(crate) fn next(&mut self, front: &Front) -> Option<Skb> {
        let place = self.0.iter().position(|(seq, ..)| front.is_next(*seq))?;
        let (.., skb) = self.0.remove(place).ok()?;
        Some(skb)
    }

    /// Takes the first segment out, whatever is missing before it.
    pub(crate) fn pop(&mut self) -> Option<Skb> {
        let (.., skb) = self.0.remove(0).ok()?;
        Some(skb)
    }
}
