// SPDX-License-Identifier: GPL-2.0

//! carismactl: configures CARISMA and shows its state.

mod batch;
mod check;
mod cli;
mod key;
mod netlink;
mod state;
mod table;
mod uapi;

use clap::Parser;
use cli::{Cli, Command, Mode};
use netlink::{Attr, Attrs, Connection, Error};
use nix::ifaddrs::getifaddrs;
use serde_json::json;
use state::{Entry, Progress};
use std::{
    io::{self, IsTerminal, Write},
    net::{IpAddr, SocketAddr},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};
use uapi::command;

/// How often a drain is looked at.
const DRAIN_PERIOD: Duration = Duration::from_millis(200);

/// The exit status of a drain that did not end in time.
const EXIT_TIMEOUT: u8 = 3;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(status) => status,
        // A reader that has seen enough is no error.
        Err(Error::Io(err)) if err.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(err) => {
            report(&err, cli.json);
            ExitCode::FAILURE
        }
    }
}

/// Says what went wrong.
fn report(err: &Error, as_json: bool) {
    if !as_json {
        eprintln!("carismactl: {err}");
        return;
    }
    let (line, cause) = match err {
        Error::Line(line, cause) => (Some(line), &**cause),
        _ => (None, err),
    };
    let refusal = match cause {
        Error::Refused(refusal) => Some(refusal),
        _ => None,
    };
    let mut object = json!({
        "error": cause.to_string(),
        "errno": refusal.map(|it| format!("{:?}", it.errno)),
        "attribute": refusal.and_then(|it| it.attribute),
    });
    if let Some(line) = line {
        object["line"] = json!(line);
    }
    eprintln!("{object}");
}

fn run(cli: &Cli) -> Result<ExitCode, Error> {
    let json = cli.json;
    // This one has to do without the modules, if need be.
    match &cli.command {
        Command::Check => return check::run(json),
        Command::Key(cli::Key::Generate) => return key::generate(json),
        _ => {}
    }
    execute(&cli.command, &mut Connection::open()?, json)
}

/// One after the other, up to the first that fails.
fn run_all(lines: &[batch::Line], kernel: &mut Connection, json: bool) -> Result<ExitCode, Error> {
    for line in lines {
        let status = execute(&line.cli.command, kernel, json || line.cli.json)
            .map_err(|why| line.failed(why))?;
        if status != ExitCode::SUCCESS {
            return Ok(status);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn execute(command: &Command, kernel: &mut Connection, json: bool) -> Result<ExitCode, Error> {
    match command {
        Command::Batch { file } => run_all(&batch::read(file)?, kernel, json),
        Command::Check => check::run(json),
        Command::Key(cli::Key::Generate) => key::generate(json),
        Command::Service(cli::Service::Add { at, mode, migrate }) => {
            let mode = match mode {
                Mode::Rare => uapi::mode::RARE,
                Mode::Frequent => uapi::mode::FREQUENT,
                Mode::Always => uapi::mode::ALWAYS,
                Mode::Auto => uapi::mode::AUTO,
            };
            let mode = Attr::u32(uapi::service::MODE, mode.into());
            let migrate = choice(uapi::service::MIGRATE, uapi::migrate::NAMES, migrate);
            kernel.ask(
                command::SERVICE_ADD,
                service_attrs(*at).into_iter().chain([mode, migrate]),
            )?;
            done(json)
        }
        Command::Service(cli::Service::Set { at, mode, migrate }) => {
            let mode = mode
                .iter()
                .map(|it| choice(uapi::service::MODE, uapi::mode::NAMES, it));
            let migrate = migrate
                .iter()
                .map(|it| choice(uapi::service::MIGRATE, uapi::migrate::NAMES, it));
            kernel.ask(
                command::SERVICE_SET,
                service_attrs(*at).into_iter().chain(mode).chain(migrate),
            )?;
            done(json)
        }
        Command::Service(cli::Service::Del { at }) => {
            kernel.ask(command::SERVICE_DEL, service_attrs(*at))?;
            done(json)
        }
        Command::Service(cli::Service::List) => {
            list::<state::Service>(kernel, command::SERVICE_GET, json)
        }

        Command::Node(cli::Node::Add(node)) => {
            kernel.ask(command::NODE_ADD, node_attrs(node)?)?;
            done(json)
        }
        Command::Node(cli::Node::Del { name }) => {
            kernel.ask(command::NODE_DEL, [Attr::text(uapi::node::NAME, name)])?;
            done(json)
        }
        Command::Node(cli::Node::List) => list::<state::Node>(kernel, command::NODE_GET, json),

        Command::Rule(cli::Rule::Add {
            rule,
            nodes,
            pick,
            cookie,
            otherwise,
        }) => {
            let nodes = nodes.iter().map(|it| Attr::text(uapi::rule::NODE, it));
            let cookie = cookie.iter().map(|it| Attr::text(uapi::rule::COOKIE, it));
            let choices = [
                choice(uapi::rule::PICK, uapi::pick::NAMES, pick),
                choice(uapi::rule::OTHERWISE, uapi::otherwise::NAMES, otherwise),
            ];
            let attrs = rule_attrs(rule).into_iter().chain(nodes);
            kernel.ask(command::RULE_ADD, attrs.chain(cookie).chain(choices))?;
            done(json)
        }
        Command::Rule(cli::Rule::Del { rule }) => {
            kernel.ask(command::RULE_DEL, rule_attrs(rule))?;
            done(json)
        }
        Command::Rule(cli::Rule::List) => list::<state::Rule>(kernel, command::RULE_GET, json),

        Command::Key(cli::Key::Set {
            id,
            file,
            verify_only,
        }) => {
            let secret = key::read(file)?;
            let verify_only = verify_only.then(|| Attr::flag(uapi::key::VERIFY_ONLY));
            let attrs = [
                Attr::u32(uapi::key::ID, (*id).into()),
                Attr::bytes(uapi::key::SECRET, &secret),
            ];
            kernel.ask(command::KEY_SET, attrs.into_iter().chain(verify_only))?;
            done(json)
        }
        Command::Key(cli::Key::Use { id }) => {
            kernel.ask(command::KEY_USE, [Attr::u32(uapi::key::ID, (*id).into())])?;
            done(json)
        }
        Command::Key(cli::Key::Del { id }) => {
            kernel.ask(command::KEY_DEL, [Attr::u32(uapi::key::ID, (*id).into())])?;
            done(json)
        }
        Command::Key(cli::Key::List) => list::<state::Key>(kernel, command::KEY_GET, json),

        Command::Flows(wanted) => flows(kernel, wanted, json),
        Command::Stats { nonzero, explain } => stats(kernel, *nonzero, *explain, json),
        Command::Drain(how) => drain(kernel, how, json),
        Command::Resume => {
            kernel.ask(command::RESUME, [])?;
            done(json)
        }
    }
}

/// Says that something was done, to programs only: people see it by the exit status.
fn done(as_json: bool) -> Result<ExitCode, Error> {
    if as_json {
        writeln!(io::stdout(), "{}", json!({ "done": true }))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn service_attrs(at: SocketAddr) -> [Attr; 2] {
    [
        Attr::addr(uapi::service::ADDR, at.ip()),
        Attr::u16(uapi::service::PORT, at.port()),
    ]
}

/// The attribute that says which of these names was chosen.
fn choice(attr: u16, names: &[&str], chosen: &str) -> Attr {
    let number = (0..).zip(names).find(|(_, name)| **name == chosen);
    // clap lets no other name through.
    Attr::u32(attr, number.map_or(u32::MAX, |(number, _)| number))
}

fn node_attrs(node: &cli::NodeAdd) -> Result<Vec<Attr>, Error> {
    let local = match (node.local, node.remote) {
        (true, _) => true,
        (_, true) => false,
        _ => is_ours(node.addr)?,
    };
    let mut attrs = vec![
        Attr::text(uapi::node::NAME, &node.name),
        Attr::addr(uapi::node::ADDR, node.addr),
        Attr::u16(uapi::node::PORT, node.port),
        choice(uapi::node::FORWARD, uapi::forward::NAMES, &node.forward),
    ];
    let other = node
        .other
        .map(|addr| Attr::addr(uapi::node::OTHER_ADDR, addr));
    attrs.extend(other);
    if let Some(way) = &node.other_forward {
        attrs.push(choice(uapi::node::OTHER_FORWARD, uapi::forward::NAMES, way));
    }
    if local {
        attrs.push(Attr::flag(uapi::node::LOCAL));
    }
    Ok(attrs)
}

fn rule_attrs(rule: &cli::RuleKey) -> Vec<Attr> {
    let mut attrs = vec![
        Attr::addr(uapi::rule::ADDR, rule.at.ip()),
        Attr::u16(uapi::rule::PORT, rule.at.port()),
    ];
    let host = rule.host.as_deref();
    let path = rule.path.as_deref();
    attrs.extend(host.map(|host| Attr::text(uapi::rule::HOST, host)));
    attrs.extend(path.map(|path| Attr::text(uapi::rule::PATH, path)));
    attrs
}

/// Whether an interface of this network namespace has the address.
fn is_ours(addr: IpAddr) -> Result<bool, Error> {
    let ours = getifaddrs().map_err(io::Error::from)?;
    Ok(ours
        .filter_map(|interface| interface.address)
        .any(|it| match addr {
            IpAddr::V4(addr) => it.as_sockaddr_in().is_some_and(|it| it.ip() == addr),
            IpAddr::V6(addr) => it.as_sockaddr_in6().is_some_and(|it| it.ip() == addr),
        }))
}

/// Reads a list.
fn read<E: Entry>(kernel: &mut Connection, command: u16) -> Result<Vec<E>, Error> {
    kernel
        .list(command)?
        .iter()
        .map(|attrs| E::read(attrs).ok_or_else(|| incomplete(attrs)))
        .collect()
}

fn incomplete(attrs: &Attrs) -> Error {
    Error::Malformed(format!("something is missing in {attrs:?}"))
}

/// Prints a list.
fn list<E: Entry>(kernel: &mut Connection, command: u16, as_json: bool) -> Result<ExitCode, Error> {
    print(&read::<E>(kernel, command)?, as_json)
}

/// Prints the connections that are wanted, each once.
fn flows(kernel: &mut Connection, wanted: &cli::Flows, as_json: bool) -> Result<ExitCode, Error> {
    let mut flows: Vec<state::Flow> = read(kernel, command::FLOW_GET)?;
    flows.retain(|flow| flow.is_wanted(wanted));
    // The kernel may tell of one twice, if many come or go.
    flows.sort_by_key(|flow| (flow.client, flow.local));
    flows.dedup_by_key(|flow| (flow.client, flow.local));
    print(&flows, as_json)
}

/// Prints entries.
fn print<E: Entry>(entries: &[E], as_json: bool) -> Result<ExitCode, Error> {
    let text = match as_json {
        true => format!("{}\n", json!(entries)),
        false => table::table(entries),
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the counters and gauges; for programs, as one object of numbers, or what each is about.
fn stats(
    kernel: &mut Connection,
    nonzero: bool,
    explain: bool,
    as_json: bool,
) -> Result<ExitCode, Error> {
    let mut stats: Vec<state::Stat> = read(kernel, command::STATS_GET)?;
    stats.retain(|stat| stat.value != 0 || !nonzero);
    let text = match as_json {
        true if explain => format!("{}\n", json!(stats)),
        false if explain => {
            table::table(&stats.into_iter().map(state::Explained).collect::<Vec<_>>())
        }
        true => {
            let object: serde_json::Map<_, _> = stats
                .into_iter()
                .map(|stat| (stat.name, stat.value.into()))
                .collect();
            format!("{}\n", json!(object))
        }
        false => table::table(&stats),
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Begins a drain, and waits for its end.
fn drain(kernel: &mut Connection, how: &cli::Drain, as_json: bool) -> Result<ExitCode, Error> {
    let begin = Instant::now();
    let force = how.force.then(|| Attr::flag(uapi::drain::FORCE));
    kernel.ask(command::DRAIN, force)?;

    // A terminal has one line that changes; elsewhere each change is a line.
    let terminal = io::stderr().is_terminal();
    let mut shown = None;
    let progress = loop {
        let attrs = kernel.ask(command::DRAIN_GET, [])?;
        let progress = Progress::read(&attrs).ok_or_else(|| incomplete(&attrs))?;
        let late = how
            .timeout
            .is_some_and(|seconds| begin.elapsed() >= Duration::from_secs(seconds));
        if progress.is_done() || late {
            break progress;
        }
        if !as_json && shown.as_ref() != Some(&progress) {
            let (start, end) = if terminal {
                ("\r\x1b[K", "")
            } else {
                ("", "\n")
            };
            eprint!("{start}draining: {}{end}", progress.text());
            shown = Some(progress);
        }
        thread::sleep(DRAIN_PERIOD);
    };
    if terminal && shown.is_some() {
        eprint!("\r\x1b[K");
    }

    let is_done = progress.is_done();
    if as_json {
        let object = json!({
            "done": is_done,
            "handed_off_out": progress.handed_off_out,
            "handed_off_in": progress.handed_off_in,
        });
        writeln!(io::stdout(), "{object}")?;
    } else if is_done {
        writeln!(io::stdout(), "drained: no handed-off connection is left")?;
    } else {
        writeln!(io::stdout(), "not drained yet: {}", progress.text())?;
    }
    Ok(match is_done {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(EXIT_TIMEOUT),
    })
}
