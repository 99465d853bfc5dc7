// SPDX-License-Identifier: GPL-2.0

//! Counters with names and meanings that users see.
//!
//! A counter is a variant of an enum, and what its documentation says is what users read of it:
//! `carismactl stats --explain` shows these very lines.

use core::ffi::CStr;

/// Defines an enum whose variants have the names of files and a meaning, which is their
/// documentation.
#[macro_export]
macro_rules! counters {
    (
        $(#[$meta:meta])*
        $vis:vis enum $enum:ident {
            $( $(#[doc = $doc:literal])+ $variant:ident = $name:literal, )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq)]
        #[repr(usize)]
        $vis enum $enum {
            $( $(#[doc = $doc])+ $variant, )*
        }

        impl $enum {
            /// All of them, in the order of their numbers.
            $vis const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// How many there are.
            $vis const COUNT: usize = Self::ALL.len();

            /// The name that users know.
            $vis const fn name(self) -> &'static ::core::ffi::CStr {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// What it means, in one line.
            $vis const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+).trim_ascii(),)*
                }
            }
        }
    };
}

counters! {
    /// What UTCP counts. BTCP keeps these numbers, so that they stay when UTCP goes.
    pub enum Upper {
        /// A listener was attached: connections to it can be withheld.
        ListenersAttached = c"listeners_attached",
        /// An attached listener was closed, or detached.
        ListenersDetached = c"listeners_detached",
        /// A listener was left alone, because it is one of Multipath TCP.
        ListenersSkippedMptcp = c"listeners_skipped_mptcp",
        /// A listener was left alone, because it is the kernel's own.
        ListenersSkippedKernel = c"listeners_skipped_kernel",
        /// A listener was left alone, because it has another upper layer protocol (TCP_ULP).
        ListenersSkippedUlp = c"listeners_skipped_ulp",
        /// A listener was left alone, because somebody has replaced its operations.
        ListenersSkippedOps = c"listeners_skipped_ops",
        /// A listener was left alone for want of memory.
        ListenersSkippedMemory = c"listeners_skipped_memory",
        /// A listener was detached whose operations somebody had replaced after us.
        ListenersOverridden = c"listeners_overridden",
        /// A connection was withheld from `accept()`.
        ConnectionsWithheld = c"connections_withheld",
        /// TCP dropped the second socket that it had made for a connection, of which two segments had come
        /// at the same time.
        ConnectionsTwin = c"connections_twin",
        /// A connection was not withheld, because there is nothing to be decided about it.
        ConnectionsPassedDecided = c"connections_passed_decided",
        /// A connection was not withheld, because it came by Fast Open.
        ConnectionsPassedFastOpen = c"connections_passed_fast_open",
        /// A connection was not withheld, because its listener was being closed or detached.
        ConnectionsPassedClosing = c"connections_passed_closing",
        /// A connection was not withheld, because as many are as may be.
        ConnectionsPassedLimit = c"connections_passed_limit",
        /// A connection was not withheld for want of memory, or because an older one has its
        /// addresses.
        ConnectionsPassedMemory = c"connections_passed_memory",
        /// A withheld connection was released to `accept()`, as its request is to be served here.
        ConnectionsReleased = c"connections_released",
        /// One of `connections_released`, which had to wait for room in the accept queue.
        ConnectionsReleasedLate = c"connections_released_late",
        /// A withheld connection was given back to `accept()`, because its listener was closed or
        /// detached.
        ConnectionsGivenBack = c"connections_given_back",
        /// A withheld connection was discarded: another node has it, or the client reset it.
        ConnectionsDiscarded = c"connections_discarded",
        /// A withheld connection was answered here and closed, without a server.
        ConnectionsAnswered = c"connections_answered",
        /// A withheld connection was to be answered, but was reset: as many were being answered as
        /// may be, or there was no memory.
        ConnectionsAnsweredLimit = c"connections_answered_limit",
        /// A withheld connection ended by itself, with a reset or a time-out.
        ConnectionsDied = c"connections_died",
        /// A withheld connection was discarded, because nobody listened any more.
        ConnectionsOrphaned = c"connections_orphaned",
        /// A connection to a service, withheld once or not, was closed.
        ConnectionsClosed = c"connections_closed",
        /// A server was not woken, because the connection that came was withheld.
        WakeupsSpared = c"wakeups_spared",
        /// A control connection came up.
        PeersConnected = c"peers_connected",
        /// A control connection that was up was lost.
        PeersLost = c"peers_lost",
        /// An attempt at a control connection failed.
        PeersUnreachable = c"peers_unreachable",
        /// A control connection was closed, because it did not begin with the HELLO of the node
        /// expected.
        PeersStrange = c"peers_strange",
        /// A control connection was closed, because what came was no record.
        PeersMalformed = c"peers_malformed",
        /// A control connection was closed, because the node at its other end speaks another version
        /// of the protocol.
        PeersVersion = c"peers_version",
        /// A control connection was closed, because one of its ends has keys and the other has none.
        PeersUnauthenticated = c"peers_unauthenticated",
        /// A control connection was closed, because the peer signs with a key that this node does
        /// not have.
        PeersUnknownKey = c"peers_unknown_key",
        /// A control connection was closed, because the peer did not prove that it has the key.
        PeersUnproven = c"peers_unproven",
        /// A control connection was closed, because the keys of this node are others now.
        PeersRekeyed = c"peers_rekeyed",
        /// A record came from a peer.
        RecordsReceived = c"records_received",
        /// A control connection was closed, because a record was not signed by the peer, or for
        /// another connection.
        RecordsForged = c"records_forged",
        /// A control connection was closed, because a record came again.
        RecordsReplayed = c"records_replayed",
        /// A control connection was closed, because a record came before its turn.
        RecordsReordered = c"records_reordered",
        /// A control connection was closed, because a record said that it is longer than its kind
        /// can be.
        RecordsOversized = c"records_oversized",
        /// A control connection ended in the midst of a record.
        RecordsTruncated = c"records_truncated",
        /// A record was queued for a peer.
        RecordsSent = c"records_sent",
        /// One of `records_unsent`, because the peer was down.
        RecordsUnsentDown = c"records_unsent_down",
        /// One of `records_unsent`, because the peer's queue was full.
        RecordsUnsentFull = c"records_unsent_full",
    }
}

/// Whether users can be shown this: a name for a file, and a sentence or more on one line.
pub const fn is_presentable(name: &CStr, meaning: &str) -> bool {
    let name = name.to_bytes();
    let mut i = 0;
    while i < name.len() {
        if !(name[i].is_ascii_lowercase() || name[i].is_ascii_digit() || name[i] == b'_') {
            return false;
        }
        i += 1;
    }
    let meaning = meaning.as_bytes();
    i = 0;
    while i < meaning.len() {
        if meaning[i].is_ascii_control() {
            return false;
        }
        i += 1;
    }
    !name.is_empty() && meaning.len() > 1 && meaning[meaning.len() - 1] == b'.'
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::HashSet, vec::Vec};

    counters! {
        enum Example {
            /// One thing
            /// happened.
            One = c"one",
        }
    }

    #[test]
    fn the_documentation_is_the_meaning() {
        assert_eq!(Example::One.meaning(), "One thing happened.");
        assert_eq!(Example::One.name(), c"one");
        assert_eq!(Example::COUNT, 1);
    }

    #[test]
    fn uppers_can_be_shown() {
        for it in Upper::ALL {
            assert!(is_presentable(it.name(), it.meaning()), "{:?}", it.name());
        }
        let names: HashSet<_> = Upper::ALL.iter().map(|it| it.name()).collect();
        assert_eq!(names.len(), Upper::COUNT);
        let numbers: Vec<_> = Upper::ALL.iter().map(|&it| it as usize).collect();
        assert_eq!(numbers, (0..Upper::COUNT).collect::<Vec<_>>());
    }

    #[test]
    fn what_cannot_be_shown() {
        for (name, meaning) in [
            (c"", "It is."),
            (c"Camel", "It is."),
            (c"a-b", "It is."),
            (c"a", ""),
            (c"a", "It is"),
            (c"a", "It is.\nOr is it."),
        ] {
            assert!(!is_presentable(name, meaning), "{name:?}");
        }
    }
}
