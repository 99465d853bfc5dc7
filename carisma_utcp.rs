// SPDX-License-Identifier: GPL-2.0

//! CARISMA above TCP: the module root of `carisma_utcp`.

use carisma_net::{
    below,
    listener,
    pernet,
    tracepoint, //
};
use kernel::prelude::*;

#[path = "rust/utcp/mod.rs"]
mod utcp;

module! {
    type: Module,
    name: "carisma_utcp",
    authors: ["The CARISMA developers"],
    description: "CARISMA above TCP: withheld and control connections",
    license: "GPL",
}

/// What lives as long as the module does, in the order in which it ends.
///
/// First (in `drop`) BTCP has the children released that it has not decided on, and no more are
/// withheld. Then TCP has nobody to tell of new listeners, and BTCP nobody to send messages to.
/// Every namespace detaches its listeners, which appends what is still withheld to the accept
/// queues, and stops its thread. At last nobody may be left in code of ours, nor anything to be
/// freed by it.
struct Module {
    _states: tracepoint::Registration<utcp::Gate>,
    _below: below::Attachment,
    namespaces: pernet::Registration<utcp::Ns>,
    _hooks: listener::Hooks<utcp::Gate>,
    _withheld: utcp::Memory,
}

impl Drop for Module {
    fn drop(&mut self) {
        utcp::close();
        self.namespaces.for_each(utcp::Ns::leave);
    }
}

impl kernel::Module for Module {
    fn init(module: &'static ThisModule) -> Result<Self> {
        let withheld = utcp::MEMORY.open(c"carisma_withheld")?;
        let hooks = listener::Hooks::new()?;
        // The namespaces come last: they are not there yet for what comes before, and ask BTCP for
        // what they have missed.
        let below = below::Attachment::new::<utcp::Upper>(module)?;
        let states = tracepoint::Registration::new()?;
        let namespaces = pernet::Registration::new()?;
        Ok(Self {
            _states: states,
            _below: below,
            namespaces,
            _hooks: hooks,
            _withheld: withheld,
        })
    }
}
