// SPDX-License-Identifier: GPL-2.0

//! Settings of the kernel that do harm.

use super::{
    host::{self, Interface},
    report::Report,
    Host,
};
use crate::state::{Node, Service};
use std::collections::BTreeSet;

/// Whether one of them does.
pub fn settings(report: &mut Report, nodes: &[Node], host: &Host) {
    let before = report.0.len();
    let names: BTreeSet<_> = host.interfaces.iter().map(|it| it.name.as_str()).collect();
    let strict: Vec<_> = names
        .iter()
        .filter(|name| **name != "lo" && host::setting(name, "rp_filter") == 1)
        .map(|name| (*name).to_owned())
        .collect();
    if !strict.is_empty() {
        let strict = strict.join(", ");
        report.warn(
            "rp_filter",
            format!(
                "the reverse path filter is strict at {strict}: what other nodes forward of \
                 clients to whom the route is another one is dropped"
            ),
            "sysctl net.ipv4.conf.all.rp_filter=2",
        );
    }
    let largest = (host.interfaces.iter())
        .filter(|it| it.name != "lo")
        .max_by_key(|it| it.mtu);
    for peer in nodes.iter().filter(|node| !node.local) {
        let Some(way) = host::way_to(peer.address)
            .and_then(|addr| host.interfaces.iter().find(|it| it.addr == addr))
        else {
            continue;
        };
        if let Some(from) = largest.filter(|from| way.name != "lo" && from.mtu > way.mtu) {
            report.warn(
                "mtu",
                format!(
                    "the way to {} is {} with an MTU of {}, but {} has one of {}: large segments \
                     of clients that come by it cannot be forwarded",
                    peer.name, way.name, way.mtu, from.name, from.mtu
                ),
                "let all interfaces have one MTU, or set advmss on the routes to the clients",
            );
        }
    }
    if !host::adopts() {
        report.warn(
            "syncookies",
            "net.ipv4.tcp_syncookies is 0: TCP adopts no connection, so that each that is handed to \
             this node is replayed and translated, and frequent services are as rare ones",
            "sysctl net.ipv4.tcp_syncookies=1",
        );
    }
    if report.0.len() == before {
        report.ok(
            "settings",
            "reverse path filter, MTU and SYN cookies do no harm",
        );
    }
}

/// Whether this node keeps to itself that it has the addresses of services whose clients are others'.
/// With IPv6 it does: who is asked answers for the addresses of that interface alone.
pub fn arp(report: &mut Report, services: &[Service], host: &Host) {
    let before = report.0.len();
    let hidden = |it: &&Interface| {
        !it.arp && it.addr.is_ipv4() && services.iter().any(|to| to.address == it.addr)
    };
    let Some(vip) = host.interfaces.iter().find(hidden) else {
        return;
    };
    let names = host
        .interfaces
        .iter()
        .filter(|it| it.arp && it.addr.is_ipv4());
    for name in names.map(|it| it.name.as_str()).collect::<BTreeSet<_>>() {
        // Documentation/networking/ip-sysctl.rst says what the numbers mean.
        for (what, good, advised, harm) in [
            (
                "arp_ignore",
                [1, 2, 8].as_slice(),
                1,
                "answers requests for",
            ),
            ("arp_announce", [2].as_slice(), 2, "asks in the name of"),
        ] {
            let value = host::setting(name, what);
            if !good.contains(&value) {
                report.warn(
                    "arp",
                    format!(
                        "{what} is {value} at {name}: ARP there {harm} {}, which is on {}, so that \
                         clients of other nodes may come here",
                        vip.addr, vip.name
                    ),
                    format!("sysctl net.ipv4.conf.all.{what}={advised}"),
                );
            }
        }
    }
    if report.0.len() == before {
        report.ok("arp", format!("{} is not told to neighbours", vip.addr));
    }
}
