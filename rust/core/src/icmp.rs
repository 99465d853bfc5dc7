// SPDX-License-Identifier: GPL-2.0

//! ICMP errors about TCP segments: reading what they quote, rewriting it, and making one.
//!
//! RFC 792; RFC 1812, section 4.3.2.3 (how much is quoted); RFC 4884 (what may follow the quote);
//! RFC 5508, section 4.2 (what a translator has to rewrite); RFC 1191 (path MTU discovery). For IPv6,
//! RFC 4443 and RFC 8201.
//!
//! A segment that a handed-off connection sends to its client has the front end's address, so that
//! is where an error about it goes; and it has the numbers that the client knows. For the TCP that
//! sent it both are changed back, in place, in what is quoted:
//!
//! ```text
//! IP header     destination, checksum
//! ICMP header   checksum
//! quote         IP header      source, checksum
//!               TCP header     source port, sequence number; checksum, if it is quoted
//! ```
//!
//! IPv6 headers have no checksum; there the addresses of the outer one are in that of ICMP.
//!
//! Nothing else is, and nothing moves: extensions stay where they are, and so does their own
//! checksum. The numbers that a whole TCP header has beside these are left as the client knows them:
//! nobody looks at them.
//!
//! All checksums are updated by what changed. One that was wrong stays wrong, for the receiver to
//! see; and a sum over the whole packet (`CHECKSUM_COMPLETE`) stays right.

use crate::{
    csum::{
        Csum,
        Sum,
        IPPROTO_ICMP,
        IPPROTO_ICMPV6,
        IPPROTO_IPIP,
        IPPROTO_IPV6,
        IPPROTO_TCP, //
    },
    ip::{
        self,
        Header, //
    },
    tcp::Malformed,
    tuple::{
        on_link,
        v4_of,
        Addr, //
    },
};

/// The size of an ICMP header.
const HEADER_LEN: usize = 8;

/// From an outer IP header's beginning, the bytes within which everything lies that is read or
/// rewritten: both IP headers at their longest, and the part of a TCP header that is always there. Of
/// IPv6 an error whose quote has longer extension headers is nobody's.
pub const HEAD_MAX: usize = 60 + HEADER_LEN + 60 + crate::tcp::HEADER_LEN;

/// The bytes of a TCP header that an error has to quote (RFC 792).
const QUOTED_MIN: usize = 8;

/// Where ports, sequence number and checksum lie in a TCP header.
const PORT_AT: usize = 0;
const SEQ_AT: usize = 4;
const CHECK_AT: usize = 16;

/// Where checksum, source and destination lie in an IPv4 header.
const IP_CHECK_AT: usize = 10;
const SRC_AT: usize = 12;
const DST_AT: usize = 16;

/// Where source and destination lie in an IPv6 header.
const SRC_AT_V6: usize = 8;
const DST_AT_V6: usize = 24;

/// The types of ICMP errors (RFC 792) that say what became of a packet. A source quench is none any
/// more (RFC 6633), and a redirect is for who sends to that router.
mod kind {
    /// Destination unreachable.
    pub(super) const UNREACHABLE: u8 = 3;
    /// Time exceeded.
    pub(super) const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem.
    pub(super) const PARAMETER_PROBLEM: u8 = 12;
}

/// The types of ICMPv6 errors (RFC 4443).
mod kind_v6 {
    /// Destination unreachable.
    pub(super) const UNREACHABLE: u8 = 1;
    /// Packet too big.
    pub(super) const TOO_BIG: u8 = 2;
    /// Time exceeded.
    pub(super) const TIME_EXCEEDED: u8 = 3;
    /// Parameter problem.
    pub(super) const PARAMETER_PROBLEM: u8 = 4;
}

/// The code of "fragmentation needed and DF set" among the unreachable destinations.
const FRAGMENTATION_NEEDED: u8 = 4;

/// An address and a port.
pub type End = (Addr, u16);

/// An error about a TCP segment: whose it was, and where things are in the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    /// Who is told.
    told: Addr,
    /// Who sent the segment.
    source: End,
    /// Whom the segment was for.
    destination: End,
    /// Where the ICMP header begins.
    icmp: usize,
    /// Where the quoted IP header begins.
    ip: usize,
    /// Where the quoted TCP header begins.
    tcp: usize,
    /// Where the quote ends, or what is at hand of it.
    end: usize,
    /// Whether it is one of ICMPv6.
    v6: bool,
}

impl Error {
    /// Reads a packet, of which [`HEAD_MAX`] bytes are enough; `None` if it is no such error,
    /// or does not say whose segment it is about.
    #[must_use]
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let outer = Header::parse(packet)?;
        let &[kind, _, _, _, units, words, ..] = outer.payload() else {
            return None;
        };
        if outer.is_fragment() {
            return None;
        }
        // What is behind so many bytes is no quote, but an extension (RFC 4884, section 4).
        let said = match (outer.is_v6(), outer.protocol(), kind) {
            (
                false,
                IPPROTO_ICMP,
                kind::UNREACHABLE | kind::TIME_EXCEEDED | kind::PARAMETER_PROBLEM,
            ) => usize::from(words).saturating_mul(4),
            (true, IPPROTO_ICMPV6, kind_v6::UNREACHABLE | kind_v6::TIME_EXCEEDED) => {
                usize::from(units).saturating_mul(8)
            }
            (true, IPPROTO_ICMPV6, kind_v6::TOO_BIG | kind_v6::PARAMETER_PROBLEM) => 0,
            _ => return None,
        };
        let quote = outer.payload().get(HEADER_LEN..)?;
        let inner = Header::quoted(quote)?;
        if inner.is_v6() != outer.is_v6()
            || inner.protocol() != IPPROTO_TCP
            || inner.is_later_fragment()
        {
            return None;
        }
        let &[a, b, c, d, ..] = inner.payload() else {
            return None;
        };
        let icmp = outer.header_len();
        let ip = icmp.checked_add(HEADER_LEN)?;
        let len = match said {
            0 => quote.len(),
            len => len.min(quote.len()),
        };
        Some(Self {
            told: outer.dst(),
            source: (inner.src(), u16::from_be_bytes([a, b])),
            destination: (inner.dst(), u16::from_be_bytes([c, d])),
            icmp,
            ip,
            tcp: ip.checked_add(inner.header_len())?,
            end: ip.checked_add(len)?,
            v6: outer.is_v6(),
        })
    }

    /// Who sent the segment that it is about.
    #[must_use]
    pub fn source(&self) -> End {
        self.source
    }

    /// Whom that segment was for.
    #[must_use]
    pub fn destination(&self) -> End {
        self.destination
    }

    /// The same about a segment to a client on this link: see [`tuple::on_link`](crate::tuple::on_link).
    #[must_use]
    pub fn on_link(self, link: u16) -> Self {
        let (addr, port) = self.destination;
        Self {
            destination: (on_link(&addr, link), port),
            ..self
        }
    }

    /// Whether it may be what it says it is: it was sent to the segment's source, and quotes enough
    /// for that one to know the segment by.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.told == self.source.0 && self.end >= self.tcp.saturating_add(QUOTED_MIN)
    }

    /// Rewrites the packet that it was read from, as though the segment had come from `source`, and
    /// its sequence number had been greater by `seq_delta`. `partial` says that the ICMP check field
    /// covers nothing yet, but for a pseudo-header (`CHECKSUM_PARTIAL`). On an error, which is that of
    /// [`is_sound`](Self::is_sound) or that of an address of the other family, nothing has been changed.
    pub fn rewrite(
        &self,
        packet: &mut [u8],
        source: End,
        seq_delta: u32,
        partial: bool,
    ) -> Result<(), Malformed> {
        let bytes = packet.get_mut(..self.end).ok_or(Malformed)?;
        let (addr, port) = source;
        if !self.is_sound() || self.v6 != v4_of(&addr).is_none() {
            return Err(Malformed);
        }
        let (mut outer, mut icmp, mut segment) = (Csum::new(), Csum::new(), Csum::new());
        if let Some(addr) = v4_of(&addr) {
            let addr = u32::from_be_bytes(addr);
            put32(bytes, DST_AT, |_| addr, [&mut outer]);
            put16(bytes, IP_CHECK_AT, |check| outer.apply(check), []);
            outer = Csum::new();

            let mut inner = Csum::new();
            let at = self.ip.saturating_add(SRC_AT);
            put32(bytes, at, |_| addr, [&mut icmp, &mut inner, &mut segment]);
            let at = self.ip.saturating_add(IP_CHECK_AT);
            put16(bytes, at, |check| inner.apply(check), [&mut icmp]);
        } else {
            put_addr(bytes, DST_AT_V6, &addr, [&mut outer, &mut icmp]);
            let at = self.ip.saturating_add(SRC_AT_V6);
            put_addr(bytes, at, &addr, [&mut icmp, &mut segment]);
        }
        let at = self.tcp.saturating_add(PORT_AT);
        put16(bytes, at, |_| port, [&mut icmp, &mut segment]);
        let at = self.tcp.saturating_add(SEQ_AT);
        let shift = |seq: u32| seq.wrapping_add(seq_delta);
        put32(bytes, at, shift, [&mut icmp, &mut segment]);
        // If the quote does not go so far, nothing is there to be changed.
        let at = self.tcp.saturating_add(CHECK_AT);
        put16(bytes, at, |check| segment.apply(check), [&mut icmp]);
        let at = self.icmp.saturating_add(2);
        let sum = |check| match partial {
            true => outer.apply_partial(check),
            false => icmp.apply(check),
        };
        put16(bytes, at, sum, []);
        Ok(())
    }
}

/// "Fragmentation needed", or "packet too big", about a packet of IP in IP (RFC 2003, section 5.1; RFC
/// 2473, section 8): what the sender's end of the tunnel is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnelled {
    /// The tunnel's beginning, which is who is told.
    pub from: Addr,
    /// Its end.
    pub to: Addr,
    /// How big a packet may be, outer header included; not 0.
    pub mtu: u16,
    /// Where the ICMP header begins.
    pub icmp: usize,
    /// Where the quoted IP header begins, which is whole.
    pub quote: usize,
}

impl Tunnelled {
    /// Reads a packet, as [`Error::parse`] does; `None` if it is no such error. One that does not
    /// say how big a packet may be (RFC 792) is none.
    #[must_use]
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let outer = Header::parse(packet)?;
        let &[kind, code, _, _, a, b, hi, lo, ..] = outer.payload() else {
            return None;
        };
        let mtu = match (outer.is_v6(), outer.protocol(), kind, code) {
            (false, IPPROTO_ICMP, kind::UNREACHABLE, FRAGMENTATION_NEEDED) => [0, 0, hi, lo],
            (true, IPPROTO_ICMPV6, kind_v6::TOO_BIG, _) => [a, b, hi, lo],
            _ => return None,
        };
        let quote = Header::quoted(outer.payload().get(HEADER_LEN..)?)?;
        let mtu = u16::try_from(u32::from_be_bytes(mtu)).unwrap_or(u16::MAX);
        let is_it = quote.is_v6() == outer.is_v6()
            && !outer.is_fragment()
            && matches!(quote.protocol(), IPPROTO_IPIP | IPPROTO_IPV6)
            && quote.src() == outer.dst()
            && mtu != 0;
        let icmp = outer.header_len();
        is_it.then_some(Self {
            from: quote.src(),
            to: quote.dst(),
            mtu,
            icmp,
            quote: icmp.checked_add(HEADER_LEN)?,
        })
    }
}

/// Replaces the 16 bits at `at`, if they are there, and notes it in `sums`.
fn put16<const N: usize>(
    bytes: &mut [u8],
    at: usize,
    map: impl FnOnce(u16) -> u16,
    sums: [&mut Csum; N],
) {
    let Some(field) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) else {
        return;
    };
    let old = u16::from_be_bytes(*field);
    let new = map(old);
    *field = new.to_be_bytes();
    for sum in sums {
        sum.replace16(false, old, new);
    }
}

/// As [`put16`], for 32 bits.
fn put32<const N: usize>(
    bytes: &mut [u8],
    at: usize,
    map: impl FnOnce(u32) -> u32,
    sums: [&mut Csum; N],
) {
    let Some(field) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) else {
        return;
    };
    let old = u32::from_be_bytes(*field);
    let new = map(old);
    *field = new.to_be_bytes();
    for sum in sums {
        sum.replace32(false, old, new);
    }
}

/// As [`put16`], for an IPv6 address.
fn put_addr<const N: usize>(bytes: &mut [u8], at: usize, new: &Addr, sums: [&mut Csum; N]) {
    let Some(field) = bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) else {
        return;
    };
    let old = core::mem::replace(field, *new);
    for sum in sums {
        sum.replace_addr(&old, new);
    }
}

/// An error of ours: a packet was too big to go on.
#[derive(Clone, Copy, Debug)]
pub struct TooBig {
    /// Whom the packet was for.
    pub src: Addr,
    /// Who sent it.
    pub dst: Addr,
    /// How big it may be.
    pub mtu: u16,
}

impl TooBig {
    /// The precedence of internetwork control (RFC 1812, section 4.3.2.5).
    const CLASS: u8 = 0xc0;

    /// How much of a packet to `src` is quoted at most: as much as makes an error of 576 bytes (RFC
    /// 1812, section 4.3.2.3), or of 1,280 (RFC 4443, section 3.2).
    #[must_use]
    pub const fn quote_max(src: &Addr) -> usize {
        match v4_of(src) {
            Some(_) => 576 - (20 + HEADER_LEN),
            None => 1280 - (40 + HEADER_LEN),
        }
    }

    /// Where the quote begins in an error about a packet to `src`.
    #[must_use]
    pub const fn quote_at(src: &Addr) -> usize {
        // OVERFLOW: two small numbers.
        ip::header_len(src) + HEADER_LEN
    }

    /// Writes headers before the quote, which is in `out` from [`quote_at`](Self::quote_at) on;
    /// `None` if there is no room for them, or the addresses are of two families.
    #[must_use]
    pub fn write(&self, out: &mut [u8]) -> Option<()> {
        let (header, icmp) = out.split_at_mut_checked(ip::header_len(&self.src))?;
        let [hi, lo] = self.mtu.to_be_bytes();
        let v6 = v4_of(&self.src).is_none();
        let (protocol, kind, code) = match v6 {
            false => (IPPROTO_ICMP, kind::UNREACHABLE, FRAGMENTATION_NEEDED),
            true => (IPPROTO_ICMPV6, kind_v6::TOO_BIG, 0),
        };
        *icmp.first_chunk_mut::<HEADER_LEN>()? = [kind, code, 0, 0, 0, 0, hi, lo];
        let pseudo = match v6 {
            false => Sum::new(),
            // CAST: What a packet may have.
            true => Sum::pseudo_of(protocol, &self.src, &self.dst, icmp.len() as u32),
        };
        let check = pseudo.append(icmp).check();
        put16(icmp, 2, |_| check, []);
        let build = ip::Build {
            src: self.src,
            dst: self.dst,
            protocol,
            hops: 64,
            class: Self::CLASS,
        };
        build.write(header, icmp.len()).map(drop)
    }
}

#[cfg(test)]
mod tests;
