// SPDX-License-Identifier: GPL-2.0

//! What is the matter between this node and another one that is there.

use crate::{state::Node, uapi::peer_trouble as why};

/// What is the matter, and what to do about it.
pub fn explained(local: &Node, peer: &Node, trouble: &str) -> (String, String) {
    let name = |number: u16| why::NAMES[usize::from(number)];
    if trouble == name(why::VERSION) {
        (
            "it speaks another version of the protocol".to_owned(),
            "install the modules from one version on both nodes".to_owned(),
        )
    } else if trouble == name(why::UNAUTHENTICATED) {
        (
            "one of the two nodes has keys, and the other has none".to_owned(),
            "carismactl key set, on all nodes or on none".to_owned(),
        )
    } else if trouble == name(why::UNKNOWN_KEY) {
        (
            "it signs with a key that is not here".to_owned(),
            format!("compare `carismactl key list` here and on {}", peer.name),
        )
    } else if trouble == name(why::UNPROVEN) {
        (
            "it did not prove that it has the key".to_owned(),
            format!(
                "set the same key here and on {}; if it is the same, look who else has {}",
                peer.name, peer.address
            ),
        )
    } else {
        (
            "it says that it is another node".to_owned(),
            format!(
                "on {}: is it `{}` there, and does it know `{}` as {}?",
                peer.name, peer.name, local.name, local.address
            ),
        )
    }
}
