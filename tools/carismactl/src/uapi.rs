// SPDX-License-Identifier: GPL-2.0

//! The numbers of the netlink family, in the order of `include/uapi/linux/carisma.yaml`. A test
//! compares them with it.

/// Defines, for each list, a module with the numbers of its entries and their names.
macro_rules! numbers {
    ($($(#[$doc:meta])* $list:ident from $first:literal { $($constant:ident = $name:literal,)* })*) => { $(
        $(#[$doc])*
        pub mod $list {
            #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
            #[repr(u16)]
            enum Number { $($constant,)* }
            $(
                #[doc = concat!("`", $name, "`")]
                #[allow(dead_code)]
                pub const $constant: u16 = Number::$constant as u16 + $first;
            )*
            /// The number of the first.
            #[allow(dead_code)] // For the test.
            pub const FIRST: u16 = $first;
            /// The names in the order of the numbers.
            #[allow(dead_code)] // Some are for the test only.
            pub const NAMES: &[&str] = &[$($name,)*];
        }
    )* };
}

/// The name of the family.
pub const FAMILY: &str = "carisma";
/// Its version.
pub const VERSION: u8 = 1;
/// The TCP port of control connections, unless another is given.
pub const PORT_DEFAULT: u16 = 7480;
/// Bytes of a cluster key.
pub const SECRET_LEN: usize = 32;

numbers! {
    /// Commands.
    command from 1 {
        SERVICE_ADD = "service-add",
        SERVICE_DEL = "service-del",
        SERVICE_GET = "service-get",
        NODE_ADD = "node-add",
        NODE_DEL = "node-del",
        NODE_GET = "node-get",
        RULE_ADD = "rule-add",
        RULE_DEL = "rule-del",
        RULE_GET = "rule-get",
        FLOW_GET = "flow-get",
        STATS_GET = "stats-get",
        DRAIN = "drain",
        RESUME = "resume",
        DRAIN_GET = "drain-get",
        KEY_SET = "key-set",
        KEY_USE = "key-use",
        KEY_DEL = "key-del",
        KEY_GET = "key-get",
        SERVICE_SET = "service-set",
    }

    /// Attributes of a service.
    service from 1 {
        ADDR = "addr",
        PORT = "port",
        MODE = "mode",
        RULES = "rules",
        MIGRATE = "migrate",
        CURRENT = "current",
        REMOTE = "remote",
    }

    /// Attributes of a node.
    node from 1 {
        NAME = "name",
        ADDR = "addr",
        PORT = "port",
        LOCAL = "local",
        INDEX = "index",
        STATE = "state",
        EPOCH = "epoch",
        TROUBLE = "trouble",
        FORWARD = "forward",
        OTHER_ADDR = "other-addr",
        OTHER_FORWARD = "other-forward",
    }

    /// Attributes of a rule.
    rule from 1 {
        ADDR = "addr",
        PORT = "port",
        HOST = "host",
        PATH = "path",
        NODE = "node",
        OTHERWISE = "otherwise",
        PICK = "pick",
        COOKIE = "cookie",
    }

    /// Attributes of a flow.
    flow from 1 {
        ROLE = "role",
        STATE = "state",
        CLIENT = "client",
        CLIENT_PORT = "client-port",
        LOCAL = "local",
        LOCAL_PORT = "local-port",
        NODE = "node",
        PACKETS = "packets",
        VIP = "vip",
        VIP_PORT = "vip-port",
        ID = "id",
        AGE_MS = "age-ms",
        MIGRATION = "migration",
    }

    /// Attributes of a counter or gauge.
    stat from 1 {
        NAME = "name",
        VALUE = "value",
        GAUGE = "gauge",
        MEANING = "meaning",
    }

    /// Attributes of a drain.
    drain from 1 {
        FORCE = "force",
        DRAINING = "draining",
        HANDED_OFF_OUT = "handed-off-out",
        HANDED_OFF_IN = "handed-off-in",
    }

    /// Attributes of a cluster key.
    key from 1 {
        ID = "id",
        SECRET = "secret",
        VERIFY_ONLY = "verify-only",
        SIGNS = "signs",
    }

    /// How a service's connections are handed off.
    mode from 0 {
        RARE = "rare",
        FREQUENT = "frequent",
        ALWAYS = "always",
        AUTO = "auto",
    }

    /// How connections of a service enter the TCP of another node.
    migrate from 0 {
        ADOPT = "adopt",
        REPLAY = "replay",
    }

    /// How a connection entered the TCP of its back end.
    migration from 0 {
        ADOPTED = "adopted",
        REPLAY = "replay",
        REPLAY_SYNCOOKIES = "replay-syncookies",
        REPLAY_CONNTRACK = "replay-conntrack",
        REPLAY_OPTIONS = "replay-options",
        REPLAY_TUPLE = "replay-tuple",
        REPLAY_LISTENER = "replay-listener",
        REPLAY_WINDOW = "replay-window",
        REPLAY_FILTER = "replay-filter",
        REPLAY_UNANSWERED = "replay-unanswered",
    }

    /// What becomes of a request that no node of its rule can take.
    otherwise from 0 {
        LOCAL = "local",
        UNAVAILABLE = "unavailable",
    }

    /// In which order the nodes of a rule are asked.
    pick from 0 {
        ORDER = "order",
        HASH = "hash",
    }

    /// How a node is sent the segments of the connections that it serves.
    forward from 0 {
        NAT = "nat",
        DIRECT = "direct",
        TUNNEL = "tunnel",
        AUTO = "auto",
    }

    /// How this node stands to another.
    peer_state from 0 {
        SELF = "self",
        DOWN = "down",
        UP = "up",
    }

    /// Why there is no control connection to a node.
    peer_trouble from 0 {
        STRANGE = "strange",
        VERSION = "version",
        UNAUTHENTICATED = "unauthenticated",
        UNKNOWN_KEY = "unknown-key",
        UNPROVEN = "unproven",
    }

    /// What this node is to a connection.
    role from 0 {
        FRONT_END = "front-end",
        BACK_END = "back-end",
    }

    /// How far a handoff is.
    flow_state from 0 {
        HANDSHAKE = "handshake",
        HEAD = "head",
        REQUESTED = "requested",
        LEAVING = "leaving",
        REPLAY = "replay",
        ACCEPTED = "accepted",
        HANDED_OFF = "handed-off",
        LINGERING = "lingering",
        SEEKING = "seeking",
    }
}

/// The name of the attribute with this number in the requests of a command.
pub fn attribute_name(command: u16, attribute: u16) -> Option<&'static str> {
    let names = match command {
        command::SERVICE_ADD
        | command::SERVICE_DEL
        | command::SERVICE_GET
        | command::SERVICE_SET => service::NAMES,
        command::NODE_ADD | command::NODE_DEL | command::NODE_GET => node::NAMES,
        command::RULE_ADD | command::RULE_DEL | command::RULE_GET => rule::NAMES,
        command::FLOW_GET => flow::NAMES,
        command::STATS_GET => stat::NAMES,
        command::KEY_SET | command::KEY_USE | command::KEY_DEL | command::KEY_GET => key::NAMES,
        _ => drain::NAMES,
    };
    names.get(usize::from(attribute.checked_sub(1)?)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use yaml_rust2::{Yaml, YamlLoader};

    const SPEC: &str = include_str!("../../../include/uapi/linux/carisma.yaml");

    fn spec() -> Yaml {
        YamlLoader::load_from_str(SPEC).unwrap().remove(0)
    }

    fn names(list: &Yaml) -> Vec<String> {
        list.as_vec()
            .unwrap()
            .iter()
            .map(|entry| entry["name"].as_str().unwrap().to_owned())
            .collect()
    }

    fn named<'a>(list: &'a Yaml, name: &str) -> &'a Yaml {
        list.as_vec()
            .unwrap()
            .iter()
            .find(|entry| entry["name"].as_str() == Some(name))
            .unwrap_or_else(|| panic!("the description lacks {name}"))
    }

    #[test]
    fn commands_are_those_of_the_description() {
        let spec = spec();
        assert_eq!(names(&spec["operations"]["list"]), command::NAMES);
        assert_eq!(command::FIRST, 1);
        assert_eq!(spec["name"].as_str(), Some(FAMILY));
    }

    #[test]
    fn attributes_are_those_of_the_description() {
        let spec = spec();
        let sets = [
            ("service", service::FIRST, service::NAMES),
            ("node", node::FIRST, node::NAMES),
            ("rule", rule::FIRST, rule::NAMES),
            ("flow", flow::FIRST, flow::NAMES),
            ("stat", stat::FIRST, stat::NAMES),
            ("drain", drain::FIRST, drain::NAMES),
            ("key", key::FIRST, key::NAMES),
        ];
        assert_eq!(spec["attribute-sets"].as_vec().unwrap().len(), sets.len());
        for (name, first, ours) in sets {
            let set = named(&spec["attribute-sets"], name);
            assert_eq!(names(&set["attributes"]), ours, "{name}");
            assert_eq!(first, 1);
        }
    }

    #[test]
    fn values_are_those_of_the_description() {
        let spec = spec();
        let enums = [
            ("mode", mode::FIRST, mode::NAMES),
            ("migrate", migrate::FIRST, migrate::NAMES),
            ("migration", migration::FIRST, migration::NAMES),
            ("otherwise", otherwise::FIRST, otherwise::NAMES),
            ("pick", pick::FIRST, pick::NAMES),
            ("forward", forward::FIRST, forward::NAMES),
            ("peer-state", peer_state::FIRST, peer_state::NAMES),
            ("peer-trouble", peer_trouble::FIRST, peer_trouble::NAMES),
            ("role", role::FIRST, role::NAMES),
            ("flow-state", flow_state::FIRST, flow_state::NAMES),
        ];
        for (name, first, ours) in enums {
            let list = named(&spec["definitions"], name);
            assert_eq!(names(&list["entries"]), ours, "{name}");
            assert_eq!(first, 0);
        }
        let port = named(&spec["definitions"], "port-default");
        assert_eq!(port["value"].as_i64(), Some(i64::from(PORT_DEFAULT)));
        let len = named(&spec["definitions"], "secret-len");
        assert_eq!(len["value"].as_i64(), i64::try_from(SECRET_LEN).ok());
    }

    #[test]
    fn attributes_are_found_by_number() {
        assert_eq!(attribute_name(command::RULE_ADD, rule::NODE), Some("node"));
        assert_eq!(attribute_name(command::RULE_ADD, 0), None);
        assert_eq!(attribute_name(command::DRAIN, 99), None);
    }
}
