// SPDX-License-Identifier: GPL-2.0

//! IPv4 headers: reading them, and building those of injected segments.
//!
//! RFC 791, section 3.1.

use crate::csum::Sum;
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

/// The size of a header without options.
pub const HEADER_LEN: usize = 20;

/// Don't Fragment, in [`Fixed::fragment`].
const DF: u16 = 0x4000;

/// More Fragments and the fragment's offset, in the header's word of both (RFC 791, section 3.1): not 0
/// in a part of a packet.
pub const FRAGMENT: u16 = 0x3fff;

/// The fragment's offset, in [`Fixed::fragment`].
const OFFSET: u16 = 0x1fff;

/// The part of a header that is always there.
#[derive(Clone, Copy, Debug, FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Fixed {
    /// Version and header length in words, four bits each.
    version_ihl: u8,
    /// DSCP and ECN.
    tos: u8,
    /// Total length.
    len: U16,
    /// Identification.
    id: U16,
    /// Flags and fragment offset.
    fragment: U16,
    /// Time to live.
    ttl: u8,
    /// Protocol of the payload.
    protocol: u8,
    /// Header checksum.
    pub(crate) check: U16,
    /// Source address.
    pub(crate) src: [u8; 4],
    /// Destination address.
    pub(crate) dst: [u8; 4],
}

const _: () = assert!(size_of::<Fixed>() == HEADER_LEN);

impl Fixed {
    /// The header's length in bytes, if this is IPv4 and the length one that it can have.
    pub(crate) fn header_len(&self) -> Option<usize> {
        // OVERFLOW: at most 15 * 4.
        let len = usize::from(self.version_ihl & 0xf) * 4;
        (self.version_ihl >> 4 == 4 && len >= HEADER_LEN).then_some(len)
    }
}

/// A packet with an IPv4 header, as far as its bytes are at hand.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    /// The fixed part.
    fixed: &'a Fixed,
    /// The bytes behind the header.
    rest: &'a [u8],
    /// The header's length.
    len: usize,
}

impl<'a> Header<'a> {
    /// Reads the header at the beginning of `packet`, whose end may be missing or padded; `None`
    /// if it is no IPv4 header, or not whole.
    #[must_use]
    pub fn parse(packet: &'a [u8]) -> Option<Self> {
        let (fixed, _) = Fixed::ref_from_prefix(packet).ok()?;
        let len = fixed.header_len()?;
        let rest = packet.get(len..)?;
        let payload = usize::from(fixed.len.get()).checked_sub(len)?;
        Some(Self {
            fixed,
            rest: rest.get(..payload).unwrap_or(rest),
            len,
        })
    }

    /// Reads the header that an ICMP error quotes at the beginning of `quote`, of which all but the
    /// header may be missing. Its total length is not looked at: routers are known that quote it in
    /// another order of bytes, or less the header.
    #[must_use]
    pub fn quoted(quote: &'a [u8]) -> Option<Self> {
        let (fixed, _) = Fixed::ref_from_prefix(quote).ok()?;
        let len = fixed.header_len()?;
        Some(Self {
            fixed,
            rest: quote.get(len..)?,
            len,
        })
    }

    /// The header's length in bytes, options included.
    #[must_use]
    pub fn header_len(&self) -> usize {
        self.len
    }

    /// The packet's length as the header says it.
    #[must_use]
    pub fn total_len(&self) -> usize {
        usize::from(self.fixed.len.get())
    }

    /// What follows the header, without padding of the link.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.rest
    }

    /// The source address.
    #[must_use]
    pub fn src(&self) -> [u8; 4] {
        self.fixed.src
    }

    /// The destination address.
    #[must_use]
    pub fn dst(&self) -> [u8; 4] {
        self.fixed.dst
    }

    /// The payload's protocol.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.fixed.protocol
    }

    /// Whether this is a fragment, first or later.
    #[must_use]
    pub fn is_fragment(&self) -> bool {
        self.fixed.fragment.get() & FRAGMENT != 0
    }

    /// Whether this is a fragment that does not begin with the payload's header.
    #[must_use]
    pub fn is_later_fragment(&self) -> bool {
        self.fixed.fragment.get() & OFFSET != 0
    }
}

/// Builds the header of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// Source address.
    pub src: [u8; 4],
    /// Destination address.
    pub dst: [u8; 4],
    /// Protocol of the payload.
    pub protocol: u8,
    /// Time to live.
    pub ttl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Identification. Injected packets are not fragmented, so any value will do (RFC 6864).
    pub id: u16,
}

impl Build {
    /// Writes a header with Don't Fragment and its checksum, for `payload` bytes, to the beginning
    /// of `out`, and returns the header's length; `None` if `out` is too short or the packet would
    /// be too long.
    #[must_use]
    pub fn write(&self, out: &mut [u8], payload: usize) -> Option<usize> {
        let len = u16::try_from(payload.checked_add(HEADER_LEN)?).ok()?;
        let mut header = Fixed {
            version_ihl: 0x45,
            tos: self.tos,
            len: U16::new(len),
            id: U16::new(self.id),
            fragment: U16::new(DF),
            ttl: self.ttl,
            protocol: self.protocol,
            check: U16::new(0),
            src: self.src,
            dst: self.dst,
        };
        header.check = U16::new(Sum::new().append(header.as_bytes()).check());
        header.write_to_prefix(out).ok()?;
        Some(HEADER_LEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csum::IPPROTO_TCP;

    const BUILD: Build = Build {
        src: [192, 0, 2, 1],
        dst: [198, 51, 100, 2],
        protocol: IPPROTO_TCP,
        ttl: 64,
        tos: 0,
        id: 7,
    };

    #[test]
    fn what_is_built_is_read() {
        let mut packet = [0xeeu8; 30];
        assert_eq!(BUILD.write(&mut packet, 6), Some(20));
        let header = Header::parse(&packet).unwrap();
        assert_eq!((header.src(), header.dst()), (BUILD.src, BUILD.dst));
        assert_eq!(header.protocol(), IPPROTO_TCP);
        assert_eq!((header.header_len(), header.total_len()), (20, 26));
        // Padding of the link is no payload.
        assert_eq!(header.payload().len(), 6);
        assert!(!header.is_fragment());
        assert_eq!(Sum::new().append(&packet[..20]).check(), 0);
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let mut packet = [0u8; 24];
        assert!(BUILD.write(&mut packet, 4).is_some());
        assert!(Header::parse(&packet[..19]).is_none());
        let cases: [(usize, u8, bool); 7] = [
            (0, 0x44, false),
            (0, 0x65, false),
            (0, 0x46, true),
            (0, 0x47, false),
            (3, 19, false),
            (6, 0x20, true),
            (7, 1, true),
        ];
        for (at, value, ok) in cases {
            let mut packet = packet;
            packet[at] = value;
            let header = Header::parse(&packet);
            assert_eq!(header.is_some(), ok, "{at}: {value}");
            if let Some(header) = header {
                assert_eq!(header.is_fragment(), at >= 6);
                assert_eq!(header.is_later_fragment(), at == 7);
            }
            // A quote may be of any length.
            assert_eq!(Header::quoted(&packet).is_some(), ok || at == 3);
        }
        assert!(BUILD.write(&mut packet[..19], 4).is_none());
        assert!(BUILD.write(&mut packet, 65516).is_none());
        assert!(BUILD.write(&mut packet, usize::MAX).is_none());
    }
}
