// SPDX-License-Identifier: GPL-2.0

//! Counters that tell of trouble.

use super::report::Report;
use crate::state::Stat;

/// Counters that are above 0 only if something is wrong, with what to do.
const TROUBLE: &[(&str, &str)] = &[
    (
        "flows_refused_limit",
        "raise /sys/kernel/carisma/net/flows_max, or look for a flood of SYNs",
    ),
    ("flows_refused_memory", "give the machine more memory"),
    (
        "connections_passed_limit",
        "look for clients that connect and send nothing",
    ),
    ("connections_passed_memory", "give the machine more memory"),
    (
        "listeners_skipped_memory",
        "restart the server, with more memory",
    ),
    (
        "listeners_overridden",
        "look for another module that attaches to listeners",
    ),
    (
        "records_bad",
        "compare the versions of the modules on all nodes",
    ),
    (
        "records_unsent",
        "look whether control connections go down, or are slow",
    ),
    (
        "peers_malformed",
        "compare the versions of the modules on all nodes",
    ),
    (
        "peers_strange",
        "compare names and addresses in `carismactl node list` of all nodes",
    ),
    (
        "peers_version",
        "install the modules from one version on all nodes",
    ),
    (
        "peers_unauthenticated",
        "carismactl key set, on all nodes or on none",
    ),
    (
        "peers_unknown_key",
        "compare `carismactl key list` of all nodes",
    ),
    (
        "peers_unproven",
        "look whether all nodes have the same keys, and who else has a node's address",
    ),
    (
        "records_forged",
        "look who is between the nodes: only an attacker does that",
    ),
    (
        "records_replayed",
        "look who is between the nodes: only an attacker does that",
    ),
    (
        "records_reordered",
        "look who is between the nodes: only an attacker does that",
    ),
    (
        "records_oversized",
        "compare the versions of the modules on all nodes",
    ),
    (
        "handoffs_refused_route",
        "let no gateway be between this node and those that it forwards to directly, or add them with \
         another --forward",
    ),
    (
        "handoffs_rejected_address",
        "carismactl check on the nodes that requests are handed to: they lack the address of a \
         service",
    ),
    (
        "seeks_refused_limit",
        "look for clients that send segments of connections which nobody has",
    ),
    (
        "packets_dropped_tunnel",
        "look whether this node keeps up with what comes in",
    ),
    (
        "packets_dropped_unroutable",
        "look at the routes to the other nodes and to the clients",
    ),
];

/// Whether one of them does.
pub fn counters(report: &mut Report, stats: &[Stat]) {
    let before = report.0.len();
    for (name, advice) in TROUBLE {
        if let Some(stat) = stats.iter().find(|it| it.name == *name && it.value != 0) {
            report.warn(
                "counters",
                format!("{name} is {}: {}", stat.value, stat.meaning),
                *advice,
            );
        }
    }
    if report.0.len() == before {
        report.ok("counters", "none tells of trouble");
    }
}
