// SPDX-License-Identifier: GPL-2.0

//! What UTCP counts, for each namespace.

use carisma_net::percpu::PerCpuCounters;
use kernel::prelude::*;

macro_rules! counters {
    ($($(#[$doc:meta])+ $name:ident = $shown:literal,)+) => {
        /// One counter for each outcome.
        #[derive(Clone, Copy)]
        pub(crate) enum Counter {
            $($(#[$doc])+ $name,)+
        }

        impl Counter {
            /// All of them, with the names that they are shown by.
            pub(crate) const ALL: &'static [(Self, &'static kernel::str::CStr)] =
                &[$((Self::$name, $shown),)+];
        }
    };
}

counters! {
    /// Listeners attached.
    ListenerAttached = c"ListenerAttached",
    /// Listeners detached, or closed.
    ListenerDetached = c"ListenerDetached",
    /// Listeners left alone, as MPTCP has them.
    ListenerMptcp = c"ListenerMptcp",
    /// Listeners left alone, as they are the kernel's own.
    ListenerKernel = c"ListenerKernel",
    /// Listeners left alone, as another upper layer protocol has them.
    ListenerUlp = c"ListenerUlp",
    /// Listeners left alone, as somebody has replaced their operations.
    ListenerOps = c"ListenerOps",
    /// Listeners not attached for want of memory.
    ListenerNoMemory = c"ListenerNoMemory",
    /// Detached listeners whose operations somebody had replaced after us.
    ListenerOverridden = c"ListenerOverridden",
    /// Children withheld.
    Withheld = c"Withheld",
    /// Children that BTCP let pass.
    PassedByBtcp = c"PassedByBtcp",
    /// Children passed, as they have no request of their own (SYN cookies, Fast Open).
    PassedNoRequest = c"PassedNoRequest",
    /// Children passed, as their request began at another listener.
    PassedMigrated = c"PassedMigrated",
    /// Children passed, as their listener is being closed or detached.
    PassedClosing = c"PassedClosing",
    /// Children passed, as the table is at its limit.
    PassedFull = c"PassedFull",
    /// Children passed for want of memory, or as their tuple is taken.
    PassedNoMemory = c"PassedNoMemory",
    /// Withheld children released at BTCP's word.
    Released = c"Released",
    /// Releases that had to wait for room in the accept queue.
    ReleasedLate = c"ReleasedLate",
    /// Withheld children given back because their listener was closed or detached.
    GivenBack = c"GivenBack",
    /// Withheld children discarded at BTCP's word.
    Discarded = c"Discarded",
    /// Withheld children whose socket died (RST of the client, or of BTCP before its word).
    Died = c"Died",
    /// Withheld children discarded, as nobody listened any more.
    Orphaned = c"Orphaned",
    /// Wake-ups of listeners left out, as there was nothing to accept.
    Quiet = c"Quiet",
    /// Connections of the service that were closed.
    Closed = c"Closed",
    /// Control connections that came up.
    PeerUp = c"PeerUp",
    /// Control connections that went down.
    PeerDown = c"PeerDown",
    /// Attempts to connect to a peer that failed.
    PeerRefused = c"PeerRefused",
    /// Control connections closed, as what came first was not the HELLO of that node.
    PeerStranger = c"PeerStranger",
    /// Control connections closed, as a record made no sense.
    PeerMalformed = c"PeerMalformed",
    /// Records received.
    RecordRx = c"RecordRx",
    /// Records queued for a peer.
    RecordTx = c"RecordTx",
    /// Records refused, as the peer is down.
    RecordDown = c"RecordDown",
    /// Records refused, as the peer's queue was full.
    RecordFull = c"RecordFull",
}

/// The counters of a namespace.
pub(crate) struct Counters(PerCpuCounters<{ Counter::ALL.len() }>);

impl Counters {
    /// All zero.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(PerCpuCounters::new()?))
    }

    /// Counts one. Any context.
    pub(crate) fn count(&self, counter: Counter) {
        // CAST: The number of a variant.
        self.0.add(counter as usize, 1);
    }

    /// What a counter came to.
    pub(crate) fn get(&self, counter: Counter) -> u64 {
        // CAST: The number of a variant.
        self.0.sum(counter as usize)
    }
}
