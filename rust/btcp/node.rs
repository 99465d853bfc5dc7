// SPDX-License-Identifier: GPL-2.0

//! The nodes of the cluster.

use crate::snapshot::Endpoint;
use carisma_core::{
    auth::Trouble,
    tuple::{
        v4_of,
        Addr, //
    },
};
use carisma_net::{
    connection::Latest,
    netfilter::PacketContext,
    pernet::Net,
    route::{
        Via,
        Way, //
    },
};
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
    /// Unchanged, in packets to its own address.
    Tunnel,
    /// Directly if it is a neighbour, else by a tunnel; if it lacks the service's address, as `Nat`.
    Auto,
}

impl Forwarding {
    /// Whether segments may come by a tunnel.
    pub(crate) fn may_tunnel(self) -> bool {
        matches!(self, Self::Tunnel | Self::Auto)
    }
}

/// How long it is remembered that a node lacks the address of a service, in milliseconds.
const LACKING_MS: u32 = 60_000;

/// A node's address of one family, and how it is sent segments there.
#[derive(Clone, Copy)]
pub(crate) struct Reach {
    pub(crate) addr: Addr,
    pub(crate) forwarding: Forwarding,
}

/// How a node is sent the segments of services of one family.
struct Ways {
    to: Reach,
    /// The ways that it may be forwarded to by.
    neighbour: Option<Way>,
    tunnel: Option<Way>,
}

impl Ways {
    fn new(to: Reach, local: bool) -> Result<Self> {
        let way = |wanted: bool, tunnel| match wanted && !local {
            true => Way::new(to.addr, tunnel).map(Some),
            false => Ok(None),
        };
        let may_be_neighbour = matches!(to.forwarding, Forwarding::Direct | Forwarding::Auto);
        Ok(Self {
            neighbour: way(may_be_neighbour, false)?,
            tunnel: way(to.forwarding.may_tunnel(), true)?,
            to,
        })
    }
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
    /// For services of IPv4, and of IPv6.
    ways: [Ways; 2],
    /// When it was found to lack the address of a service.
    lacking: Latest,
    /// The control connection to it is up.
    up: Atomic<bool>,
    /// The peer's epoch, as it said when the connection came up last.
    epoch: Atomic<u64>,
    /// When a record of its came.
    heard: Latest,
    /// Why the connection is not up: 1 more than the number of a trouble, or 0.
    trouble: Atomic<u64>,
}

impl Node {
    /// A node that was just configured, which segments of services of the family of its address, and of
    /// the other one, reach so. Its control connection is not up. Errors: `ENOMEM`.
    pub(crate) fn new(
        index: u32,
        name: Name,
        port: u16,
        local: bool,
        [same, other]: [Reach; 2],
    ) -> Result<Self> {
        let (v4, v6) = match v4_of(&same.addr) {
            Some(_) => (same, other),
            None => (other, same),
        };
        Ok(Self {
            index,
            name,
            at: Endpoint {
                addr: same.addr,
                port,
            },
            local,
            ways: [Ways::new(v4, local)?, Ways::new(v6, local)?],
            lacking: Latest::never(),
            up: Atomic::new(false),
            epoch: Atomic::new(0),
            heard: Latest::never(),
            trouble: Atomic::new(0),
        })
    }

    fn ways(&self, to: &Addr) -> &Ways {
        let [v4, v6] = &self.ways;
        match v4_of(to) {
            Some(_) => v4,
            None => v6,
        }
    }

    /// How it is sent segments of services of the family that `addr` has; its address is of the other
    /// family if it has none of that one.
    pub(crate) fn reach(&self, addr: &Addr) -> Reach {
        self.ways(addr).to
    }

    /// How it is sent segments of services that are not of the family of its first address.
    pub(crate) fn reach_other(&self) -> Reach {
        let [v4, v6] = &self.ways;
        match v4_of(&self.at.addr) {
            Some(_) => v6.to,
            None => v4.to,
        }
    }

    /// Whether this is an address of its own.
    pub(crate) fn has(&self, addr: &Addr) -> bool {
        self.reach(addr).addr == *addr
    }

    /// Whether segments may come to it by a tunnel.
    pub(crate) fn may_tunnel(&self) -> bool {
        self.ways.iter().any(|ways| ways.to.forwarding.may_tunnel())
    }

    /// How segments to the address `vip` get to it from the node `own`, which is this one.
    pub(crate) fn via(&self, net: &Net, own: &Self, vip: &Addr, ctx: &PacketContext) -> Via {
        let Reach { addr, forwarding } = self.reach(vip);
        match forwarding {
            Forwarding::Nat => Via::Named(addr),
            Forwarding::Direct => Via::Neighbour(addr),
            Forwarding::Tunnel => Via::Tunnel(addr),
            Forwarding::Auto if self.is_lacking() => Via::Named(addr),
            Forwarding::Auto => self
                .via_unchanged(net, own, vip, ctx)
                .unwrap_or(Via::Named(addr)),
        }
    }

    /// Whether it is left to this node how segments to the address `vip` get to it.
    pub(crate) fn is_auto(&self, vip: &Addr) -> bool {
        self.reach(vip).forwarding == Forwarding::Auto
    }

    /// How segments to the address `vip` get to it that cannot name it, whatever is configured; `None` if
    /// no route leads there.
    pub(crate) fn via_unchanged(
        &self,
        net: &Net,
        own: &Self,
        vip: &Addr,
        ctx: &PacketContext,
    ) -> Option<Via> {
        let addr = self.reach(vip).addr;
        [Via::Neighbour(addr), Via::Tunnel(addr)]
            .into_iter()
            .find(|via| via.takes(vip) && self.is_open(net, own, *via, ctx))
    }

    /// Whether routes lead to it in that way from the node `own`, which is this one.
    pub(crate) fn is_open(&self, net: &Net, own: &Self, via: Via, ctx: &PacketContext) -> bool {
        via.is_open(net, &own.reach(&via.to()).addr, self.way(via), ctx)
    }

    /// What is known of the way to it.
    pub(crate) fn way(&self, via: Via) -> Option<&Way> {
        let mut ways = self.ways.iter().filter(|ways| ways.to.addr == via.to());
        match via {
            Via::Named(_) => None,
            Via::Neighbour(_) => ways.find_map(|ways| ways.neighbour.as_ref()),
            Via::Tunnel(_) => ways.find_map(|ways| ways.tunnel.as_ref()),
        }
    }

    /// It lacks the address of a service. Whether segments are to name it, for a while, as that is left
    /// to this node. Any context.
    pub(crate) fn on_lacking(&self) -> bool {
        let mut forwardings = self.ways.iter().map(|ways| ways.to.forwarding);
        if !forwardings.any(|it| it == Forwarding::Auto) {
            return false;
        }
        self.lacking.set();
        true
    }

    fn is_lacking(&self) -> bool {
        self.lacking.within(LACKING_MS)
    }

    /// Whether something can be handed off to it now. Any context.
    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Acquire)
    }

    /// A record of its has come. Any context.
    pub(crate) fn hear(&self) {
        self.heard.set();
    }

    /// Whether one has come in the last `ms` milliseconds. Any context.
    pub(crate) fn was_heard(&self, ms: u32) -> bool {
        self.heard.within(ms)
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
        self.heard.forget();
    }
}
