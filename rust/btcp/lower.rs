// SPDX-License-Identifier: GPL-2.0

//! BTCP's end of the messages to and from UTCP.

use crate::state::State;
use carisma_net::{
    bindings,
    link::{self, kind, Msg, Upper},
    pernet::{Net, PerNet},
};
use kernel::prelude::*;

/// The UTCP that is attached.
static UPPER: Upper = Upper::new();

kernel::sync::global_lock! {
    /// Held while UTCP attaches or detaches, and while the configuration changes, so that UTCP is told of every change once.
    ///
    /// SAFETY: Initialised by `init()`, before anything else of the module runs.
    unsafe(uninit) static ATTACH: Mutex<()> = ();
}

/// Must be called first, once.
pub(crate) fn init() {
    // SAFETY: Called once, from the module's init.
    unsafe { ATTACH.init() };
}

/// Attaches UTCP and tells it the whole configuration. Process context.
///
/// # Safety
///
/// `upper` must stay valid until [`detach`] has returned.
pub(crate) unsafe fn attach(upper: *const bindings::carisma_upper) -> Result {
    let _attach = ATTACH.lock();
    // SAFETY: The caller says so.
    unsafe { UPPER.attach(upper) }
}

/// Detaches UTCP; no message to it is under way afterwards. Process context.
pub(crate) fn detach() {
    let _attach = ATTACH.lock();
    UPPER.detach();
}

/// Says that UTCP can neither attach nor detach now, and that no one else changes the configuration.
pub(crate) struct Steady(());

impl Steady {
    /// Tells UTCP of a change. Process context, may sleep. Errors: UTCP's own; without one all is well.
    pub(crate) fn tell(&self, net: &Net, msg: Msg<'_>) -> Result {
        // SAFETY: `ATTACH` is held as long as there is a `Steady`.
        match unsafe { UPPER.put_sleeping(net, msg) } {
            Ok(_) | Err(ENOTCONN) => Ok(()),
            Err(err) => Err(err),
        }
    }
}

/// Changes the configuration, or tells it. Process context.
pub(crate) fn steadily<R>(change: impl FnOnce(&Steady) -> R) -> R {
    let _attach = ATTACH.lock();
    change(&Steady(()))
}

/// Takes what UTCP puts.
pub(crate) struct Lower;

impl link::Put for Lower {
    fn put(net: &Net, msg: &Msg<'_>) -> Result<u32> {
        let state = State::of(net).ok_or(ENOENT)?;
        match msg.kind {
            kind::CONFIG_REQ => steadily(|steady| state.tell_config(steady)).map(|()| 0),
            _ => Ok(0),
        }
    }
}
