// SPDX-License-Identifier: GPL-2.0

//! What BTCP knows of one network namespace.

use crate::lower::Steady;
use carisma_net::{
    netfilter,
    pernet::{NetRef, PerNet, Slot},
};
use kernel::prelude::*;

static SLOT: Slot = Slot::new();

/// One namespace.
#[pin_data]
pub(crate) struct State {
    /// The namespace.
    pub(crate) net: NetRef,
    hooks: netfilter::Registration,
}

impl State {
    /// Tells UTCP all that is configured.
    pub(crate) fn tell_config(&self, steady: &Steady) -> Result {
        let _ = steady;
        Ok(())
    }
}

impl PerNet for State {
    fn slot() -> &'static Slot {
        &SLOT
    }


    fn init(net: NetRef) -> Result<Pin<KBox<Self>>> {
        let state = KBox::pin_init(
            try_pin_init!(Self {
                hooks: netfilter::Registration::new::<Self>()?,
                net,
            }? Error),
            GFP_KERNEL,
        )?;
        // SAFETY: The state is pinned, and dropped a grace period after `pre_exit`.
        unsafe { state.hooks.register(&state.net, &raw const *state)? };
        Ok(state)
    }

    fn pre_exit(&self) {
        self.hooks.unregister(&self.net);
    }
}
