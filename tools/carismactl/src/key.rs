// SPDX-License-Identifier: GPL-2.0

//! Cluster keys: where they come from, and how they are written.

use crate::{netlink::Error, uapi::SECRET_LEN};
use serde_json::json;
use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
    process::ExitCode,
};

/// A longer file is none that was made for a key.
const FILE_MAX: u64 = 1024;

/// Prints a new key.
pub fn generate(as_json: bool) -> Result<ExitCode, Error> {
    let mut secret = [0; SECRET_LEN];
    File::open("/dev/urandom")?.read_exact(&mut secret)?;
    let key = written(&secret);
    let text = match as_json {
        true => json!({ "key": key }).to_string(),
        false => key,
    };
    writeln!(io::stdout(), "{text}")?;
    Ok(ExitCode::SUCCESS)
}

/// Reads a key from a file; `-` is standard input.
pub fn read(file: &Path) -> Result<[u8; SECRET_LEN], Error> {
    let failed = |err| Error::Key(format!("file: {}: {err}", file.display()));
    let input: Box<dyn Read> = match file == Path::new("-") {
        true => Box::new(io::stdin()),
        false => Box::new(File::open(file).map_err(failed)?),
    };
    let mut text = String::new();
    input
        .take(FILE_MAX)
        .read_to_string(&mut text)
        .map_err(failed)?;
    parsed(text.trim()).ok_or_else(|| {
        Error::Key(format!(
            "file: {}: it must have 64 hexadecimal digits, as of `carismactl key generate`, and \
             nothing else",
            file.display()
        ))
    })
}

/// A key as it is written.
fn written(secret: &[u8; SECRET_LEN]) -> String {
    secret
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

/// A key of 64 digits.
fn parsed(text: &str) -> Option<[u8; SECRET_LEN]> {
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| u8::try_from(digit.to_digit(16)?).ok())
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits
        .chunks_exact(2)
        .map(|pair| pair[0] * 16 + pair[1])
        .collect();
    // An odd digit more would be left out.
    bytes.try_into().ok().filter(|_| digits.len() % 2 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let secret = std::array::from_fn(|i| i as u8 * 7);
        let text = written(&secret);
        assert_eq!(text.len(), 64);
        assert_eq!(parsed(&text), Some(secret));
        assert_eq!(parsed(&text.to_uppercase()), Some(secret));
    }

    #[test]
    fn only_64_digits_are_a_key() {
        let good = "0123456789abcdef".repeat(4);
        assert!(parsed(&good).is_some());
        for bad in [
            String::new(),
            good[1..].to_owned(),
            good.clone() + "0",
            good.clone() + "00",
            good.replace('f', "g"),
            good.replace("ab", "a b"),
            good.replace("ab", "+b"),
        ] {
            assert_eq!(parsed(&bad), None, "{bad}");
        }
    }
}
