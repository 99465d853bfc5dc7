// SPDX-License-Identifier: GPL-2.0

//! IP headers of either version, with addresses as [`Addr`].

use crate::{
    ipv4, ipv6,
    tuple::{
        v4_mapped,
        v4_of,
        Addr, //
    },
};

/// The version that a packet says it has, whatever that is.
#[must_use]
pub fn version(packet: &[u8]) -> u8 {
    packet.first().map_or(0, |first| first >> 4)
}

/// A packet with an IP header, as far as its bytes are at hand.
#[derive(Clone, Copy, Debug)]
pub enum Header<'a> {
    /// Of version 4.
    V4(ipv4::Header<'a>),
    /// Of version 6.
    V6(ipv6::Header<'a>),
}

impl<'a> Header<'a> {
    /// Reads the headers at the beginning of `packet`, whose end may be missing or padded; `None`
    /// if they are none, or not whole.
    #[must_use]
    pub fn parse(packet: &'a [u8]) -> Option<Self> {
        match version(packet) {
            4 => ipv4::Header::parse(packet).map(Self::V4),
            _ => ipv6::Header::parse(packet).map(Self::V6),
        }
    }

    /// Reads the headers that an ICMP error quotes at the beginning of `quote`, of which all but
    /// the headers may be missing.
    #[must_use]
    pub fn quoted(quote: &'a [u8]) -> Option<Self> {
        match version(quote) {
            4 => ipv4::Header::quoted(quote).map(Self::V4),
            _ => ipv6::Header::quoted(quote).map(Self::V6),
        }
    }

    /// The length of all headers in bytes.
    #[must_use]
    pub fn header_len(&self) -> usize {
        match self {
            Self::V4(header) => header.header_len(),
            Self::V6(header) => header.header_len(),
        }
    }

    /// What follows them, without padding of the link.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        match self {
            Self::V4(header) => header.payload(),
            Self::V6(header) => header.payload(),
        }
    }

    /// The source address.
    #[must_use]
    pub fn src(&self) -> Addr {
        match self {
            Self::V4(header) => v4_mapped(header.src()),
            Self::V6(header) => header.src(),
        }
    }

    /// The destination address.
    #[must_use]
    pub fn dst(&self) -> Addr {
        match self {
            Self::V4(header) => v4_mapped(header.dst()),
            Self::V6(header) => header.dst(),
        }
    }

    /// The payload's protocol.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        match self {
            Self::V4(header) => header.protocol(),
            Self::V6(header) => header.protocol(),
        }
    }

    /// Whether this is a fragment, first or later.
    #[must_use]
    pub fn is_fragment(&self) -> bool {
        match self {
            Self::V4(header) => header.is_fragment(),
            Self::V6(header) => header.is_fragment(),
        }
    }

    /// Whether this is a fragment that does not begin with the payload's header.
    #[must_use]
    pub fn is_later_fragment(&self) -> bool {
        match self {
            Self::V4(header) => header.is_later_fragment(),
            // Those are not read.
            Self::V6(_) => false,
        }
    }

    /// Whether this is IPv6.
    #[must_use]
    pub fn is_v6(&self) -> bool {
        matches!(self, Self::V6(_))
    }
}

/// The length of the header that [`Build`] writes before a packet from or to this address.
#[must_use]
pub const fn header_len(addr: &Addr) -> usize {
    match v4_of(addr) {
        Some(_) => ipv4::HEADER_LEN,
        None => ipv6::HEADER_LEN,
    }
}

/// Builds the header of a packet, without options or extension headers.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// Source address.
    pub src: Addr,
    /// Destination address.
    pub dst: Addr,
    /// Protocol of the payload.
    pub protocol: u8,
    /// How many hops the packet may take.
    pub hops: u8,
    /// DSCP and ECN.
    pub class: u8,
}

impl Build {
    /// Writes the header, for `payload` bytes, to the beginning of `out`, and returns its length;
    /// `None` if `out` is too short, the packet would be too long, or the addresses are of two
    /// families.
    #[must_use]
    pub fn write(&self, out: &mut [u8], payload: usize) -> Option<usize> {
        let &Self {
            src,
            dst,
            protocol,
            hops,
            class,
        } = self;
        match (v4_of(&src), v4_of(&dst)) {
            (Some(src), Some(dst)) => ipv4::Build {
                src,
                dst,
                protocol,
                ttl: hops,
                tos: class,
                id: 0,
            }
            .write(out, payload),
            (None, None) => ipv6::Build {
                src,
                dst,
                protocol,
                hops,
                class,
            }
            .write(out, payload),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_built_and_read() {
        let (a, b) = (v4_mapped([192, 0, 2, 1]), v4_mapped([192, 0, 2, 2]));
        let (c, d) = ([0x20; 16], [0xfd; 16]);
        for (src, dst, len) in [(a, b, 20), (c, d, 40)] {
            let build = Build {
                src,
                dst,
                protocol: 6,
                hops: 64,
                class: 0,
            };
            let mut out = [0; 50];
            assert_eq!(build.write(&mut out, 3), Some(len));
            assert_eq!(header_len(&src), len);
            let header = Header::parse(&out).unwrap();
            assert_eq!((header.src(), header.dst()), (src, dst));
            assert_eq!((header.protocol(), header.header_len()), (6, len));
            assert_eq!(header.payload().len(), 3);
            assert_eq!(header.is_v6(), len == 40);
            assert!(!header.is_fragment() && !header.is_later_fragment());
            assert_eq!(Header::quoted(&out).unwrap().src(), src);
            assert!(Build {
                dst: a,
                src: c,
                ..build
            }
            .write(&mut out, 3)
            .is_none());
        }
        assert!(Header::parse(&[]).is_none());
    }
}
