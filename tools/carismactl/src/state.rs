// SPDX-License-Identifier: GPL-2.0

//! What the kernel tells, as people and programs read it.

mod flow;

use crate::{
    netlink::Attrs,
    table::Row,
    uapi::{self, drain, key, node, rule, service, stat},
};
pub use flow::Flow;
use serde::Serialize;
use std::net::{IpAddr, SocketAddr};

/// Something that the kernel lists.
pub trait Entry: Row + Serialize + Sized {
    /// Reads it. `None` if something is missing that belongs to every such entry.
    fn read(attrs: &Attrs) -> Option<Self>;
}

/// What stands for a value that is not there.
fn or_any(value: Option<&String>) -> String {
    value.cloned().unwrap_or_else(|| "*".to_owned())
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[derive(Debug, PartialEq, Serialize)]
pub struct Service {
    pub address: IpAddr,
    pub port: u16,
    pub mode: String,
    /// What `auto` comes to at the moment.
    pub current: String,
    /// Of a hundred requests.
    pub remote: u64,
    pub migrate: String,
    pub rules: u64,
}

impl Entry for Service {
    fn read(attrs: &Attrs) -> Option<Self> {
        Some(Self {
            address: attrs.addr(service::ADDR)?,
            port: attrs.u16(service::PORT)?,
            mode: attrs.name_of(service::MODE, uapi::mode::NAMES)?,
            current: attrs.name_of(service::CURRENT, uapi::mode::NAMES)?,
            remote: attrs.uint(service::REMOTE).unwrap_or(0),
            migrate: attrs.name_of(service::MIGRATE, uapi::migrate::NAMES)?,
            rules: attrs.uint(service::RULES).unwrap_or(0),
        })
    }
}

impl Row for Service {
    const HEAD: &'static [&'static str] = &["SERVICE", "MODE", "REMOTE", "MIGRATE", ">RULES"];

    fn cells(&self) -> Vec<String> {
        vec![
            SocketAddr::new(self.address, self.port).to_string(),
            match self.mode == self.current {
                true => self.mode.clone(),
                false => format!("{} ({})", self.mode, self.current),
            },
            format!("{} %", self.remote),
            self.migrate.clone(),
            self.rules.to_string(),
        ]
    }
}

#[derive(Debug, PartialEq, Serialize)]
pub struct Node {
    pub name: String,
    pub address: IpAddr,
    pub port: u16,
    pub local: bool,
    /// How it is sent the segments of the connections that it serves.
    pub forward: String,
    /// Of the other family, if it has one.
    pub other_address: Option<IpAddr>,
    /// The same of services of the other family, if that is another way.
    pub other_forward: Option<String>,
    /// Of the control connection.
    pub state: String,
    /// Why there is none, if the node itself is there.
    pub trouble: Option<String>,
    pub epoch: Option<u64>,
    pub index: u64,
}

impl Entry for Node {
    fn read(attrs: &Attrs) -> Option<Self> {
        Some(Self {
            name: attrs.text(node::NAME)?,
            address: attrs.addr(node::ADDR)?,
            port: attrs.u16(node::PORT)?,
            local: attrs.flag(node::LOCAL),
            forward: attrs.name_of(node::FORWARD, uapi::forward::NAMES)?,
            other_address: attrs.addr(node::OTHER_ADDR),
            other_forward: attrs.name_of(node::OTHER_FORWARD, uapi::forward::NAMES),
            state: attrs.name_of(node::STATE, uapi::peer_state::NAMES)?,
            trouble: attrs.name_of(node::TROUBLE, uapi::peer_trouble::NAMES),
            epoch: attrs.uint(node::EPOCH),
            index: attrs.uint(node::INDEX)?,
        })
    }
}

/// What there is of one family, and of the other one.
fn both(one: String, other: Option<impl std::fmt::Display>) -> String {
    match other {
        Some(other) => format!("{one}, {other}"),
        None => one,
    }
}

impl Node {
    /// Where it is sent segments of services of a family.
    pub fn address_for(&self, family: IpAddr) -> IpAddr {
        let other = self.other_address;
        other
            .filter(|it| it.is_ipv4() == family.is_ipv4())
            .unwrap_or(self.address)
    }

    /// How it is sent these.
    pub fn forward_for(&self, family: IpAddr) -> &str {
        match &self.other_forward {
            Some(other) if family.is_ipv4() != self.address.is_ipv4() => other,
            _ => &self.forward,
        }
    }
}

impl Row for Node {
    const HEAD: &'static [&'static str] = &["NODE", "ADDRESS", "FORWARD", "STATE"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            both(
                SocketAddr::new(self.address, self.port).to_string(),
                self.other_address,
            ),
            both(self.forward.clone(), self.other_forward.as_ref()),
            match &self.trouble {
                Some(trouble) => format!("{} ({trouble})", self.state),
                None => self.state.clone(),
            },
        ]
    }
}

#[derive(Debug, PartialEq, Serialize)]
pub struct Rule {
    pub address: IpAddr,
    pub port: u16,
    /// Any, if there is none.
    pub host: Option<String>,
    /// Any, if there is none.
    pub path: Option<String>,
    /// Who serves the requests.
    pub nodes: Vec<String>,
    /// What is done when none of them can.
    pub otherwise: String,
    /// In which order they are asked.
    pub pick: String,
    /// The cookie whose value says which of them is asked first.
    pub cookie: Option<String>,
}

impl Entry for Rule {
    fn read(attrs: &Attrs) -> Option<Self> {
        Some(Self {
            address: attrs.addr(rule::ADDR)?,
            port: attrs.u16(rule::PORT)?,
            host: attrs.text(rule::HOST),
            path: attrs.text(rule::PATH),
            nodes: attrs.texts(rule::NODE),
            otherwise: attrs.name_of(rule::OTHERWISE, uapi::otherwise::NAMES)?,
            pick: attrs.name_of(rule::PICK, uapi::pick::NAMES)?,
            cookie: attrs.text(rule::COOKIE),
        })
    }
}

impl Row for Rule {
    const HEAD: &'static [&'static str] = &[
        "SERVICE",
        "HOST",
        "PATH",
        "NODES",
        "PICK",
        "COOKIE",
        "OTHERWISE",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            SocketAddr::new(self.address, self.port).to_string(),
            or_any(self.host.as_ref()),
            or_any(self.path.as_ref()),
            self.nodes.join(" "),
            self.pick.clone(),
            self.cookie.clone().unwrap_or_else(|| "-".to_owned()),
            self.otherwise.clone(),
        ]
    }
}

/// A cluster key, of which nobody is told more.
#[derive(Debug, PartialEq, Serialize)]
pub struct Key {
    pub id: u64,
    /// This node signs with it.
    pub signs: bool,
}

impl Entry for Key {
    fn read(attrs: &Attrs) -> Option<Self> {
        Some(Self {
            id: attrs.uint(key::ID)?,
            signs: attrs.flag(key::SIGNS),
        })
    }
}

impl Row for Key {
    const HEAD: &'static [&'static str] = &[">KEY", "USE"];

    fn cells(&self) -> Vec<String> {
        let used = if self.signs { "sign, verify" } else { "verify" };
        vec![self.id.to_string(), used.to_owned()]
    }
}

#[derive(Debug, PartialEq, Serialize)]
pub struct Stat {
    pub name: String,
    pub value: u64,
    pub gauge: bool,
    /// In one line of English.
    pub meaning: String,
}

impl Entry for Stat {
    fn read(attrs: &Attrs) -> Option<Self> {
        Some(Self {
            name: attrs.text(stat::NAME)?,
            value: attrs.uint(stat::VALUE)?,
            gauge: attrs.flag(stat::GAUGE),
            meaning: attrs.text(stat::MEANING)?,
        })
    }
}

impl Row for Stat {
    const HEAD: &'static [&'static str] = &["NAME", ">VALUE"];

    fn cells(&self) -> Vec<String> {
        vec![self.name.clone(), self.value.to_string()]
    }
}

/// The same, with its meaning.
pub struct Explained(pub Stat);

impl Row for Explained {
    const HEAD: &'static [&'static str] = &["NAME", ">VALUE", "MEANING"];

    fn cells(&self) -> Vec<String> {
        let mut cells = self.0.cells();
        cells.push(self.0.meaning.clone());
        cells
    }
}

/// How far a drain is.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Progress {
    pub draining: bool,
    /// Connections that other nodes serve for this one.
    pub handed_off_out: u64,
    /// Connections that this node serves for others.
    pub handed_off_in: u64,
}

impl Progress {
    pub fn read(attrs: &Attrs) -> Option<Self> {
        Some(Self {
            draining: attrs.flag(drain::DRAINING),
            handed_off_out: attrs.uint(drain::HANDED_OFF_OUT)?,
            handed_off_in: attrs.uint(drain::HANDED_OFF_IN)?,
        })
    }

    /// Whether no handed-off connection is left.
    pub fn is_done(&self) -> bool {
        self.handed_off_out == 0 && self.handed_off_in == 0
    }

    pub fn text(&self) -> String {
        format!(
            "{} handed off to other nodes, {} from other nodes",
            self.handed_off_out, self.handed_off_in
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Attr;
    use serde_json::json;

    fn addr(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn services_are_read() {
        let attrs = [
            Attr::addr(service::ADDR, addr("10.0.0.100")),
            Attr::u16(service::PORT, 80),
            Attr::u32(service::RULES, 2),
            Attr::u32(service::MIGRATE, 0),
            Attr::u32(service::CURRENT, 1),
            Attr::u32(service::REMOTE, 63),
        ];
        let read = |mode: u32| {
            let mode = Attr::u32(service::MODE, mode);
            Service::read(&attrs.iter().cloned().chain([mode]).collect()).unwrap()
        };
        assert_eq!(
            read(3).cells(),
            ["10.0.0.100:80", "auto (frequent)", "63 %", "adopt", "2"]
        );
        assert_eq!(read(1).cells()[1], "frequent");
        assert_eq!(
            serde_json::to_value(read(3)).unwrap(),
            json!({
                "address": "10.0.0.100", "port": 80, "mode": "auto", "current": "frequent",
                "remote": 63, "migrate": "adopt", "rules": 2
            })
        );
    }

    #[test]
    fn what_is_incomplete_is_not_read() {
        let attrs: Attrs = [Attr::u16(service::PORT, 80)].into_iter().collect();
        assert_eq!(Service::read(&attrs), None);
        assert_eq!(Node::read(&attrs), None);
        assert_eq!(Rule::read(&attrs), None);
        assert_eq!(Key::read(&Attrs::default()), None);
        assert_eq!(Flow::read(&attrs), None);
        assert_eq!(Stat::read(&attrs), None);
        assert_eq!(Progress::read(&attrs), None);
    }

    #[test]
    fn nodes_say_what_the_trouble_is() {
        let node = |more: &[Attr]| {
            let attrs: Attrs = [
                Attr::text(node::NAME, "fr"),
                Attr::addr(node::ADDR, addr("10.0.0.2")),
                Attr::u16(node::PORT, 7480),
                Attr::u32(node::STATE, uapi::peer_state::DOWN.into()),
                Attr::u32(node::INDEX, 1),
                Attr::u32(node::FORWARD, uapi::forward::DIRECT.into()),
            ]
            .into_iter()
            .chain(more.iter().cloned())
            .collect();
            Node::read(&attrs).unwrap()
        };
        let why = Attr::u32(node::TROUBLE, uapi::peer_trouble::UNKNOWN_KEY.into());
        assert_eq!(node(&[]).cells(), ["fr", "10.0.0.2:7480", "direct", "down"]);
        assert_eq!(node(&[why]).cells()[3], "down (unknown-key)");

        let both = node(&[
            Attr::addr(node::OTHER_ADDR, addr("fd00::2")),
            Attr::u32(node::OTHER_FORWARD, uapi::forward::NAT.into()),
        ]);
        assert_eq!(
            both.cells()[1..3],
            ["10.0.0.2:7480, fd00::2", "direct, nat"]
        );
        assert_eq!(both.forward_for(addr("fd00::11")), "nat");
        assert_eq!(both.forward_for(addr("10.0.0.11")), "direct");
        assert_eq!(both.address_for(addr("fd00::11")), addr("fd00::2"));
        assert_eq!(both.address_for(addr("10.0.0.11")), addr("10.0.0.2"));
    }

    #[test]
    fn rules_for_any_host_say_so() {
        let attrs: Attrs = [
            Attr::addr(rule::ADDR, addr("10.0.0.100")),
            Attr::u16(rule::PORT, 80),
            Attr::text(rule::PATH, "/fr/"),
            Attr::text(rule::NODE, "fr"),
            Attr::text(rule::NODE, "de"),
            Attr::u32(rule::OTHERWISE, 1),
            Attr::u32(rule::PICK, 1),
        ]
        .into_iter()
        .collect();
        let rule = Rule::read(&attrs).unwrap();
        assert_eq!(
            rule.cells(),
            [
                "10.0.0.100:80",
                "*",
                "/fr/",
                "fr de",
                "hash",
                "-",
                "unavailable"
            ]
        );
        let rule = serde_json::to_value(rule).unwrap();
        assert_eq!(rule["host"], json!(null));
        assert_eq!(rule["nodes"], json!(["fr", "de"]));
        assert_eq!(rule["cookie"], json!(null));
    }

    #[test]
    fn a_drain_is_done_when_nothing_is_left() {
        let progress = |out, back| Progress {
            draining: true,
            handed_off_out: out,
            handed_off_in: back,
        };
        assert!(progress(0, 0).is_done());
        assert!(!progress(1, 0).is_done());
        assert!(!progress(0, 1).is_done());
    }
}
