// SPDX-License-Identifier: GPL-2.0

//! The generic netlink family `carisma`: requests become changes of the configuration, and state
//! becomes messages.
//!
//! The family is described in `include/uapi/linux/carisma.yaml`. Its policies check the types of
//! attributes only; their values are checked here, so that the text of a refusal can say what is
//! allowed.

use super::{
    counters::{
        Gauge,
        Stat, //
    },
    flow::{
        Flow,
        FlowInfo, //
    },
    node::{
        name_text,
        Forwarding,
        Name,
        Reach, //
    },
    refused::Refused,
    service::{
        Migrate,
        Mode,
        Otherwise,
        Pick,
        Rule,
        Target,
        CANDIDATES_MAX, //
    },
    snapshot::{
        Endpoint,
        Snapshot, //
    },
    state::State,
    uapi::*, //
};
use carisma_core::{
    auth::SECRET_LEN,
    http, rule,
    tuple::{
        self,
        v4_of,
        Addr, //
    },
};
use carisma_net::{
    genl::{
        At,
        Attr,
        Dump,
        DumpState,
        Message,
        Refusal,
        Registration,
        Request, //
    },
    genl_doit, genl_dump, genl_dumpit, genl_family,
    hmac::Secret,
    pernet::{
        Net,
        PerNet, //
    },
    table::Walk,
};
use kernel::{
    prelude::*,
    str::CStr,
    sync::rcu, //
};

genl_family! {
    /// The family, from `carisma_gen.c`.
    static FAMILY = carisma_nl_family;
}

genl_doit! {
    carisma_nl_service_add_doit => service_add;
    carisma_nl_service_del_doit => service_del;
    carisma_nl_node_add_doit => node_add;
    carisma_nl_node_del_doit => node_del;
    carisma_nl_rule_add_doit => rule_add;
    carisma_nl_rule_del_doit => rule_del;
    carisma_nl_drain_doit => drain;
    carisma_nl_resume_doit => resume;
    carisma_nl_drain_get_doit => drain_get;
    carisma_nl_key_set_doit => key_set;
    carisma_nl_key_use_doit => key_use;
    carisma_nl_key_del_doit => key_del;
    carisma_nl_service_set_doit => service_set;
}

genl_dumpit! {
    carisma_nl_service_get_dumpit => service_get;
    carisma_nl_node_get_dumpit => node_get;
    carisma_nl_rule_get_dumpit => rule_get;
    carisma_nl_stats_get_dumpit => stats_get;
    carisma_nl_key_get_dumpit => key_get;
}

genl_dump! {
    carisma_nl_flow_get_start, carisma_nl_flow_get_dumpit, carisma_nl_flow_get_done => Flows;
}

/// Makes the family known. The state of all namespaces must be there, and stay as long as the result.
pub(crate) fn register() -> Result<Registration> {
    Registration::new(&FAMILY)
}

/// What a request is answered with.
type Answer<'a> = Result<(), Refusal<'a>>;

const ADDR: &CStr =
    c"addr: must be a unicast address, 4 bytes for IPv4 or 16 for IPv6, and not link-local";
const PORT: &CStr = c"port: must be 1 to 65535";
const MODE_KEY: &CStr = c"mode: always needs a key of the cluster's, set one first";
const MODE: &CStr = c"mode: must be 0 (rare), 1 (frequent), 2 (always) or 3 (auto)";
const MIGRATE: &CStr = c"migrate: must be 0 (adopt) or 1 (replay)";
const NAME: &CStr =
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
const KEY_SECRET: &CStr = c"secret: must be 32 bytes, not all of them 0";

/// The state of the namespace that a request is about.
fn state(net: &Net) -> Result<&State> {
    State::of(net).ok_or(ENODEV)
}

/// Refuses an attribute for its value.
fn invalid<'a>(attr: Attr<'a>, text: &'static CStr) -> Refusal<'a> {
    Refusal {
        text,
        error: EINVAL,
        at: At::Attr(attr),
    }
}

/// Makes a refusal by the configuration one of the request, with the attributes that it may be about.
fn refused<'a>(request: &Request<'a>, suspects: &[u32]) -> impl Fn(Refused) -> Refusal<'a> {
    let attr = suspects.iter().find_map(|&number| request.attr(number));
    move |refused| Refusal {
        text: refused.text(),
        error: refused.error(),
        at: match refused {
            Refused::Failed(_) => At::Request,
            _ => attr.map_or(At::Request, At::Attr),
        },
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
fn port<'a>(attr: Attr<'a>) -> Result<u16, Refusal<'a>> {
    match attr.u16() {
        0 => Err(invalid(attr, PORT)),
        port => Ok(port),
    }
}

/// The service that a request is about.
fn service<'a>(
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
fn name<'a>(request: &Request<'a>, number: u32, text: &'static CStr) -> Result<Name, Refusal<'a>> {
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
fn host<'a>(request: &Request<'a>) -> Result<KVec<u8>, Refusal<'a>> {
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
fn path<'a>(request: &Request<'a>) -> Result<KVec<u8>, Refusal<'a>> {
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
fn nodes<'a>(request: &Request<'a>) -> Result<KVec<Name>, Refusal<'a>> {
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
fn otherwise<'a>(request: &Request<'a>) -> Result<Otherwise, Refusal<'a>> {
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
fn pick<'a>(request: &Request<'a>) -> Result<Pick, Refusal<'a>> {
    match request.attr(CARISMA_A_RULE_PICK) {
        None => Ok(Pick::Order),
        Some(attr) if attr.u32() == carisma_pick_CARISMA_PICK_ORDER => Ok(Pick::Order),
        Some(attr) if attr.u32() == carisma_pick_CARISMA_PICK_HASH => Ok(Pick::Hash),
        Some(attr) => Err(invalid(attr, PICK)),
    }
}

/// The name of a rule's cookie; empty for none.
fn cookie<'a>(request: &Request<'a>) -> Result<KVec<u8>, Refusal<'a>> {
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
fn mode<'a>(request: &Request<'a>) -> Result<Option<Mode>, Refusal<'a>> {
    match request.attr(CARISMA_A_SERVICE_MODE) {
        None => Ok(None),
        Some(attr) if attr.u32() == carisma_mode_CARISMA_MODE_RARE => Ok(Some(Mode::Rare)),
        Some(attr) if attr.u32() == carisma_mode_CARISMA_MODE_FREQUENT => Ok(Some(Mode::Frequent)),
        Some(attr) if attr.u32() == carisma_mode_CARISMA_MODE_ALWAYS => Ok(Some(Mode::Always)),
        Some(attr) if attr.u32() == carisma_mode_CARISMA_MODE_AUTO => Ok(Some(Mode::Auto)),
        Some(attr) => Err(invalid(attr, MODE)),
    }
}

/// Whether a service can have this mode now.
fn check_mode<'a>(state: &State, request: &Request<'a>, mode: Mode) -> Result<(), Refusal<'a>> {
    match request.attr(CARISMA_A_SERVICE_MODE) {
        Some(attr) if mode == Mode::Always && !state.keys().are_shared() => {
            Err(invalid(attr, MODE_KEY))
        }
        _ => Ok(()),
    }
}

/// How connections of a service enter the TCP of another node, if the request says so.
fn migrate<'a>(request: &Request<'a>) -> Result<Option<Migrate>, Refusal<'a>> {
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

fn service_add<'a>(request: &Request<'a>) -> Answer<'a> {
    let state = state(request.net())?;
    let at = service(request, CARISMA_A_SERVICE_ADDR, CARISMA_A_SERVICE_PORT)?;
    let mode = mode(request)?.unwrap_or(Mode::Rare);
    check_mode(state, request, mode)?;
    state.expect_cookies(mode)?;
    let migrate = migrate(request)?.unwrap_or(Migrate::Adopt);
    state
        .configure(|config, tell| config.add_service(at, mode, migrate, tell))
        .map_err(refused(request, &[CARISMA_A_SERVICE_ADDR]))
}

fn service_set<'a>(request: &Request<'a>) -> Answer<'a> {
    let state = state(request.net())?;
    let at = service(request, CARISMA_A_SERVICE_ADDR, CARISMA_A_SERVICE_PORT)?;
    let (mode, migrate) = (mode(request)?, migrate(request)?);
    check_mode(state, request, mode.unwrap_or(Mode::Rare))?;
    state.expect_cookies(mode.unwrap_or(Mode::Rare))?;
    state
        .config
        .set_service(at, mode, migrate)
        .map_err(refused(request, &[CARISMA_A_SERVICE_ADDR]))
}

fn service_del<'a>(request: &Request<'a>) -> Answer<'a> {
    let state = state(request.net())?;
    let at = service(request, CARISMA_A_SERVICE_ADDR, CARISMA_A_SERVICE_PORT)?;
    state
        .unserve(|config, tell| config.del_service(at, tell))
        .map_err(refused(request, &[CARISMA_A_SERVICE_ADDR]))
}

/// The ways to forward, and their numbers.
const FORWARDINGS: [(Forwarding, u32); 4] = [
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

/// The number of a way to forward.
fn forwarding_number(forwarding: Forwarding) -> u32 {
    let mut known = FORWARDINGS.into_iter();
    known.find(|(it, _)| *it == forwarding).map_or(0, |it| it.1)
}

/// How a node is sent segments of services of the family of its address, and of the other one.
fn reach<'a>(request: &Request<'a>) -> Result<[Reach; 2], Refusal<'a>> {
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

fn node_add<'a>(request: &Request<'a>) -> Answer<'a> {
    let state = state(request.net())?;
    let name = name(request, CARISMA_A_NODE_NAME, NAME)?;
    let reach = reach(request)?;
    let port = match request.attr(CARISMA_A_NODE_PORT) {
        // CAST: A port.
        None => CARISMA_PORT_DEFAULT as u16,
        Some(attr) => port(attr)?,
    };
    let local = request.attr(CARISMA_A_NODE_LOCAL).is_some();
    state
        .configure(|config, tell| config.add_node(name, port, local, reach, tell))
        .map_err(|why| {
            let suspect = match why {
                Refused::AddrTaken => CARISMA_A_NODE_ADDR,
                Refused::OtherAddrTaken => CARISMA_A_NODE_OTHER_ADDR,
                Refused::LocalTaken => CARISMA_A_NODE_LOCAL,
                _ => CARISMA_A_NODE_NAME,
            };
            refused(request, &[suspect])(why)
        })
}

fn node_del<'a>(request: &Request<'a>) -> Answer<'a> {
    let state = state(request.net())?;
    let name = name(request, CARISMA_A_NODE_NAME, NAME)?;
    state
        .unserve(|config, tell| config.del_node(&name, tell))
        .map_err(refused(request, &[CARISMA_A_NODE_NAME]))
}

fn rule_add<'a>(request: &Request<'a>) -> Answer<'a> {
    let state = state(request.net())?;
    let at = service(request, CARISMA_A_RULE_ADDR, CARISMA_A_RULE_PORT)?;
    let nodes = nodes(request)?;
    let rule = Rule {
        host: host(request)?,
        path: path(request)?,
        target: Target::new([0; CANDIDATES_MAX], otherwise(request)?),
        pick: pick(request)?,
        cookie: cookie(request)?,
    };
    // Only connections to a service with rules are looked at.
    state.recent.prepare()?;
    state
        .config
        .add_rule(at, rule, &nodes)
        .map_err(|why| rule_refused(request, why))
}

fn rule_del<'a>(request: &Request<'a>) -> Answer<'a> {
    let state = state(request.net())?;
    let at = service(request, CARISMA_A_RULE_ADDR, CARISMA_A_RULE_PORT)?;
    let host = host(request)?;
    let path = path(request)?;
    state
        .config
        .del_rule(at, &host, &path)
        .map_err(|why| rule_refused(request, why))
}

/// Refuses a request about a rule.
fn rule_refused<'a>(request: &Request<'a>, why: Refused) -> Refusal<'a> {
    const THE_RULE: [u32; 3] = [
        CARISMA_A_RULE_HOST,
        CARISMA_A_RULE_PATH,
        CARISMA_A_RULE_ADDR,
    ];
    match why {
        Refused::NoService => refused(request, &[CARISMA_A_RULE_ADDR])(why),
        Refused::NoTarget => refused(request, &[CARISMA_A_RULE_NODE])(why),
        _ => refused(request, &THE_RULE)(why),
    }
}

fn drain<'a>(request: &Request<'a>) -> Answer<'a> {
    let state = state(request.net())?;
    state.config.set_draining(true);
    if request.attr(CARISMA_A_DRAIN_FORCE).is_some() {
        state.end_handed_off();
    }
    Ok(())
}

fn resume<'a>(request: &Request<'a>) -> Answer<'a> {
    state(request.net())?.config.set_draining(false);
    Ok(())
}

fn drain_get<'a>(request: &Request<'a>) -> Answer<'a> {
    let state = state(request.net())?;
    let level = |gauge| u32::try_from(state.level(gauge)).unwrap_or(u32::MAX);
    request.reply(&FAMILY, |message| {
        message.put_flag(CARISMA_A_DRAIN_DRAINING, state.config.is_draining())?;
        message.put_u32(CARISMA_A_DRAIN_HANDED_OFF_OUT, level(Gauge::HandedOffOut))?;
        message.put_u32(CARISMA_A_DRAIN_HANDED_OFF_IN, level(Gauge::HandedOffIn))
    })?;
    Ok(())
}

/// The number of a key.
fn key_id<'a>(request: &Request<'a>) -> Result<u8, Refusal<'a>> {
    let attr = request.need(CARISMA_A_KEY_ID, KEY_ID)?;
    u8::try_from(attr.u32()).map_err(|_| invalid(attr, KEY_ID))
}

fn key_set<'a>(request: &Request<'a>) -> Answer<'a> {
    // First, so that it is wiped whatever else there is to be said.
    let given = request.need_secret(CARISMA_A_KEY_SECRET, KEY_SECRET)?;
    let state = state(request.net())?;
    let id = key_id(request)?;
    let secret = match given.bytes().try_into() {
        Ok(bytes) if bytes != &[0; SECRET_LEN] => Secret::new(bytes).map_err(Error::from)?,
        _ => return Err(invalid(given, KEY_SECRET)),
    };
    let signs = request.attr(CARISMA_A_KEY_VERIFY_ONLY).is_none();
    state
        .rekey(|keys, tell| keys.set(id, secret, signs, tell))
        .map_err(|why| {
            let suspect = match why {
                Refused::FirstKey => CARISMA_A_KEY_VERIFY_ONLY,
                _ => CARISMA_A_KEY_ID,
            };
            refused(request, &[suspect])(why)
        })
}

fn key_use<'a>(request: &Request<'a>) -> Answer<'a> {
    let state = state(request.net())?;
    let id = key_id(request)?;
    state
        .rekey(|keys, tell| keys.sign_with(id, tell))
        .map_err(refused(request, &[CARISMA_A_KEY_ID]))
}

fn key_del<'a>(request: &Request<'a>) -> Answer<'a> {
    let state = state(request.net())?;
    let id = key_id(request)?;
    state
        .rekey(|keys, tell| keys.del(id, tell))
        .map_err(refused(request, &[CARISMA_A_KEY_ID]))
}

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

fn service_get(dump: &mut Dump<'_>) -> Result {
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

fn node_get(dump: &mut Dump<'_>) -> Result {
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

fn rule_get(dump: &mut Dump<'_>) -> Result {
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
fn key_get(dump: &mut Dump<'_>) -> Result {
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
struct Flows;

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

fn stats_get(dump: &mut Dump<'_>) -> Result {
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
