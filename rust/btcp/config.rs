// SPDX-License-Identifier: GPL-2.0

//! What a network namespace is configured to do: virtual services, nodes and rules.
//!
//! The configuration is a [`Snapshot`], which nobody changes. A change makes a new one from the old,
//! and publishes it by RCU. Packets look into whichever is there; changes take turns.
//!
//! Every change is announced, in the order of the changes, to whom it concerns above TCP. That is done
//! with the mutex held, so an announcement must not call back into a change.

use super::uapi;
use carisma_core::{
    auth::Trouble,
    http,
    rule,
    tuple::v4_of, //
};
use carisma_net::{
    new_published,
    published::{
        Published,
        Writer, //
    },
};
use kernel::{
    alloc::AllocError,
    prelude::*,
    str::CStr,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full,
            Relaxed,
            Release, //
        },
        rcu,
        Arc, //
    },
};

/// Services of a namespace.
const SERVICES_MAX: usize = uapi::CARISMA_SERVICES_MAX as usize;
/// Nodes of a namespace.
const NODES_MAX: usize = uapi::CARISMA_NODES_MAX as usize;
/// Rules of a service.
const RULES_MAX: usize = uapi::CARISMA_RULES_MAX as usize;
/// Nodes of a rule.
pub(crate) const CANDIDATES_MAX: usize = uapi::CARISMA_CANDIDATES_MAX as usize;

/// An address, IPv4 as v4-mapped, and a port in the order of the host.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) addr: [u8; 16],
    pub(crate) port: u16,
}

impl Endpoint {
    /// A number that differs for most endpoints.
    fn hash(&self) -> usize {
        let mut words = [0u8; 8];
        let (high, low) = self.addr.split_at(8);
        for (word, (high, low)) in words.iter_mut().zip(high.iter().zip(low)) {
            *word = high.rotate_left(3) ^ low;
        }
        let mixed = (u64::from_be_bytes(words) ^ (u64::from(self.port) << 40))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // CAST: The upper bits, which depend on all of the lower ones.
        (mixed >> 40) as usize
    }
}

/// The name of a node, padded with zeroes.
pub(crate) type Name = [u8; 16];

/// The part of a padded name that was given.
pub(crate) fn name_text(name: &Name) -> &[u8] {
    let len = name.iter().position(|&byte| byte == 0);
    name.get(..len.unwrap_or(name.len())).unwrap_or_default()
}

/// How connections of a service are handed off.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Where they arrive, their own TCP takes the handshake.
    Rare,
}

/// What becomes of a request that no node of its rule can take.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Otherwise {
    /// It is served where it arrived.
    Local,
    /// It is answered 503.
    Unavailable,
}

/// A node that may serve a request.
pub(crate) enum Candidate {
    /// This one.
    Here,
    /// The node of this index, which takes connections at this address.
    Node(u32, [u8; 4]),
    /// There is none left.
    None,
}

/// Who is to serve a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    /// Indexes of nodes, in the order in which they are asked; 0 is none.
    nodes: [u32; CANDIDATES_MAX],
    /// How many of them have been passed.
    passed: usize,
    otherwise: Otherwise,
}

impl Target {
    /// Nobody in particular.
    pub(crate) const HERE: Self = Self {
        nodes: [0; CANDIDATES_MAX],
        passed: 0,
        otherwise: Otherwise::Local,
    };

    /// The nodes, in their order.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = u32> + '_ {
        self.nodes.iter().copied().filter(|&index| index != 0)
    }

    /// Whether this node comes before all others.
    pub(crate) fn is_here(&self, config: &Snapshot) -> bool {
        self.nodes()
            .next()
            .and_then(|index| config.node(index))
            .is_none_or(|node| node.local)
    }

    /// Whether this node is one of them.
    pub(crate) fn may_be_here(&self, config: &Snapshot) -> bool {
        self.nodes()
            .filter_map(|index| config.node(index))
            .any(|node| node.local)
    }

    /// The next node that something can be handed to. Any context.
    pub(crate) fn next(&mut self, config: &Snapshot) -> Candidate {
        while let Some(&index) = self.nodes.get(self.passed) {
            self.passed = self.passed.saturating_add(1);
            match config.node(index) {
                Some(node) if node.local => return Candidate::Here,
                Some(node) if node.is_up() => {
                    if let Some(addr) = v4_of(&node.at.addr) {
                        return Candidate::Node(index, addr);
                    }
                }
                _ => {}
            }
        }
        Candidate::None
    }

    /// What is done when there is none.
    pub(crate) fn otherwise(&self) -> Otherwise {
        self.otherwise
    }
}

/// Which requests go where. An empty host or path fits any.
pub(crate) struct Rule {
    /// In lower case, without port or final dot.
    pub(crate) host: KVec<u8>,
    pub(crate) path: KVec<u8>,
    pub(crate) target: Target,
}

/// A virtual service.
pub(crate) struct Service {
    pub(crate) at: Endpoint,
    pub(crate) mode: Mode,
    pub(crate) rules: KVec<Arc<Rule>>,
}

impl Service {
    /// Who is to serve a request: this node if no rule fits, or servers might read its path in two
    /// ways. Any context.
    pub(crate) fn route(&self, head: &http::Head<'_>) -> Target {
        let rules = self.rules.iter().map(|rule| rule::Rule {
            host: (!rule.host.is_empty()).then_some(&rule.host[..]),
            prefix: &rule.path,
            target: rule.target,
        });
        match rule::route(rules, head.host, head.path) {
            Ok(Some(target)) => target,
            Ok(None) | Err(rule::Ambiguous) => Target::HERE,
        }
    }

    /// The rule with exactly this host and path.
    fn find(&self, host: &[u8], path: &[u8]) -> Option<usize> {
        self.rules
            .iter()
            .position(|rule| *rule.host == *host && *rule.path == *path)
    }

    /// The same service with other rules.
    fn with_rules(&self, rules: KVec<Arc<Rule>>) -> Self {
        Self {
            at: self.at,
            mode: self.mode,
            rules,
        }
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
    /// The control connection to it is up.
    up: Atomic<bool>,
    /// The peer's epoch, as it said when the connection came up last.
    epoch: Atomic<u64>,
    /// Why the connection is not up: 1 more than the number of a trouble, or 0.
    trouble: Atomic<u64>,
}

impl Node {
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

/// The configuration at one time.
pub(crate) struct Snapshot {
    /// Differs from that of the snapshot before.
    pub(crate) generation: u32,
    services: KVec<Arc<Service>>,
    /// At the place of its index less 1; there are gaps where nodes were deleted.
    nodes: KVec<Option<Arc<Node>>>,
    /// Endpoints that are none any more. Connections that began there may go on.
    retired: KVec<Endpoint>,
    /// Finds a service: at the place of its hash or, if that is taken, at the next free one. Twice as
    /// large as it need be, so that most packets of no service meet a free place at once.
    table: KVec<Option<(Endpoint, u16)>>,
}

impl Snapshot {
    /// Nothing is configured.
    const fn empty() -> Self {
        Self {
            generation: 1,
            services: KVec::new(),
            nodes: KVec::new(),
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
    /// these, at the node's own address, by which other nodes forward what they hand to it.
    fn endpoints(&self) -> impl Iterator<Item = Endpoint> + '_ {
        let served = self
            .table
            .iter()
            .flatten()
            .filter(|(_, index)| *index != RETIRED);
        served.map(|(at, _)| *at)
    }

    /// The endpoints that another snapshot has not.
    fn endpoints_beyond(&self, other: &Self) -> Result<KVec<Endpoint>, AllocError> {
        let mut list = KVec::new();
        for at in self.endpoints().filter(|at| !other.is_served(*at)) {
            list.push(at, GFP_KERNEL)?;
        }
        Ok(list)
    }

    /// The endpoints at this node's own address, as often as there are services at their ports.
    fn own_endpoints(&self) -> impl Iterator<Item = Endpoint> + '_ {
        let own = self.local_node();
        self.services.iter().filter_map(move |service| {
            Some(Endpoint {
                addr: own?.at.addr,
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
        self.nodes().find(|node| node.local)
    }

    /// The node of this name.
    pub(crate) fn node_named(&self, name: &Name) -> Option<&Node> {
        self.nodes().find(|node| node.name == *name)
    }

    /// The place of a service in the list.
    fn place(&self, at: Endpoint) -> Result<usize, Refused> {
        self.services
            .iter()
            .position(|service| service.at == at)
            .ok_or(Refused::NoService)
    }

    /// A copy with the changes of `edit`.
    fn changed(
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
        new.retired.extend_from_slice(&self.retired, GFP_KERNEL)?;
        edit(&mut new)?;
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

/// A copy of a list of shared things, with room for some more.
fn shared<T>(list: &[Arc<T>], more: usize) -> Result<KVec<Arc<T>>, AllocError> {
    let mut copy = KVec::with_capacity(list.len() + more, GFP_KERNEL)?;
    for item in list {
        copy.push(item.clone(), GFP_KERNEL)?;
    }
    Ok(copy)
}

/// A change that those above TCP should know of.
#[derive(Clone, Copy)]
pub(crate) enum Event<'a> {
    /// Connections to it are going to be ours.
    EndpointAdd(Endpoint),
    /// They are not any more.
    EndpointDel(Endpoint),
    /// The node is there.
    NodeAdd(&'a Node),
    /// The node is gone.
    NodeDel(&'a Node),
}

/// Why the configuration does not change.
#[derive(Clone, Copy)]
pub(crate) enum Refused {
    /// There is such a service.
    ServiceExists,
    /// There is no such service.
    NoService,
    /// There are as many services as there may be.
    ServicesFull,
    /// There is a node of that name.
    NodeExists,
    /// There is a node of that address.
    AddrTaken,
    /// There is a node that is this one.
    LocalTaken,
    /// There is no such node.
    NoNode,
    /// A rule's node does not exist.
    NoTarget,
    /// There are as many nodes as there may be.
    NodesFull,
    /// A rule names the node.
    NodeInUse,
    /// The service has such a rule.
    RuleExists,
    /// The service has no such rule.
    NoRule,
    /// The service has as many rules as it may have.
    RulesFull,
    /// Connections go on at as many endpoints that were deleted as may be.
    RetiredFull,
    /// There is a key of that number.
    KeyExists,
    /// There is no such key.
    NoKey,
    /// There are as many keys as there may be.
    KeysFull,
    /// The first key would not be signed with.
    FirstKey,
    /// The key is the one that is signed with.
    KeySigns,
    /// Something failed that has nothing to do with the request.
    Failed(Error),
}

impl Refused {
    /// What the user reads.
    pub(crate) fn text(self) -> &'static CStr {
        match self {
            Self::ServiceExists => c"addr, port: this service exists already",
            Self::NoService => c"addr, port: no such service",
            Self::ServicesFull => c"addr: there are 256 services, the most that are allowed",
            Self::NodeExists => c"name: a node of this name exists already",
            Self::AddrTaken => c"addr: another node has this address",
            Self::LocalTaken => c"local: another node is this one already",
            Self::NoNode => c"name: no such node",
            Self::NoTarget => c"node: no such node, add it first",
            Self::NodesFull => c"name: there are 64 nodes, the most that are allowed",
            Self::NodeInUse => c"name: a rule sends requests to this node, delete the rule first",
            Self::RuleExists => c"host, path: the service has a rule for these already",
            Self::NoRule => c"host, path: the service has no such rule",
            Self::RulesFull => c"host: the service has 256 rules, the most that are allowed",
            Self::RetiredFull => {
                c"addr: connections of 512 deleted services go on, drain them first"
            }
            Self::KeyExists => c"id: a key of this number exists already, delete it first",
            Self::NoKey => c"id: no such key",
            Self::KeysFull => c"id: there are 4 keys, the most that are allowed",
            Self::FirstKey => c"verify-only: must not be given with the first key",
            Self::KeySigns => c"id: this key signs, let another one sign first",
            Self::Failed(_) => c"",
        }
    }

    /// What the call returns.
    pub(crate) fn error(self) -> Error {
        match self {
            Self::ServiceExists | Self::NodeExists | Self::AddrTaken => EEXIST,
            Self::LocalTaken | Self::RuleExists | Self::KeyExists => EEXIST,
            Self::NoService | Self::NoNode | Self::NoTarget | Self::NoRule => ENOENT,
            Self::NoKey => ENOENT,
            Self::ServicesFull | Self::NodesFull | Self::RulesFull | Self::KeysFull => ENOSPC,
            Self::NodeInUse | Self::RetiredFull | Self::KeySigns => EBUSY,
            Self::FirstKey => EINVAL,
            Self::Failed(err) => err,
        }
    }
}

impl From<AllocError> for Refused {
    fn from(_: AllocError) -> Self {
        Self::Failed(ENOMEM)
    }
}

impl From<Error> for Refused {
    fn from(err: Error) -> Self {
        Self::Failed(err)
    }
}

// The texts name the limits.
const _: () = assert!(SERVICES_MAX == 256 && NODES_MAX == 64 && RULES_MAX == 256);
// Places of services are kept in 16 bits.
const _: () = assert!(SERVICES_MAX <= RETIRED as usize);

/// In the table: an endpoint that is none of a service's.
const NO_SERVICE: u16 = u16::MAX;
/// In the table: an endpoint that is none any more.
const RETIRED: u16 = NO_SERVICE - 1;
/// Endpoints that are none any more, of a namespace: as many as there can be at a time.
const RETIRED_MAX: usize = 2 * SERVICES_MAX;

/// What changes need to know of each other.
struct Changes {
    /// Index of the node that was added last. The next one gets another, so that a number seldom stands
    /// for two nodes within a short time.
    last_index: u32,
}

/// The configuration of a namespace.
#[pin_data]
pub(crate) struct Config {
    #[pin]
    current: Published<Snapshot, Changes>,
    /// Nothing is to be handed off, in either direction.
    draining: Atomic<bool>,
}

impl Config {
    /// Nothing is configured.
    pub(crate) fn new() -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            current <- new_published!(
                KBox::new(Snapshot::empty(), GFP_KERNEL)?,
                Changes { last_index: 0 },
                "carisma_config"
            ),
            draining: Atomic::new(false),
        })
    }

    /// The configuration as it is now. Any context.
    pub(crate) fn snapshot<'a>(&'a self, rcu: &'a rcu::Guard) -> &'a Snapshot {
        self.current.read(rcu)
    }

    /// Whether nothing is to be handed off, in either direction. Any context.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Acquire)
    }

    /// Begins or ends a drain.
    pub(crate) fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Release);
    }

    /// Adds a service. Process context, as all changes.
    pub(crate) fn add_service(
        &self,
        at: Endpoint,
        mode: Mode,
        announce: impl Fn(Event<'_>) -> Result,
    ) -> Result<(), Refused> {
        let service = Arc::new(
            Service {
                at,
                mode,
                rules: KVec::new(),
            },
            GFP_KERNEL,
        )?;
        let mut writer = self.current.write();
        let new = writer.current().changed(|new| {
            if new.place(at).is_ok() {
                return Err(Refused::ServiceExists);
            }
            if new.services.len() >= SERVICES_MAX {
                return Err(Refused::ServicesFull);
            }
            Ok(new.services.push(service.clone(), GFP_KERNEL)?)
        })?;
        publish(&mut writer, new, &announce)
    }

    /// Deletes a service with its rules.
    pub(crate) fn del_service(
        &self,
        at: Endpoint,
        announce: impl Fn(Event<'_>) -> Result,
    ) -> Result<(), Refused> {
        let mut writer = self.current.write();
        let new = writer.current().changed(|new| {
            let place = new.place(at)?;
            drop(new.services.remove(place));
            Ok(())
        })?;
        publish(&mut writer, new, &announce)
    }

    /// Keeps of the endpoints that are none any more only those that `used` picks.
    pub(crate) fn keep_retired(
        &self,
        used: impl FnOnce(&[Endpoint]) -> Result<KVec<Endpoint>>,
    ) -> Result<(), Refused> {
        let mut writer = self.current.write();
        let before = writer.current();
        if before.retired.is_empty() {
            return Ok(());
        }
        let used = used(&before.retired)?;
        let new = before.changed(|new| {
            new.retired = used;
            Ok(())
        })?;
        writer.replace(new);
        Ok(())
    }

    /// Adds a node.
    pub(crate) fn add_node(
        &self,
        name: Name,
        at: Endpoint,
        local: bool,
        announce: impl Fn(Event<'_>) -> Result,
    ) -> Result<(), Refused> {
        let mut writer = self.current.write();
        let mut added = None;
        let new = writer.current().changed(|new| {
            if new.node_named(&name).is_some() {
                return Err(Refused::NodeExists);
            }
            if new.nodes().any(|node| node.at.addr == at.addr) {
                return Err(Refused::AddrTaken);
            }
            if local && new.local_node().is_some() {
                return Err(Refused::LocalTaken);
            }
            let index = new.free_index(writer.last_index)?;
            let node = Arc::new(
                Node {
                    index,
                    name,
                    at,
                    local,
                    up: Atomic::new(false),
                    epoch: Atomic::new(0),
                    trouble: Atomic::new(0),
                },
                GFP_KERNEL,
            )?;
            new.set_node(index, Some(node.clone()))?;
            added = Some(node);
            Ok(())
        })?;
        let Some(node) = added else {
            return Ok(());
        };
        // The way back, made before it may be needed.
        let undo = new.changed(|undo| undo.set_node(node.index, None))?;
        // First here: as soon as those above know the node, its control connection may come up.
        publish(&mut writer, new, &announce)?;
        if let Err(err) = announce(Event::NodeAdd(&node)) {
            publish(&mut writer, undo, &announce)?;
            return Err(err.into());
        }
        writer.last_index = node.index;
        Ok(())
    }

    /// Deletes a node that no rule names.
    pub(crate) fn del_node(
        &self,
        name: &Name,
        announce: impl Fn(Event<'_>) -> Result,
    ) -> Result<(), Refused> {
        let mut writer = self.current.write();
        let mut gone = None;
        let new = writer.current().changed(|new| {
            let index = new.node_named(name).ok_or(Refused::NoNode)?.index;
            let named = |rule: &Arc<Rule>| rule.target.nodes().any(|node| node == index);
            if new
                .services()
                .any(|service| service.rules.iter().any(named))
            {
                return Err(Refused::NodeInUse);
            }
            gone = new.take_node(index);
            Ok(())
        })?;
        publish(&mut writer, new, &announce)?;
        if let Some(node) = gone {
            announce(Event::NodeDel(&node))?;
        }
        Ok(())
    }

    /// Adds a rule to a service. An empty host or path fits any. Of `nodes`, which are asked in their
    /// order, as many count as a rule may have.
    pub(crate) fn add_rule(
        &self,
        at: Endpoint,
        host: KVec<u8>,
        path: KVec<u8>,
        nodes: &[Name],
        otherwise: Otherwise,
    ) -> Result<(), Refused> {
        let mut writer = self.current.write();
        let new = writer.current().changed(|new| {
            let place = new.place(at)?;
            let mut target = Target {
                otherwise,
                ..Target::HERE
            };
            for (place, name) in target.nodes.iter_mut().zip(nodes) {
                *place = new.node_named(name).ok_or(Refused::NoTarget)?.index;
            }
            new.edit_service(place, |service| {
                if service.find(&host, &path).is_some() {
                    return Err(Refused::RuleExists);
                }
                if service.rules.len() >= RULES_MAX {
                    return Err(Refused::RulesFull);
                }
                let rule = Rule { host, path, target };
                let mut rules = shared(&service.rules, 1)?;
                rules.push(Arc::new(rule, GFP_KERNEL)?, GFP_KERNEL)?;
                Ok(rules)
            })
        })?;
        writer.replace(new);
        Ok(())
    }

    /// Deletes a rule of a service.
    pub(crate) fn del_rule(&self, at: Endpoint, host: &[u8], path: &[u8]) -> Result<(), Refused> {
        let mut writer = self.current.write();
        let new = writer.current().changed(|new| {
            let place = new.place(at)?;
            new.edit_service(place, |service| {
                let found = service.find(host, path).ok_or(Refused::NoRule)?;
                let mut rules = shared(&service.rules, 0)?;
                drop(rules.remove(found));
                Ok(rules)
            })
        })?;
        writer.replace(new);
        Ok(())
    }

    /// Announces everything that there is, nodes first. No change comes in between.
    pub(crate) fn replay(&self, announce: impl Fn(Event<'_>) -> Result) -> Result {
        let writer = self.current.write();
        for node in writer.current().nodes() {
            announce(Event::NodeAdd(node))?;
        }
        for at in writer.current().endpoints() {
            announce(Event::EndpointAdd(at))?;
        }
        Ok(())
    }
}

/// Publishes a snapshot, and announces which endpoints come and go by it. Those that come are known
/// above TCP first: a connection that is asked about before packets know of it is let pass.
fn publish(
    writer: &mut Writer<'_, Snapshot, Changes>,
    new: KBox<Snapshot>,
    announce: &impl Fn(Event<'_>) -> Result,
) -> Result<(), Refused> {
    let come = new.endpoints_beyond(writer.current())?;
    let go = writer.current().endpoints_beyond(&new)?;
    for (done, at) in come.iter().enumerate() {
        if let Err(err) = announce(Event::EndpointAdd(*at)) {
            for at in come.iter().take(done) {
                // It was known a moment ago.
                let _ = announce(Event::EndpointDel(*at));
            }
            return Err(err.into());
        }
    }
    writer.replace(new);
    for at in go {
        announce(Event::EndpointDel(at))?;
    }
    Ok(())
}

/// Edits of a snapshot that is not published yet.
impl Snapshot {
    /// The next index that is free after this one.
    fn free_index(&self, last: u32) -> Result<u32, Refused> {
        // CAST: The limit is small.
        let max = NODES_MAX as u32;
        (0..max)
            .map(|step| (last + step) % max + 1)
            .find(|&index| self.node(index).is_none())
            .ok_or(Refused::NodesFull)
    }

    /// Puts a node, or nothing, at an index.
    fn set_node(&mut self, index: u32, node: Option<Arc<Node>>) -> Result<(), Refused> {
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
    fn take_node(&mut self, index: u32) -> Option<Arc<Node>> {
        // CAST: An index has 32 bits.
        self.nodes.get_mut(index.wrapping_sub(1) as usize)?.take()
    }

    /// Replaces the rules of a service.
    fn edit_service(
        &mut self,
        place: usize,
        edit: impl FnOnce(&Service) -> Result<KVec<Arc<Rule>>, Refused>,
    ) -> Result<(), Refused> {
        let Some(service) = self.services.get_mut(place) else {
            return Err(Refused::NoService);
        };
        let rules = edit(service)?;
        *service = Arc::new(service.with_rules(rules), GFP_KERNEL)?;
        Ok(())
    }
}
