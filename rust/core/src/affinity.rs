// SPDX-License-Identifier: GPL-2.0

//! Which of several nodes a path belongs to, so that each path has one cache that is warm (paper,
//! section 2, the partitioned proxy cluster).
//!
//! Rendezvous hashing (Thaler and Ravishankar, 1998): every node has a weight for every path, and
//! the path is the heaviest node's. Front ends need no common state to agree, and a node that goes
//! or comes moves no path but those that were its own, or that it gets.

/// A path that nodes can be weighed for, the same on every machine.
#[derive(Clone, Copy)]
pub struct Path(u64);

impl Path {
    /// This one.
    #[must_use]
    pub fn new(path: &[u8]) -> Self {
        Self(fnv(path))
    }

    /// The weight of a node.
    #[must_use]
    pub fn weight(self, node: &[u8]) -> u64 {
        mix(self.0 ^ mix(fnv(node)))
    }
}

/// FNV-1a, 64 bits.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A permutation in which each bit depends on all: the finalizer of SplitMix64.
fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeMap, format, string::String, vec::Vec};

    const NODES: [&str; 5] = ["en", "fr", "de", "it", "es"];
    const PATHS: usize = 10_000;

    fn owner(path: &str, nodes: &[&'static str]) -> &'static str {
        nodes
            .iter()
            .max_by_key(|node| Path::new(path.as_bytes()).weight(node.as_bytes()))
            .unwrap()
    }

    fn paths() -> Vec<String> {
        (0..PATHS).map(|n| format!("/img/{n}.png")).collect()
    }

    #[test]
    fn weights_are_the_same_everywhere() {
        assert_eq!(fnv(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(
            Path::new(b"/a").weight(b"en"),
            Path::new(b"/a").weight(b"en")
        );
        assert_ne!(
            Path::new(b"/a").weight(b"en"),
            Path::new(b"/a").weight(b"fr")
        );
        assert_ne!(
            Path::new(b"/a").weight(b"en"),
            Path::new(b"/b").weight(b"en")
        );
    }

    #[test]
    fn every_node_has_its_share() {
        let mut shares: BTreeMap<_, usize> = BTreeMap::new();
        for path in paths() {
            *shares.entry(owner(&path, &NODES)).or_default() += 1;
        }
        let fair = PATHS / NODES.len();
        for (node, share) in shares {
            assert!(
                (fair * 9 / 10..fair * 11 / 10).contains(&share),
                "{node}: {share}"
            );
        }
    }

    #[test]
    fn a_node_that_goes_moves_only_its_own() {
        for path in paths() {
            let before = owner(&path, &NODES);
            let after = owner(&path, &NODES[..4]);
            assert!(before == after || before == NODES[4]);
        }
    }
}
