// SPDX-License-Identifier: GPL-2.0

//! Addresses and ports that name a connection.
//!
//! C header: `include/carisma_msg.h` (`struct carisma_tuple`, the same layout).

use core::{
    fmt,
    mem::{
        align_of,
        size_of, //
    },
    net::{
        Ipv4Addr,
        Ipv6Addr, //
    },
};
use zerocopy::byteorder::network_endian::U16;
use zerocopy_derive::{
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout,
    Unaligned, //
};

/// An IPv6 address in network order; IPv4 is kept as v4-mapped, `::ffff:a.b.c.d` (RFC 4291,
/// section 2.5.5.2).
pub type Addr = [u8; 16];

/// `addr` as a v4-mapped [`Addr`].
#[must_use]
pub const fn v4_mapped(addr: [u8; 4]) -> Addr {
    // As one number, since the compiler moves an array that is put together of bytes byte by byte.
    // CAST: To more bits.
    ((V4_PREFIX << 32) | u32::from_be_bytes(addr) as u128).to_be_bytes()
}

/// What a v4-mapped address begins with, as a number of 96 bits.
const V4_PREFIX: u128 = 0xffff;

/// The IPv4 address in a v4-mapped `addr`.
#[must_use]
pub const fn v4_of(addr: &Addr) -> Option<[u8; 4]> {
    let addr = u128::from_be_bytes(*addr);
    match addr >> 32 {
        // CAST: The other 32 bits.
        V4_PREFIX => Some((addr as u32).to_be_bytes()),
        _ => None,
    }
}

/// Whether an IPv6 `addr` is one of a single host's that means the same on every link: not unspecified
/// (`::`), multicast (`ff00::/8`) or link-local (`fe80::/10`; RFC 4291, section 2.4).
#[must_use]
pub const fn is_global(addr: &Addr) -> bool {
    !matches!(addr, [0xff, ..]) && !is_link_local(addr) && u128::from_be_bytes(*addr) != 0
}

/// Whether an address means something on one link only (`fe80::/10`).
#[must_use]
pub const fn is_link_local(addr: &Addr) -> bool {
    matches!(addr, [0xfe, 0x80..=0xbf, ..])
}

/// The link of a client's address in a [`Tuple`]; 0 of one that means the same everywhere.
///
/// The same link-local address may be another client's on another link. What distinguishes them, the
/// number of the link's device, stands in bytes 2 and 3, which are zero on the wire (RFC 4291, section
/// 2.5.6).
#[must_use]
pub const fn link_of(addr: &Addr) -> u16 {
    match *addr {
        [0xfe, 0x80..=0xbf, hi, lo, ..] => u16::from_be_bytes([hi, lo]),
        _ => 0,
    }
}

/// A client's address as it is known to be on this link; 0 is the one that stands on the wire.
#[must_use]
pub fn on_link(addr: &Addr, link: u16) -> Addr {
    let mut addr = *addr;
    if is_link_local(&addr) {
        if let Some(field) = addr.get_mut(2..4) {
            field.copy_from_slice(&link.to_be_bytes());
        }
    }
    addr
}

/// Names a connection as one TCP sees it: the client, and that TCP's own end.
///
/// It is the key of the flow tables, travels in every record of a handoff and in the messages
/// between the modules, and is hashed and compared as 36 plain bytes.
#[derive(
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Hash,
    FromBytes,
    Immutable,
    IntoBytes,
    KnownLayout,
    Unaligned,
)]
#[repr(C)]
pub struct Tuple {
    /// The client's address, on its link: see [`on_link`].
    pub client: Addr,
    /// The address of TCP's own end.
    pub local: Addr,
    /// The client's port.
    pub client_port: U16,
    /// The port of TCP's own end.
    pub local_port: U16,
}

const _: () = assert!(size_of::<Tuple>() == 36 && align_of::<Tuple>() == 1);

impl Tuple {
    /// The tuple of a connection.
    #[must_use]
    pub const fn new(client: Addr, client_port: u16, local: Addr, local_port: u16) -> Self {
        Self {
            client,
            local,
            client_port: U16::new(client_port),
            local_port: U16::new(local_port),
        }
    }

    /// The tuple of an IPv4 connection.
    #[must_use]
    pub const fn v4(client: [u8; 4], client_port: u16, local: [u8; 4], local_port: u16) -> Self {
        Self::new(v4_mapped(client), client_port, v4_mapped(local), local_port)
    }

    /// Whether both ends are IPv4 addresses.
    #[must_use]
    pub fn is_v4(&self) -> bool {
        v4_of(&self.client).is_some() && v4_of(&self.local).is_some()
    }

    /// Whether it can name a connection: one address family, and no port that is 0.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        v4_of(&self.client).is_some() == v4_of(&self.local).is_some()
            && self.client_port.get() != 0
            && self.local_port.get() != 0
    }

    /// The same with a client on this link: see [`on_link`].
    #[must_use]
    pub fn on_link(&self, link: u16) -> Self {
        Self {
            client: on_link(&self.client, link),
            ..*self
        }
    }

    /// The same client as seen by another end.
    #[must_use]
    pub fn with_local(&self, local: Addr, local_port: u16) -> Self {
        Self {
            local,
            local_port: U16::new(local_port),
            ..*self
        }
    }
}

/// Shows an address and a port as people write them.
struct End<'a>(&'a Addr, U16);

impl fmt::Display for End<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match v4_of(self.0) {
            Some(addr) => write!(f, "{}:{}", Ipv4Addr::from(addr), self.1.get()),
            None => write!(f, "[{}]:{}", Ipv6Addr::from(*self.0), self.1.get()),
        }
    }
}

impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} > {}",
            End(&self.client, self.client_port),
            End(&self.local, self.local_port)
        )
    }
}

impl fmt::Debug for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;
    use zerocopy::{
        FromBytes,
        IntoBytes, //
    };

    #[test]
    fn layout_is_that_of_the_c_struct() {
        let tuple = Tuple::v4([192, 0, 2, 7], 0x1234, [198, 51, 100, 1], 80);
        let bytes = tuple.as_bytes();
        assert_eq!(bytes.len(), 36);
        assert_eq!(&bytes[10..16], &[0xff, 0xff, 192, 0, 2, 7]);
        assert_eq!(&bytes[26..32], &[0xff, 0xff, 198, 51, 100, 1]);
        assert_eq!(&bytes[32..], &[0x12, 0x34, 0, 80]);
        assert_eq!(Tuple::read_from_bytes(bytes).unwrap(), tuple);
    }

    #[test]
    fn families_are_told_apart() {
        let v4 = Tuple::v4([192, 0, 2, 7], 1, [198, 51, 100, 1], 80);
        assert!(v4.is_v4() && v4.is_valid());
        assert_eq!(v4_of(&v4.client), Some([192, 0, 2, 7]));
        let mixed = v4.with_local([0x20; 16], 80);
        assert!(!mixed.is_v4() && !mixed.is_valid());
        assert!(!v4.with_local(v4.local, 0).is_valid());
        assert_eq!(v4_of(&[0; 16]), None);
        assert!(is_global(&[0x20; 16]) && is_global(&[0xfd; 16]) && is_global(&v4.client));
        assert!(!is_global(&[0; 16]) && !is_global(&[0xff; 16]));
        let mut local = [0; 16];
        (local[0], local[1]) = (0xfe, 0x80);
        assert!(!is_global(&local));
        local[1] = 0xc0;
        assert!(is_global(&local));
    }

    #[test]
    fn link_local_clients_have_a_link() {
        let mut addr = [0; 16];
        (addr[0], addr[1], addr[15]) = (0xfe, 0x80, 7);
        let tuple = Tuple::new(addr, 1, [0xfd; 16], 80);
        let there = tuple.on_link(0x102);
        assert_eq!(there.client[..5], [0xfe, 0x80, 1, 2, 0]);
        assert_eq!((link_of(&there.client), link_of(&addr)), (0x102, 0));
        assert_eq!(there.on_link(0), tuple);
        assert!(is_link_local(&there.client));
        let v4 = Tuple::v4([192, 0, 2, 7], 1, [198, 51, 100, 1], 80);
        assert_eq!((v4.on_link(5), link_of(&v4.client)), (v4, 0));
        let global = Tuple::new([0x20; 16], 1, [0xfd; 16], 80);
        assert_eq!((global.on_link(5), link_of(&global.client)), (global, 0));
    }

    #[test]
    fn is_shown_as_people_write_it() {
        let tuple = Tuple::v4([192, 0, 2, 7], 4711, [198, 51, 100, 1], 80);
        assert_eq!(tuple.to_string(), "192.0.2.7:4711 > 198.51.100.1:80");
        let mut addr = [0; 16];
        addr[15] = 1;
        let tuple = Tuple {
            client: addr,
            ..tuple.with_local(addr, 443)
        };
        assert_eq!(tuple.to_string(), "[::1]:4711 > [::1]:443");
    }
}
