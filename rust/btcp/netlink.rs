// SPDX-License-Identifier: GPL-2.0

//! The generic netlink family `carisma`: requests become changes of the configuration, and state
//! becomes messages.
//!
//! The family is described in `include/uapi/linux/carisma.yaml`.

#[path = "netlink/dump.rs"]
mod dump;
#[path = "netlink/values.rs"]
mod values;

use self::{
    dump::{
        key_get,
        node_get,
        rule_get,
        service_get,
        stats_get,
        Flows, //
    },
    values::{
        cookie,
        host,
        invalid,
        key_id,
        migrate,
        mode,
        name,
        nodes,
        otherwise,
        path,
        pick,
        port,
        reach,
        service,
        KEY_SECRET,
        NAME, //
    },
};
use super::{
    counters::Gauge,
    refused::Refused,
    service::{
        Migrate,
        Mode,
        Rule,
        Target,
        CANDIDATES_MAX, //
    },
    state::State,
    uapi::*, //
};
use carisma_core::auth::SECRET_LEN;
use carisma_net::{
    genl::{
        At,
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
};
use kernel::{prelude::*, sync::rcu};

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

/// The state of the namespace that a request is about.
fn state(net: &Net) -> Result<&State> {
    State::of(net).ok_or(ENODEV)
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

fn service_add<'a>(request: &Request<'a>) -> Answer<'a> {
    let state = state(request.net())?;
    let at = service(request, CARISMA_A_SERVICE_ADDR, CARISMA_A_SERVICE_PORT)?;
    let mode = mode(request)?.unwrap_or(Mode::Rare);
    let migrate = migrate(request)?.unwrap_or(Migrate::Adopt);
    state
        .configure(|config, tell| {
            state.flows.open()?;
            state.expect_cookies(mode)?;
            config.add_service(at, mode, migrate, tell)
        })
        .map_err(|why| service_refused(request, why))
}

fn service_set<'a>(request: &Request<'a>) -> Answer<'a> {
    let state = state(request.net())?;
    let at = service(request, CARISMA_A_SERVICE_ADDR, CARISMA_A_SERVICE_PORT)?;
    let (mode, migrate) = (mode(request)?, migrate(request)?);
    state
        .configure(|config, _| {
            state.expect_cookies(mode.unwrap_or(Mode::Rare))?;
            config.set_service(at, mode, migrate)
        })
        .map_err(|why| service_refused(request, why))
}

fn service_del<'a>(request: &Request<'a>) -> Answer<'a> {
    let state = state(request.net())?;
    let at = service(request, CARISMA_A_SERVICE_ADDR, CARISMA_A_SERVICE_PORT)?;
    state
        .unserve(|config, tell| config.del_service(at, tell))
        .map_err(|why| service_refused(request, why))
}

/// Refuses a request about a service.
fn service_refused<'a>(request: &Request<'a>, why: Refused) -> Refusal<'a> {
    let suspect = match why {
        Refused::KeyMissing => CARISMA_A_SERVICE_MODE,
        _ => CARISMA_A_SERVICE_ADDR,
    };
    refused(request, &[suspect])(why)
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
    // Whoever has not seen that has given its connection a place, which is counted, by now.
    rcu::synchronize_rcu();
    if request.attr(CARISMA_A_DRAIN_FORCE).is_some() {
        state.end_handed_off()?;
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
        // One that a node is asked about may be that node's before it is looked at again.
        let out = level(Gauge::HandedOffOut).saturating_add(level(Gauge::HandoffsAsked));
        message.put_u32(CARISMA_A_DRAIN_HANDED_OFF_OUT, out)?;
        message.put_u32(CARISMA_A_DRAIN_HANDED_OFF_IN, level(Gauge::HandedOffIn))
    })?;
    Ok(())
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
        .rekey(|keys, tell| keys.del(id, state.config.needs_key(), tell))
        .map_err(refused(request, &[CARISMA_A_KEY_ID]))
}
