// SPDX-License-Identifier: GPL-2.0

//! Children of a listener that are withheld from `accept()`.
//!
//! An attached listener has three pointers of its own replaced: `icsk_af_ops`, by a copy of the
//! stock operations whose `syn_recv_sock` is ours; `sk_data_ready`, by one that wakes nobody while
//! the accept queue is empty; and `icsk_ulp_ops`, by the label of [`crate::ulp`]. A child is a copy
//! of its listener, and gets the stock pointers back before anybody can see it.
//!
//! Requests are worked on without the listener's lock, so that a copy may be made while the pointers
//! are being replaced. Who attaches a listener has it labelled for a grace period before anything
//! else: then whatever copies our pointers copies the label, too, and the label's `clone()` puts the
//! child right, whichever `syn_recv_sock` TCP had read. Who detaches it takes the label last, and
//! `sk_data_ready` before the operations: TCP that had read our `syn_recv_sock` puts the child right
//! there, and who read the stock one copies what is stock.
//!
//! When the handshake ends, `tcp_check_req()` calls `syn_recv_sock`, and then leaves the child out
//! of the accept queue if `rsk_drop_req()` says so of the request: this is how MPTCP keeps the
//! subflows that join. We keep a reference to the request, which in turn keeps its listener, and
//! the child's reference that would have gone to the accept queue. The request may be touched again
//! once `tcp_check_req()` has returned, which is so
//!
//! - when the child goes to ESTABLISHED, in `tcp_child_process()`, or
//! - when somebody else has had the child's lock, which is held from `syn_recv_sock` to the end of
//!   `tcp_child_process()`.
//!
//! Stock requests that look like MPTCP's for a moment: the request's timer is stopped before, as a
//! SYN-ACK that it sent then would be built from memory behind the request. A SYN of the same
//! connection that is processed at the very same moment on another CPU is not excluded; it would
//! have to come twice, on two receive queues.
//!
//! A request that was made from a SYN cookie is freed as soon as `syn_recv_sock` has returned, and
//! one that began at another listener (`net.ipv4.tcp_migrate_req`) keeps that one: of these it is a
//! copy that we keep, as TCP itself copies the latter.
//!
//! Left to the stock path: children by Fast Open, which are in the accept queue before the
//! handshake ends.
//!
//! Lock order: the child's lock, the accept queue's lock. No lock of a listener is taken here.
//!
//! C headers: [`include/net/inet_connection_sock.h`](srctree/include/net/inet_connection_sock.h),
//! [`include/net/request_sock.h`](srctree/include/net/request_sock.h)

use crate::{
    bindings,
    sock::{
        Locked,
        Sock,
        State, //
    },
    ulp::{
        self,
        Ulp, //
    },
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    ffi::c_int,
    prelude::*,
    sync::{
        rcu,
        SetOnce, //
    },
};

/// Who decides about children.
pub trait Gate: 'static {
    /// Whether an attached listener may get one more: if not, TCP takes its accept queue for full.
    ///
    /// Softirq context, RCU read-locked.
    fn has_room(listener: &Sock) -> bool;

    /// TCP has made a child of an attached listener. [`Candidate::hold`] withholds it; if the
    /// candidate is dropped, the child passes.
    ///
    /// Softirq context, with the child's lock held and RCU read-locked.
    fn child(listener: &Sock, candidate: Candidate<'_>);

    /// A child was not offered, because it came by Fast Open. Context as above.
    fn passed(listener: &Sock);

    /// A wake-up of the listener's process was left out, as there was nothing to accept. Any
    /// context.
    fn quiet(listener: &Sock);
}

/// Why a listener is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// MPTCP has it.
    Mptcp,
    /// It is one of the kernel's own.
    Kernel,
    /// Another upper layer protocol has it.
    Ulp,
    /// Somebody has replaced its operations.
    Ops,
}

/// What TCP puts on sockets of one address family.
struct Stock {
    ops: bindings::carisma_sock_ops,
    /// The copy that attached listeners point to.
    wrapped: bindings::inet_connection_sock_af_ops,
    /// What they have in place of `ops.data_ready`.
    data_ready: unsafe extern "C" fn(*mut bindings::sock),
}

impl Stock {
    /// What a listener has that is labelled, and no more.
    fn labelled(&self) -> bindings::carisma_sock_ops {
        bindings::carisma_sock_ops {
            ulp: ulp::ops(),
            ..self.ops
        }
    }

    /// What an attached listener has.
    fn attached(&'static self) -> bindings::carisma_sock_ops {
        bindings::carisma_sock_ops {
            af_ops: &raw const self.wrapped,
            data_ready: Some(self.data_ready),
            ulp: ulp::ops(),
        }
    }
}

// SAFETY: Written once, before it is shared; what it points to is the kernel's, and constant.
unsafe impl Send for Stock {}
// SAFETY: As above.
unsafe impl Sync for Stock {}

/// IPv4 and IPv6. Children of listeners that were attached look here as long as the module's text
/// exists.
static STOCK: [SetOnce<Stock>; 2] = [SetOnce::new(), SetOnce::new()];

/// What stock TCP puts on a socket of the family that `sk` has.
fn stock(sk: &Sock) -> Option<&'static Stock> {
    STOCK.get(usize::from(sk.is_inet6()))?.as_ref()
}

/// The means to attach listeners to a [`Gate`]. Process context.
///
/// When it is dropped, every listener must have been detached; it returns when no CPU, and no task
/// that was preempted, is left in code that a listener led to.
pub struct Hooks<G: Gate> {
    _ulp: Ulp,
    _gate: PhantomData<G>,
}

impl<G: Gate> Hooks<G> {
    /// Learns what stock TCP puts on sockets, from sockets of its own.
    pub fn new() -> Result<Self> {
        let ulp = Ulp::new()?;
        for (stock, family) in STOCK.iter().zip([bindings::AF_INET, bindings::AF_INET6]) {
            let mut sock = core::ptr::null_mut();
            // SAFETY: The initial namespace always exists; `sock` takes the answer.
            let err = unsafe {
                bindings::sock_create_kern(
                    &raw mut bindings::init_net,
                    // CAST: Families, types and protocols are small numbers.
                    family as c_int,
                    bindings::sock_type_SOCK_STREAM as c_int,
                    bindings::IPPROTO_TCP as c_int,
                    &raw mut sock,
                )
            };
            if err != 0 {
                // Without IPv6 there are no such listeners either.
                if err == EAFNOSUPPORT.to_errno() {
                    continue;
                }
                return Err(Error::from_errno(err));
            }
            let mut ops = bindings::carisma_sock_ops::default();
            // SAFETY: The socket is ours alone until it is released here; stock operations are
            // constant data of the kernel.
            let wrapped = unsafe {
                bindings::sock_ops_get((*sock).sk, &raw mut ops);
                let wrapped = bindings::inet_connection_sock_af_ops {
                    syn_recv_sock: Some(syn_recv_sock::<G>),
                    ..*ops.af_ops
                };
                bindings::sock_release(sock);
                wrapped
            };
            stock.populate(Stock {
                ops,
                wrapped,
                data_ready: data_ready::<G>,
            });
        }
        Ok(Self {
            _ulp: ulp,
            _gate: PhantomData,
        })
    }

    /// Attaches a listener, or a socket that is about to become one; an attached one stays so.
    /// While there are hooks only. May sleep if the socket listens.
    pub fn attach(sk: &Locked<'_>) -> Result<(), Foreign> {
        let stock = stock(sk).ok_or(Foreign::Ops)?;
        let mut has = bindings::carisma_sock_ops::default();
        // SAFETY: The socket is valid and locked.
        unsafe { bindings::sock_ops_get(sk.as_ptr(), &raw mut has) };
        if has.ulp == ulp::ops() {
            return Ok(());
        }
        if sk.is_mptcp() {
            return Err(Foreign::Mptcp);
        }
        if !has.ulp.is_null() {
            return Err(Foreign::Ulp);
        }
        // SAFETY: The socket is valid and locked.
        if unsafe { bindings::sock_is_kernel(sk.as_ptr()) } {
            return Err(Foreign::Kernel);
        }
        if has.af_ops != stock.ops.af_ops
            || has.data_ready.map(|f| f as usize) != stock.ops.data_ready.map(|f| f as usize)
        {
            return Err(Foreign::Ops);
        }
        // SAFETY: The socket is valid and locked; a label does nothing to a listener.
        unsafe { bindings::sock_ops_replace(sk.as_ptr(), &stock.ops, &stock.labelled()) };
        // A socket that does not listen yet has no requests.
        if sk.state() == State::Listening {
            // SAFETY: Who has the lock of a socket that listens already may sleep, see above.
            unsafe { bindings::synchronize_rcu_expedited() };
        }
        // SAFETY: As above; the stock operations with our `syn_recv_sock` do all that the stock
        // ones do.
        unsafe { bindings::sock_ops_replace(sk.as_ptr(), &stock.labelled(), &stock.attached()) };
        Ok(())
    }

    /// Undoes [`Hooks::attach`]; `false` if somebody has replaced our pointers meanwhile, which are
    /// lost then.
    pub fn detach(sk: &Locked<'_>) -> bool {
        let Some(stock) = stock(sk) else {
            return true;
        };
        // SAFETY: The socket is valid and locked.
        unsafe { bindings::sock_ops_replace(sk.as_ptr(), &stock.attached(), &stock.ops) }
    }
}

impl<G: Gate> Drop for Hooks<G> {
    fn drop(&mut self) {
        rcu::synchronize_rcu();
        // SAFETY: Process context.
        unsafe { bindings::synchronize_rcu_tasks() };
    }
}

/// A child that may be withheld.
pub struct Candidate<'a> {
    req: NonNull<bindings::request_sock>,
    listener: &'a Sock,
    child: &'a Sock,
    skb: *const bindings::sk_buff,
    /// TCP's tables have the request.
    listed: bool,
}

impl<'a> Candidate<'a> {
    /// The child, whose lock is held.
    pub fn child(&self) -> &'a Sock {
        self.child
    }

    /// Withholds it: TCP will not queue it. `None` if there is no memory, or the listener is going:
    /// it passes.
    pub fn hold(self) -> Option<Held> {
        let (req, sk, child) = (
            self.req.as_ptr(),
            self.listener.as_ptr(),
            self.child.as_ptr(),
        );
        // SAFETY: Request, child and segment are those of the `syn_recv_sock` under way, which
        // holds the child's lock and has just taken the request over.
        let kept = unsafe {
            if self.listed && bindings::reqsk_listener(req) == sk {
                bindings::reqsk_withhold(req, child, self.skb);
                req
            } else {
                bindings::reqsk_withhold_copy(req, sk, child, self.skb, self.listed)
            }
        };
        // INVARIANT: The reference to the request was just taken, or is that of the copy's maker;
        // that to the child is the one which the accept queue would get.
        NonNull::new(kept).map(Held)
    }
}

/// A child that TCP has left out of the accept queue.
///
/// It must be given back by one of the methods: dropping it would leak the connection.
///
/// # Invariants
///
/// Owns a reference to the request, or copy of one, whose `sk` is the child; owns the child's reference that stands
/// for a process.
#[must_use]
pub struct Held(NonNull<bindings::request_sock>);

// SAFETY: Who owns it may give it back from wherever the methods allow.
unsafe impl Send for Held {}
// SAFETY: Shared references only read what does not change.
unsafe impl Sync for Held {}

impl Held {
    /// The child.
    pub fn child(&self) -> &Sock {
        // SAFETY: By the type invariant.
        unsafe { Sock::from_raw(bindings::reqsk_child(self.0.as_ptr())) }
    }

    /// Its listener.
    pub fn listener(&self) -> &Sock {
        // SAFETY: By the type invariant, as a request keeps its listener.
        unsafe { Sock::from_raw(bindings::reqsk_listener(self.0.as_ptr())) }
    }

    /// Has TCP believe that a round trip to the client takes so many milliseconds, if that is not 0. By
    /// itself it knows at best what the timestamps of the handshake tell, which a replayed or adopted one
    /// does not tell.
    ///
    /// Only within the [`Gate::child`] that made it.
    pub fn set_rtt(&self, rtt: u32) {
        if rtt != 0 {
            let us = rtt.saturating_mul(1_000);
            // SAFETY: By the type invariant; the caller of `syn_recv_sock` holds the child's lock.
            unsafe { bindings::reqsk_set_rtt(self.0.as_ptr(), us) };
        }
    }

    /// Thinks better of it, before `syn_recv_sock` has returned: TCP will queue the child.
    ///
    /// Only within the [`Gate::child`] that made it.
    pub fn pass(self) {
        // SAFETY: By the type invariant; the caller of `syn_recv_sock` has the request that TCP
        // made, or a reference to it, too.
        unsafe { bindings::reqsk_unhold(self.0.as_ptr()) };
    }

    /// Appends the child to the accept queue, of which nobody is told. Any context; TCP must be
    /// through with the request, see the module's documentation. Gives it back if nobody listens
    /// any more.
    pub fn append(self) -> Result<(), Self> {
        // SAFETY: By the type invariant; the references go to the queue.
        if unsafe { bindings::acceptq_append(self.0.as_ptr()) } {
            Ok(())
        } else {
            Err(self)
        }
    }

    /// Gives the child to a socket, as `accept()` does. Process context, may sleep.
    ///
    /// # Safety
    ///
    /// `sock` must be a new socket of TCP's type that has no protocol and no child yet.
    pub(crate) unsafe fn accept(self, sock: *mut bindings::socket) {
        // SAFETY: By the type invariant, and the caller says the rest: the child's reference goes
        // to the socket, that to the request ends.
        unsafe { bindings::reqsk_accept(self.0.as_ptr(), sock) };
    }

    /// The child's address family.
    pub(crate) fn is_inet6(&self) -> bool {
        self.child().is_inet6()
    }

    /// Closes the child, with RST if it is still open. Process context, may sleep.
    pub fn discard(self) {
        // SAFETY: By the type invariant, the references of which end here.
        unsafe { bindings::reqsk_discard(self.0.as_ptr()) };
    }
}

/// Withheld children in a row, linked as in the accept queue itself, so that to put one in needs no
/// memory.
///
/// # Invariants
///
/// `head` leads, by the requests' `dl_next`, to all that were put in, and at last to `tail`; the
/// queue owns them as [`Held`] does.
#[derive(Default)]
pub struct HeldQueue {
    head: Option<NonNull<bindings::request_sock>>,
    tail: Option<NonNull<bindings::request_sock>>,
    len: usize,
}

// SAFETY: As for `Held`.
unsafe impl Send for HeldQueue {}

impl HeldQueue {
    /// An empty queue.
    pub const fn new() -> Self {
        Self {
            head: None,
            tail: None,
            len: 0,
        }
    }

    /// Puts one in at the end.
    pub fn push(&mut self, held: Held) {
        let req = held.0;
        // SAFETY: Who owns the request may link it; by the type invariant so does the queue its
        // tail.
        unsafe {
            bindings::reqsk_set_next(req.as_ptr(), core::ptr::null_mut());
            if let Some(tail) = self.tail {
                bindings::reqsk_set_next(tail.as_ptr(), req.as_ptr());
            }
        }
        // INVARIANT: The request was linked in behind the tail, or is the only one.
        self.head = self.head.or(Some(req));
        self.tail = Some(req);
        self.len = self.len.wrapping_add(1);
    }

    /// Takes the first out.
    pub fn pop(&mut self) -> Option<Held> {
        let req = self.head?;
        // SAFETY: By the type invariant.
        self.head = NonNull::new(unsafe { bindings::reqsk_next(req.as_ptr()) });
        if self.head.is_none() {
            self.tail = None;
        }
        self.len = self.len.wrapping_sub(1);
        // INVARIANT: The queue owned it.
        Some(Held(req))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.head.is_none()
    }
}

impl Sock {
    /// Whether a listener's accept queue is as long as its backlog allows.
    pub fn is_full(&self) -> bool {
        // SAFETY: The socket is valid.
        unsafe { bindings::acceptq_is_full(self.as_ptr()) }
    }

    /// Wakes who waits for a listener to have something to accept. Any context, no lock of ours
    /// held.
    pub fn wake(&self) {
        if let Some(data_ready) = stock(self).and_then(|stock| stock.ops.data_ready) {
            // SAFETY: The socket is valid, and this is the function that stock TCP put there.
            unsafe { data_ready(self.as_ptr()) };
        }
    }
}

/// # Safety
///
/// Called by TCP only, as the `syn_recv_sock` of an attached listener.
unsafe extern "C" fn syn_recv_sock<G: Gate>(
    sk: *const bindings::sock,
    skb: *mut bindings::sk_buff,
    req: *mut bindings::request_sock,
    dst: *mut bindings::dst_entry,
    unhash: *mut bindings::request_sock,
    own: *mut bool,
    init: Option<unsafe extern "C" fn(*mut bindings::sock, *const bindings::sock)>,
) -> *mut bindings::sock {
    // SAFETY: TCP holds the listener during the call.
    let listener = unsafe { Sock::from_raw(sk) };
    let Some(stock) = stock(listener) else {
        return core::ptr::null_mut();
    };
    // SAFETY: The stock operations are constant data of the kernel.
    let Some(make) = (unsafe { (*stock.ops.af_ops).syn_recv_sock }) else {
        return core::ptr::null_mut();
    };
    if !G::has_room(listener) {
        // SAFETY: The listener is valid, and the route is ours, as it would be the stock function's.
        unsafe { bindings::acceptq_overflow(sk, dst) };
        return core::ptr::null_mut();
    }
    // SAFETY: The arguments are those that TCP gave for this very function.
    let child = unsafe { make(sk, skb, req, dst, unhash, own, init) };
    // SAFETY: The child, if there is one, is valid and locked until TCP has gone on; `own` was set
    // then.
    unsafe {
        if !child.is_null() {
            restore(child);
            if *own {
                offer::<G>(listener, child, req, skb, unhash);
            }
        }
    }
    child
}

/// Gives a child, which is a copy of its listener, the stock pointers back.
///
/// # Safety
///
/// `child` must be valid, and locked or known to nobody.
pub(crate) unsafe fn restore(child: *mut bindings::sock) {
    // SAFETY: The caller says so.
    if let Some(stock) = stock(unsafe { Sock::from_raw(child) }) {
        // SAFETY: As above.
        unsafe { bindings::sock_ops_replace(child, &stock.attached(), &stock.ops) };
    }
}

/// # Safety
///
/// `child` must have just been made by stock TCP, from `req` and `skb`, and be locked.
unsafe fn offer<G: Gate>(
    listener: &Sock,
    child: *mut bindings::sock,
    req: *mut bindings::request_sock,
    skb: *const bindings::sk_buff,
    unhash: *const bindings::request_sock,
) {
    let listed = !unhash.is_null();
    // SAFETY: The caller says that the segment is valid, and TCP has looked at its header.
    if !listed && unsafe { bindings::skb_is_syn(skb) } {
        G::passed(listener);
    } else if let Some(req) = NonNull::new(req) {
        // SAFETY: The caller says that the child is valid.
        let child = unsafe { Sock::from_raw(child) };
        let candidate = Candidate {
            req,
            listener,
            child,
            skb,
            listed,
        };
        G::child(listener, candidate);
    }
}

/// # Safety
///
/// Called by TCP only, as the `sk_data_ready` of an attached listener.
unsafe extern "C" fn data_ready<G: Gate>(sk: *mut bindings::sock) {
    // SAFETY: TCP holds the listener during the call.
    let listener = unsafe { Sock::from_raw(sk) };
    // SAFETY: As above.
    if unsafe { bindings::acceptq_is_empty(sk) } {
        G::quiet(listener);
    } else {
        listener.wake();
    }
}
