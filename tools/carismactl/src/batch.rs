// SPDX-License-Identifier: GPL-2.0

//! Commands from a file.

use crate::{
    cli::{Cli, Command},
    netlink::Error,
};
use clap::Parser;
use std::{fs, io, iter, path::Path};

/// A command, and the number of its line.
#[derive(Debug)]
pub struct Line {
    pub number: usize,
    pub cli: Cli,
}

impl Line {
    /// An error of this line.
    pub fn failed(&self, why: Error) -> Error {
        Error::Line(self.number, Box::new(why))
    }
}

/// Reads a file's commands, all of them before anything is done; `-` is standard input.
pub fn read(file: &Path) -> Result<Vec<Line>, Error> {
    let text = match file == Path::new("-") {
        true => io::read_to_string(io::stdin()),
        false => fs::read_to_string(file),
    };
    parsed(&text.map_err(|err| Error::File(format!("{}: {err}", file.display())))?)
}

fn parsed(text: &str) -> Result<Vec<Line>, Error> {
    (1..)
        .zip(text.lines())
        .filter(|(_, line)| !matches!(line.trim_start().chars().next(), None | Some('#')))
        .map(|(number, line)| {
            let words = iter::once("carismactl").chain(line.split_whitespace());
            let failed = |why: &str| {
                let why = why.trim_start_matches("error: ").to_owned();
                Error::Line(number, Box::new(Error::File(why)))
            };
            match Cli::try_parse_from(words) {
                Ok(cli) if matches!(cli.command, Command::Batch { .. }) => {
                    Err(failed("a batch cannot be part of another"))
                }
                Ok(cli) => Ok(Line { number, cli }),
                // The rest is a hint at how to get help.
                Err(err) => Err(failed(err.to_string().lines().next().unwrap_or_default())),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_commands() {
        let lines = parsed("# a site\n\n  node add en 10.0.0.1\n\tservice list\n").unwrap();
        let numbers: Vec<_> = lines.iter().map(|line| line.number).collect();
        assert_eq!(numbers, [3, 4]);
        assert!(matches!(lines[1].cli.command, Command::Service(_)));
        assert!(parsed("").unwrap().is_empty());
    }

    #[test]
    fn a_wrong_line_is_named() {
        let said = |text| parsed(text).unwrap_err().to_string();
        assert!(said("resume\nnode ad en\n").starts_with("line 2: unrecognized subcommand 'ad'"));
        assert_eq!(said("batch -"), "line 1: a batch cannot be part of another");
    }
}
