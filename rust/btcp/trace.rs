// SPDX-License-Identifier: GPL-2.0

//! The steps of a connection, for those who trace them. Nothing here is per packet.

use crate::{
    node::Name,
    state::State, //
};
use carisma_core::{
    tuple::Tuple,
    wire::{Body, Handoff, Reason}, //
};
use carisma_net::trace::{
    self,
    kind,
    Event,
    Kind, //
};
use core::ffi::CStr;
use kernel::sync::rcu;

pub(crate) use crate::uapi::{
    carisma_role_CARISMA_ROLE_BACK_END as BACK,
    carisma_role_CARISMA_ROLE_FRONT_END as FRONT, //
};
pub(crate) use carisma_net::trace::kind as event;

impl State {
    /// The name of a node; none if there is no such node.
    fn node_name(&self, node: u32) -> Name {
        let rcu = rcu::read_lock();
        let config = self.config.snapshot(&rcu);
        config.node(node).map(|node| node.name).unwrap_or_default()
    }

    /// What becomes of a connection. Any context.
    #[inline]
    pub(crate) fn trace_flow(&self, kind: Kind, key: &Tuple, role: u32, node: u32, id: u64) {
        if trace::is_on() {
            let event = Event {
                tuple: *key,
                role,
                id,
                node: self.node_name(node),
                ..Event::default()
            };
            trace::emit(&self.net, kind, &event);
        }
    }

    /// A step of a connection, and its outcome. Any context.
    #[inline]
    pub(crate) fn trace_step(
        &self,
        kind: Kind,
        key: &Tuple,
        node: u32,
        id: u64,
        what: &'static CStr,
    ) {
        if trace::is_on() {
            let event = Event {
                tuple: key.on_link(0),
                id,
                what,
                node: self.node_name(node),
                ..Event::default()
            };
            trace::emit(&self.net, kind, &event);
        }
    }

    /// A record. Any context.
    #[inline]
    pub(crate) fn trace_record(&self, kind: Kind, node: u32, handoff: &Handoff<'_>, len: usize) {
        if trace::is_on() {
            let (what, why) = match handoff.body {
                Body::Req(_) => (c"req", c""),
                Body::Accept => (c"accept", c""),
                Body::Reject(reason) => (c"reject", reason_name(reason)),
                Body::Data(_) => (c"data", c""),
                Body::Abort => (c"abort", c""),
                Body::Taken => (c"taken", c""),
                Body::Closed { .. } => (c"closed", c""),
                Body::Check { .. } => (c"check", c""),
                Body::Seek => (c"seek", c""),
                Body::Own { .. } => (c"own", c""),
            };
            let event = Event {
                tuple: handoff.tuple,
                id: handoff.id,
                // CAST: A length has 64 bits.
                value: len as u64,
                what,
                why,
                node: self.node_name(node),
                ..Event::default()
            };
            trace::emit(&self.net, kind, &event);
        }
    }

    /// The control connection to a node. Process context.
    pub(crate) fn trace_peer(&self, up: bool, node: u32, epoch: u64) {
        if trace::is_on() {
            let event = Event {
                value: epoch,
                node: self.node_name(node),
                ..Event::default()
            };
            let kind = if up { kind::PEER_UP } else { kind::PEER_DOWN };
            trace::emit(&self.net, kind, &event);
        }
    }
}

/// What a reason is called.
pub(crate) fn reason_name(reason: Reason) -> &'static CStr {
    match reason {
        Reason::NoService => c"no-service",
        Reason::InUse => c"in-use",
        Reason::NoRoom => c"no-room",
        Reason::Mismatch => c"mismatch",
        Reason::Unanswered => c"unanswered",
        Reason::Draining => c"draining",
        Reason::Unknown => c"unknown",
        Reason::NoAddress => c"no-address",
        Reason::Other(_) => c"other",
    }
}
