// SPDX-License-Identifier: GPL-2.0

//! What BTCP tells of a namespace's configuration: services, nodes and keys.

use super::{
    control::Control,
    peer::Peer,
    service::Service,
    withheld::{
        Fate,
        Taken, //
    },
    Ns,
    Todo, //
};
use carisma_net::{
    kthread::Thread,
    link::Msg, //
};
use kernel::{
    prelude::*,
    sync::{
        atomic::Relaxed,
        rcu, //
    },
};

/// Milliseconds after which listeners are looked for again that were between `listen()` and their
/// table when a service was added.
const RESCAN_MS: u32 = 200;

impl Ns {
    /// Adds a service; one that is there already is left as it is.
    pub(super) fn add_service(&self, service: Service) -> Result<u32> {
        let mut config = self.services.write();
        if config.closed {
            return Err(ENODEV);
        }
        if !config.current().contains(service) {
            self.withheld.open()?;
            let next = config.current().with(service)?;
            self.served.store(true, Relaxed);
            config.replace(next);
            self.scan();
            self.put_off(Todo::Scan, Some(RESCAN_MS));
        }
        Ok(0)
    }

    /// Deletes a service: its children are released, and listeners that serve no other are
    /// detached. One that is not there may have been deleted before it was told of.
    pub(super) fn del_service(&self, service: Service) -> Result<u32> {
        let config = self.services.write();
        if !config.current().forget(service) {
            return Ok(0);
        }
        // Nobody finds it any more afterwards.
        rcu::synchronize_rcu();

        for listener in self.each_listener() {
            if listener.serves(&service) && !self.serves(&listener.sk) {
                self.detach(&listener);
            }
        }
        self.withheld.for_each(|entry| {
            if service.has(entry.key()) {
                if let Taken::Now(held) = entry.take(Fate::Release) {
                    self.release(entry, held);
                }
            }
        });
        Ok(0)
    }

    /// Adds a node, or changes it.
    pub(super) fn add_node(&self, msg: &Msg<'_>) -> Result<u32> {
        let mut config = self.services.write();
        if config.closed {
            return Err(ENODEV);
        }
        // Without the keys we would talk to whoever says that he is a node. When we ask for them, this
        // one comes again.
        if !self.peers.are_keyed() {
            return Err(ENOTCONN);
        }
        self.peers.add(Peer::new(msg)?)?;
        if config.control.is_none() {
            let control =
                Control::new(self.net.clone(), self.peers.clone(), self.counters.clone())?;
            config.control = Some(Thread::new(
                c"carisma_control",
                self.peers.bell().clone(),
                control,
            )?);
        }
        Ok(0)
    }

    /// Deletes a node. One that is not there may have been deleted before it was told of.
    pub(super) fn del_node(&self, node: u32) -> Result<u32> {
        let _config = self.services.write();
        self.peers.del(node);
        Ok(0)
    }

    /// Takes the keys of the cluster.
    pub(super) fn set_keys(&self, told: &[u8]) -> Result<u32> {
        let config = self.services.write();
        if config.closed {
            return Err(ENODEV);
        }
        self.peers.set_keys(told).map(|()| 0)
    }
}
