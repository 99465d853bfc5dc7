// SPDX-License-Identifier: GPL-2.0

//! TCP headers: reading them, and building the segments that BTCP injects.
//!
//! RFC 9293, section 3.1; options: RFC 7323 (window scale, timestamps), RFC 2018
//! (SACK), and the numbers that IANA assigned to the others.

mod build;
mod options;
mod sack;
mod syn;
#[cfg(test)]
mod tests;

pub use build::Build;
pub use options::{
    option,
    Malformed,
    Opt,
    OptionIter,
    Options,
    Timestamps,
    MAX_WSCALE, //
};
pub use sack::{
    Sack,
    MAX_SACK, //
};
pub use syn::{
    Ecn,
    SynFacts, //
};

use crate::seq::Seq;
use core::mem::size_of;
use zerocopy::{
    byteorder::network_endian::{
        U16,
        U32, //
    },
    FromBytes, //
};
use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout,
    Unaligned, //
};

/// The bits of the flags byte.
pub mod flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer is valid.
    pub const URG: u8 = 0x20;
    /// ECN echo (RFC 3168).
    pub const ECE: u8 = 0x40;
    /// Congestion window reduced (RFC 3168).
    pub const CWR: u8 = 0x80;
}

/// The size of a header without options.
pub const HEADER_LEN: usize = 20;

/// The size of the longest header.
pub const MAX_HEADER_LEN: usize = 60;

/// The part of a header that is always there.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Fixed {
    /// Source port.
    pub(crate) source: U16,
    /// Destination port.
    pub(crate) dest: U16,
    /// Sequence number.
    pub(crate) seq: U32,
    /// Acknowledgement number.
    pub(crate) ack: U32,
    /// Header length in words (four bits), three reserved bits, and AE (RFC 9768).
    pub(crate) offset: u8,
    /// The [`flag`]s.
    pub(crate) flags: u8,
    /// Window, not scaled.
    pub(crate) window: U16,
    /// Checksum.
    pub(crate) check: U16,
    /// Urgent pointer.
    pub(crate) urgent: U16,
}

const _: () = assert!(size_of::<Fixed>() == HEADER_LEN);

impl Fixed {
    /// The header's length in bytes as it says itself, if that is one that a header can have.
    pub(crate) fn header_len(&self) -> Option<usize> {
        // OVERFLOW: at most 15 * 4.
        let len = usize::from(self.offset >> 4) * 4;
        (len >= HEADER_LEN).then_some(len)
    }
}

/// A TCP header, whole and with a length that it can have.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    /// The header's own bytes.
    bytes: &'a [u8],
    /// The fixed part of them.
    fixed: &'a Fixed,
    /// The options among them.
    options: &'a [u8],
}

impl PartialEq for Header<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Header<'_> {}

impl<'a> Header<'a> {
    /// Reads the header at the beginning of `segment`; `None` if it is not whole or its length is
    /// below that of the fixed part. The options are not looked at.
    #[must_use]
    pub fn parse(segment: &'a [u8]) -> Option<Self> {
        let (fixed, _) = Fixed::ref_from_prefix(segment).ok()?;
        let bytes = segment.get(..fixed.header_len()?)?;
        Some(Self {
            bytes,
            fixed,
            options: bytes.get(HEADER_LEN..)?,
        })
    }

    /// The header's bytes, options included.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The header's length, options included.
    #[must_use]
    pub fn header_len(&self) -> usize {
        self.bytes.len()
    }

    /// The source port.
    #[must_use]
    pub fn source(&self) -> u16 {
        self.fixed.source.get()
    }

    /// The destination port.
    #[must_use]
    pub fn dest(&self) -> u16 {
        self.fixed.dest.get()
    }

    /// The sequence number.
    #[must_use]
    pub fn seq(&self) -> Seq {
        Seq(self.fixed.seq.get())
    }

    /// The acknowledgement number; without meaning unless [`flag::ACK`] is set.
    #[must_use]
    pub fn ack(&self) -> Seq {
        Seq(self.fixed.ack.get())
    }

    /// The flags byte.
    #[must_use]
    pub fn flags(&self) -> u8 {
        self.fixed.flags
    }

    /// Whether all of `flags` are set.
    #[must_use]
    pub fn has(&self, flags: u8) -> bool {
        self.fixed.flags & flags == flags
    }

    /// The window field, not scaled.
    #[must_use]
    pub fn window(&self) -> u16 {
        self.fixed.window.get()
    }

    /// The checksum field.
    #[must_use]
    pub fn check(&self) -> u16 {
        self.fixed.check.get()
    }

    /// The urgent pointer.
    #[must_use]
    pub fn urgent(&self) -> u16 {
        self.fixed.urgent.get()
    }

    /// How many sequence numbers the segment takes if it carries `payload` bytes.
    #[must_use]
    pub fn seq_len(&self, payload: u32) -> u32 {
        payload
            .wrapping_add(u32::from(self.has(flag::SYN)))
            .wrapping_add(u32::from(self.has(flag::FIN)))
    }

    /// Walks the options.
    #[must_use]
    pub fn walk(&self) -> OptionIter<'a> {
        OptionIter::new(self.bytes, self.options)
    }

    /// Reads the options that a handoff carries or has to know of.
    pub fn options(&self) -> Result<Options, Malformed> {
        Options::collect(self.walk())
    }

    /// Of these the timestamps: all options that most segments have.
    pub fn timestamps(&self) -> Result<Option<Timestamps>, Malformed> {
        match Timestamps::alone(self.options) {
            None if self.options.is_empty() => Ok(None),
            None => Ok(self.options()?.ts),
            alone => Ok(alone),
        }
    }
}
