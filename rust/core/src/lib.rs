// SPDX-License-Identifier: GPL-2.0

//! Everything that CARISMA can decide without the kernel.
//!
//! The crate is compiled twice from the same files: by Kbuild into both modules, and by cargo on
//! the host, where its tests run. Nothing of the kernel may be named here, and nothing here
//! allocates.
//!
//! What comes from the wire is read by `get`, split and compared with checked or wrapping
//! arithmetic only: in the kernel an index out of bounds or an overflow would be a BUG.

// Kbuild says `no_std` on the command line.
#![cfg_attr(not(CONFIG_RUST), no_std)]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[cfg(test)]
extern crate std;

pub mod affinity;
pub mod answer;
pub mod auth;
pub mod back;
mod class;
pub mod commit;
pub mod cookie;
pub mod counters;
pub mod csum;
pub mod front;
pub mod http;
pub mod icmp;
pub mod inband;
pub mod ip;
pub mod ipv4;
pub mod ipv6;
pub mod path;
pub mod rule;
pub mod seq;
pub mod share;
pub mod tcp;
pub mod translate;
pub mod tuple;
pub mod wire;
