// SPDX-License-Identifier: GPL-2.0

//! `carismactl check`: looks at this node as an experienced administrator would.

mod counters;
mod host;
mod listeners;
mod report;
mod settings;
mod trouble;

use crate::{
    incomplete,
    netlink::{Connection, Error},
    read,
    state::{Key, Node, Progress, Rule, Service, Stat},
    uapi::{self, command},
};
use host::Interface;
use listeners::Listener;
use report::Report;
use serde_json::json;
use std::{
    collections::BTreeSet,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    process::ExitCode,
};

/// What this machine is like.
struct Host {
    interfaces: Vec<Interface>,
    listeners: Vec<Listener>,
}

impl Host {
    fn has(&self, addr: IpAddr) -> bool {
        self.interfaces.iter().any(|it| it.addr == addr)
    }
}

/// Looks at everything, and prints the report.
pub fn run(as_json: bool) -> Result<ExitCode, Error> {
    let report = examine()?;
    let text = match as_json {
        true => format!("{}\n", json!(report.0)),
        false => report.text(),
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(report.status())
}

fn examine() -> Result<Report, Error> {
    let mut report = Report::default();
    let kernel = &mut match Connection::open() {
        Ok(kernel) => kernel,
        Err(Error::NotLoaded) => {
            report.error(
                "modules",
                "carisma_btcp is not loaded: nothing is handed off",
                "load carisma_btcp, then carisma_utcp, and configure the node",
            );
            return Ok(report);
        }
        Err(err) => return Err(err),
    };
    let host = Host {
        interfaces: host::interfaces()?,
        listeners: listeners::list()?,
    };
    let nodes: Vec<Node> = read(kernel, command::NODE_GET)?;
    let services: Vec<Service> = read(kernel, command::SERVICE_GET)?;
    let rules: Vec<Rule> = read(kernel, command::RULE_GET)?;
    let stats: Vec<Stat> = read(kernel, command::STATS_GET)?;
    let keys: Vec<Key> = read(kernel, command::KEY_GET)?;
    let drained = kernel.ask(command::DRAIN_GET, [])?;

    let complete = Path::new("/sys/module/carisma_utcp").exists();
    // In that mode BTCP does by itself whatever a front end does.
    let alone = !complete && !services.is_empty() && services.iter().all(is_always);
    modules(&mut report, kernel.version(), complete, alone);
    let progress = Progress::read(&drained).ok_or_else(|| incomplete(&drained))?;
    if progress.draining {
        report.warn(
            "drain",
            "this node is draining: it hands nothing off and takes nothing over",
            "carismactl resume",
        );
    }
    let local = this_node(&mut report, &nodes, &host);
    authenticated(&mut report, &keys);
    for service in &services {
        if is_elsewhere(service, &rules, local) {
            let at = SocketAddr::new(service.address, service.port);
            report.ok("service", format!("{at} is served by other nodes, always"));
        } else {
            check_service(&mut report, service, local, &host, complete);
        }
    }
    if !services.is_empty() && !services.iter().any(|it| host.has(it.address)) {
        report.warn(
            "service",
            "no interface has the address of any service: no client comes to this node",
            "ip address add VIP dev INTERFACE, unless this node is only to serve what others hand \
             to it",
        );
    }
    if services.is_empty() {
        report.warn(
            "services",
            "there is no service: this node only serves what others hand to it, and not even that",
            "carismactl service add VIP:PORT, also where no client connects to it",
        );
    }
    // Without UTCP there are no control connections.
    if let Some(local) = local.filter(|_| complete) {
        for peer in nodes.iter().filter(|node| !node.local) {
            check_peer(&mut report, local, peer);
        }
    }
    settings::settings(&mut report, &nodes, &host);
    // That is about services of IPv4.
    let v4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    if local.is_some_and(|node| !is_forwarded(node, v4, uapi::forward::NAT)) {
        settings::arp(&mut report, &services, &host);
    }
    counters::counters(&mut report, &stats);
    Ok(report)
}

fn is_always(service: &Service) -> bool {
    service.mode == uapi::mode::NAMES[usize::from(uapi::mode::ALWAYS)]
}

/// Whether this node hands over all requests for a service, and serves none: it needs no server.
fn is_elsewhere(service: &Service, rules: &[Rule], local: Option<&Node>) -> bool {
    let at = (service.address, service.port);
    let mut rules = rules.iter().filter(|it| (it.address, it.port) == at);
    is_always(service)
        && rules
            .clone()
            .any(|it| it.host.is_none() && it.path.is_none())
        && local.is_some_and(|local| rules.all(|it| !it.nodes.contains(&local.name)))
}

/// Whether all modules are there that this node needs, and speak as this program does. BTCP may be
/// `alone`.
fn modules(report: &mut Report, version: u32, complete: bool, alone: bool) {
    if version != u32::from(uapi::VERSION) {
        report.error(
            "modules",
            format!(
                "carisma_btcp speaks version {version} of its netlink family, carismactl version {}",
                uapi::VERSION
            ),
            "install carismactl and the modules from one version",
        );
    }
    // One that is loaded is of the same build: BTCP takes no other.
    match (complete, alone) {
        (true, _) => report.ok(
            "modules",
            "carisma_btcp and carisma_utcp are loaded, from one build",
        ),
        (false, true) => report.ok(
            "modules",
            "carisma_btcp is loaded, which always mode has enough of",
        ),
        (false, false) => report.error(
            "modules",
            "carisma_utcp is not loaded: nothing is handed off",
            "load carisma_utcp, from the build that carisma_btcp is of",
        ),
    }
}

/// Which node this is, if all is well with it: what else there is to be said would follow from that.
fn this_node<'a>(report: &mut Report, nodes: &'a [Node], host: &Host) -> Option<&'a Node> {
    let local = nodes.iter().find(|node| node.local);
    match local {
        None => report.error(
            "node",
            "no node is this one: there are no control connections",
            "carismactl node add NAME ADDR --local",
        ),
        Some(node) if !host.has(node.address) => report.error(
            "node",
            format!(
                "{} is this node, but no interface has its address {}",
                node.name, node.address
            ),
            "add the address to an interface, or the node anew with its right address",
        ),
        Some(node) => report.ok(
            "node",
            format!(
                "this is {}, its address {} is ours",
                node.name, node.address
            ),
        ),
    }
    local.filter(|node| host.has(node.address))
}

/// Whether the control connections are authenticated.
fn authenticated(report: &mut Report, keys: &[Key]) {
    match keys.iter().find(|key| key.signs) {
        Some(key) => report.ok(
            "key",
            format!(
                "control connections are authenticated, signed with key {}",
                key.id
            ),
        ),
        None => report.warn(
            "key",
            "control connections are not authenticated: whoever can send from a node's address \
             can take connections over",
            "carismactl key generate, and carismactl key set on all nodes",
        ),
    }
}

/// Whether a service's connections arrive, here and from other nodes, and can be withheld.
fn check_service(
    report: &mut Report,
    service: &Service,
    local: Option<&Node>,
    host: &Host,
    complete: bool,
) {
    let at = SocketAddr::new(service.address, service.port);
    let vip = host.has(at.ip()).then_some(at);
    let is = |way| local.is_some_and(|node| is_forwarded(node, at.ip(), way));
    let unchanged = is(uapi::forward::DIRECT) || is(uapi::forward::TUNNEL);
    if vip.is_none() && unchanged {
        report.warn(
            "service",
            format!("no interface has the address of {at}: what other nodes hand to this one is refused"),
            format!(
                "ip address add {} dev lo{}, unless no rule of it names this node",
                at.ip(),
                match at {
                    SocketAddr::V4(_) => ", with arp_ignore=1 and arp_announce=2",
                    // It is not told to neighbours, and nothing is to be sent from it.
                    SocketAddr::V6(_) => " preferred_lft 0",
                }
            ),
        );
    } else if vip.is_none() {
        // The configuration may be the same everywhere: others' services need no address here.
        report.ok(
            "service",
            format!("{at} is for clients of other nodes: its address is not ours"),
        );
    }
    // What is not changed comes to the address of the service, if that is there.
    let own = local.filter(|_| !(unchanged || is(uapi::forward::AUTO) && vip.is_some()));
    let own = own.map(|node| SocketAddr::new(node.address_for(at.ip()), service.port));
    let mut found = BTreeSet::new();
    for (at, who) in [(vip, "clients"), (own, "other nodes")] {
        let Some(at) = at else { continue };
        let here: Vec<_> = host.listeners.iter().filter(|it| it.takes(at)).collect();
        if here.is_empty() {
            report.error(
                "listener",
                format!("nobody listens at {at}, where connections of {who} arrive"),
                format!(
                    "let the server listen there, or at every address, port {}",
                    at.port()
                ),
            );
            continue;
        }
        let others: BTreeSet<_> = here.iter().filter_map(|it| it.why_not()).collect();
        if complete && !others.is_empty() {
            let others = others.into_iter().collect::<Vec<_>>().join(", ");
            if found.insert(others.clone()) {
                report.warn(
                    "listener",
                    format!("a listener at {at} is not attached: {others}"),
                    "its connections are served as if there were no CARISMA; let the server \
                     listen with plain TCP, without another upper layer protocol",
                );
            }
        } else {
            report.ok("listener", format!("{at} has a listener, for {who}"));
        }
    }
}

/// Whether the control connection to a node is up; if not, why.
fn check_peer(report: &mut Report, local: &Node, peer: &Node) {
    let at = SocketAddr::new(peer.address, peer.port);
    if peer.state == uapi::peer_state::NAMES[usize::from(uapi::peer_state::UP)] {
        report.ok("peer", format!("{} ({at}) is up", peer.name));
        return;
    }
    if let Some(why) = &peer.trouble {
        let (why, advice) = trouble::explained(local, peer, why);
        report.error("peer", format!("{} is down: {why}", peer.name), advice);
        return;
    }
    let (why, advice) = match host::reach(local.address, at) {
        Ok(()) => (
            format!("somebody listens at {at}, but does not take this node"),
            format!(
                "on {}: is it `{}` there, and does it know `{}` as {}?",
                peer.name, peer.name, local.name, local.address
            ),
        ),
        Err(err) if err.kind() == io::ErrorKind::ConnectionRefused => (
            format!("nobody listens at {at}"),
            format!("on {}: carismactl check", peer.name),
        ),
        Err(err) => (
            format!("{at} cannot be reached: {err}"),
            "look at the cable, the routes, and the packet filters of both nodes".to_owned(),
        ),
    };
    report.error("peer", format!("{} is down: {why}", peer.name), advice);
}

/// Whether a node gets what it serves for others in this way, of services of a family.
fn is_forwarded(node: &Node, family: IpAddr, way: u16) -> bool {
    node.forward_for(family) == uapi::forward::NAMES[usize::from(way)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use report::Level;

    #[test]
    fn versions_must_be_one() {
        for (version, complete, alone, level) in [
            (u32::from(uapi::VERSION), true, false, Level::Ok),
            (u32::from(uapi::VERSION), false, true, Level::Ok),
            (u32::from(uapi::VERSION), false, false, Level::Error),
            (99, true, false, Level::Error),
        ] {
            let mut report = Report::default();
            modules(&mut report, version, complete, alone);
            assert_eq!(report.0[0].level, level, "{:?}", report.0);
        }
    }
}
