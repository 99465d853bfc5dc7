// SPDX-License-Identifier: GPL-2.0

//! The tracepoints of `carisma_btcp`, which C defines.
//!
//! Only that module has them: these functions are inlined where they are called, so that the other
//! one, which this crate is linked into as well, does not ask for their symbols.
//!
//! C header: `include/carisma_trace.h`

use crate::{
    bindings,
    link::Name,
    pernet::Net, //
};
use carisma_core::tuple::Tuple;
use kernel::str::{CStr, CStrExt};

pub use bindings::carisma_event_kind as Kind;

/// The tracepoints.
pub mod kind {
    pub use crate::bindings::{
        carisma_event_kind_CARISMA_FLOW_BEGIN as FLOW_BEGIN,
        carisma_event_kind_CARISMA_FLOW_CLOSED as FLOW_CLOSED,
        carisma_event_kind_CARISMA_FLOW_END as FLOW_END,
        carisma_event_kind_CARISMA_FLOW_HANDED_OFF as FLOW_HANDED_OFF,
        carisma_event_kind_CARISMA_FLOW_RESET as FLOW_RESET,
        carisma_event_kind_CARISMA_HEAD_DECIDED as HEAD_DECIDED,
        carisma_event_kind_CARISMA_RECORD_RECEIVED as RECORD_RECEIVED,
        carisma_event_kind_CARISMA_RECORD_SENT as RECORD_SENT,
        carisma_event_kind_CARISMA_RECORD_UNSENT as RECORD_UNSENT,
        carisma_event_kind_CARISMA_REPLAY_STEP as REPLAY_STEP,
        carisma_event_kind_CARISMA_TRACE_PEER_DOWN as PEER_DOWN,
        carisma_event_kind_CARISMA_TRACE_PEER_UP as PEER_UP, //
    };
}

/// What a tracepoint tells. Fields that it has no use for are zero or empty.
#[derive(Clone, Copy)]
pub struct Event {
    /// The connection.
    pub tuple: Tuple,
    /// A `CARISMA_ROLE_…`.
    pub role: u32,
    /// The number of the handoff.
    pub id: u64,
    /// The bytes of a record, or the epoch of a peer.
    pub value: u64,
    /// The outcome of a step, or the kind of a record.
    pub what: &'static CStr,
    /// The reason of a refusal.
    pub why: &'static CStr,
    /// The node at the other end.
    pub node: Name,
}

impl Default for Event {
    fn default() -> Self {
        Self {
            tuple: Tuple::default(),
            role: 0,
            id: 0,
            value: 0,
            what: c"",
            why: c"",
            node: Name::default(),
        }
    }
}

/// Whether anybody listens to any of the tracepoints. Any context.
#[inline]
pub fn is_on() -> bool {
    // SAFETY: It looks at static keys.
    unsafe { bindings::carisma_trace_is_on() }
}

/// Passes a tracepoint. Any context.
#[inline]
pub fn emit(net: &Net, kind: Kind, event: &Event) {
    let mut raw = bindings::carisma_event {
        role: event.role,
        id: event.id,
        value: event.value,
        what: event.what.as_char_ptr(),
        why: event.why.as_char_ptr(),
        node: event.node,
        ..Default::default()
    };
    raw.tuple.client = event.tuple.client;
    raw.tuple.local = event.tuple.local;
    raw.tuple.client_port = event.tuple.client_port.to_bytes();
    raw.tuple.local_port = event.tuple.local_port.to_bytes();
    // SAFETY: The namespace is valid; the event and its texts are for the call, which copies them.
    unsafe { bindings::carisma_trace(net.as_ptr(), kind, &raw const raw) };
}
