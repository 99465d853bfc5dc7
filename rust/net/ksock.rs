// SPDX-License-Identifier: GPL-2.0

//! TCP sockets of the kernel's own, for one thread that never blocks in them.
//!
//! Those that are made here do not keep their namespace, so they must be gone before it is: dropping
//! one ends its connection with RST, and leaves nothing behind.
//!
//! C header: [`include/linux/net.h`](srctree/include/linux/net.h)

use crate::{
    bindings,
    kthread::Bell,
    listener::Held,
    pernet::Net,
    sock::{
        Sock,
        State, //
    },
};
use carisma_core::tuple::{
    v4_of,
    Addr, //
};
use core::{
    mem::ManuallyDrop,
    ptr::NonNull, //
};
use kernel::{
    error::to_result,
    ffi::c_int,
    prelude::*,
    sync::Arc,
    types::Opaque, //
};

/// What TCP is asked to do to notice that a peer is gone.
#[derive(Clone, Copy)]
pub struct Tuning {
    /// Seconds of silence before the first keepalive probe.
    pub idle: i32,
    /// Seconds between probes.
    pub interval: i32,
    /// Probes without an answer that end the connection.
    pub probes: i32,
    /// Milliseconds without acknowledgement of what was sent that end it.
    pub user_timeout: i32,
}

/// A socket.
///
/// # Invariants
///
/// `sock` is a socket of this object's own; `watch`, if there is one, is on its wait queue.
pub struct Socket {
    sock: NonNull<bindings::socket>,
    watch: Option<Watch>,
}

/// The bell that a socket rings.
struct Watch {
    entry: Pin<KBox<Opaque<bindings::wait_queue_entry>>>,
    /// Kept for the entry, which points to it.
    _bell: Arc<Bell>,
}

// SAFETY: Sockets lock by themselves.
unsafe impl Send for Socket {}
// SAFETY: As above.
unsafe impl Sync for Socket {}

impl Socket {
    /// A socket in `net` bound to `addr` and `port`, 0 for any; the node need not have the address
    /// yet.
    pub fn bound(net: &Net, addr: &Addr, port: u16) -> Result<Self> {
        let family = match v4_of(addr) {
            Some(_) => bindings::AF_INET,
            None => bindings::AF_INET6,
        };
        let mut sock = core::ptr::null_mut();
        // SAFETY: `sock` takes the answer.
        to_result(unsafe {
            bindings::sock_create_kern(
                net.as_ptr(),
                // CAST: Families, types and protocols are small numbers.
                family as c_int,
                bindings::sock_type_SOCK_STREAM as c_int,
                bindings::IPPROTO_TCP as c_int,
                &raw mut sock,
            )
        })?;
        // INVARIANT: It was just made.
        let this = Self {
            sock: NonNull::new(sock).ok_or(ENOMEM)?,
            watch: None,
        };
        // SAFETY: The socket is valid, and the address has 16 bytes.
        to_result(unsafe { bindings::ksock_bind(this.as_ptr(), addr.as_ptr(), port) })?;
        Ok(this)
    }

    /// Accepts a child that was withheld; gives it back without memory. Process context.
    pub fn accepted(held: Held) -> Result<Self, Held> {
        let family = match held.is_inet6() {
            true => bindings::AF_INET6,
            false => bindings::AF_INET,
        };
        let mut sock = core::ptr::null_mut();
        // SAFETY: `sock` takes the answer.
        let err = unsafe {
            bindings::sock_create_lite(
                // CAST: Families, types and protocols are small numbers.
                family as c_int,
                bindings::sock_type_SOCK_STREAM as c_int,
                bindings::IPPROTO_TCP as c_int,
                &raw mut sock,
            )
        };
        match NonNull::new(sock) {
            Some(sock) if err == 0 => {
                // SAFETY: It was just made.
                unsafe { held.accept(sock.as_ptr()) };
                // INVARIANT: It has a `sock` now.
                Ok(Self { sock, watch: None })
            }
            _ => Err(held),
        }
    }

    /// Sends no more.
    pub fn shutdown(&self) {
        let how = bindings::sock_shutdown_cmd_SHUT_WR;
        // SAFETY: The socket is valid. An error says that the connection has ended.
        let _ = unsafe { bindings::kernel_sock_shutdown(self.as_ptr(), how) };
    }

    /// Drops up to `max` bytes of what was received; `false` at the end of the stream, or of the
    /// connection.
    pub fn drain(&self, max: usize) -> bool {
        // SAFETY: The socket is valid.
        let n = unsafe { bindings::ksock_drain(self.as_ptr(), max) };
        n > 0 || n == EAGAIN.to_errno()
    }

    /// Closes it as a process does: TCP sends what is left to be sent, by itself.
    pub fn close(self) {
        let mut this = ManuallyDrop::new(self);
        this.unwatch();
        // SAFETY: By the type invariant; nobody else has it, and it is not dropped.
        unsafe { bindings::sock_release(this.as_ptr()) };
    }

    fn as_ptr(&self) -> *mut bindings::socket {
        self.sock.as_ptr()
    }

    fn sk(&self) -> &Sock {
        // SAFETY: By the type invariant; a socket that is not released has a `sock`.
        unsafe { Sock::from_raw(bindings::ksock_sk(self.as_ptr())) }
    }

    /// Rings `bell` from now on whenever something happens to the socket.
    pub fn watch(&mut self, bell: &Arc<Bell>) -> Result {
        self.unwatch();
        let entry = KBox::pin(
            Opaque::new(bindings::wait_queue_entry::default()),
            GFP_KERNEL,
        )?;
        // SAFETY: The entry stays where it is until `unwatch`, and the bell is kept as long.
        unsafe { bindings::ksock_watch(self.as_ptr(), entry.get(), bell.as_ptr()) };
        // INVARIANT: It was just put there.
        self.watch = Some(Watch {
            entry,
            _bell: bell.clone(),
        });
        Ok(())
    }

    fn unwatch(&mut self) {
        if let Some(watch) = self.watch.take() {
            // SAFETY: By the type invariant.
            unsafe { bindings::ksock_unwatch(self.as_ptr(), watch.entry.get()) };
        }
    }

    /// Sets TCP's options.
    pub fn tune(&self, tuning: &Tuning) {
        // SAFETY: The socket is valid.
        unsafe {
            bindings::ksock_tune(
                self.as_ptr(),
                tuning.idle,
                tuning.interval,
                tuning.probes,
                tuning.user_timeout,
            );
        }
    }

    /// Listens.
    pub fn listen(&self, backlog: i32) -> Result {
        // SAFETY: The socket is valid.
        to_result(unsafe { bindings::kernel_listen(self.as_ptr(), backlog) })
    }

    /// The next connection that came in, if there is one.
    pub fn accept(&self) -> Result<Option<Self>> {
        // SAFETY: The socket is valid, and listens.
        if !unsafe { bindings::ksock_has_child(self.as_ptr()) } {
            return Ok(None);
        }
        let mut sock = core::ptr::null_mut();
        // CAST: A small number.
        let flags = bindings::O_NONBLOCK as c_int;
        // SAFETY: The socket is valid; `sock` takes the answer.
        match unsafe { bindings::kernel_accept(self.as_ptr(), &raw mut sock, flags) } {
            // INVARIANT: It was just made.
            0 => Ok(NonNull::new(sock).map(|sock| Self { sock, watch: None })),
            err if err == EAGAIN.to_errno() => Ok(None),
            err => Err(Error::from_errno(err)),
        }
    }

    /// Begins to connect; see [`Socket::is_connected`].
    pub fn connect(&self, addr: &Addr, port: u16) -> Result {
        // SAFETY: The socket is valid, and the address has 16 bytes.
        let err = unsafe { bindings::ksock_connect(self.as_ptr(), addr.as_ptr(), port) };
        match err {
            err if err == EINPROGRESS.to_errno() => Ok(()),
            err => to_result(err),
        }
    }

    /// Whether the connection is there. Errors: `ECONNREFUSED` when it is not going to be.
    pub fn is_connected(&self) -> Result<bool> {
        match self.sk().state() {
            State::Opening => Ok(false),
            State::Closed => Err(ECONNREFUSED),
            _ => Ok(true),
        }
    }

    /// The peer's address.
    pub fn peer(&self) -> Addr {
        self.sk().tuple().client
    }

    /// Reads what is there; `None` if there is nothing yet. Errors: `ECONNRESET` at the end of the
    /// stream, and TCP's own.
    pub fn recv(&self, buf: &mut [u8]) -> Result<Option<usize>> {
        // SAFETY: The socket is valid, and one of TCP's.
        if !unsafe { bindings::ksock_has_news(self.as_ptr()) } {
            return Ok(None);
        }
        // SAFETY: The socket is valid, and the buffer as long as we say.
        match unsafe { bindings::ksock_recv(self.as_ptr(), buf.as_mut_ptr().cast(), buf.len()) } {
            0 if buf.is_empty() => Ok(Some(0)),
            0 => Err(ECONNRESET),
            err if err == EAGAIN.to_errno() => Ok(None),
            n => Self::count(n),
        }
    }

    /// Sends as much as there is room for; `None` if there is none now.
    pub fn send(&self, buf: &[u8]) -> Result<Option<usize>> {
        // SAFETY: The socket is valid, and the buffer as long as we say.
        match unsafe { bindings::ksock_send(self.as_ptr(), buf.as_ptr().cast(), buf.len()) } {
            err if err == EAGAIN.to_errno() => Ok(None),
            n => Self::count(n),
        }
    }

    fn count(n: c_int) -> Result<Option<usize>> {
        match usize::try_from(n) {
            Ok(n) => Ok(Some(n)),
            Err(_) => Err(Error::from_errno(n)),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.unwatch();
        // SAFETY: By the type invariant; nobody else has it. Without lingering no orphan stays in
        // the namespace.
        unsafe {
            bindings::sock_no_linger((*self.as_ptr()).sk);
            bindings::sock_release(self.as_ptr());
        }
    }
}
