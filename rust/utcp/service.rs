// SPDX-License-Identifier: GPL-2.0

//! The virtual services of a namespace.

use carisma_core::tuple::{
    v4_mapped,
    v4_of,
    Addr,
    Tuple, //
};
use carisma_net::sock::Sock;
use kernel::prelude::*;

/// A virtual service.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Service {
    addr: Addr,
    port: u16,
}

/// What a listener of IPv4 says that takes connections to any address.
const ANY_V4: Addr = v4_mapped([0; 4]);
/// What a listener of IPv6 says that does so, and perhaps of IPv4 as well.
const ANY_V6: Addr = [0; 16];

impl Service {
    /// The service that a message is about.
    pub(crate) fn of(tuple: &Tuple) -> Self {
        Self {
            addr: tuple.local,
            port: tuple.local_port.get(),
        }
    }

    /// Whether the connection is one to it.
    pub(crate) fn has(&self, tuple: &Tuple) -> bool {
        self.port == tuple.local_port.get() && self.addr == tuple.local
    }

    /// Whether the listener takes connections to it.
    pub(crate) fn is_of(&self, listener: &Sock) -> bool {
        if self.port != listener.port() {
            return false;
        }
        let is_v4 = v4_of(&self.addr).is_some();
        match listener.tuple().local {
            ANY_V4 => is_v4,
            ANY_V6 => !is_v4 || !listener.is_v6only(),
            addr => addr == self.addr,
        }
    }
}

/// All services of a namespace, published as a whole.
pub(crate) struct Services(KVec<Service>);

impl Services {
    /// These.
    pub(crate) fn of(services: &[Service]) -> Result<KBox<Self>> {
        let mut list = KVec::new();
        list.extend_from_slice(services, GFP_KERNEL)?;
        Ok(KBox::new(Self(list), GFP_KERNEL)?)
    }

    /// These, and one more.
    pub(crate) fn with(&self, service: Service) -> Result<KBox<Self>> {
        let mut next = Self::of(&self.0)?;
        next.0.push(service, GFP_KERNEL)?;
        Ok(next)
    }

    /// These, without one.
    pub(crate) fn without(&self, service: Service) -> Result<KBox<Self>> {
        let mut next = Self::of(&self.0)?;
        next.0.retain(|other| *other != service);
        Ok(next)
    }

    /// Whether the service is one of them.
    pub(crate) fn contains(&self, service: Service) -> bool {
        self.0.contains(&service)
    }

    /// Whether the connection is to one of them.
    pub(crate) fn have(&self, tuple: &Tuple) -> bool {
        self.0.iter().any(|service| service.has(tuple))
    }

    /// Whether the listener takes connections to one of them.
    pub(crate) fn are_of(&self, listener: &Sock) -> bool {
        self.0.iter().any(|service| service.is_of(listener))
    }
}
