// SPDX-License-Identifier: GPL-2.0

//! IPv6 headers: reading them with what may stand between them and TCP, and building those of
//! injected segments.
//!
//! RFC 8200, sections 3 and 4.

use core::mem::size_of;
use zerocopy::{
    byteorder::network_endian::U16,
    FromBytes,
    IntoBytes, //
};
use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout,
    Unaligned, //
};

/// The size of the header itself.
pub const HEADER_LEN: usize = 40;

/// How many bytes of a packet are looked at for its payload. One with more extension headers than
/// fit is nobody's.
pub const CHAIN_MAX: usize = 296;

/// The numbers of the extension headers that may precede TCP's. Others, such as those of IPsec,
/// cover what a handoff changes.
mod next {
    /// Hop-by-hop options.
    pub(super) const HOP_BY_HOP: u8 = 0;
    /// Routing.
    pub(super) const ROUTING: u8 = 43;
    /// Fragment.
    pub(super) const FRAGMENT: u8 = 44;
    /// Destination options.
    pub(super) const DESTINATION: u8 = 60;
}

/// More fragments follow, in the word that has the fragment's offset as well.
const MORE: u16 = 0x0001;

/// The fragment's offset in that word.
const OFFSET: u16 = 0xfff8;

/// The header itself.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Fixed {
    /// Version, traffic class and flow label.
    class: [u8; 4],
    /// Bytes behind this header; 0 in a merged packet of more than 64 KiB.
    len: U16,
    /// What follows.
    next: u8,
    /// How many hops are left.
    hops: u8,
    /// Source address.
    pub(crate) src: [u8; 16],
    /// Destination address.
    pub(crate) dst: [u8; 16],
}

const _: () = assert!(size_of::<Fixed>() == HEADER_LEN);

impl Fixed {
    /// Whether this is IPv6.
    pub(crate) fn is_it(&self) -> bool {
        let [first, ..] = self.class;
        first >> 4 == 6
    }
}

/// A packet with an IPv6 header, as far as its bytes are at hand.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    /// The header itself.
    fixed: &'a Fixed,
    /// The bytes behind the last extension header.
    rest: &'a [u8],
    /// The length of all headers.
    len: usize,
    /// What the last of them says that follows.
    protocol: u8,
    /// Whether one of them says that more fragments follow.
    fragment: bool,
}

impl<'a> Header<'a> {
    /// Reads the headers at the beginning of `packet`, whose end may be missing or padded; `None`
    /// if they are no IPv6 headers, not whole, those of a later fragment, or those of a packet
    /// that is still to be routed to its last destination (RFC 8200, section 4.4).
    #[must_use]
    pub fn parse(packet: &'a [u8]) -> Option<Self> {
        let header = Self::quoted(packet)?;
        let payload = match usize::from(header.fixed.len.get()) {
            0 => header.rest.len(),
            // OVERFLOW: two small numbers.
            len => (len + HEADER_LEN).checked_sub(header.len)?,
        };
        Some(Self {
            rest: header.rest.get(..payload).unwrap_or(header.rest),
            ..header
        })
    }

    /// Reads the headers that an ICMP error quotes at the beginning of `quote`, of which all but
    /// the headers may be missing.
    #[must_use]
    pub fn quoted(quote: &'a [u8]) -> Option<Self> {
        let (fixed, mut rest) = Fixed::ref_from_prefix(quote).ok()?;
        if !fixed.is_it() {
            return None;
        }
        let (mut protocol, mut len, mut fragment) = (fixed.next, HEADER_LEN, false);
        // Every one is of 8 bytes or more, so this ends.
        loop {
            let size = match (protocol, rest) {
                (next::ROUTING, &[_, _, _, left, ..]) if left != 0 => return None,
                (
                    next::HOP_BY_HOP | next::ROUTING | next::DESTINATION,
                    // OVERFLOW: at most 256 * 8.
                    &[_, units, ..],
                ) => (usize::from(units) + 1) * 8,
                (next::FRAGMENT, &[_, _, hi, lo, ..]) => {
                    let word = u16::from_be_bytes([hi, lo]);
                    if word & OFFSET != 0 {
                        return None;
                    }
                    fragment |= word & MORE != 0;
                    8
                }
                (next::HOP_BY_HOP | next::ROUTING | next::DESTINATION | next::FRAGMENT, _) => {
                    return None
                }
                _ => break,
            };
            protocol = *rest.first()?;
            rest = rest.get(size..)?;
            len = len.checked_add(size)?;
        }
        Some(Self {
            fixed,
            rest,
            len,
            protocol,
            fragment,
        })
    }

    /// The length of all headers in bytes, extension headers included.
    #[must_use]
    pub fn header_len(&self) -> usize {
        self.len
    }

    /// What follows them, without padding of the link.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.rest
    }

    /// The source address.
    #[must_use]
    pub fn src(&self) -> [u8; 16] {
        self.fixed.src
    }

    /// The destination address.
    #[must_use]
    pub fn dst(&self) -> [u8; 16] {
        self.fixed.dst
    }

    /// The payload's protocol.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Whether this is the first of several fragments.
    #[must_use]
    pub fn is_fragment(&self) -> bool {
        self.fragment
    }
}

/// Builds the header of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// Source address.
    pub src: [u8; 16],
    /// Destination address.
    pub dst: [u8; 16],
    /// Protocol of the payload.
    pub protocol: u8,
    /// How many hops the packet may take.
    pub hops: u8,
    /// DSCP and ECN.
    pub class: u8,
}

impl Build {
    /// Writes the header, for `payload` bytes, to the beginning of `out`, and returns its length;
    /// `None` if `out` is too short or the packet would be too long. The flow label is 0.
    #[must_use]
    pub fn write(&self, out: &mut [u8], payload: usize) -> Option<usize> {
        let header = Fixed {
            class: [0x60 | (self.class >> 4), self.class << 4, 0, 0],
            len: U16::new(u16::try_from(payload).ok()?),
            next: self.protocol,
            hops: self.hops,
            src: self.src,
            dst: self.dst,
        };
        header.write_to_prefix(out).ok()?;
        Some(HEADER_LEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csum::IPPROTO_TCP;
    use proptest::prelude::*;
    use std::{vec, vec::Vec};

    /// A packet with these extension headers, each a number and what it holds behind that of the next.
    fn packet(chain: &[(u8, &[u8])], payload: &[u8]) -> Vec<u8> {
        let mut rest = Vec::new();
        for (at, (_, bytes)) in chain.iter().enumerate() {
            rest.push(chain.get(at + 1).map_or(IPPROTO_TCP, |&(next, _)| next));
            rest.extend_from_slice(bytes);
        }
        rest.extend_from_slice(payload);
        let build = Build {
            src: [0x20; 16],
            dst: [0xfd; 16],
            protocol: chain.first().map_or(IPPROTO_TCP, |&(first, _)| first),
            hops: 64,
            class: 0xb9,
        };
        let mut out = vec![0; HEADER_LEN];
        assert_eq!(build.write(&mut out, rest.len()), Some(HEADER_LEN));
        out.extend_from_slice(&rest);
        out
    }

    const OPTIONS: &[u8] = &[0, 1, 4, 0, 0, 0, 0];

    #[test]
    fn what_is_built_is_read() {
        let mut bytes = packet(&[], b"segment");
        assert_eq!(bytes[..4], [0x6b, 0x90, 0, 0]);
        bytes.extend_from_slice(b"padding");
        let header = Header::parse(&bytes).unwrap();
        assert_eq!((header.src(), header.dst()), ([0x20; 16], [0xfd; 16]));
        assert_eq!(header.protocol(), IPPROTO_TCP);
        assert_eq!(header.header_len(), 40);
        assert_eq!(header.payload(), b"segment");
        // A merged packet of more than 64 KiB does not say how long it is.
        bytes[4..6].fill(0);
        assert_eq!(Header::parse(&bytes).unwrap().payload(), b"segmentpadding");
        bytes[4..6].copy_from_slice(&[1, 0]);
        assert_eq!(Header::parse(&bytes).unwrap().payload(), b"segmentpadding");
        bytes[0] = 0x4b;
        assert!(Header::parse(&bytes).is_none());
        assert!(Header::parse(&packet(&[], b"")[..39]).is_none());
    }

    #[test]
    fn extension_headers_are_passed_over() {
        let long = [&[1], &[0; 14][..]].concat();
        let chain: [(u8, &[u8]); 5] = [
            (next::HOP_BY_HOP, OPTIONS),
            (next::DESTINATION, &long),
            (next::ROUTING, &[0, 4, 0, 0, 0, 0, 0]),
            (next::FRAGMENT, &[0, 0, 0, 1, 2, 3, 4]),
            (next::DESTINATION, OPTIONS),
        ];
        let bytes = packet(&chain, b"segment");
        let header = Header::parse(&bytes).unwrap();
        assert_eq!(header.protocol(), IPPROTO_TCP);
        assert_eq!(header.header_len(), 40 + 8 + 16 + 8 + 8 + 8);
        assert_eq!(header.payload(), b"segment");
        assert!(!header.is_fragment());
        for end in 0..header.header_len() {
            assert!(Header::parse(&bytes[..end]).is_none(), "{end}");
        }
        // What says less than its headers is none.
        let mut short = bytes.clone();
        short[5] = 7;
        assert!(Header::parse(&short).is_none());
        assert!(Header::quoted(&short).is_some());
    }

    #[test]
    fn what_is_not_at_its_end_is_refused() {
        let routed = packet(&[(next::ROUTING, &[0, 4, 1, 0, 0, 0, 0])], b"segment");
        assert!(Header::parse(&routed).is_none());
        let later = packet(&[(next::FRAGMENT, &[0, 0, 8, 1, 2, 3, 4])], b"segment");
        assert!(Header::parse(&later).is_none());
        let first = packet(&[(next::FRAGMENT, &[0, 0, 1, 1, 2, 3, 4])], b"segment");
        assert!(Header::parse(&first).unwrap().is_fragment());
        // IPsec's authentication header covers what would be changed.
        let signed = packet(&[(51, OPTIONS)], b"segment");
        assert_eq!(Header::parse(&signed).unwrap().protocol(), 51);
        assert!(Build {
            src: [0; 16],
            dst: [0; 16],
            protocol: 6,
            hops: 1,
            class: 0
        }
        .write(&mut [0; 40], 65536)
        .is_none());
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(first) = bytes.first_mut() {
                *first = 0x60;
            }
            if let Some(header) = Header::parse(&bytes) {
                prop_assert!(header.header_len() + header.payload().len() <= bytes.len());
            }
        }
    }
}
