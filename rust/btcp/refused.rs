// SPDX-License-Identifier: GPL-2.0

//! Why the configuration or the keys do not change.

use crate::{
    service::RULES_MAX,
    snapshot::{
        NODES_MAX,
        SERVICES_MAX, //
    },
};
use kernel::{
    alloc::AllocError,
    prelude::*,
    str::CStr, //
};

// The texts name the limits.
const _: () = assert!(SERVICES_MAX == 256 && NODES_MAX == 64 && RULES_MAX == 256);

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
    /// The same of an address of the other family.
    OtherAddrTaken,
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
    /// The key is the last one, and a service's mode needs one.
    KeyNeeded,
    /// The service's mode needs a key, and there is none.
    KeyMissing,
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
            Self::OtherAddrTaken => c"other-addr: another node has this address",
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
            Self::KeyNeeded => c"id: a service in mode always needs this key, the last one",
            Self::KeyMissing => c"mode: always needs a key of the cluster's, set one first",
            Self::Failed(_) => c"",
        }
    }

    /// What the call returns.
    pub(crate) fn error(self) -> Error {
        match self {
            Self::ServiceExists | Self::NodeExists => EEXIST,
            Self::AddrTaken | Self::OtherAddrTaken => EEXIST,
            Self::LocalTaken | Self::RuleExists | Self::KeyExists => EEXIST,
            Self::NoService | Self::NoNode | Self::NoTarget | Self::NoRule => ENOENT,
            Self::NoKey => ENOENT,
            Self::ServicesFull | Self::NodesFull | Self::RulesFull | Self::KeysFull => ENOSPC,
            Self::NodeInUse | Self::RetiredFull | Self::KeySigns | Self::KeyNeeded => EBUSY,
            Self::FirstKey | Self::KeyMissing => EINVAL,
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
