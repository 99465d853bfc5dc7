// SPDX-License-Identifier: GPL-2.0

//! ICMP errors about TCP segments: reading what they quote, rewriting it, and making one.
//!
//! RFC 792; RFC 1812, section 4.3.2.3 (how much is quoted); RFC 4884 (what may follow the quote);
//! RFC 5508, section 4.2 (what a translator has to rewrite); RFC 1191 (path MTU discovery).
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
        IPPROTO_IPIP,
        IPPROTO_TCP, //
    },
    ipv4,
    tcp::Malformed, //
};

/// The size of an ICMP header.
const HEADER_LEN: usize = 8;

/// From an outer IP header's beginning, the bytes within which everything lies that is read or
/// rewritten: both IP headers at their longest, and the part of a TCP header that is always there.
pub const HEAD_MAX: usize = 60 + HEADER_LEN + 60 + crate::tcp::HEADER_LEN;

/// The bytes of a TCP header that an error has to quote (RFC 792).
const QUOTED_MIN: usize = 8;

/// Where ports, sequence number and checksum lie in a TCP header.
const PORT_AT: usize = 0;
const SEQ_AT: usize = 4;
const CHECK_AT: usize = 16;

/// Where checksum, source and destination lie in an IP header.
const IP_CHECK_AT: usize = 10;
const SRC_AT: usize = 12;
const DST_AT: usize = 16;

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

/// The code of "fragmentation needed and DF set" among the unreachable destinations.
const FRAGMENTATION_NEEDED: u8 = 4;

/// An address and a port.
pub type End = ([u8; 4], u16);

/// An error about a TCP segment: whose it was, and where things are in the error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    /// Who is told.
    told: [u8; 4],
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
}

impl Error {
    /// Reads an IPv4 packet, of which [`HEAD_MAX`] bytes are enough; `None` if it is no such error,
    /// or does not say whose segment it is about.
    #[must_use]
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let outer = ipv4::Header::parse(packet)?;
        if outer.protocol() != IPPROTO_ICMP || outer.is_fragment() {
            return None;
        }
        let &[kind, _, _, _, _, words, ..] = outer.payload() else {
            return None;
        };
        if !matches!(
            kind,
            kind::UNREACHABLE | kind::TIME_EXCEEDED | kind::PARAMETER_PROBLEM
        ) {
            return None;
        }
        let quote = outer.payload().get(HEADER_LEN..)?;
        let inner = ipv4::Header::quoted(quote)?;
        if inner.protocol() != IPPROTO_TCP || inner.is_later_fragment() {
            return None;
        }
        let &[a, b, c, d, ..] = inner.payload() else {
            return None;
        };
        let icmp = outer.header_len();
        let ip = icmp.checked_add(HEADER_LEN)?;
        // What is behind so many words is no quote, but an extension (RFC 4884, section 4).
        let len = match usize::from(words).saturating_mul(4) {
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

    /// Whether it may be what it says it is: it was sent to the segment's source, and quotes enough
    /// for that one to know the segment by.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.told == self.source.0 && self.end >= self.tcp.saturating_add(QUOTED_MIN)
    }

    /// Rewrites the packet that it was read from, as though the segment had come from `source`, and
    /// its sequence number had been greater by `seq_delta`. `partial` says that the ICMP check field
    /// covers nothing yet (`CHECKSUM_PARTIAL`). On an error, which is that of
    /// [`is_sound`](Self::is_sound), nothing has been changed.
    pub fn rewrite(
        &self,
        packet: &mut [u8],
        source: End,
        seq_delta: u32,
        partial: bool,
    ) -> Result<(), Malformed> {
        let bytes = packet.get_mut(..self.end).ok_or(Malformed)?;
        if !self.is_sound() {
            return Err(Malformed);
        }
        let (addr, port) = (u32::from_be_bytes(source.0), source.1);
        let mut outer = Csum::new();
        put32(bytes, DST_AT, |_| addr, [&mut outer]);
        put16(bytes, IP_CHECK_AT, |check| outer.apply(check), []);

        let (mut icmp, mut inner, mut segment) = (Csum::new(), Csum::new(), Csum::new());
        let at = self.ip.saturating_add(SRC_AT);
        put32(bytes, at, |_| addr, [&mut icmp, &mut inner, &mut segment]);
        let at = self.ip.saturating_add(IP_CHECK_AT);
        put16(bytes, at, |check| inner.apply(check), [&mut icmp]);
        let at = self.tcp.saturating_add(PORT_AT);
        put16(bytes, at, |_| port, [&mut icmp, &mut segment]);
        let at = self.tcp.saturating_add(SEQ_AT);
        let shift = |seq: u32| seq.wrapping_add(seq_delta);
        put32(bytes, at, shift, [&mut icmp, &mut segment]);
        // If the quote does not go so far, nothing is there to be changed.
        let at = self.tcp.saturating_add(CHECK_AT);
        put16(bytes, at, |check| segment.apply(check), [&mut icmp]);
        if !partial {
            let at = self.icmp.saturating_add(2);
            put16(bytes, at, |check| icmp.apply(check), []);
        }
        Ok(())
    }
}

/// "Fragmentation needed" about a packet of IP in IP (RFC 2003, section 5.1): what the sender's end of
/// the tunnel is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnelled {
    /// The tunnel's beginning, which is who is told.
    pub from: [u8; 4],
    /// Its end.
    pub to: [u8; 4],
    /// How big a packet may be, outer header included; not 0.
    pub mtu: u16,
    /// Where the ICMP header begins.
    pub icmp: usize,
    /// Where the quoted IP header begins, which is whole.
    pub quote: usize,
}

impl Tunnelled {
    /// Reads an IPv4 packet, as [`Error::parse`] does; `None` if it is no such error. One that does not
    /// say how big a packet may be (RFC 792) is none.
    #[must_use]
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let outer = ipv4::Header::parse(packet)?;
        let &[kind::UNREACHABLE, FRAGMENTATION_NEEDED, _, _, _, _, hi, lo, ..] = outer.payload()
        else {
            return None;
        };
        let quote = ipv4::Header::quoted(outer.payload().get(HEADER_LEN..)?)?;
        let mtu = u16::from_be_bytes([hi, lo]);
        let is_it = outer.protocol() == IPPROTO_ICMP
            && !outer.is_fragment()
            && quote.protocol() == IPPROTO_IPIP
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

/// An error of ours: a packet was too big to go on.
#[derive(Clone, Copy, Debug)]
pub struct TooBig {
    /// Whom the packet was for.
    pub src: [u8; 4],
    /// Who sent it.
    pub dst: [u8; 4],
    /// How big it may be.
    pub mtu: u16,
}

impl TooBig {
    /// How much of the packet is quoted: as much as makes an error of 576 bytes (RFC 1812, section
    /// 4.3.2.3).
    pub const QUOTE_MAX: usize = 576 - Self::QUOTE_AT;

    /// Where the quote begins.
    pub const QUOTE_AT: usize = ipv4::HEADER_LEN + HEADER_LEN;

    /// The precedence of internetwork control (RFC 1812, section 4.3.2.5).
    const TOS: u8 = 0xc0;

    /// Writes headers before the quote, which is in `out` from [`QUOTE_AT`](Self::QUOTE_AT) on;
    /// `None` if there is no room for them.
    #[must_use]
    pub fn write(&self, out: &mut [u8]) -> Option<()> {
        let (ip, icmp) = out.split_at_mut_checked(ipv4::HEADER_LEN)?;
        let [hi, lo] = self.mtu.to_be_bytes();
        *icmp.first_chunk_mut::<HEADER_LEN>()? =
            [kind::UNREACHABLE, FRAGMENTATION_NEEDED, 0, 0, 0, 0, hi, lo];
        let check = Sum::new().append(icmp).check();
        put16(icmp, 2, |_| check, []);
        let header = ipv4::Build {
            src: self.src,
            dst: self.dst,
            protocol: IPPROTO_ICMP,
            ttl: 64,
            tos: Self::TOS,
            id: 0,
        };
        header.write(ip, icmp.len()).map(drop)
    }
}

#[cfg(test)]
mod tests;
