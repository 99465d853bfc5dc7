// SPDX-License-Identifier: GPL-2.0

//! Sockets of TCP, as others made them.
//!
//! C headers: [`include/net/sock.h`](srctree/include/net/sock.h),
//! [`include/net/inet_sock.h`](srctree/include/net/inet_sock.h)

use crate::{
    bindings,
    pernet::Net, //
};
use carisma_core::tuple::Tuple;
use core::ptr::NonNull;
use kernel::{
    sync::aref::{
        ARef,
        AlwaysRefCounted, //
    },
    types::Opaque,
};

/// A state of TCP's state machine (RFC 9293, section 3.3.2), as Linux has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No handshake is through.
    Opening,
    /// The connection is open in at least one direction, and no TIME_WAIT is near.
    Open,
    /// Established, both ways.
    Established,
    /// Our FIN is acknowledged, or crossed the peer's: TIME_WAIT is what follows.
    Closing,
    /// Closed, or not opened yet.
    Closed,
    /// Listening.
    Listening,
}

impl State {
    /// What C's number says.
    pub(crate) fn from_raw(state: kernel::ffi::c_int) -> Self {
        // CAST: The kernel's states are small positive numbers.
        match state as u32 {
            bindings::TCP_ESTABLISHED => Self::Established,
            bindings::TCP_SYN_SENT | bindings::TCP_SYN_RECV | bindings::TCP_NEW_SYN_RECV => {
                Self::Opening
            }
            bindings::TCP_FIN_WAIT2 | bindings::TCP_CLOSING => Self::Closing,
            bindings::TCP_CLOSE => Self::Closed,
            bindings::TCP_LISTEN => Self::Listening,
            _ => Self::Open,
        }
    }
}

/// A `struct sock` of TCP.
#[repr(transparent)]
pub struct Sock(Opaque<bindings::sock>);

// SAFETY: Sockets are shared by all CPUs; what is called with one here says which lock it wants, or
// wants none.
unsafe impl Send for Sock {}
// SAFETY: As above.
unsafe impl Sync for Sock {}

// SAFETY: A socket's own counter keeps it from being freed.
unsafe impl AlwaysRefCounted for Sock {
    fn inc_ref(&self) {
        // SAFETY: The reference says that the counter is not zero.
        unsafe { bindings::sock_hold(self.as_ptr()) };
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller gives a reference up.
        unsafe { bindings::sock_put(obj.as_ptr().cast()) };
    }
}

impl Sock {
    /// Borrows the socket that C gave.
    ///
    /// # Safety
    ///
    /// `sk` must be a whole socket of TCP (neither a request nor a TIME_WAIT), held for `'a`.
    pub unsafe fn from_raw<'a>(sk: *const bindings::sock) -> &'a Self {
        // SAFETY: The caller says so; the type is transparent.
        unsafe { &*sk.cast() }
    }

    /// For calls into C.
    pub fn as_ptr(&self) -> *mut bindings::sock {
        self.0.get()
    }

    /// The namespace that the socket lives in.
    pub fn net(&self) -> &Net {
        // SAFETY: A socket's namespace is valid as long as the socket is.
        unsafe { Net::from_raw(bindings::sock_net(self.as_ptr())) }
    }

    /// The state that the socket is in at this moment.
    pub fn state(&self) -> State {
        // SAFETY: The socket is valid.
        State::from_raw(unsafe { bindings::sock_state(self.as_ptr()) })
    }

    /// Whether it is a socket of IPv6, which may take IPv4 as well.
    pub fn is_inet6(&self) -> bool {
        // SAFETY: The socket is valid.
        unsafe { bindings::sock_is_inet6(self.as_ptr()) }
    }

    /// Whether it refuses IPv4.
    pub fn is_v6only(&self) -> bool {
        // SAFETY: The socket is valid.
        unsafe { bindings::sock_is_v6only(self.as_ptr()) }
    }

    /// Whether MPTCP lies between it and its process.
    pub fn is_mptcp(&self) -> bool {
        // SAFETY: The socket is valid.
        unsafe { bindings::sock_is_mptcp(self.as_ptr()) }
    }

    /// Whether it was ended by an error, or by RST, rather than by FINs.
    pub fn has_error(&self) -> bool {
        // SAFETY: The socket is valid.
        unsafe { bindings::sock_err(self.as_ptr()) != 0 }
    }

    /// The port that the socket is bound to.
    pub fn port(&self) -> u16 {
        // SAFETY: The socket is valid.
        unsafe { bindings::sock_num(self.as_ptr()) }
    }

    /// The ends of its connection; of a listener, its own address only.
    pub fn tuple(&self) -> Tuple {
        let mut tuple = Tuple::default();
        // SAFETY: The socket is valid, and the tuple types have one layout (`link.rs`).
        unsafe { bindings::sock_tuple(self.as_ptr(), (&raw mut tuple).cast()) };
        tuple
    }

    /// Waits until softirqs that work on the socket now have let go of it. Any context that does
    /// not hold the socket's lock.
    pub fn barrier(&self) {
        // SAFETY: The socket is valid.
        unsafe { bindings::sock_barrier(self.as_ptr()) };
    }

    /// Locks it for this process. May sleep.
    pub fn lock(&self) -> Locked<'_> {
        // SAFETY: The socket is valid.
        unsafe { bindings::lock_sock(self.as_ptr()) };
        // INVARIANT: It was just locked, and is unlocked by `Locked::drop`.
        Locked {
            sk: self,
            release: true,
        }
    }
}

/// A socket whose lock is held by this context.
///
/// # Invariants
///
/// The lock of `sk` is held as long as this object lives.
pub struct Locked<'a> {
    sk: &'a Sock,
    release: bool,
}

impl<'a> Locked<'a> {
    /// A socket that the caller has got locked.
    ///
    /// # Safety
    ///
    /// The lock must be held for `'a`.
    pub unsafe fn assume(sk: &'a Sock) -> Self {
        // INVARIANT: The caller says so.
        Self { sk, release: false }
    }
}

impl core::ops::Deref for Locked<'_> {
    type Target = Sock;

    fn deref(&self) -> &Sock {
        self.sk
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if self.release {
            // SAFETY: By the type invariant this context holds the lock.
            unsafe { bindings::release_sock(self.as_ptr()) };
        }
    }
}

/// How many listeners are fetched at a time.
const BATCH: usize = 16;

/// The listeners of a namespace, a few at a time.
///
/// Listeners that come and go meanwhile may be left out.
pub struct Listeners<'a> {
    net: &'a Net,
    bucket: u32,
    skip: u32,
    batch: [Option<ARef<Sock>>; BATCH],
    next: usize,
}

impl<'a> Listeners<'a> {
    /// Begins with the first. Process context.
    pub fn of(net: &'a Net) -> Self {
        Self {
            net,
            bucket: 0,
            skip: 0,
            batch: [const { None }; BATCH],
            next: BATCH,
        }
    }

    /// Fetches the next few; `false` when there are no more.
    fn refill(&mut self) -> bool {
        let mut raw = [core::ptr::null_mut(); BATCH];
        // SAFETY: The namespace is valid.
        let buckets = unsafe { bindings::lhash2_buckets(self.net.as_ptr()) };
        while self.bucket < buckets {
            // CAST: The batch is small.
            let max = BATCH as u32;
            // SAFETY: The bucket exists, and there is room for as many as we say.
            let n = unsafe {
                bindings::lhash2_get(
                    self.net.as_ptr(),
                    self.bucket,
                    self.skip,
                    raw.as_mut_ptr(),
                    max,
                )
            };
            if n < max {
                self.bucket = self.bucket.wrapping_add(1);
                self.skip = 0;
            } else {
                self.skip = self.skip.wrapping_add(n);
            }
            if n == 0 {
                continue;
            }
            for (slot, sk) in self.batch.iter_mut().zip(raw) {
                // SAFETY: Sockets that were put into the batch are held for us, the rest of it is
                // null.
                *slot = NonNull::new(sk).map(|sk| unsafe { ARef::from_raw(sk.cast()) });
            }
            self.next = 0;
            return true;
        }
        false
    }
}

impl Iterator for Listeners<'_> {
    type Item = ARef<Sock>;

    fn next(&mut self) -> Option<ARef<Sock>> {
        loop {
            if let Some(sk) = self.batch.get_mut(self.next).and_then(Option::take) {
                self.next = self.next.wrapping_add(1);
                return Some(sk);
            }
            if !self.refill() {
                return None;
            }
        }
    }
}
