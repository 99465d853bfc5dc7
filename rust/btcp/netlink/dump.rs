// SPDX-License-Identifier: GPL-2.0

//! Putting state into messages.

use super::{
    state,
    values::FORWARDINGS,
    FAMILY, //
};
use crate::{
    counters::Stat,
    flow::{
        Flow,
        FlowInfo, //
    },
    node::{
        name_text,
        Forwarding, //
    },
    service::{
        Migrate,
        Mode,
        Otherwise,
        Pick, //
    },
    snapshot::Snapshot,
    uapi::*, //
};
use carisma_net::{
    genl::{
        Dump,
        DumpState,
        Message, //
    },
    pernet::Net,
    table::Walk, //
};
use kernel::{
    prelude::*,
    sync::rcu, //
};

/// Adds an entry for each item, from where the dump is.
fn dump_each<T>(
    dump: &mut Dump<'_>,
    command: u32,
    items: impl Iterator<Item = T>,
    fill: impl Fn(&mut Message<'_>, &T) -> Result,
) -> Result {
    let [done, ..] = *dump.cursor();
    for item in items.skip(usize::try_from(done).unwrap_or(usize::MAX)) {
        dump.entry(&FAMILY, command, |message| fill(message, &item))?;
        let [done, ..] = dump.cursor();
        *done = done.wrapping_add(1);
    }
    Ok(())
}

/// Puts an address, IPv4 as 4 bytes.
fn put_addr(message: &mut Message<'_>, number: u32, addr: &[u8; 16]) -> Result {
    match addr {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, ipv4 @ ..] => message.put(number, ipv4),
        _ => message.put(number, addr),
    }
}

/// The number of a way to forward.
fn forwarding_number(forwarding: Forwarding) -> u32 {
    let mut known = FORWARDINGS.into_iter();
    known.find(|(it, _)| *it == forwarding).map_or(0, |it| it.1)
}

pub(super) fn service_get(dump: &mut Dump<'_>) -> Result {
    let state = state(dump.net())?;
    let rcu = rcu::read_lock();
    let snapshot = state.config.snapshot(&rcu);
    dump.set_generation(snapshot.generation);
    dump_each(
        dump,
        CARISMA_CMD_SERVICE_GET,
        snapshot.services(),
        |message, service| {
            put_addr(message, CARISMA_A_SERVICE_ADDR, &service.at.addr)?;
            message.put_u16(CARISMA_A_SERVICE_PORT, service.at.port)?;
            let number = |mode| match mode {
                Mode::Rare => carisma_mode_CARISMA_MODE_RARE,
                Mode::Frequent => carisma_mode_CARISMA_MODE_FREQUENT,
                Mode::Always => carisma_mode_CARISMA_MODE_ALWAYS,
                Mode::Auto => carisma_mode_CARISMA_MODE_AUTO,
            };
            message.put_u32(CARISMA_A_SERVICE_MODE, number(service.mode))?;
            message.put_u32(CARISMA_A_SERVICE_CURRENT, number(service.current()))?;
            message.put_u32(CARISMA_A_SERVICE_REMOTE, service.share().percent())?;
            let migrate = match service.migrate {
                Migrate::Adopt => carisma_migrate_CARISMA_MIGRATE_ADOPT,
                Migrate::Replay => carisma_migrate_CARISMA_MIGRATE_REPLAY,
            };
            message.put_u32(CARISMA_A_SERVICE_MIGRATE, migrate)?;
            // CAST: The number of rules is limited.
            message.put_u32(CARISMA_A_SERVICE_RULES, service.rules.len() as u32)
        },
    )
}

pub(super) fn node_get(dump: &mut Dump<'_>) -> Result {
    let state = state(dump.net())?;
    let rcu = rcu::read_lock();
    let snapshot = state.config.snapshot(&rcu);
    dump.set_generation(snapshot.generation);
    dump_each(
        dump,
        CARISMA_CMD_NODE_GET,
        snapshot.nodes(),
        |message, node| {
            message.put_u32(CARISMA_A_NODE_INDEX, node.index)?;
            message.put_text(CARISMA_A_NODE_NAME, name_text(&node.name))?;
            put_addr(message, CARISMA_A_NODE_ADDR, &node.at.addr)?;
            message.put_u16(CARISMA_A_NODE_PORT, node.at.port)?;
            message.put_flag(CARISMA_A_NODE_LOCAL, node.local)?;
            let (same, other) = (node.reach(&node.at.addr), node.reach_other());
            message.put_u32(CARISMA_A_NODE_FORWARD, forwarding_number(same.forwarding))?;
            if other.forwarding != same.forwarding {
                let number = forwarding_number(other.forwarding);
                message.put_u32(CARISMA_A_NODE_OTHER_FORWARD, number)?;
            }
            if other.addr != same.addr {
                put_addr(message, CARISMA_A_NODE_OTHER_ADDR, &other.addr)?;
            }
            if node.local {
                return message.put_u32(
                    CARISMA_A_NODE_STATE,
                    carisma_peer_state_CARISMA_PEER_STATE_SELF,
                );
            }
            if !node.is_up() {
                message.put_u32(
                    CARISMA_A_NODE_STATE,
                    carisma_peer_state_CARISMA_PEER_STATE_DOWN,
                )?;
                return match node.trouble() {
                    // CAST: The number of a variant.
                    Some(it) => message.put_u32(CARISMA_A_NODE_TROUBLE, u32::from(it as u8)),
                    None => Ok(()),
                };
            }
            message.put_u32(
                CARISMA_A_NODE_STATE,
                carisma_peer_state_CARISMA_PEER_STATE_UP,
            )?;
            message.put_uint(CARISMA_A_NODE_EPOCH, node.epoch())
        },
    )
}

pub(super) fn rule_get(dump: &mut Dump<'_>) -> Result {
    let state = state(dump.net())?;
    let rcu = rcu::read_lock();
    let snapshot = state.config.snapshot(&rcu);
    dump.set_generation(snapshot.generation);
    let rules = snapshot
        .services()
        .flat_map(|service| service.rules.iter().map(move |rule| (service, rule)));
    dump_each(
        dump,
        CARISMA_CMD_RULE_GET,
        rules,
        |message, (service, rule)| {
            put_addr(message, CARISMA_A_RULE_ADDR, &service.at.addr)?;
            message.put_u16(CARISMA_A_RULE_PORT, service.at.port)?;
            if !rule.host.is_empty() {
                message.put_text(CARISMA_A_RULE_HOST, &rule.host)?;
            }
            if !rule.path.is_empty() {
                message.put_text(CARISMA_A_RULE_PATH, &rule.path)?;
            }
            // A node that a rule names cannot be deleted.
            for node in rule.target.nodes().filter_map(|node| snapshot.node(node)) {
                message.put_text(CARISMA_A_RULE_NODE, name_text(&node.name))?;
            }
            let otherwise = match rule.target.otherwise() {
                Otherwise::Local => carisma_otherwise_CARISMA_OTHERWISE_LOCAL,
                Otherwise::Unavailable => carisma_otherwise_CARISMA_OTHERWISE_UNAVAILABLE,
            };
            message.put_u32(CARISMA_A_RULE_OTHERWISE, otherwise)?;
            let pick = match rule.pick {
                Pick::Order => carisma_pick_CARISMA_PICK_ORDER,
                Pick::Hash => carisma_pick_CARISMA_PICK_HASH,
            };
            message.put_u32(CARISMA_A_RULE_PICK, pick)?;
            match rule.cookie.is_empty() {
                true => Ok(()),
                false => message.put_text(CARISMA_A_RULE_COOKIE, &rule.cookie),
            }
        },
    )
}

/// The numbers of the keys: few enough for one buffer.
pub(super) fn key_get(dump: &mut Dump<'_>) -> Result {
    let [done, ..] = *dump.cursor();
    if done != 0 {
        return Ok(());
    }
    state(dump.net())?.keys().for_each(|id, signs| {
        dump.entry(&FAMILY, CARISMA_CMD_KEY_GET, |message| {
            message.put_u32(CARISMA_A_KEY_ID, id.into())?;
            message.put_flag(CARISMA_A_KEY_SIGNS, signs)
        })
    })?;
    let [done, ..] = dump.cursor();
    *done = 1;
    Ok(())
}

/// The list of the connections.
pub(super) struct Flows;

impl DumpState for Flows {
    type Of<'a> = Walk<'a, Flow>;

    fn begin(net: &Net) -> Result<Self::Of<'_>> {
        state(net)?.flows.walk()
    }

    fn fill(walk: &mut Self::Of<'_>, dump: &mut Dump<'_>) -> Result {
        let state = state(dump.net())?;
        let rcu = rcu::read_lock();
        let snapshot = state.config.snapshot(&rcu);
        walk.go_on(|flow| match FlowInfo::of(flow) {
            Some(flow) => dump.entry(&FAMILY, CARISMA_CMD_FLOW_GET, |message| {
                put_flow(message, &flow, snapshot)
            }),
            None => Ok(()),
        })
    }
}

/// Puts a connection.
fn put_flow(message: &mut Message<'_>, flow: &FlowInfo, snapshot: &Snapshot) -> Result {
    message.put_u32(CARISMA_A_FLOW_ROLE, flow.role)?;
    message.put_u32(CARISMA_A_FLOW_STATE, flow.state)?;
    put_addr(message, CARISMA_A_FLOW_CLIENT, &flow.client.addr)?;
    message.put_u16(CARISMA_A_FLOW_CLIENT_PORT, flow.client.port)?;
    put_addr(message, CARISMA_A_FLOW_LOCAL, &flow.local.addr)?;
    message.put_u16(CARISMA_A_FLOW_LOCAL_PORT, flow.local.port)?;
    if let Some(node) = snapshot.node(flow.node) {
        message.put_text(CARISMA_A_FLOW_NODE, name_text(&node.name))?;
    }
    message.put_uint(CARISMA_A_FLOW_PACKETS, flow.packets)?;
    put_addr(message, CARISMA_A_FLOW_VIP, &flow.vip.addr)?;
    message.put_u16(CARISMA_A_FLOW_VIP_PORT, flow.vip.port)?;
    if flow.id != 0 {
        message.put_uint(CARISMA_A_FLOW_ID, flow.id)?;
    }
    if let Some(migration) = flow.migration {
        message.put_u32(CARISMA_A_FLOW_MIGRATION, migration)?;
    }
    message.put_uint(CARISMA_A_FLOW_AGE_MS, flow.age_ms)
}

pub(super) fn stats_get(dump: &mut Dump<'_>) -> Result {
    let state = state(dump.net())?;
    dump_each(
        dump,
        CARISMA_CMD_STATS_GET,
        Stat::all(),
        |message, &stat| {
            message.put_text(CARISMA_A_STAT_NAME, stat.name().to_bytes())?;
            message.put_uint(CARISMA_A_STAT_VALUE, state.value(stat))?;
            message.put_flag(CARISMA_A_STAT_GAUGE, matches!(stat, Stat::Gauge(_)))?;
            message.put_text(CARISMA_A_STAT_MEANING, stat.meaning().as_bytes())
        },
    )
}
