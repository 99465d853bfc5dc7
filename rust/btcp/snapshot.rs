// SPDX-License-Identifier: GPL-2.0

//! The configuration of a namespace at one time: look-ups, and what makes the next one of it.
//!
//! Packets look into a snapshot that is published; nobody changes that one.

use crate::{
    node::{
        Name,
        Node, //
    },
    refused::Refused,
    service::Service,
    uapi,
};
use kernel::{
    alloc::AllocError,
    prelude::*,
    sync::Arc, //
};

/// Services of a namespace.
pub(crate) const SERVICES_MAX: usize = uapi::CARISMA_SERVICES_MAX as usize;
/// Nodes of a namespace.
pub(crate) const NODES_MAX: usize = uapi::CARISMA_NODES_MAX as usize;

// Places of services are kept in 16 bits.
const _: () = assert!(SERVICES_MAX <= RETIRED as usize);

/// In the table: an endpoint that is none of a service's.
const NO_SERVICE: u16 = u16::MAX;
/// In the table: an endpoint that is none any more.
const RETIRED: u16 = NO_SERVICE - 1;
/// Endpoints that are none any more, of a namespace: as many as there can be at a time.
const RETIRED_MAX: usize = 2 * SERVICES_MAX;

/// An address, IPv4 as v4-mapped, and a port in the order of the host.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) addr: [u8; 16],
    pub(crate) port: u16,
}

impl Endpoint {
    /// A number that differs for most endpoints.
    fn hash(&self) -> usize {
        let addr = u128::from_be_bytes(self.addr);
        // CAST: Each half.
        let (high, low) = ((addr >> 64) as u64, addr as u64);
        let mixed = (high.rotate_left(3) ^ low ^ (u64::from(self.port) << 40))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // CAST: The upper bits, which depend on all of the lower ones.
        (mixed >> 40) as usize
    }
}

/// The configuration at one time.
pub(crate) struct Snapshot {
    /// Differs from that of the snapshot before.
    pub(crate) generation: u32,
    pub(crate) services: KVec<Arc<Service>>,
    /// At the place of its index less 1; there are gaps where nodes were deleted.
    nodes: KVec<Option<Arc<Node>>>,
    /// The index of the node that is this one, or 0.
    local: u32,
    /// Another node may be sent segments in a tunnel.
    tunnels: bool,
    /// Endpoints that are none any more. Connections that began there may go on.
    pub(crate) retired: KVec<Endpoint>,
    /// Finds a service: at the place of its hash or, if that is taken, at the next free one. Twice as
    /// large as it need be, so that most packets of no service meet a free place at once.
    table: KVec<Option<(Endpoint, u16)>>,
}

impl Snapshot {
    /// Nothing is configured.
    pub(crate) const fn empty() -> Self {
        Self {
            generation: 1,
            services: KVec::new(),
            nodes: KVec::new(),
            local: 0,
            tunnels: false,
            retired: KVec::new(),
            table: KVec::new(),
        }
    }

    /// The service that clients find at this address and port (in the order of the host). Any
    /// context.
    pub(crate) fn service(&self, addr: &[u8; 16], port: u16) -> Option<&Service> {
        let index = self.find(Endpoint { addr: *addr, port })?;
        self.services.get(usize::from(index)).map(|it| &**it)
    }

    /// Whether connections to this address and port may be ours: there is a service, or other nodes
    /// forward to it, or that was so. Any context.
    pub(crate) fn is_endpoint(&self, addr: &[u8; 16], port: u16) -> bool {
        self.find(Endpoint { addr: *addr, port }).is_some()
    }

    /// Whether connections may begin to be ours here: as [`Snapshot::is_endpoint`], but for what was
    /// so. Any context.
    pub(crate) fn is_served(&self, at: Endpoint) -> bool {
        self.find(at).is_some_and(|index| index != RETIRED)
    }

    /// What the table has at an endpoint: the index of a service, [`NO_SERVICE`] or [`RETIRED`].
    fn find(&self, at: Endpoint) -> Option<u16> {
        let mask = self.table.len().checked_sub(1)?;
        let mut place = at.hash() & mask;
        // A place is free somewhere: the table is never full.
        while let Some((found, index)) = self.table.get(place)? {
            if *found == at {
                return Some(*index);
            }
            place = (place + 1) & mask;
        }
        None
    }

    /// Where connections to this node's TCP may be ours: at the services, and, at the ports of
    /// these, at the node's own addresses, by which other nodes forward what they hand to it.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = Endpoint> + '_ {
        let served = self
            .table
            .iter()
            .flatten()
            .filter(|(_, index)| *index != RETIRED);
        served.map(|(at, _)| *at)
    }

    /// The endpoints that another snapshot has not.
    pub(crate) fn endpoints_beyond(&self, other: &Self) -> Result<KVec<Endpoint>, AllocError> {
        let mut list = KVec::new();
        for at in self.endpoints().filter(|at| !other.is_served(*at)) {
            list.push(at, GFP_KERNEL)?;
        }
        Ok(list)
    }

    /// The endpoints at this node's own addresses, as often as there are services at their ports.
    fn own_endpoints(&self) -> impl Iterator<Item = Endpoint> + '_ {
        let own = self.local_node();
        self.services.iter().filter_map(move |service| {
            Some(Endpoint {
                addr: own?.reach(&service.at.addr).addr,
                port: service.at.port,
            })
        })
    }

    /// All services, in the order in which they were added.
    pub(crate) fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().map(|service| &**service)
    }

    /// The node of this index. Any context.
    pub(crate) fn node(&self, index: u32) -> Option<&Node> {
        let place = usize::try_from(index).ok()?.checked_sub(1)?;
        self.nodes.get(place)?.as_deref()
    }

    /// All nodes, by index.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter_map(|node| node.as_deref())
    }

    /// The node that is this one.
    pub(crate) fn local_node(&self) -> Option<&Node> {
        self.node(self.local)
    }

    /// Whether another node may be sent segments in a tunnel. Any context.
    pub(crate) fn has_tunnels(&self) -> bool {
        self.tunnels
    }

    /// The node of this name.
    pub(crate) fn node_named(&self, name: &Name) -> Option<&Node> {
        self.nodes().find(|node| node.name == *name)
    }

    /// The place of a service in the list.
    pub(crate) fn place(&self, at: Endpoint) -> Result<usize, Refused> {
        self.services
            .iter()
            .position(|service| service.at == at)
            .ok_or(Refused::NoService)
    }

    /// A copy with the changes of `edit`.
    pub(crate) fn changed(
        &self,
        edit: impl FnOnce(&mut Self) -> Result<(), Refused>,
    ) -> Result<KBox<Self>, Refused> {
        let mut new = KBox::new(Self::empty(), GFP_KERNEL)?;
        // 0 means "not known" to a dump.
        new.generation = self.generation.checked_add(1).unwrap_or(1);
        new.services = shared(&self.services, 1)?;
        new.nodes.reserve(self.nodes.len() + 1, GFP_KERNEL)?;
        for node in &self.nodes {
            new.nodes.push(node.clone(), GFP_KERNEL)?;
        }
        new.local = self.local;
        new.retired.extend_from_slice(&self.retired, GFP_KERNEL)?;
        edit(&mut new)?;
        let local = new.nodes().find(|node| node.local);
        new.local = local.map_or(0, |node| node.index);
        let tunnels = new.nodes().any(|node| !node.local && node.may_tunnel());
        new.tunnels = tunnels;
        new.retire(self)?;
        new.index()?;
        Ok(new)
    }

    /// Keeps in mind what endpoints there were before and are no more.
    fn retire(&mut self, before: &Self) -> Result<(), Refused> {
        let mut retired = core::mem::take(&mut self.retired);
        for at in before.endpoints() {
            if !retired.contains(&at) {
                retired.push(at, GFP_KERNEL)?;
            }
        }
        retired.retain(|at| {
            let is_service = self.place(*at).is_ok();
            !is_service && !self.own_endpoints().any(|own| own == *at)
        });
        if retired.len() > RETIRED_MAX {
            return Err(Refused::RetiredFull);
        }
        self.retired = retired;
        Ok(())
    }

    /// Makes the table anew.
    fn index(&mut self) -> Result<(), Refused> {
        // Each service may bring an endpoint at the node's own address along.
        let size = match 2 * self.services.len() + self.retired.len() {
            0 => 0,
            endpoints => (2 * endpoints).next_power_of_two(),
        };
        let mut table = KVec::with_capacity(size, GFP_KERNEL)?;
        for _ in 0..size {
            table.push(None, GFP_KERNEL)?;
        }
        let mask = size.wrapping_sub(1);
        let services = self.services.iter().zip(0u16..);
        let services = services.map(|(service, index)| (service.at, index));
        let own = self.own_endpoints().map(|at| (at, NO_SERVICE));
        let retired = self.retired.iter().map(|at| (*at, RETIRED));
        for (at, index) in Iterator::chain(Iterator::chain(services, own), retired) {
            let mut place = at.hash() & mask;
            // The table has more places than there are endpoints.
            while let Some(Some((other, _))) = table.get(place) {
                if *other == at {
                    break;
                }
                place = (place + 1) & mask;
            }
            if let Some(free @ None) = table.get_mut(place) {
                *free = Some((at, index));
            }
        }
        self.table = table;
        Ok(())
    }
}

/// Edits of a snapshot that is not published yet.
impl Snapshot {
    /// The next index that is free after this one.
    pub(crate) fn free_index(&self, last: u32) -> Result<u32, Refused> {
        // CAST: The limit is small.
        let max = NODES_MAX as u32;
        (0..max)
            .map(|step| (last + step) % max + 1)
            .find(|&index| self.node(index).is_none())
            .ok_or(Refused::NodesFull)
    }

    /// Puts a node, or nothing, at an index.
    pub(crate) fn set_node(&mut self, index: u32, node: Option<Arc<Node>>) -> Result<(), Refused> {
        // CAST: An index has 32 bits.
        while self.nodes.len() < index as usize {
            self.nodes.push(None, GFP_KERNEL)?;
        }
        if let Some(place) = self.nodes.get_mut(index.wrapping_sub(1) as usize) {
            *place = node;
        }
        Ok(())
    }

    /// Takes the node of this index out.
    pub(crate) fn take_node(&mut self, index: u32) -> Option<Arc<Node>> {
        // CAST: An index has 32 bits.
        self.nodes.get_mut(index.wrapping_sub(1) as usize)?.take()
    }

    /// Replaces a service by one of the same endpoint.
    pub(crate) fn edit_service(
        &mut self,
        place: usize,
        edit: impl FnOnce(&Service) -> Result<Service, Refused>,
    ) -> Result<(), Refused> {
        let Some(service) = self.services.get_mut(place) else {
            return Err(Refused::NoService);
        };
        *service = Arc::new(edit(service)?, GFP_KERNEL)?;
        Ok(())
    }
}

/// A copy of a list of shared things, with room for some more.
pub(crate) fn shared<T>(list: &[Arc<T>], more: usize) -> Result<KVec<Arc<T>>, AllocError> {
    let mut copy = KVec::with_capacity(list.len() + more, GFP_KERNEL)?;
    for item in list {
        copy.push(item.clone(), GFP_KERNEL)?;
    }
    Ok(copy)
}
