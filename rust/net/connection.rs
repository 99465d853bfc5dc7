// SPDX-License-Identifier: GPL-2.0

//! Sockets of this node's TCP, by the connection that they have; and the clock that segments are
//! timed by.
//!
//! C header: [`include/net/inet_hashtables.h`](srctree/include/net/inet_hashtables.h)

use crate::{
    bindings,
    pernet::Net, //
};
use carisma_core::{
    seq::Seq,
    tuple::Tuple, //
};
use core::num::NonZeroU32;
use kernel::{
    error::to_result,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};

/// A tuple, for C, which is the same to it ([`crate::link`]).
fn raw(tuple: &Tuple) -> *const bindings::carisma_tuple {
    core::ptr::from_ref(tuple).cast()
}

/// Whether there is a socket with this connection, in whichever state but TIME_WAIT. Softirq or
/// process context.
pub fn is_live(net: &Net, tuple: &Tuple) -> bool {
    // SAFETY: The namespace is valid, and so is the tuple.
    unsafe { bindings::connection_is_live(net.as_ptr(), raw(tuple)) }
}

/// Whether there is a socket with this connection, in whichever state. Softirq or process context.
pub fn is_taken(net: &Net, tuple: &Tuple) -> bool {
    // SAFETY: The namespace is valid, and so is the tuple.
    unsafe { bindings::connection_is_taken(net.as_ptr(), raw(tuple)) }
}

/// Whether this connection is over, but for its TIME_WAIT. Softirq or process context.
pub fn is_in_time_wait(net: &Net, tuple: &Tuple) -> bool {
    // SAFETY: The namespace is valid, and so is the tuple.
    unsafe { bindings::connection_is_in_time_wait(net.as_ptr(), raw(tuple)) }
}

/// The number that the socket with this connection expects next of the client; `None` if there is
/// none that could take it. A socket that a process owns at the moment may have more than that in
/// its backlog. Softirq or process context.
pub fn expects(net: &Net, tuple: &Tuple) -> Option<Seq> {
    let mut seq = 0;
    // SAFETY: The namespace is valid, and so is the tuple; the helper fills `seq` in when it says `true`.
    let found = unsafe { bindings::connection_expects(net.as_ptr(), raw(tuple), &mut seq) };
    found.then_some(Seq(seq))
}

/// Has TCP acknowledge what comes next together with an answer, if that comes in the time for which it
/// waits for one on other connections. Softirq context, or process context with softirqs off; no lock of
/// a socket is held.
pub fn await_answer(net: &Net, tuple: &Tuple) {
    // SAFETY: The namespace is valid, and so is the tuple.
    unsafe { bindings::connection_await_answer(net.as_ptr(), raw(tuple)) };
}

/// Has TCP make the socket of a connection that is being opened as soon as the handshake's ACK comes,
/// although the listener waits for data (TCP_DEFER_ACCEPT): who calls this has got them. Softirq
/// context, or process context with softirqs off.
pub fn undefer(net: &Net, tuple: &Tuple) {
    // SAFETY: The namespace is valid, and so is the tuple.
    unsafe { bindings::connection_undefer(net.as_ptr(), raw(tuple)) };
}

/// Has TCP measure the round trip of a handshake as though what ends it had come so many microseconds before
/// it is about to get it. Softirq context, or process context with softirqs off.
pub fn answered(net: &Net, tuple: &Tuple, before_us: u32) {
    // SAFETY: The namespace is valid, and so is the tuple.
    unsafe { bindings::connection_answered(net.as_ptr(), raw(tuple), before_us) };
}

/// Ends the socket with this connection: a reset to the client, ECONNABORTED to the server. Process
/// context, may sleep. Errors: `ENOENT`.
pub fn abort(net: &Net, tuple: &Tuple) -> Result {
    // SAFETY: The namespace is valid, and so is the tuple.
    to_result(unsafe { bindings::connection_abort(net.as_ptr(), raw(tuple)) })
}

/// Milliseconds of a clock that does not stop and wraps. Any context.
pub fn now_ms() -> u32 {
    Now::read().ms()
}

/// A moment of that clock. The default is long ago.
#[derive(Clone, Copy, Default)]
pub struct Now(u64);

impl Now {
    /// Reads the clock. Any context.
    pub fn read() -> Self {
        // SAFETY: Reads a clock.
        Self(unsafe { bindings::now_ns() })
    }

    /// As [`now_ms`] would have it.
    pub fn ms(self) -> u32 {
        // CAST: It wraps.
        (self.0 / 1_000_000) as u32
    }

    /// Microseconds, which wrap after an hour.
    pub fn us(self) -> u32 {
        // CAST: It wraps.
        (self.0 / 1000) as u32
    }
}

/// Milliseconds as of the last tick, some milliseconds ago, which is cheaper: not to be compared with
/// [`now_ms`]. Any context.
pub fn coarse_ms() -> u32 {
    // SAFETY: Reads a clock.
    unsafe { bindings::coarse_ms() }
}

/// Tenths of a second for which this node is up, which wrap after 13 years. Any context.
pub fn uptime_tenths() -> u32 {
    // SAFETY: Reads a clock.
    unsafe { bindings::uptime_tenths() }
}

/// A moment that is remembered, of the clock of [`coarse_ms`]; a millisecond early where that would be 0,
/// so that one which may be missing takes no more room.
#[derive(Clone, Copy)]
pub struct Moment(NonZeroU32);

impl Moment {
    /// This one. Any context.
    pub fn now() -> Self {
        Self(NonZeroU32::new(coarse_ms()).unwrap_or(NonZeroU32::MAX))
    }

    /// How many of the `ms` milliseconds after it are left. Any context.
    pub fn left(self, ms: u32) -> u32 {
        ms.saturating_sub(coarse_ms().wrapping_sub(self.0.get()))
    }
}

/// The last [`Moment`] of something, if there was one.
pub struct Latest(Atomic<u32>);

impl Latest {
    /// There was none yet.
    pub const fn never() -> Self {
        Self(Atomic::new(0))
    }

    /// It is now. Any context.
    pub fn set(&self) {
        self.0.store(Moment::now().0.get(), Relaxed);
    }

    /// There was none. Any context.
    pub fn forget(&self) {
        self.0.store(0, Relaxed);
    }

    /// Whether it was in the last `ms` milliseconds. Any context.
    pub fn within(&self, ms: u32) -> bool {
        NonZeroU32::new(self.0.load(Relaxed)).is_some_and(|at| Moment(at).left(ms) > 0)
    }
}

/// Milliseconds of the time of day, which wraps, and may be set. Any context.
pub fn wall_ms() -> u32 {
    // SAFETY: Reads a clock.
    unsafe { bindings::wall_ms() }
}
