// SPDX-License-Identifier: GPL-2.0

//! Virtual services: their rules, and the nodes that a rule sends requests to.

use crate::{
    node::{
        name_text,
        Node, //
    },
    snapshot::{
        shared,
        Endpoint,
        Snapshot, //
    },
    uapi,
};
use carisma_core::{affinity, http, rule, share::Share};
use kernel::{
    alloc::AllocError,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
};

/// Rules of a service.
pub(crate) const RULES_MAX: usize = uapi::CARISMA_RULES_MAX as usize;
/// Nodes of a rule.
pub(crate) const CANDIDATES_MAX: usize = uapi::CARISMA_CANDIDATES_MAX as usize;

/// How connections of a service are handed off.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Where they arrive, their own TCP takes the handshake.
    Rare,
    /// BTCP does, and keeps nothing of it.
    Frequent,
    /// The same, and every connection is handed off, in band.
    Always,
    /// Rare or frequent, by how many requests other nodes serve.
    Auto,
}

/// How a connection enters the TCP of the node that it is handed to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Migrate {
    /// With the numbers that the client has, where that can be.
    Adopt,
    /// By a replay of the client's handshake.
    Replay,
}

/// What becomes of a request that no node of its rule can take.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Otherwise {
    /// It is served where it arrived.
    Local,
    /// It is answered 503.
    Unavailable,
}

/// In which order the nodes of a rule are asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pick {
    /// As they were given.
    Order,
    /// Each path has an order of its own.
    Hash,
}

/// A node that may serve a request.
pub(crate) enum Candidate {
    /// This one.
    Here,
    /// The node of this index.
    Node(u32),
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
    pub(crate) const HERE: Self = Self::new([0; CANDIDATES_MAX], Otherwise::Local);

    /// The nodes of these indexes, in this order; 0 is none.
    pub(crate) const fn new(nodes: [u32; CANDIDATES_MAX], otherwise: Otherwise) -> Self {
        Self {
            nodes,
            passed: 0,
            otherwise,
        }
    }

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

    /// The node that was passed last is the next one again.
    pub(crate) fn again(&mut self) {
        self.passed = self.passed.saturating_sub(1);
    }

    /// The next node that something can be handed to. In band that is also one of which nothing was ever
    /// heard, as it may have no UTCP. Any context.
    pub(crate) fn next(&mut self, config: &Snapshot, in_band: bool) -> Candidate {
        while let Some(&index) = self.nodes.get(self.passed) {
            self.passed = self.passed.saturating_add(1);
            match config.node(index) {
                Some(node) if node.local => return Candidate::Here,
                Some(node) if node.is_up() || (in_band && node.epoch() == 0) => {
                    return Candidate::Node(index)
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

    /// Asks the nodes in the order of what `key` says of them, the largest first.
    fn sort(&mut self, config: &Snapshot, key: impl Fn(&Node) -> u64) {
        let count = self.nodes().count();
        let mut sorted = self.nodes.map(|index| (0, index));
        for (weight, index) in sorted.iter_mut().take(count) {
            *weight = config.node(*index).map_or(0, &key);
        }
        // By insertion: they are few, and the library's sort is large.
        for end in 1..count {
            for i in (1..=end).rev() {
                if let Some([before, it]) = sorted.get_mut(i.wrapping_sub(1)..=i) {
                    if it.0 > before.0 {
                        core::mem::swap(before, it);
                    }
                }
            }
        }
        self.nodes = sorted.map(|(_, index)| index);
    }

    /// Asks the node of this name first, if it is one of them.
    fn prefer(&mut self, config: &Snapshot, name: &[u8]) {
        let place = self.nodes.iter().position(|index| {
            config
                .node(*index)
                .is_some_and(|node| name_text(&node.name) == name)
        });
        if let Some(first) = place.and_then(|place| self.nodes.get_mut(..=place)) {
            first.rotate_right(1);
        }
    }
}

/// Which requests go where. An empty host or path fits any.
pub(crate) struct Rule {
    /// In lower case, without port or final dot.
    pub(crate) host: KVec<u8>,
    pub(crate) path: KVec<u8>,
    pub(crate) target: Target,
    pub(crate) pick: Pick,
    /// The name of the cookie that names the node to ask first; empty for none.
    pub(crate) cookie: KVec<u8>,
}

impl Rule {
    /// Who is to serve a request that this rule fits.
    fn choose(&self, config: &Snapshot, head: &http::Head<'_>) -> Target {
        let mut target = self.target;
        if self.pick == Pick::Hash {
            let path = affinity::Path::new(head.path);
            target.sort(config, |node| path.weight(name_text(&node.name)));
        }
        if !self.cookie.is_empty() {
            if let Some(name) = head.cookie(&self.cookie) {
                target.prefer(config, name);
            }
        }
        target
    }
}

/// What a rule says about requests. Two that say the same are the same.
#[derive(Clone, Copy)]
struct Says<'a>(&'a Rule);

impl PartialEq for Says<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.target == other.0.target
            && self.0.pick == other.0.pick
            && *self.0.cookie == *other.0.cookie
    }
}

/// A virtual service.
pub(crate) struct Service {
    pub(crate) at: Endpoint,
    pub(crate) mode: Mode,
    pub(crate) migrate: Migrate,
    pub(crate) rules: KVec<Arc<Rule>>,
    share: Arc<Atomic<u32>>,
}

impl Service {
    /// One without rules or requests. Errors: `ENOMEM`.
    pub(crate) fn new(at: Endpoint, mode: Mode, migrate: Migrate) -> Result<Self, AllocError> {
        Ok(Self {
            at,
            mode,
            migrate,
            rules: KVec::new(),
            share: Arc::new(Atomic::new(0u32), GFP_KERNEL)?,
        })
    }

    /// How many of its requests other nodes serve. Any context.
    pub(crate) fn share(&self) -> Share {
        Share::of(self.share.load(Relaxed))
    }

    /// Counts a request that another node is to serve, or this one. One that is counted at the same time
    /// may be forgotten. Any context.
    pub(crate) fn on_request(&self, remote: bool) {
        let share = self.share();
        if share.with(remote) != share {
            self.share.store(share.with(remote).word(), Relaxed);
        }
    }

    /// The mode that it is in now, which is not `Auto`. Any context.
    pub(crate) fn current(&self) -> Mode {
        match self.mode {
            Mode::Auto if self.share().is_frequent() => Mode::Frequent,
            Mode::Auto => Mode::Rare,
            mode => mode,
        }
    }

    /// Who is to serve a request: this node if no rule fits, or servers might read its path in two
    /// ways. Any context.
    pub(crate) fn route(&self, config: &Snapshot, head: &http::Head<'_>) -> Target {
        let rules = self.rules.iter().map(|rule| rule::Rule {
            host: (!rule.host.is_empty()).then_some(&rule.host[..]),
            prefix: &rule.path,
            target: Says(rule),
        });
        match rule::route(rules, head.host, head.path) {
            Ok(Some(Says(rule))) => rule.choose(config, head),
            Ok(None) | Err(rule::Ambiguous) => Target::HERE,
        }
    }

    /// The rule with exactly this host and path.
    pub(crate) fn find(&self, host: &[u8], path: &[u8]) -> Option<usize> {
        self.rules
            .iter()
            .position(|rule| *rule.host == *host && *rule.path == *path)
    }

    /// The same service with other rules.
    pub(crate) fn with_rules(&self, rules: KVec<Arc<Rule>>) -> Self {
        Self {
            at: self.at,
            mode: self.mode,
            migrate: self.migrate,
            rules,
            share: self.share.clone(),
        }
    }

    /// The same service, whose connections are handed off in another way.
    pub(crate) fn changed(&self, mode: Mode, migrate: Migrate) -> Result<Self, AllocError> {
        Ok(Self {
            mode,
            migrate,
            ..self.with_rules(shared(&self.rules, 0)?)
        })
    }
}
