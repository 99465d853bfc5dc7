// SPDX-License-Identifier: GPL-2.0

//! The nodes of the cluster.

use crate::snapshot::Endpoint;
use carisma_core::{
    auth::Trouble,
    tuple::v4_of, //
};
use carisma_net::route::Neighbour;
use kernel::{
    prelude::*,
    sync::atomic::{
        Acquire,
        Atomic,
        Full,
        Relaxed,
        Release, //
    },
};

/// The name of a node, padded with zeroes.
pub(crate) type Name = [u8; 16];

/// The part of a padded name that was given.
pub(crate) fn name_text(name: &Name) -> &[u8] {
    let len = name.iter().position(|&byte| byte == 0);
    name.get(..len.unwrap_or(name.len())).unwrap_or_default()
}

/// How a node is sent the segments of connections that it serves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forwarding {
    /// With its own address as destination.
    Nat,
    /// Unchanged, to its MAC address.
    Direct,
}

/// A node of the cluster. It is the same object as long as it is configured.
pub(crate) struct Node {
    /// From 1.
    pub(crate) index: u32,
    pub(crate) name: Name,
    /// Its own address, and the port of its control connections.
    pub(crate) at: Endpoint,
    /// It is this node.
    pub(crate) local: bool,
    /// The way to it, if it is forwarded to directly.
    pub(crate) direct: Option<Neighbour>,
    /// The control connection to it is up.
    up: Atomic<bool>,
    /// The peer's epoch, as it said when the connection came up last.
    epoch: Atomic<u64>,
    /// Why the connection is not up: 1 more than the number of a trouble, or 0.
    trouble: Atomic<u64>,
}

impl Node {
    /// A node that was just configured. Its control connection is not up. Errors: `ENOMEM`.
    pub(crate) fn new(
        index: u32,
        name: Name,
        at: Endpoint,
        local: bool,
        forwarding: Forwarding,
    ) -> Result<Self> {
        let direct = match (forwarding, v4_of(&at.addr)) {
            (Forwarding::Direct, Some(addr)) => Some(Neighbour::new(addr)?),
            _ => None,
        };
        Ok(Self {
            index,
            name,
            at,
            local,
            direct,
            up: Atomic::new(false),
            epoch: Atomic::new(0),
            trouble: Atomic::new(0),
        })
    }

    /// How it is sent the segments of connections that it serves.
    pub(crate) fn forwarding(&self) -> Forwarding {
        match self.direct {
            Some(_) => Forwarding::Direct,
            None => Forwarding::Nat,
        }
    }

    /// Whether something can be handed off to it now. Any context.
    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Acquire)
    }

    /// What the peer drew when its module was loaded; 0 before the first connection. Any context.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Relaxed)
    }

    /// The control connection came up. Answers whether the peer was loaded anew since it was up last.
    pub(crate) fn set_up(&self, epoch: u64) -> bool {
        let before = self.epoch.xchg(epoch, Full);
        self.trouble.store(0, Relaxed);
        self.up.store(true, Release);
        before != 0 && before != epoch
    }

    /// Why the control connection is not up, if that is known. Any context.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        Trouble::of(self.trouble.load(Relaxed).checked_sub(1)?)
    }

    /// It is known why the control connection is not up: see `PEER_REFUSED`.
    pub(crate) fn set_trouble(&self, trouble: u64) {
        self.trouble.store(trouble, Relaxed);
    }

    /// The control connection went down.
    pub(crate) fn set_down(&self) {
        self.up.store(false, Release);
    }
}
