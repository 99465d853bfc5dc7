// SPDX-License-Identifier: GPL-2.0

//! What a network namespace is configured to do: virtual services, nodes and rules.
//!
//! The configuration is a [`Snapshot`], which nobody changes. A change makes a new one from the old,
//! and publishes it by RCU. Packets look into whichever is there; changes take turns.
//!
//! Every change is announced, in the order of the changes, to whom it concerns above TCP. That is done
//! with the mutex held, so an announcement must not call back into a change.

use crate::{
    node::{
        Name,
        Node,
        Reach, //
    },
    refused::Refused,
    service::{
        Migrate,
        Mode,
        Rule,
        Service,
        Target,
        CANDIDATES_MAX,
        RULES_MAX, //
    },
    snapshot::{
        shared,
        Endpoint,
        Snapshot,
        SERVICES_MAX, //
    },
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
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Release, //
        },
        rcu,
        Arc, //
    },
};

/// A change that those above TCP should know of. To forget what is gone they need no memory: it is
/// announced when the change has been made, and that does not fail.
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

    /// Whether a service's mode needs a key of the cluster's. Any context.
    pub(crate) fn needs_key(&self) -> bool {
        let rcu = rcu::read_lock();
        let mut services = self.snapshot(&rcu).services();
        services.any(|service| service.mode == Mode::Always)
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
        migrate: Migrate,
        announce: impl Fn(Event<'_>) -> Result,
    ) -> Result<(), Refused> {
        let service = Arc::new(Service::new(at, mode, migrate)?, GFP_KERNEL)?;
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
        let next = Next::new(writer.current(), new)?;
        publish(&mut writer, next, &announce)
    }

    /// Changes how connections of a service are handed off that begin from now on; what is `None`
    /// stays.
    pub(crate) fn set_service(
        &self,
        at: Endpoint,
        mode: Option<Mode>,
        migrate: Option<Migrate>,
    ) -> Result<(), Refused> {
        let mut writer = self.current.write();
        let new = writer.current().changed(|new| {
            let place = new.place(at)?;
            new.edit_service(place, |service| {
                Ok(service.changed(
                    mode.unwrap_or(service.mode),
                    migrate.unwrap_or(service.migrate),
                )?)
            })
        })?;
        writer.replace(new);
        Ok(())
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
        let next = Next::new(writer.current(), new)?;
        publish(&mut writer, next, &announce)
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
        port: u16,
        local: bool,
        reach: [Reach; 2],
        announce: impl Fn(Event<'_>) -> Result,
    ) -> Result<(), Refused> {
        let mut writer = self.current.write();
        let mut added = None;
        let new = writer.current().changed(|new| {
            if new.node_named(&name).is_some() {
                return Err(Refused::NodeExists);
            }
            let taken = |it: Reach| new.nodes().any(|node| node.has(&it.addr));
            match reach.map(taken) {
                [true, _] => return Err(Refused::AddrTaken),
                [_, true] => return Err(Refused::OtherAddrTaken),
                _ => {}
            }
            if local && new.local_node().is_some() {
                return Err(Refused::LocalTaken);
            }
            let index = new.free_index(writer.last_index)?;
            let node = Arc::new(Node::new(index, name, port, local, reach)?, GFP_KERNEL)?;
            new.set_node(index, Some(node.clone()))?;
            added = Some(node);
            Ok(())
        })?;
        let Some(node) = added else {
            return Ok(());
        };
        // The way back, made before it may be needed.
        let undo = new.changed(|undo| undo.set_node(node.index, None))?;
        let undo = Next::new(&new, undo)?;
        let next = Next::new(writer.current(), new)?;
        // First here: as soon as those above know the node, its control connection may come up.
        publish(&mut writer, next, &announce)?;
        if let Err(err) = announce(Event::NodeAdd(&node)) {
            // It only goes, and no endpoint comes by that.
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
        let next = Next::new(writer.current(), new)?;
        publish(&mut writer, next, &announce)?;
        if let Some(node) = gone {
            let _ = announce(Event::NodeDel(&node));
        }
        Ok(())
    }

    /// Adds a rule to a service; `nodes` are its target's, of which as many count as it may have.
    pub(crate) fn add_rule(&self, at: Endpoint, rule: Rule, nodes: &[Name]) -> Result<(), Refused> {
        let mut writer = self.current.write();
        let new = writer.current().changed(|new| {
            let place = new.place(at)?;
            let mut indexes = [0; CANDIDATES_MAX];
            for (place, name) in indexes.iter_mut().zip(nodes) {
                *place = new.node_named(name).ok_or(Refused::NoTarget)?.index;
            }
            let rule = Rule {
                target: Target::new(indexes, rule.target.otherwise()),
                ..rule
            };
            new.edit_service(place, |service| {
                if service.find(&rule.host, &rule.path).is_some() {
                    return Err(Refused::RuleExists);
                }
                if service.rules.len() >= RULES_MAX {
                    return Err(Refused::RulesFull);
                }
                let mut rules = shared(&service.rules, 1)?;
                rules.push(Arc::new(rule, GFP_KERNEL)?, GFP_KERNEL)?;
                Ok(service.with_rules(rules))
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
                Ok(service.with_rules(rules))
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

/// A snapshot that is to be published, and the endpoints that come and go by it.
struct Next {
    new: KBox<Snapshot>,
    come: KVec<Endpoint>,
    go: KVec<Endpoint>,
}

impl Next {
    /// What follows `before`. Errors: `ENOMEM`.
    fn new(before: &Snapshot, new: KBox<Snapshot>) -> Result<Self, AllocError> {
        Ok(Self {
            come: new.endpoints_beyond(before)?,
            go: before.endpoints_beyond(&new)?,
            new,
        })
    }
}

/// Publishes a snapshot, and announces which endpoints come and go by it. Those that come are known
/// above TCP first: a connection that is asked about before packets know of it is let pass. It fails only
/// if one cannot be made known, and then nothing has changed.
fn publish(
    writer: &mut Writer<'_, Snapshot, Changes>,
    next: Next,
    announce: &impl Fn(Event<'_>) -> Result,
) -> Result<(), Refused> {
    for (done, at) in next.come.iter().enumerate() {
        if let Err(err) = announce(Event::EndpointAdd(*at)) {
            for at in next.come.iter().take(done) {
                let _ = announce(Event::EndpointDel(*at));
            }
            return Err(err.into());
        }
    }
    writer.replace(next.new);
    for at in next.go {
        let _ = announce(Event::EndpointDel(at));
    }
    Ok(())
}
