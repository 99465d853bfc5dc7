// SPDX-License-Identifier: GPL-2.0

//! Numbers that an administrator can change.

use crate::bounds::Limits;
use kernel::{
    prelude::*,
    sync::atomic::{Atomic, Relaxed}, //
};

/// A number that can be changed.
#[derive(Clone, Copy)]
#[repr(usize)]
pub(crate) enum Knob {
    /// How long a request head may take to become whole, in milliseconds.
    HeadTimeoutMs,
    /// How long a back end may take to answer, in milliseconds.
    HandoffTimeoutMs,
    /// For how long after a node was heard of it is given requests without being asked first, in
    /// milliseconds.
    HandoffTrustMs,
    /// The longest request head, in bytes.
    HeadMax,
    /// How many flows there may be.
    FlowsMax,
    /// How long a node may be out of reach before the connections that it serves are given up, in
    /// milliseconds.
    PeerTimeoutMs,
    /// How many flows there may be whose handshake is under way.
    HandshakesMax,
    /// How many sockets may be kept from `accept()`.
    WithheldMax,
    /// How many handoffs may be under way: as many that were asked for, and as many that this node
    /// was asked for.
    HandoffsMax,
    /// How many bytes may be held of a connection. What waits as packets counts with the memory that it takes.
    HeldMax,
    /// How many bytes may be held of all connections of a client.
    HeldClientMax,
    /// How many bytes may be held in all.
    HeldTotalMax,
}

/// What is known of a knob.
pub(crate) struct Range {
    /// Its name in sysfs.
    pub(crate) name: &'static CStr,
    /// The least value.
    pub(crate) min: u32,
    /// The greatest value.
    pub(crate) max: u32,
    /// The value at first.
    pub(crate) default: u32,
}

impl Knob {
    const COUNT: usize = 12;

    /// All of them.
    pub(crate) const ALL: [Self; Self::COUNT] = [
        Self::HeadTimeoutMs,
        Self::HandoffTimeoutMs,
        Self::HandoffTrustMs,
        Self::HeadMax,
        Self::FlowsMax,
        Self::PeerTimeoutMs,
        Self::HandshakesMax,
        Self::WithheldMax,
        Self::HandoffsMax,
        Self::HeldMax,
        Self::HeldClientMax,
        Self::HeldTotalMax,
    ];

    /// Its name and range.
    pub(crate) const fn range(self) -> Range {
        let (name, min, max, default) = match self {
            Self::HeadTimeoutMs => (c"head_timeout_ms", 100, 600_000, 10_000),
            Self::HandoffTimeoutMs => (c"handoff_timeout_ms", 10, 60_000, 1_000),
            Self::HandoffTrustMs => (c"handoff_trust_ms", 0, 60_000, 50),
            Self::HeadMax => (c"head_max", 256, 32_768, 32_768),
            Self::FlowsMax => (c"flows_max", 0, 16_777_216, 262_144),
            Self::PeerTimeoutMs => (c"peer_timeout_ms", 1_000, 3_600_000, 30_000),
            Self::HandshakesMax => (c"handshakes_max", 0, 16_777_216, 16_384),
            Self::WithheldMax => (c"withheld_max", 0, 1_048_576, 65_536),
            Self::HandoffsMax => (c"handoffs_max", 0, 1_048_576, 16_384),
            Self::HeldMax => (c"held_max", 1_024, 16 << 20, 256 << 10),
            Self::HeldClientMax => (c"held_client_max", 1_024, 1 << 30, 8 << 20),
            Self::HeldTotalMax => (c"held_total_max", 1_024, 1 << 30, 64 << 20),
        };
        Range {
            name,
            min,
            max,
            default,
        }
    }
}

/// The knobs of a namespace. Any context.
pub(crate) struct Knobs([Atomic<u32>; Knob::COUNT]);

impl Knobs {
    /// All as they are at first.
    pub(crate) fn new() -> Self {
        Self(Knob::ALL.map(|knob| Atomic::new(knob.range().default)))
    }

    /// The value of a knob.
    pub(crate) fn get(&self, knob: Knob) -> u32 {
        self.0
            .get(knob as usize)
            .map_or(knob.range().default, |value| value.load(Relaxed))
    }

    /// Changes a knob. Errors: `EINVAL` out of its range, and nothing is changed.
    pub(crate) fn set(&self, knob: Knob, value: u32) -> Result {
        let range = knob.range();
        if value < range.min || value > range.max {
            return Err(EINVAL);
        }
        self.0
            .get(knob as usize)
            .ok_or(EINVAL)?
            .store(value, Relaxed);
        Ok(())
    }

    pub(crate) fn head_timeout_ms(&self) -> u32 {
        self.get(Knob::HeadTimeoutMs)
    }

    pub(crate) fn handoff_timeout_ms(&self) -> u32 {
        self.get(Knob::HandoffTimeoutMs)
    }

    pub(crate) fn handoff_trust_ms(&self) -> u32 {
        self.get(Knob::HandoffTrustMs)
    }

    pub(crate) fn head_max(&self) -> usize {
        self.get(Knob::HeadMax) as usize
    }

    pub(crate) fn peer_timeout_ms(&self) -> u32 {
        self.get(Knob::PeerTimeoutMs)
    }

    pub(crate) fn flows_max(&self) -> usize {
        self.get(Knob::FlowsMax) as usize
    }

    pub(crate) fn handshakes_max(&self) -> usize {
        self.get(Knob::HandshakesMax) as usize
    }

    pub(crate) fn withheld_max(&self) -> usize {
        self.get(Knob::WithheldMax) as usize
    }

    pub(crate) fn handoffs_max(&self) -> usize {
        self.get(Knob::HandoffsMax) as usize
    }

    pub(crate) fn held(&self) -> Limits {
        Limits {
            connection: self.get(Knob::HeldMax),
            client: self.get(Knob::HeldClientMax),
            total: self.get(Knob::HeldTotalMax),
        }
    }
}
