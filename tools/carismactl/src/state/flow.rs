// SPDX-License-Identifier: GPL-2.0

//! Connections, and which of them somebody asked for.

use super::{or_dash, Entry};
use crate::{
    cli,
    netlink::Attrs,
    table::Row,
    uapi::{self, flow},
};
use serde::Serialize;
use std::net::SocketAddr;

#[derive(Debug, PartialEq, Serialize)]
pub struct Flow {
    pub role: String,
    pub state: String,
    pub client: SocketAddr,
    pub local: SocketAddr,
    /// What the client connected to.
    pub vip: SocketAddr,
    /// At the other end of the handoff.
    pub node: Option<String>,
    /// The front end's number of the handoff.
    pub id: Option<u64>,
    /// How it entered TCP, at the back end.
    pub migration: Option<String>,
    pub age_ms: u64,
    pub packets: u64,
}

impl Entry for Flow {
    fn read(attrs: &Attrs) -> Option<Self> {
        let end = |addr, port| Some(SocketAddr::new(attrs.addr(addr)?, attrs.u16(port)?));
        Some(Self {
            role: attrs.name_of(flow::ROLE, uapi::role::NAMES)?,
            state: attrs.name_of(flow::STATE, uapi::flow_state::NAMES)?,
            client: end(flow::CLIENT, flow::CLIENT_PORT)?,
            local: end(flow::LOCAL, flow::LOCAL_PORT)?,
            vip: end(flow::VIP, flow::VIP_PORT)?,
            node: attrs.text(flow::NODE),
            id: attrs.uint(flow::ID),
            migration: attrs.name_of(flow::MIGRATION, uapi::migration::NAMES),
            age_ms: attrs.uint(flow::AGE_MS)?,
            packets: attrs.uint(flow::PACKETS).unwrap_or(0),
        })
    }
}

impl Row for Flow {
    const HEAD: &'static [&'static str] = &[
        "CLIENT",
        "VIP",
        "ROLE",
        "STATE",
        "NODE",
        "MIGRATION",
        ">AGE",
        ">PACKETS",
        ">HANDOFF",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.client.to_string(),
            self.vip.to_string(),
            self.role.clone(),
            self.state.clone(),
            or_dash(self.node.as_ref()),
            or_dash(self.migration.as_ref()),
            age(self.age_ms),
            self.packets.to_string(),
            or_dash(self.id),
        ]
    }
}

/// A duration as people read it.
fn age(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{seconds}.{}s", ms % 1000 / 100),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

impl Flow {
    /// Whether somebody asked for it.
    pub fn is_wanted(&self, wanted: &cli::Flows) -> bool {
        let of = |client: &cli::Client| {
            client.addr == self.client.ip()
                && client.port.is_none_or(|port| port == self.client.port())
        };
        let any = |list: &[String], it: Option<&String>| {
            list.is_empty() || it.is_some_and(|it| list.contains(it))
        };
        any(&wanted.state, Some(&self.state))
            && any(&wanted.node, self.node.as_ref())
            && (wanted.client.is_empty() || wanted.client.iter().any(of))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Attr;
    use std::net::IpAddr;

    fn addr(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn flows_without_a_node_are_read() {
        let attrs: Attrs = [
            Attr::u32(flow::ROLE, 0),
            Attr::u32(flow::STATE, 1),
            Attr::addr(flow::CLIENT, addr("10.0.0.9")),
            Attr::u16(flow::CLIENT_PORT, 40_000),
            Attr::addr(flow::LOCAL, addr("10.0.0.100")),
            Attr::u16(flow::LOCAL_PORT, 80),
            Attr::addr(flow::VIP, addr("10.0.0.100")),
            Attr::u16(flow::VIP_PORT, 80),
            Attr::u32(flow::AGE_MS, 1250),
        ]
        .into_iter()
        .collect();
        assert_eq!(
            Flow::read(&attrs).unwrap().cells(),
            [
                "10.0.0.9:40000",
                "10.0.0.100:80",
                "front-end",
                "head",
                "-",
                "-",
                "1.2s",
                "0",
                "-"
            ]
        );
    }

    #[test]
    fn ages_are_short() {
        let ages = [0, 59_999, 60_000, 3_599_999, 3_600_000, 90_060_000].map(age);
        assert_eq!(
            ages,
            ["0.0s", "59.9s", "1m00s", "59m59s", "1h00m", "25h01m"]
        );
    }

    #[test]
    fn filters_all_must_fit() {
        let flow = Flow {
            role: "front-end".to_owned(),
            state: "handed-off".to_owned(),
            client: "10.0.0.9:40000".parse().unwrap(),
            local: "10.0.0.100:80".parse().unwrap(),
            vip: "10.0.0.100:80".parse().unwrap(),
            node: Some("fr".to_owned()),
            id: Some(7),
            migration: None,
            age_ms: 0,
            packets: 0,
        };
        let text = |it: &[&str]| it.iter().map(|&it| it.to_owned()).collect::<Vec<_>>();
        let wanted = |state: &[&str], node: &[&str], port: Option<u16>| {
            flow.is_wanted(&cli::Flows {
                state: text(state),
                node: text(node),
                client: vec![cli::Client {
                    addr: addr("10.0.0.9"),
                    port,
                }],
            })
        };
        assert!(flow.is_wanted(&cli::Flows::default()));
        assert!(wanted(&["head", "handed-off"], &["fr"], None));
        assert!(wanted(&[], &[], Some(40_000)));
        assert!(!wanted(&[], &[], Some(40_001)));
        assert!(!wanted(&["head"], &["fr"], None));
        assert!(!wanted(&["handed-off"], &["de"], None));
    }
}
