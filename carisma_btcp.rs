// SPDX-License-Identifier: GPL-2.0

//! CARISMA below TCP: the module root of `carisma_btcp`.

use carisma_net::{bindings, genl, link, pernet, sysfs::RootRegistration};
use kernel::prelude::*;

#[path = "rust/btcp/always.rs"]
mod always;
#[path = "rust/btcp/back.rs"]
mod back;
#[path = "rust/btcp/begin.rs"]
mod begin;
#[path = "rust/btcp/bounds.rs"]
mod bounds;
#[path = "rust/btcp/config.rs"]
mod config;
#[path = "rust/btcp/cookie.rs"]
mod cookie;
#[path = "rust/btcp/counters.rs"]
mod counters;
#[path = "rust/btcp/early.rs"]
mod early;
#[path = "rust/btcp/flow.rs"]
mod flow;
#[path = "rust/btcp/forward.rs"]
mod forward;
#[path = "rust/btcp/front.rs"]
mod front;
#[path = "rust/btcp/handoff.rs"]
mod handoff;
#[path = "rust/btcp/head.rs"]
mod head;
#[path = "rust/btcp/hook.rs"]
mod hook;
#[path = "rust/btcp/icmp.rs"]
mod icmp;
#[path = "rust/btcp/inband.rs"]
mod inband;
#[path = "rust/btcp/keys.rs"]
mod keys;
#[path = "rust/btcp/knobs.rs"]
mod knobs;
#[path = "rust/btcp/leave.rs"]
mod leave;
#[path = "rust/btcp/lower.rs"]
mod lower;
#[path = "rust/btcp/netlink.rs"]
mod netlink;
#[path = "rust/btcp/node.rs"]
mod node;
#[path = "rust/btcp/packet.rs"]
mod packet;
#[path = "rust/btcp/question.rs"]
mod question;
#[path = "rust/btcp/recent.rs"]
mod recent;
#[path = "rust/btcp/refused.rs"]
mod refused;
#[path = "rust/btcp/replay.rs"]
mod replay;
#[path = "rust/btcp/seek.rs"]
mod seek;
#[path = "rust/btcp/service.rs"]
mod service;
#[path = "rust/btcp/snapshot.rs"]
mod snapshot;
#[path = "rust/btcp/state.rs"]
mod state;
#[path = "rust/btcp/sysfs.rs"]
mod sysfs;
#[path = "rust/btcp/trace.rs"]
mod trace;
#[path = "rust/btcp/tunnel.rs"]
mod tunnel;
#[path = "rust/btcp/uapi.rs"]
mod uapi;
#[path = "rust/btcp/used.rs"]
mod used;

module! {
    type: Btcp,
    name: "carisma_btcp",
    authors: ["The CARISMA developers"],
    description: "CARISMA below TCP: connection handoff by packet",
    license: "GPL",
}

/// What lives as long as the module does.
struct Btcp {
    /// Clients that are about to answer a cookie do so while the hooks are there, and TCP takes what is
    /// held for it.
    _grace: cookie::Grace,
    /// Requests come in no more before the state goes that they look at.
    _netlink: genl::Registration,
    /// Nor is it read and written in sysfs.
    _sysfs: pernet::Registration<sysfs::Namespace>,
    _sysfs_root: RootRegistration,
    /// Ends every namespace's hooks and flows.
    _state: pernet::Registration<state::State>,
    /// What that puts off until after a grace period is code of this module.
    _flows: flow::Memory,
    /// Which may free what was being decided.
    _deciding: front::Memory,
}

impl kernel::Module for Btcp {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        lower::init();
        let deciding = front::MEMORY.open(c"carisma_deciding")?;
        let flows = flow::MEMORY.open(c"carisma_flow")?;
        let state = pernet::Registration::new()?;
        let root = sysfs::create_root()?;
        let sysfs = pernet::Registration::new()?;
        Ok(Self {
            _grace: cookie::Grace,
            _netlink: netlink::register()?,
            _sysfs: sysfs,
            _sysfs_root: root,
            _state: state,
            _flows: flows,
            _deciding: deciding,
        })
    }
}

/// Attaches UTCP. Process context.
///
/// # Safety
///
/// Called by UTCP, with an object that stays valid until [`carisma_btcp_detach`] has returned.
#[no_mangle]
pub unsafe extern "C" fn carisma_btcp_attach(
    upper: *const bindings::carisma_upper,
) -> kernel::ffi::c_int {
    // SAFETY: The caller says so.
    match unsafe { lower::attach(upper) } {
        Ok(()) => 0,
        Err(err) => err.to_errno(),
    }
}

/// Detaches UTCP. Process context.
#[no_mangle]
pub extern "C" fn carisma_btcp_detach() {
    lower::detach();
}

/// BTCP's put procedure.
///
/// # Safety
///
/// Called by UTCP with valid arguments, in the context of the message's kind.
#[no_mangle]
pub unsafe extern "C" fn carisma_btcp_put(
    net: *mut bindings::net,
    msg: *const bindings::carisma_msg,
) -> kernel::ffi::c_int {
    // SAFETY: The caller says so.
    unsafe { link::receive::<lower::Lower>(net, msg) }
}
