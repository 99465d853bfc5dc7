// SPDX-License-Identifier: GPL-2.0

//! Everything that CARISMA can decide without the kernel.
//!
//! The crate is compiled twice from the same files: by Kbuild into both modules, and by cargo on
//! the host, where its tests run. Nothing of the kernel may be named here.

// Kbuild says `no_std` on the command line.
#![cfg_attr(not(CONFIG_RUST), no_std)]
#![forbid(unsafe_code)]

/// The version of what the two modules say to each other; both must have been built with it.
pub const MODULE_ABI: u32 = 1;

/// Whether `bytes` begin with a whole HTTP/1 request head.
pub fn is_request_head(bytes: &[u8]) -> bool {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    matches!(
        httparse::Request::new(&mut headers).parse(bytes),
        Ok(httparse::Status::Complete(_))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_head_is_known_from_a_part_of_it() {
        assert!(is_request_head(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(!is_request_head(b"GET / HTTP/1.1\r\nHost: a\r\n"));
    }
}
