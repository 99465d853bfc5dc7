// SPDX-License-Identifier: GPL-2.0

//! Reading the values of requests.
//!
//! The family's policies check the types of attributes only; their values are checked here, so that
//! the text of a refusal can say what is allowed.

use crate::{
    node::{
        Forwarding,
        Name,
        Reach, //
    },
    service::{
        Migrate,
        Mode,
        Otherwise,
        Pick,
        CANDIDATES_MAX, //
    },
    snapshot::Endpoint,
    uapi::*, //
};
use carisma_core::{
    http, rule,
    tuple::{
        self,
        v4_of,
        Addr, //
    },
};
use carisma_net::genl::{
    At,
    Attr,
    Refusal,
    Request, //
};
use kernel::{
    prelude::*,
    str::CStr, //
};

const ADDR: &CStr =
    c"addr: must be a unicast address, 4 bytes for IPv4 or 16 for IPv6, and not link-local";
const PORT: &CStr = c"port: must be 1 to 65535";
const MODE: &CStr = c"mode: must be 0 (rare), 1 (frequent), 2 (always) or 3 (auto)";
const MIGRATE: &CStr = c"migrate: must be 0 (adopt) or 1 (replay)";
pub(super) const NAME: &CStr =
    c"name: must be 1 to 15 letters, digits, '.', '-' and '_', the first a letter or digit";
const NODE: &CStr =
    c"node: must be a node's name, 1 to 15 letters, digits, '.', '-' and '_', the first a letter or digit";
const NODES: &CStr = c"node: must be 1 to 16 nodes, each named once";
const FORWARD: &CStr = c"forward: must be 0 (nat), 1 (direct), 2 (tunnel) or 3 (auto)";
const OTHER_ADDR: &CStr =
    c"other-addr: must be such an address as addr, but IPv6 if that is IPv4, else IPv4";
const OTHER_FORWARD: &CStr = c"other-forward: must be 0 (nat), 1 (direct), 2 (tunnel) or 3 (auto)";
const OTHERWISE: &CStr = c"otherwise: must be 0 (local) or 1 (unavailable)";
const PICK: &CStr = c"pick: must be 0 (order) or 1 (hash)";
const COOKIE: &CStr = c"cookie: must be 1 to 63 characters, letters, digits and !#$%&'*+-.^_`|~";
const HOST: &CStr =
    c"host: must be a host name or address as in a URL, without port, 1 to 253 characters";
const PATH: &CStr = c"path: must be 1 to 255 characters, decoded, the first '/', \
without '//', '.' and '..' segments, '%', '?', '#', ';', '\\', spaces and control characters";
const KEY_ID: &CStr = c"id: must be 0 to 255";
pub(super) const KEY_SECRET: &CStr = c"secret: must be 32 bytes, not all of them 0";

/// Refuses an attribute for its value.
pub(super) fn invalid<'a>(attr: Attr<'a>, text: &'static CStr) -> Refusal<'a> {
    Refusal {
        text,
        error: EINVAL,
        at: At::Attr(attr),
    }
}

/// An address of a request: 4 bytes, or 16, which may stand for 4.
fn addr<'a>(request: &Request<'a>, number: u32) -> Result<Addr, Refusal<'a>> {
    addr_of(request.need(number, ADDR)?, ADDR)
}

/// An address, from an attribute.
fn addr_of<'a>(attr: Attr<'a>, rule: &'static CStr) -> Result<Addr, Refusal<'a>> {
    const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

    let bytes = attr.bytes();
    let ipv4 = bytes.strip_prefix(&MAPPED).unwrap_or(bytes);
    match *ipv4 {
        // This network, multicast, reserved and broadcast.
        [0 | 224.., _, _, _] => Err(invalid(attr, rule)),
        [a, b, c, d] => Ok([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]),
        _ => match bytes.try_into() {
            Ok(addr) if tuple::is_global(&addr) => Ok(addr),
            _ => Err(invalid(attr, rule)),
        },
    }
}

/// A port of a request.
pub(super) fn port<'a>(attr: Attr<'a>) -> Result<u16, Refusal<'a>> {
    match attr.u16() {
        0 => Err(invalid(attr, PORT)),
        port => Ok(port),
    }
}

/// The service that a request is about.
pub(super) fn service<'a>(
    request: &Request<'a>,
    addr_number: u32,
    port_number: u32,
) -> Result<Endpoint, Refusal<'a>> {
    Ok(Endpoint {
        addr: addr(request, addr_number)?,
        port: port(request.need(port_number, PORT)?)?,
    })
}

/// The name of a node.
pub(super) fn name<'a>(
    request: &Request<'a>,
    number: u32,
    text: &'static CStr,
) -> Result<Name, Refusal<'a>> {
    name_of(request.need(number, text)?, text)
}

/// The name of a node, from an attribute.
fn name_of<'a>(attr: Attr<'a>, text: &'static CStr) -> Result<Name, Refusal<'a>> {
    let given = attr.text();
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_".contains(byte);
    let mut name = Name::default();
    // The last byte stays zero.
    match name.get_mut(..given.len()) {
        Some(room)
            if given.len() < Name::default().len()
                && given.first().is_some_and(u8::is_ascii_alphanumeric)
                && given.iter().all(fits) =>
        {
            room.copy_from_slice(given);
            Ok(name)
        }
        _ => Err(invalid(attr, text)),
    }
}

/// A copy of some bytes.
fn copied(bytes: &[u8]) -> Result<KVec<u8>> {
    let mut copy = KVec::new();
    copy.extend_from_slice(bytes, GFP_KERNEL)?;
    Ok(copy)
}

/// The host of a rule, in the form in which hosts are compared; empty for any.
pub(super) fn host<'a>(request: &Request<'a>) -> Result<KVec<u8>, Refusal<'a>> {
    let Some(attr) = request.attr(CARISMA_A_RULE_HOST) else {
        return Ok(KVec::new());
    };
    let given = attr.text();
    let given = given.strip_suffix(b".").unwrap_or(given);
    if given.len() > CARISMA_HOST_MAX as usize || !rule::check_host(given) {
        return Err(invalid(attr, HOST));
    }
    let mut host = copied(given)?;
    host.make_ascii_lowercase();
    Ok(host)
}

/// The path of a rule; empty for any.
pub(super) fn path<'a>(request: &Request<'a>) -> Result<KVec<u8>, Refusal<'a>> {
    let Some(attr) = request.attr(CARISMA_A_RULE_PATH) else {
        return Ok(KVec::new());
    };
    let given = attr.text();
    // An empty one would be the same as none.
    let fits = (1..=CARISMA_PATH_MAX as usize).contains(&given.len());
    if !fits || !rule::check_prefix(given) {
        return Err(invalid(attr, PATH));
    }
    Ok(copied(given)?)
}

/// The nodes of a rule.
pub(super) fn nodes<'a>(request: &Request<'a>) -> Result<KVec<Name>, Refusal<'a>> {
    request.need(CARISMA_A_RULE_NODE, NODE)?;
    let mut names = KVec::with_capacity(CANDIDATES_MAX, GFP_KERNEL).map_err(Error::from)?;
    for attr in request.attrs(CARISMA_A_RULE_NODE) {
        let name = name_of(attr, NODE)?;
        if names.contains(&name) || names.push_within_capacity(name).is_err() {
            return Err(invalid(attr, NODES));
        }
    }
    Ok(names)
}

/// What becomes of a request that no node of its rule can take.
pub(super) fn otherwise<'a>(request: &Request<'a>) -> Result<Otherwise, Refusal<'a>> {
    match request.attr(CARISMA_A_RULE_OTHERWISE) {
        None => Ok(Otherwise::Local),
        Some(attr) if attr.u32() == carisma_otherwise_CARISMA_OTHERWISE_LOCAL => {
            Ok(Otherwise::Local)
        }
        Some(attr) if attr.u32() == carisma_otherwise_CARISMA_OTHERWISE_UNAVAILABLE => {
            Ok(Otherwise::Unavailable)
        }
        Some(attr) => Err(invalid(attr, OTHERWISE)),
    }
}

/// In which order the nodes of a rule are asked.
pub(super) fn pick<'a>(request: &Request<'a>) -> Result<Pick, Refusal<'a>> {
    match request.attr(CARISMA_A_RULE_PICK) {
        None => Ok(Pick::Order),
        Some(attr) if attr.u32() == carisma_pick_CARISMA_PICK_ORDER => Ok(Pick::Order),
        Some(attr) if attr.u32() == carisma_pick_CARISMA_PICK_HASH => Ok(Pick::Hash),
        Some(attr) => Err(invalid(attr, PICK)),
    }
}

/// The name of a rule's cookie; empty for none.
pub(super) fn cookie<'a>(request: &Request<'a>) -> Result<KVec<u8>, Refusal<'a>> {
    let Some(attr) = request.attr(CARISMA_A_RULE_COOKIE) else {
        return Ok(KVec::new());
    };
    let given = attr.text();
    if given.len() > CARISMA_COOKIE_MAX as usize || !http::check_cookie(given) {
        return Err(invalid(attr, COOKIE));
    }
    Ok(copied(given)?)
}

/// How connections of a service are handed off, if the request says so.
pub(super) fn mode<'a>(request: &Request<'a>) -> Result<Option<Mode>, Refusal<'a>> {
    match request.attr(CARISMA_A_SERVICE_MODE) {
        None => Ok(None),
        Some(attr) if attr.u32() == carisma_mode_CARISMA_MODE_RARE => Ok(Some(Mode::Rare)),
        Some(attr) if attr.u32() == carisma_mode_CARISMA_MODE_FREQUENT => Ok(Some(Mode::Frequent)),
        Some(attr) if attr.u32() == carisma_mode_CARISMA_MODE_ALWAYS => Ok(Some(Mode::Always)),
        Some(attr) if attr.u32() == carisma_mode_CARISMA_MODE_AUTO => Ok(Some(Mode::Auto)),
        Some(attr) => Err(invalid(attr, MODE)),
    }
}

/// How connections of a service enter the TCP of another node, if the request says so.
pub(super) fn migrate<'a>(request: &Request<'a>) -> Result<Option<Migrate>, Refusal<'a>> {
    match request.attr(CARISMA_A_SERVICE_MIGRATE) {
        None => Ok(None),
        Some(attr) if attr.u32() == carisma_migrate_CARISMA_MIGRATE_ADOPT => {
            Ok(Some(Migrate::Adopt))
        }
        Some(attr) if attr.u32() == carisma_migrate_CARISMA_MIGRATE_REPLAY => {
            Ok(Some(Migrate::Replay))
        }
        Some(attr) => Err(invalid(attr, MIGRATE)),
    }
}

/// The ways to forward, and their numbers.
pub(super) const FORWARDINGS: [(Forwarding, u32); 4] = [
    (Forwarding::Nat, carisma_forward_CARISMA_FORWARD_NAT),
    (Forwarding::Direct, carisma_forward_CARISMA_FORWARD_DIRECT),
    (Forwarding::Tunnel, carisma_forward_CARISMA_FORWARD_TUNNEL),
    (Forwarding::Auto, carisma_forward_CARISMA_FORWARD_AUTO),
];

/// How a node is sent what it serves, if the request says so.
fn forwarding<'a>(
    request: &Request<'a>,
    number: u32,
    rule: &'static CStr,
) -> Result<Option<Forwarding>, Refusal<'a>> {
    let Some(attr) = request.attr(number) else {
        return Ok(None);
    };
    FORWARDINGS
        .into_iter()
        .find(|(_, number)| *number == attr.u32())
        .map(|(forwarding, _)| Some(forwarding))
        .ok_or_else(|| invalid(attr, rule))
}

/// How a node is sent segments of services of the family of its address, and of the other one.
pub(super) fn reach<'a>(request: &Request<'a>) -> Result<[Reach; 2], Refusal<'a>> {
    let same = Reach {
        addr: addr(request, CARISMA_A_NODE_ADDR)?,
        forwarding: forwarding(request, CARISMA_A_NODE_FORWARD, FORWARD)?
            .unwrap_or(Forwarding::Auto),
    };
    let mut other = same;
    if let Some(attr) = request.attr(CARISMA_A_NODE_OTHER_ADDR) {
        other.addr = addr_of(attr, OTHER_ADDR)?;
        if v4_of(&other.addr).is_some() == v4_of(&same.addr).is_some() {
            return Err(invalid(attr, OTHER_ADDR));
        }
    }
    if let Some(it) = forwarding(request, CARISMA_A_NODE_OTHER_FORWARD, OTHER_FORWARD)? {
        other.forwarding = it;
    }
    Ok([same, other])
}

/// The number of a key.
pub(super) fn key_id<'a>(request: &Request<'a>) -> Result<u8, Refusal<'a>> {
    let attr = request.need(CARISMA_A_KEY_ID, KEY_ID)?;
    u8::try_from(attr.u32()).map_err(|_| invalid(attr, KEY_ID))
}
