// SPDX-License-Identifier: GPL-2.0

//! `carismactl check`: looks at this node as an experienced administrator would.

mod host;
mod listeners;
mod trouble;

use crate::{
    incomplete,
    netlink::{Connection, Error},
    read,
    state::{Key, Node, Progress, Service, Stat},
    uapi::{self, command},
};
use host::Interface;
use listeners::Listener;
use serde::Serialize;
use serde_json::json;
use std::{
    collections::BTreeSet,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    process::ExitCode,
};

/// The exit status when there are warnings only.
const EXIT_WARNINGS: u8 = 4;

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

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warning,
    Error,
}

/// A line of the report.
#[derive(Debug, PartialEq, Serialize)]
struct Finding {
    /// What was looked at.
    check: &'static str,
    level: Level,
    text: String,
    /// What to do.
    advice: Option<String>,
}

/// What was found.
#[derive(Default)]
struct Report(Vec<Finding>);

impl Report {
    fn ok(&mut self, check: &'static str, text: impl Into<String>) {
        self.add(check, Level::Ok, text.into(), None);
    }

    fn warn(&mut self, check: &'static str, text: impl Into<String>, advice: impl Into<String>) {
        self.add(check, Level::Warning, text.into(), Some(advice.into()));
    }

    fn error(&mut self, check: &'static str, text: impl Into<String>, advice: impl Into<String>) {
        self.add(check, Level::Error, text.into(), Some(advice.into()));
    }

    fn add(&mut self, check: &'static str, level: Level, text: String, advice: Option<String>) {
        self.0.push(Finding {
            check,
            level,
            text,
            advice,
        });
    }

    fn has(&self, level: Level) -> bool {
        self.0.iter().any(|finding| finding.level == level)
    }

    fn status(&self) -> ExitCode {
        if self.has(Level::Error) {
            ExitCode::FAILURE
        } else if self.has(Level::Warning) {
            ExitCode::from(EXIT_WARNINGS)
        } else {
            ExitCode::SUCCESS
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for finding in &self.0 {
            let level = match finding.level {
                Level::Ok => "ok",
                Level::Warning => "warning",
                Level::Error => "error",
            };
            text += &format!("{level:<8} {}: {}\n", finding.check, finding.text);
            if let Some(advice) = &finding.advice {
                text += &format!("{:<8} -> {advice}\n", "");
            }
        }
        text
    }
}

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
    let stats: Vec<Stat> = read(kernel, command::STATS_GET)?;
    let keys: Vec<Key> = read(kernel, command::KEY_GET)?;
    let drained = kernel.ask(command::DRAIN_GET, [])?;

    let complete = Path::new("/sys/module/carisma_utcp").exists();
    modules(&mut report, kernel.version(), complete);
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
        check_service(&mut report, service, local, &host, complete);
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
    if let Some(local) = local {
        for peer in nodes.iter().filter(|node| !node.local) {
            check_peer(&mut report, local, peer);
        }
    }
    settings(&mut report, &nodes, &host);
    // That is about services of IPv4.
    let v4 = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    if local.is_some_and(|node| !is_forwarded(node, v4, uapi::forward::NAT)) {
        arp(&mut report, &services, &host);
    }
    counters(&mut report, &stats);
    Ok(report)
}

/// Whether both modules are there, and speak as this program does.
fn modules(report: &mut Report, version: u32, complete: bool) {
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
    match complete {
        true => report.ok(
            "modules",
            "carisma_btcp and carisma_utcp are loaded, from one build",
        ),
        false => report.error(
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

/// Settings of the kernel that do harm.
fn settings(report: &mut Report, nodes: &[Node], host: &Host) {
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

/// Whether a node gets what it serves for others in this way, of services of a family.
fn is_forwarded(node: &Node, family: IpAddr, way: u16) -> bool {
    node.forward_for(family) == uapi::forward::NAMES[usize::from(way)]
}

/// Whether this node keeps to itself that it has the addresses of services whose clients are others'.
/// With IPv6 it does: who is asked answers for the addresses of that interface alone.
fn arp(report: &mut Report, services: &[Service], host: &Host) {
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

/// Counters that tell of trouble.
fn counters(report: &mut Report, stats: &[Stat]) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_must_be_one() {
        for (version, complete, level) in [
            (u32::from(uapi::VERSION), true, Level::Ok),
            (u32::from(uapi::VERSION), false, Level::Error),
            (99, true, Level::Error),
        ] {
            let mut report = Report::default();
            modules(&mut report, version, complete);
            assert_eq!(report.0[0].level, level, "{:?}", report.0);
        }
    }

    #[test]
    fn the_worst_is_the_status() {
        let mut report = Report::default();
        report.ok("a", "fine");
        assert_eq!(report.status(), ExitCode::SUCCESS);
        report.warn("b", "hm", "do");
        assert_eq!(report.status(), ExitCode::from(EXIT_WARNINGS));
        report.error("c", "bad", "help");
        report.ok("d", "fine");
        assert_eq!(report.status(), ExitCode::FAILURE);
        assert_eq!(
            report.text(),
            "ok       a: fine\n\
             warning  b: hm\n         -> do\n\
             error    c: bad\n         -> help\n\
             ok       d: fine\n"
        );
        assert_eq!(
            json!(report.0)[1],
            json!({"check": "b", "level": "warning", "text": "hm", "advice": "do"})
        );
    }
}
