// SPDX-License-Identifier: GPL-2.0

//! What UTCP counts, for each namespace. BTCP keeps and shows the numbers.

use carisma_net::{
    below,
    link::{
        kind,
        Msg, //
    },
    pernet::NetRef,
};

pub(crate) use carisma_core::counters::Upper as Counter;

/// The counters of a namespace.
#[derive(Clone)]
pub(crate) struct Counters(NetRef);

impl Counters {
    /// Those of this namespace.
    pub(crate) fn new(net: NetRef) -> Self {
        Self(net)
    }

    /// Counts one. Any context.
    pub(crate) fn count(&self, counter: Counter) {
        let msg = Msg {
            // CAST: The number of a variant.
            value: counter as u64,
            ..Msg::new(kind::COUNT_IND)
        };
        // A namespace that BTCP has left already has nobody to look at its counters.
        let _ = below::put(&self.0, msg);
    }
}
