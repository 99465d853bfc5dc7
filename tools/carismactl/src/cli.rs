// SPDX-License-Identifier: GPL-2.0

//! The command line.

use crate::uapi;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

/// Configures CARISMA and shows its state.
///
/// Everything is about one network namespace: the one in which carismactl runs. Changes need
/// CAP_NET_ADMIN.
#[derive(Debug, Parser)]
#[command(
    version,
    arg_required_else_help = true,
    after_long_help = "\
Exit status: 0 if it was done, 1 if not, 2 if the command line is wrong, 3 if a drain did not end in time. \
A check: 0 if all is well, 1 if there are errors, 4 if there are warnings only.

A site of two nodes, on the first of them:

  carismactl key set 1 --file /etc/carisma.key
  carismactl node add en 10.0.0.1
  carismactl node add fr 10.0.0.2
  carismactl service add 10.0.0.100:80
  carismactl rule add 10.0.0.100:80 --path /fr/ --node fr"
)]
pub struct Cli {
    /// Print JSON, errors too
    #[arg(long, global = true)]
    pub json: bool,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Virtual services: the addresses and ports that clients connect to
    #[command(subcommand)]
    Service(Service),

    /// Nodes of the cluster, this one included
    #[command(subcommand)]
    Node(Node),

    /// Rules: which requests of a service go to which node
    #[command(subcommand)]
    Rule(Rule),

    /// Cluster keys: what the control connections are authenticated by
    #[command(subcommand)]
    Key(Key),

    /// List the connections that are being handed off or were
    Flows(Flows),

    /// Show what was counted
    Stats {
        /// Leave out what is 0
        #[arg(long, short = 'n')]
        nonzero: bool,

        /// Say what each of them means
        #[arg(long)]
        explain: bool,
    },

    /// Look for what is wrong with this node, and say what to do about it
    ///
    /// Each line is "ok", "warning" or "error". Nodes to which there is no control connection are tried
    /// to be reached, which they count. Must run as root to see what is attached to listeners.
    Check,

    /// Hand nothing off any more, and wait until no handed-off connection is left
    ///
    /// Services are served locally from now on, and no connection is taken over. Connections that were
    /// handed off go on until they end. When none is left the modules can be unloaded, or "resume" takes
    /// the drain back.
    Drain(Drain),

    /// Hand off again after a drain
    Resume,

    /// Do what a file says
    ///
    /// Each line is a command, as it is given to carismactl; empty ones and those that begin with '#' are
    /// left out. Words are separated by spaces, and nothing is quoted. If a line is wrong, none is carried
    /// out; if one fails, those after it are not.
    Batch {
        /// The file; '-' is standard input
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub enum Service {
    /// Add a virtual service
    Add {
        /// What clients connect to, such as 10.0.0.100:80
        #[arg(value_name = "VIP:PORT", value_parser = endpoint)]
        at: SocketAddr,

        /// How connections are handed off
        #[arg(long, value_enum, default_value_t)]
        mode: Mode,

        /// How connections enter the TCP of other nodes: with their numbers where that can be, or always
        /// by a replay of the handshake
        #[arg(long, value_parser = uapi::migrate::NAMES.to_vec(), default_value = "adopt")]
        migrate: String,
    },

    /// Change how connections are handed off that begin from now on
    Set {
        /// What clients connect to
        #[arg(value_name = "VIP:PORT", value_parser = endpoint)]
        at: SocketAddr,

        /// As for "add"; without it, as it is
        #[arg(long, value_parser = uapi::mode::NAMES.to_vec(), required_unless_present = "migrate")]
        mode: Option<String>,

        /// As for "add"; without it, as it is
        #[arg(long, value_parser = uapi::migrate::NAMES.to_vec())]
        migrate: Option<String>,
    },

    /// Delete a virtual service and its rules
    #[command(visible_alias = "delete")]
    Del {
        /// What clients connect to
        #[arg(value_name = "VIP:PORT", value_parser = endpoint)]
        at: SocketAddr,
    },

    /// List the virtual services
    #[command(visible_alias = "ls")]
    List,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Mode {
    /// The handshake is taken by this node's own TCP, where most requests are served
    #[default]
    Rare,
    /// It is taken below TCP, by SYN cookies; for services most of whose requests other nodes serve
    Frequent,
    /// As frequent, and every connection is handed off, in band, by a node that needs no server
    Always,
    /// Rare or frequent, whichever suits what was requested last
    Auto,
}

#[derive(Debug, Subcommand)]
pub enum Node {
    /// Add a node
    Add(NodeAdd),

    /// Delete a node that no rule names
    #[command(visible_alias = "delete")]
    Del {
        /// The node's name
        name: String,
    },

    /// List the nodes, and whether the control connections to them are up
    #[command(visible_alias = "ls")]
    List,
}

#[derive(Args, Debug)]
pub struct NodeAdd {
    /// The node's name, the same on all nodes: 1 to 15 letters, digits, '.', '-' and '_'
    pub name: String,

    /// The node's own address, by which the other nodes reach it
    #[arg(value_name = "ADDR")]
    pub addr: IpAddr,

    /// TCP port of the node's control connections
    #[arg(long, default_value_t = uapi::PORT_DEFAULT)]
    pub port: u16,

    /// It is this node [without --local and --remote: if this machine has the address]
    #[arg(long, conflicts_with = "remote")]
    pub local: bool,

    /// It is another node
    #[arg(long)]
    pub remote: bool,

    /// How it is sent the segments of the connections that it serves: with its own address as
    /// destination, or unchanged, to its MAC address or through a tunnel (IP in IP); auto takes the best
    /// of these that works
    #[arg(long, value_parser = uapi::forward::NAMES.to_vec(), default_value = "auto")]
    pub forward: String,

    /// An address of the node's of the other family, IPv4 or IPv6, where it is sent the segments of
    /// services of that family
    #[arg(long, value_name = "ADDR")]
    pub other: Option<IpAddr>,

    /// How it is sent the segments of services of the other family than that of ADDR [default: as
    /// --forward]
    #[arg(long, value_name = "WAY", value_parser = uapi::forward::NAMES.to_vec())]
    pub other_forward: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Rule {
    /// Send requests of a service to a node, or to the first of some that takes them
    ///
    /// Of the rules that fit a request, one with its host goes before one for any host, then one with a
    /// longer path before one with a shorter. Requests that no rule fits are served by the node that
    /// accepts them.
    Add {
        #[command(flatten)]
        rule: RuleKey,

        /// The node that serves the requests; up to 16 may be given, the next one is asked if one is
        /// down, refuses, or does not answer
        #[arg(long = "node", value_name = "NODE", required = true)]
        nodes: Vec<String>,

        /// In which order they are asked: as given, or by a hash of the path, so that each path has
        /// one of them as its own
        #[arg(long, value_parser = uapi::pick::NAMES.to_vec(), default_value = "order")]
        pick: String,

        /// Ask the node first that the cookie of this name names, if it is one of them
        #[arg(long, value_name = "NAME")]
        cookie: Option<String>,

        /// What is done when no node can take a request: the one that accepted it serves it, or
        /// answers 503
        #[arg(long, value_parser = uapi::otherwise::NAMES.to_vec(), default_value = "local")]
        otherwise: String,
    },

    /// Delete a rule
    #[command(visible_alias = "delete")]
    Del {
        #[command(flatten)]
        rule: RuleKey,
    },

    /// List the rules of all services
    #[command(visible_alias = "ls")]
    List,
}

#[derive(Args, Debug)]
pub struct RuleKey {
    /// The service
    #[arg(value_name = "VIP:PORT", value_parser = endpoint)]
    pub at: SocketAddr,

    /// Host name of the requests, without port [without: any]
    #[arg(long)]
    pub host: Option<String>,

    /// What the path of the requests begins with, such as /fr/ [without: any]
    #[arg(long, value_name = "PREFIX")]
    pub path: Option<String>,
}

/// To change the key without losing a connection: set the new one everywhere with --verify-only, then
/// let every node use it, then delete the old one everywhere.
#[derive(Debug, Subcommand)]
pub enum Key {
    /// Print a new key: 64 hexadecimal digits
    Generate,

    /// Set a key, and sign with it
    ///
    /// With the first key, control connections that are not authenticated are closed, and none is taken
    /// any more. The key is read, as "generate" prints it, from a file or standard input, so that no list
    /// of processes shows it.
    Set {
        /// The key's number, the same on all nodes: 0 to 255
        id: u8,

        /// Where the key is read from; - is standard input
        #[arg(long, default_value = "-")]
        file: PathBuf,

        /// Take what other nodes sign with it, but go on to sign with another key
        #[arg(long)]
        verify_only: bool,
    },

    /// Sign with another key that was set before
    Use {
        /// The key's number
        id: u8,
    },

    /// Delete a key, and close the control connections that are signed with it
    #[command(visible_alias = "delete")]
    Del {
        /// The key's number
        id: u8,
    },

    /// List the keys' numbers, and which of them this node signs with
    #[command(visible_alias = "ls")]
    List,
}

#[derive(Args, Debug, Default)]
pub struct Flows {
    /// Only those in this state, such as handed-off; more than one may be given
    #[arg(long, value_parser = uapi::flow_state::NAMES.to_vec())]
    pub state: Vec<String>,

    /// Only those with this node at the other end; more than one may be given
    #[arg(long, value_name = "NAME")]
    pub node: Vec<String>,

    /// Only those of this client; more than one may be given
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = client)]
    pub client: Vec<Client>,
}

/// A client, or one of its ports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Client {
    pub addr: IpAddr,
    pub port: Option<u16>,
}

#[derive(Args, Debug)]
pub struct Drain {
    /// End the handed-off connections now, with a reset to both ends
    #[arg(long)]
    pub force: bool,

    /// Wait no longer than this; 0 does not wait at all [without: until it is done]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
}

/// An address and a port.
fn endpoint(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "it must be an address and a port, such as 10.0.0.100:80 or [2001:db8::1]:80".to_owned()
    })
}

/// An address, with a port or without.
fn client(text: &str) -> Result<Client, String> {
    let addr = |addr| Client { addr, port: None };
    let both = |it: SocketAddr| Client {
        addr: it.ip(),
        port: Some(it.port()),
    };
    (text.parse().map(addr))
        .or_else(|_| text.parse().map(both))
        .map_err(|_| "it must be an address, or one with a port, such as 10.0.0.9:40000".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{error::ErrorKind, CommandFactory};

    fn parse(line: &str) -> Result<Cli, ErrorKind> {
        let words = ["carismactl"].into_iter().chain(line.split_whitespace());
        Cli::try_parse_from(words).map_err(|err| err.kind())
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn json_may_stand_anywhere() {
        for line in ["--json stats", "stats --json"] {
            assert!(parse(line).unwrap().json);
        }
        for line in ["--json rule list", "rule --json list", "rule list --json"] {
            assert!(parse(line).unwrap().json);
        }
        assert!(!parse("stats").unwrap().json);
    }

    #[test]
    fn services_need_address_and_port() {
        let Command::Service(Service::Add { at, .. }) =
            parse("service add 10.0.0.100:80").unwrap().command
        else {
            panic!()
        };
        assert_eq!(at, "10.0.0.100:80".parse().unwrap());
        assert!(parse("service add [2001:db8::1]:80 --mode rare").is_ok());
        for line in [
            "service add 10.0.0.100",
            "service add www.example.com:80",
            "service add 10.0.0.100:65536",
            "service del 10.0.0:80",
        ] {
            assert_eq!(
                parse(line).err(),
                Some(ErrorKind::ValueValidation),
                "{line}"
            );
        }
        assert_eq!(
            parse("service add 10.0.0.100:80 --mode never").err(),
            Some(ErrorKind::InvalidValue)
        );
    }

    #[test]
    fn nodes_are_local_or_remote() {
        let Command::Node(Node::Add(node)) = parse("node add fr 10.0.0.2").unwrap().command else {
            panic!()
        };
        assert_eq!(node.port, uapi::PORT_DEFAULT);
        assert!(!node.local && !node.remote);
        assert_eq!(node.forward, "auto");
        assert_eq!((node.other, node.other_forward), (None, None));
        assert!(parse("node add fr 10.0.0.2 --other fd00::2 --other-forward nat").is_ok());
        assert!(parse("node add fr 10.0.0.2 --port 99 --local").is_ok());
        for way in ["nat", "direct", "tunnel", "auto"] {
            assert!(parse(&format!("node add fr 10.0.0.2 --forward {way}")).is_ok());
        }
        assert_eq!(
            parse("node add fr 10.0.0.2 --forward gre").err(),
            Some(ErrorKind::InvalidValue)
        );
        assert_eq!(
            parse("node add fr 10.0.0.2 --local --remote").err(),
            Some(ErrorKind::ArgumentConflict)
        );
    }

    #[test]
    fn rules_need_a_node() {
        assert!(parse("rule add 10.0.0.100:80 --path /fr/ --node fr").is_ok());
        assert!(parse("rule del 10.0.0.100:80 --host www.example.com").is_ok());
        assert_eq!(
            parse("rule add 10.0.0.100:80 --path /fr/").err(),
            Some(ErrorKind::MissingRequiredArgument)
        );
        let sticky = "rule add 10.0.0.100:80 --node fr --node de --cookie node --pick";
        assert!(parse(&format!("{sticky} hash")).is_ok());
        assert_eq!(
            parse(&format!("{sticky} random")).err(),
            Some(ErrorKind::InvalidValue)
        );
        let more = "rule add 10.0.0.100:80 --node fr --node de --otherwise";
        assert!(parse(&format!("{more} unavailable")).is_ok());
        assert_eq!(
            parse(&format!("{more} nothing")).err(),
            Some(ErrorKind::InvalidValue)
        );
    }

    #[test]
    fn keys_have_a_number_of_a_byte() {
        let Command::Key(Key::Set { id, file, .. }) = parse("key set 255").unwrap().command else {
            panic!()
        };
        assert_eq!((id, file.to_str()), (255, Some("-")));
        assert!(parse("key set 1 --file - --verify-only").is_ok());
        for line in ["key set 256", "key del x", "key use -1"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn flows_are_filtered() {
        let Command::Flows(flows) = parse(
            "flows --state head --state handed-off --node fr --client 10.0.0.9:5 --client ::1",
        )
        .unwrap()
        .command
        else {
            panic!()
        };
        assert_eq!(flows.state, ["head", "handed-off"]);
        assert_eq!(flows.node, ["fr"]);
        let client = |addr: &str, port| Client {
            addr: addr.parse().unwrap(),
            port,
        };
        assert_eq!(
            flows.client,
            [client("10.0.0.9", Some(5)), client("::1", None)]
        );
        for line in [
            "flows --state open",
            "flows --client fr",
            "flows --client 1.2.3.4:x",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn drains_may_be_hurried() {
        let Command::Drain(drain) = parse("drain --force --timeout 5").unwrap().command else {
            panic!()
        };
        assert!(drain.force);
        assert_eq!(drain.timeout, Some(5));
    }
}
