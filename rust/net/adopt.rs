// SPDX-License-Identifier: GPL-2.0

//! Adoption: giving TCP a connection that began elsewhere, with the numbers that the client has.
//!
//! TCP makes a socket from the ACK that answers a SYN cookie, although it has forgotten the SYN. Since
//! such ACKs may have been answered by a BPF program (`bpf_sk_assign_tcp_reqsk`, net/core/filter.c), one
//! may bring its request along as `skb->sk`: TCP believes what that says, and takes both initial
//! numbers from the ACK. We do the same, on this node and with numbers of another node's.
//!
//! - The request refers to the listener without holding it, which RCU makes safe until TCP, in
//!   `skb_steal_sock()`, takes the listener out again. Nothing may come in between that outlives the
//!   RCU lock, such as a queue to user space: so netfilter's hooks see the ACK before it has a
//!   request, and then it goes to TCP's handler directly. If a rule queues it, it is not adopted; when
//!   it comes out of the queue, TCP does not know what to do with it, and its answer is dropped.
//! - Conntrack therefore does not see how the connection began, and would call what follows invalid.
//!   Where it is at work, nothing is adopted.
//! - The child comes by the listener's `syn_recv_sock`, as all do ([`crate::listener`]).
//! - Unless the ACK has timestamps, TCP measures no round trip by it: a child that is withheld is told of
//!   one ([`crate::listener::Held::set_rtt`]); others begin as after a lost SYN.
//!
//! C header: [`include/net/request_sock.h`](srctree/include/net/request_sock.h)

use crate::{
    bindings,
    netfilter::{
        way_on,
        Hooks,
        PacketContext, //
    },
    pernet::Net,
    skb::{
        Layout,
        Skb, //
    },
};
use carisma_core::back::Adoption;

/// Why TCP was not given a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// `net.ipv4.tcp_syncookies` is 0.
    Syncookies,
    /// Conntrack is at work in the namespace.
    Conntrack,
    /// An option that the connection has is switched off here.
    Options,
    /// TCP has a socket with this connection, or keeps it in TIME_WAIT.
    Tuple,
    /// Nobody listens, or a listener whose children are not withheld, or that wants SYNs.
    Listener,
    /// The listener's window is smaller than what the client was told.
    Window,
    /// A hook of netfilter's did not let the ACK pass at once.
    Filter,
    /// There was no memory, or no route.
    Other,
}

/// What becomes of the child.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Withheld {
    /// It must be withheld from `accept()`.
    Must,
    /// It may be, and may as well go to its server.
    Maybe,
}

/// Gives this node's TCP `ack`, which may bring more than that but no options or extensions of IP's, and what makes it the connection's own. TCP has made the child, and
/// offered it to the listener's gate, when this returns; or it has not, for reasons of its own: its
/// accept queue may be full.
///
/// No lock of a flow or socket is held.
pub fn adopt<H: Hooks>(
    net: &Net,
    ack: Skb,
    adoption: &Adoption,
    withheld: Withheld,
    _context: &PacketContext,
) -> Result<(), Obstacle> {
    let it = raw(adoption, withheld);
    let (own, okfn) = way_on::<H>(&ack);
    // SAFETY: The namespace is valid. The packet is ours, its headers are linear, and it is given up, in
    // the context that the helper asks for.
    outcome(unsafe { bindings::adopt(net.as_ptr(), ack.into_raw(), &raw const it, own, okfn) })
}

/// Whether this node's TCP could adopt the connection that `syn` would begin, if that were to be
/// `adoption`. At PRE_ROUTING.
pub fn may_adopt(
    net: &Net,
    syn: &Skb,
    layout: &Layout,
    adoption: &Adoption,
) -> Result<(), Obstacle> {
    let it = raw(adoption, Withheld::Must);
    // CAST: A small number.
    let ip = layout.ip as u32;
    // SAFETY: The namespace is valid, and so is the packet, whose headers are linear, as there is a
    // layout of it; a hook holds the RCU lock.
    outcome(unsafe { bindings::may_adopt(net.as_ptr(), syn.as_ptr(), ip, &raw const it) })
}

/// Whether a server of this node's listens for what a client's SYN asks for. At PRE_ROUTING.
pub fn has_listener(net: &Net, syn: &Skb, layout: &Layout) -> bool {
    // CAST: A small number.
    let ip = layout.ip as u32;
    // SAFETY: As for `may_adopt`.
    unsafe { bindings::has_listener(net.as_ptr(), syn.as_ptr(), ip) }
}

/// Whether this node's TCP would make a socket that is withheld of the connection that a client's segment
/// ends the handshake of. At PRE_ROUTING.
pub fn may_withhold(net: &Net, segment: &Skb, layout: &Layout) -> bool {
    // CAST: A small number.
    let ip = layout.ip as u32;
    // SAFETY: As for `may_adopt`.
    unsafe { bindings::may_withhold(net.as_ptr(), segment.as_ptr(), ip) }
}

/// What C is told.
fn raw(adoption: &Adoption, withheld: Withheld) -> bindings::carisma_adoption {
    let (snd_wscale, rcv_wscale) = adoption.wscale.unwrap_or((0, 0));
    bindings::carisma_adoption {
        mss: adoption.mss,
        window: adoption.window,
        snd_wscale,
        rcv_wscale,
        wscale_ok: adoption.wscale.is_some(),
        sack_ok: adoption.sack_ok,
        tstamp_ok: adoption.ts.is_some(),
        ecn_ok: adoption.ecn,
        withheld: withheld == Withheld::Must,
        ts_recent: adoption.ts.map_or(0, |ts| ts.val),
        ts_now: adoption.ts.map_or(0, |ts| ts.ecr),
    }
}

/// What C says.
fn outcome(obstacle: bindings::carisma_obstacle) -> Result<(), Obstacle> {
    match obstacle {
        bindings::carisma_obstacle_CARISMA_OBSTACLE_NONE => Ok(()),
        bindings::carisma_obstacle_CARISMA_OBSTACLE_SYNCOOKIES => Err(Obstacle::Syncookies),
        bindings::carisma_obstacle_CARISMA_OBSTACLE_CONNTRACK => Err(Obstacle::Conntrack),
        bindings::carisma_obstacle_CARISMA_OBSTACLE_OPTIONS => Err(Obstacle::Options),
        bindings::carisma_obstacle_CARISMA_OBSTACLE_TUPLE => Err(Obstacle::Tuple),
        bindings::carisma_obstacle_CARISMA_OBSTACLE_LISTENER => Err(Obstacle::Listener),
        bindings::carisma_obstacle_CARISMA_OBSTACLE_WINDOW => Err(Obstacle::Window),
        bindings::carisma_obstacle_CARISMA_OBSTACLE_FILTER => Err(Obstacle::Filter),
        _ => Err(Obstacle::Other),
    }
}
