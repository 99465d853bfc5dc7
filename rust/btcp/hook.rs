// SPDX-License-Identifier: GPL-2.0

//! The two hooks: which segments are ours.

use crate::state::State;
use carisma_net::{
    netfilter::Hooks,
    skb::Skb, //
};

impl Hooks for State {
    fn input(&self, skb: Skb) -> Option<Skb> {
        Some(skb)
    }

    fn output(&self, skb: Skb) -> Option<Skb> {
        Some(skb)
    }
}
