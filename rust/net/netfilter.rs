// SPDX-License-Identifier: GPL-2.0

//! Netfilter hooks, and giving a segment to TCP from inside of one.
//!
//! C header: [`include/linux/netfilter.h`](srctree/include/linux/netfilter.h)

use crate::{
    bindings,
    pernet::Net,
    skb::Skb, //
};
use core::{
    ffi::{c_int, c_uint, c_void},
    ptr::NonNull,
};
use kernel::{
    error::to_result,
    prelude::*,
    sync::{
        atomic::{Acquire, Atomic, Relaxed, Release},
        rcu, //
    },
    types::{NotThreadSafe, Opaque},
};

/// What is hooked: segments on their way in, before conntrack has seen them, and on their way out,
/// after filter and NAT.
///
/// All are called with the RCU lock held; `input` in softirq, `output` in softirq or process
/// context, perhaps with a socket's lock held. A packet that is returned goes on; one that is kept
/// or dropped does not.
pub trait Hooks: Sync {
    /// PRE_ROUTING: whether a packet is to be shown to `input`.
    fn minds(&self, skb: &Skb, rcu: &rcu::Guard) -> bool;
    /// PRE_ROUTING.
    fn input(&self, skb: Skb, ctx: &PacketContext) -> Option<Skb>;
    /// LOCAL_OUT.
    fn output(&self, skb: Skb, rcu: &rcu::Guard) -> Option<Skb>;
}

/// Behind defragmentation (-400), in front of the raw table (-300) and conntrack (-200). IPv6 has the
/// same numbers. That of IPv4 is asked for by nobody but conntrack: nf_defrag_ipv4 would be called for
/// every packet that comes or goes, of which few are fragments ([`Skb::gathered`]).
const INPUT_PRIORITY: c_int = bindings::nf_ip_hook_priorities_NF_IP_PRI_CONNTRACK_DEFRAG + 50;
/// Behind everything.
const OUTPUT_PRIORITY: c_int = bindings::nf_ip_hook_priorities_NF_IP_PRI_LAST - 1;

/// The way on from PRE_ROUTING, which is not exported: every packet brings it along that IP has
/// received. It is the same function for all of a family.
static OKFN_V4: Atomic<usize> = Atomic::new(0);
static OKFN_V6: Atomic<usize> = Atomic::new(0);

/// That of this family.
fn okfn_of(v6: bool) -> &'static Atomic<usize> {
    match v6 {
        false => &OKFN_V4,
        true => &OKFN_V6,
    }
}

/// How many hooks there are: on the way in and on the way out, for each family.
const HOOKS: usize = 4;

/// Registered hooks of one namespace.
///
/// # Invariants
///
/// While `registered` is set, the operations are registered in `net`.
pub struct Registration {
    ops: Pin<KBox<Opaque<[bindings::nf_hook_ops; HOOKS]>>>,
    registered: Atomic<bool>,
}

// SAFETY: The operations are only read after registration.
unsafe impl Send for Registration {}
// SAFETY: As above.
unsafe impl Sync for Registration {}

impl Registration {
    /// Prepares the hooks. Process context.
    pub fn new<H: Hooks>() -> Result<Self> {
        let op = |pf, hook, hooknum, priority| bindings::nf_hook_ops {
            hook,
            // CAST: Small constants.
            pf: pf as u8,
            hooknum,
            priority,
            ..Default::default()
        };
        let input = |pf| {
            let hooknum = bindings::nf_inet_hooks_NF_INET_PRE_ROUTING;
            op(pf, Some(input::<H>), hooknum, INPUT_PRIORITY)
        };
        let output = |pf| {
            let hooknum = bindings::nf_inet_hooks_NF_INET_LOCAL_OUT;
            op(pf, Some(output::<H>), hooknum, OUTPUT_PRIORITY)
        };
        let (v4, v6) = (bindings::NFPROTO_IPV4, bindings::NFPROTO_IPV6);
        let ops = [input(v4), output(v4), input(v6), output(v6)];
        Ok(Self {
            ops: KBox::pin(Opaque::new(ops), GFP_KERNEL)?,
            registered: Atomic::new(false),
        })
    }

    /// Has `hooks` called from now on. IPv6's packets are put together from their fragments before.
    /// Process context.
    ///
    /// # Safety
    ///
    /// `hooks` must stay where it is until a grace period after [`Registration::unregister`].
    pub unsafe fn register<H: Hooks>(&self, net: &Net, hooks: *const H) -> Result {
        for op in 0..HOOKS {
            // SAFETY: Nobody reads the operations before they are registered.
            unsafe {
                (*self.ops.get().cast::<bindings::nf_hook_ops>().add(op)).priv_ =
                    hooks.cast_mut().cast()
            };
        }
        // SAFETY: The namespace is valid; the operations stay where they are, in their box.
        unsafe {
            let net = net.as_ptr();
            to_result(bindings::nf_defrag_ipv6_enable(net))?;
            to_result(bindings::nf_register_net_hooks(
                net,
                self.ops.get().cast(),
                // CAST: A small constant.
                HOOKS as u32,
            ))
            .inspect_err(|_| bindings::nf_defrag_ipv6_disable(net))?;
        }
        // INVARIANT: They are registered.
        self.registered.store(true, Release);
        Ok(())
    }

    /// Ends it, once. Calls that are under way end before a grace period does. Process context.
    pub fn unregister(&self, net: &Net) {
        // INVARIANT: They are not, from here on.
        if self.registered.xchg(false, kernel::sync::atomic::Full) {
            // SAFETY: They were registered in this namespace.
            unsafe {
                // CAST: A small constant.
                let hooks = HOOKS as u32;
                bindings::nf_unregister_net_hooks(net.as_ptr(), self.ops.get().cast(), hooks);
                bindings::nf_defrag_ipv6_disable(net.as_ptr());
            }
        }
    }
}

/// # Safety
///
/// Called by netfilter only, for hooks that [`Registration::register`] registered with a `*const
/// H`.
unsafe extern "C" fn input<H: Hooks>(
    hooks: *mut c_void,
    skb: *mut bindings::sk_buff,
    state: *const bindings::nf_hook_state,
) -> c_uint {
    // SAFETY: The state is valid, and so are the hooks while they are registered. The packet is
    // ours. Nobody changes the context of a hook while it runs, and that has the RCU lock.
    unsafe {
        let hooks = &*hooks.cast::<H>();
        let packet = Skb::from_raw(skb);
        let minds = hooks.minds(&packet, held());
        packet.into_raw();
        match minds {
            true => shown(hooks, skb, &*state),
            false => bindings::NF_ACCEPT,
        }
    }
}

/// # Safety
///
/// Called by [`input`] only.
#[inline(never)]
unsafe fn shown<H: Hooks>(
    hooks: &H,
    skb: *mut bindings::sk_buff,
    state: &bindings::nf_hook_state,
) -> c_uint {
    // SAFETY: As there.
    unsafe {
        match bindings::skb_arrival(skb) {
            bindings::carisma_arrival_CARISMA_ARRIVAL_PASSING => return bindings::NF_ACCEPT,
            // Its way on is a bridge's.
            bindings::carisma_arrival_CARISMA_ARRIVAL_BRIDGED => {}
            _ => learn(state),
        }
        let ctx = PacketContext::of_caller();
        verdict(skb, |skb| hooks.input(skb, &ctx))
    }
}

/// Remembers the way on of a packet that IP has received.
fn learn(state: &bindings::nf_hook_state) {
    let known = okfn_of(u32::from(state.pf) == bindings::NFPROTO_IPV6);
    if known.load(Relaxed) == 0 {
        if let Some(okfn) = state.okfn {
            known.store(okfn as usize, Release);
        }
    }
}

/// # Safety
///
/// As for [`input`].
unsafe extern "C" fn output<H: Hooks>(
    hooks: *mut c_void,
    skb: *mut bindings::sk_buff,
    _state: *const bindings::nf_hook_state,
) -> c_uint {
    // SAFETY: As for `input`.
    unsafe { verdict(skb, |skb| (*hooks.cast::<H>()).output(skb, held())) }
}

/// # Safety
///
/// `skb` must be owned by the caller, who gives it up unless the verdict is NF_ACCEPT.
unsafe fn verdict(skb: *mut bindings::sk_buff, f: impl FnOnce(Skb) -> Option<Skb>) -> c_uint {
    // SAFETY: The caller says so.
    match f(unsafe { Skb::from_raw(skb) }) {
        Some(skb) => {
            skb.into_raw();
            bindings::NF_ACCEPT
        }
        None => bindings::NF_STOLEN,
    }
}

// What makes `held` sound, together with its caller.
const _: () = assert!(size_of::<rcu::Guard>() == 0);

/// The RCU lock, which somebody else has taken.
///
/// # Safety
///
/// It must be held for `'a`.
unsafe fn held<'a>() -> &'a rcu::Guard {
    // SAFETY: A guard has no bytes to point to, and what it stands for is true, as the caller says.
    unsafe { NonNull::dangling().as_ref() }
}

/// Softirqs are off and the RCU lock is held, as in a hook: what giving packets on needs.
///
/// # Invariants
///
/// That is so as long as it is there.
pub struct PacketContext {
    /// The lock was taken for it.
    _rcu: Option<rcu::Guard>,
    /// They were disabled for it.
    disabled: bool,
    _not_send: NotThreadSafe,
}

impl PacketContext {
    /// Enters it. Process or softirq context, with no socket's lock held if anything is to be
    /// injected.
    pub fn enter() -> Self {
        // SAFETY: Undone by `drop`.
        unsafe { bindings::local_bh_disable() };
        // INVARIANT: Both were just seen to.
        Self {
            _rcu: Some(rcu::read_lock()),
            disabled: true,
            _not_send: NotThreadSafe,
        }
    }

    /// The same where the RCU lock is held, and softirqs mostly are off already. They are not if a packet
    /// comes from a queue to user space.
    ///
    /// # Safety
    ///
    /// The lock must be held as long as this is there and, if softirqs are off, they must stay so.
    unsafe fn of_caller() -> Self {
        // SAFETY: Reads what the CPU is at.
        if !unsafe { bindings::softirqs_are_off() } {
            return Self::enter();
        }
        // INVARIANT: The caller says so.
        Self {
            _rcu: None,
            disabled: false,
            _not_send: NotThreadSafe,
        }
    }

    /// The RCU lock.
    pub fn rcu(&self) -> &rcu::Guard {
        // SAFETY: By the type invariant.
        unsafe { held() }
    }
}

impl Drop for PacketContext {
    fn drop(&mut self) {
        if self.disabled {
            // SAFETY: Undoes what `enter` did. The RCU lock, a field, is released right after.
            unsafe { bindings::local_bh_enable() };
        }
    }
}

/// Gives a whole packet to this node's TCP, as though it came in just now, behind `H`'s own
/// hook.
///
/// TCP has handled it when this returns, unless the socket was owned by a process just then or a
/// rule queued it to user space. Callers hold neither a socket's lock nor one that hooks take.
/// Errors: `ENODEV`, `ENETUNREACH` and the like when nothing leads to the packet's source.
pub fn inject<H: Hooks>(net: &Net, skb: Skb, _context: &PacketContext) -> Result {
    let (own, okfn) = way_on::<H>(&skb);
    // SAFETY: The packet is ours and is given up, in the context that the helper asks for.
    to_result(unsafe { bindings::inject(net.as_ptr(), skb.into_raw(), own, okfn) })
}

/// The way on from PRE_ROUTING.
type Okfn =
    unsafe extern "C" fn(*mut bindings::net, *mut bindings::sock, *mut bindings::sk_buff) -> c_int;

/// `H`'s own hook at PRE_ROUTING, and the way on from there of a packet like this.
pub(crate) fn way_on<H: Hooks>(skb: &Skb) -> (bindings::nf_hookfn, Option<Okfn>) {
    let okfn: Okfn = match okfn_of(skb.is_v6()).load(Acquire) {
        0 => bindings::go_on,
        // SAFETY: The number was made from such a pointer.
        okfn => unsafe { core::mem::transmute::<usize, Okfn>(okfn) },
    };
    (Some(input::<H>), Some(okfn))
}

/// Why a packet was not sent.
pub enum Unsent {
    /// No route leads there, or what it leads through took no packet.
    Lost,
    /// It is too big for the route, and may not be taken apart (RFC 791, Don't Fragment; RFC 8200,
    /// section 4.5): the packet, and how big it may be.
    TooBig(Skb, u16),
}

/// Sends a whole packet to where its header says.
pub fn xmit(net: &Net, skb: Skb, _context: &PacketContext) -> Result<(), Unsent> {
    let mut mtu = 0;
    let raw = skb.into_raw();
    // SAFETY: The packet is ours and is given up, in the context that the helper asks for; what it
    // says of it is told to `sent`.
    unsafe {
        let ret = bindings::xmit(net.as_ptr(), raw, &mut mtu);
        sent(raw, ret, mtu)
    }
}

/// What a helper says that has sent a packet, or not.
///
/// # Safety
///
/// The packet must have been given up to one that returned `ret` and set `mtu`, and that has left it
/// to the caller if that is not 0.
pub(crate) unsafe fn sent(
    raw: *mut bindings::sk_buff,
    ret: c_int,
    mtu: c_uint,
) -> Result<(), Unsent> {
    match (ret, mtu) {
        // A positive number says that a queue dropped the packet, as a wire might.
        (0.., _) => Ok(()),
        (_, 0) => Err(Unsent::Lost),
        // SAFETY: By this the helper says that it has left the packet to us.
        // CAST: A packet is no longer.
        (_, mtu) => Err(Unsent::TooBig(unsafe { Skb::from_raw(raw) }, mtu as u16)),
    }
}

/// Routes a packet anew that is at LOCAL_OUT and has another destination now. On an error, that of
/// the route, it is to be dropped.
pub fn reroute(net: &Net, skb: Skb) -> Result<Skb> {
    let raw = skb.into_raw();
    // SAFETY: The packet was ours and is again; in this hook it has a route to begin with.
    unsafe {
        let ret = bindings::reroute(net.as_ptr(), raw);
        let skb = Skb::from_raw(raw);
        to_result(ret).map(|()| skb)
    }
}
