// SPDX-License-Identifier: GPL-2.0

//! What BTCP knows of one network namespace.

use crate::{
    config::{Config, Endpoint, Event, Node, Service},
    counters::Counters,
    lower::{self, Steady},
};
use carisma_core::tuple::Tuple;
use carisma_net::{
    genl::Cursor,
    link::{kind, Kind, Msg},
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
    /// What is configured.
    #[pin]
    pub(crate) config: Config,
    /// What happened.
    pub(crate) counters: Counters,
    hooks: netfilter::Registration,
}

/// What users see of a connection.
pub(crate) struct FlowInfo {
    /// A `CARISMA_ROLE_…`.
    pub(crate) role: u32,
    /// A `CARISMA_FLOW_STATE_…`.
    pub(crate) state: u32,
    pub(crate) client: Endpoint,
    pub(crate) local: Endpoint,
    /// Index of the node at the other end of the handoff, or 0.
    pub(crate) node: u32,
    /// Packets of the client that were forwarded or translated.
    pub(crate) packets: u64,
}

impl State {
    /// Tells UTCP all that is configured.
    pub(crate) fn tell_config(&self, steady: &Steady) -> Result {
        self.config.replay(|event| self.tell(steady, event))
    }

    /// Changes the configuration; `change` is given what to tell UTCP by. Process context.
    pub(crate) fn configure<R>(
        &self,
        change: impl FnOnce(&Config, &dyn Fn(Event<'_>) -> Result) -> R,
    ) -> R {
        lower::steadily(|steady| change(&self.config, &|event| self.tell(steady, event)))
    }

    /// Tells UTCP of a change.
    fn tell(&self, steady: &Steady, event: Event<'_>) -> Result {
        let service = |kind: Kind, service: &Service| Msg {
            tuple: Tuple {
                local: service.at.addr,
                local_port: service.at.port.into(),
                ..Tuple::default()
            },
            ..Msg::new(kind)
        };
        let node = |kind: Kind, node: &Node| Msg {
            node: node.index,
            name: node.name,
            tuple: Tuple {
                local: node.at.addr,
                local_port: node.at.port.into(),
                ..Tuple::default()
            },
            value: node.local.into(),
            ..Msg::new(kind)
        };
        let msg = match event {
            Event::ServiceAdd(it) => service(kind::SERVICE_ADD, it),
            Event::ServiceDel(it) => service(kind::SERVICE_DEL, it),
            Event::NodeAdd(it) => node(kind::NODE_ADD, it),
            Event::NodeDel(it) => node(kind::NODE_DEL, it),
        };
        steady.tell(&self.net, msg)
    }

    /// Calls `emit` for the flows from the cursor on, and moves the cursor past each that it took.
    pub(crate) fn visit_flows(
        &self,
        _cursor: &mut Cursor,
        _emit: &mut dyn FnMut(&FlowInfo) -> Result,
    ) -> Result {
        Ok(())
    }

    /// Ends all handed-off connections, with a reset to both ends. Process context.
    pub(crate) fn end_handed_off(&self) {}
}

impl PerNet for State {
    fn slot() -> &'static Slot {
        &SLOT
    }

    fn init(net: NetRef) -> Result<Pin<KBox<Self>>> {
        let state = KBox::pin_init(
            try_pin_init!(Self {
                config <- Config::new(),
                counters: Counters::new()?,
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
