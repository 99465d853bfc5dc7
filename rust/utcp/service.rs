// SPDX-License-Identifier: GPL-2.0

//! The virtual services of a namespace.

use carisma_core::tuple::{
    v4_mapped,
    v4_of,
    Addr,
    Tuple, //
};
use carisma_net::sock::Sock;
use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
};

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

/// A service of the list.
struct Listed {
    service: Service,
    /// It is one no more. To take it out of the list would need memory; the next one is without it.
    gone: Atomic<bool>,
}

/// All services of a namespace, published as a whole.
pub(crate) struct Services(KVec<Listed>);

impl Services {
    /// These.
    pub(crate) fn of(services: &[Service]) -> Result<KBox<Self>> {
        Self::listing(services.iter().copied())
    }

    /// These, and one more.
    pub(crate) fn with(&self, service: Service) -> Result<KBox<Self>> {
        Self::listing(Iterator::chain(self.iter().copied(), [service]))
    }

    fn listing(services: impl Iterator<Item = Service>) -> Result<KBox<Self>> {
        let mut list = KVec::new();
        for service in services {
            let gone = Atomic::new(false);
            list.push(Listed { service, gone }, GFP_KERNEL)?;
        }
        Ok(KBox::new(Self(list), GFP_KERNEL)?)
    }

    fn iter(&self) -> impl Iterator<Item = &Service> {
        let there = self.0.iter().filter(|listed| !listed.gone.load(Relaxed));
        there.map(|listed| &listed.service)
    }

    /// The service is one no more; `false` if it was none. Readers may still find it until a grace period
    /// has passed. It needs no memory.
    pub(crate) fn forget(&self, service: Service) -> bool {
        let mut all = self.0.iter();
        all.any(|listed| listed.service == service && !listed.gone.xchg(true, Relaxed))
    }

    /// Whether the service is one of them.
    pub(crate) fn contains(&self, service: Service) -> bool {
        self.iter().any(|other| *other == service)
    }

    /// Whether the connection is to one of them.
    pub(crate) fn have(&self, tuple: &Tuple) -> bool {
        self.iter().any(|service| service.has(tuple))
    }

    /// Whether the listener takes connections to one of them.
    pub(crate) fn are_of(&self, listener: &Sock) -> bool {
        self.iter().any(|service| service.is_of(listener))
    }
}
