// SPDX-License-Identifier: GPL-2.0

//! Rewriting the segments of a connection whose client knows other numbers than the TCP that
//! serves it.
//!
//! After a replay the client goes on with the numbers of the front end's SYN-ACK, the back end's
//! TCP with its own (paper, section 4, "Packet forwarding"). What differs, and where it stands:
//!
//! | what | to TCP ([`Translation::inbound`]) | to the client ([`Translation::outbound`]) |
//! | --- | --- | --- |
//! | the server's sequence numbers | acknowledgement number, SACK blocks | sequence number |
//! | the server's timestamp clock | TSecr | TSval |
//! | the server's window scale | | window |
//!
//! The client's own numbers are the same on both sides, because the replay used them. So are the
//! urgent pointer, which is relative, and the payload.
//!
//! Checksums are updated by what changed and need not cover the payload at hand: segments may be
//! paged, and as large as GSO and GRO make them. A field of the TCP header does not change the sum
//! over the segment with its checksum, so a `CHECKSUM_COMPLETE` sum stays right. An address does;
//! but addresses are changed only in what is forwarded, where that sum is given up
//! (`skb_forward_csum()`), and in what TCP here sends, which never has one.

use crate::{
    csum::Csum,
    ip, ipv4, ipv6,
    tcp::{
        flag,
        option,
        Ecn,
        Fixed,
        Header,
        Malformed,
        Opt,
        OptionIter,
        SynFacts,
        HEADER_LEN, //
    },
    tuple::{
        v4_of,
        Addr, //
    },
};
use zerocopy::{
    byteorder::network_endian::U16,
    FromBytes, //
};

/// Where the check field lies in a TCP header.
const CHECK_AT: usize = 16;

/// Why two handshakes cannot be made one connection: something was agreed in one of them only, and
/// neither side can be told of it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// Window scale.
    WindowScale,
    /// Selective acknowledgements.
    Sack,
    /// Timestamps.
    Timestamps,
    /// Explicit congestion notification, or its accurate form in any of the two.
    Ecn,
    /// Segments are signed.
    Signed,
}

/// How to rewrite the segments of one connection.
///
/// *Known* is what the client knows, *own* what the TCP that serves it uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    /// The server's own sequence numbers minus the known ones, modulo 2^32.
    pub seq_delta: u32,
    /// The server's own timestamp clock minus the known one, modulo 2^32.
    pub ts_delta: u32,
    /// The shift count that the server's TCP uses for its windows.
    pub wscale_own: u8,
    /// The shift count that the client uses for the server's windows.
    pub wscale_known: u8,
}

impl Translation {
    /// The translation for a client that was sent the SYN-ACK `known`, to a TCP that sent the
    /// SYN-ACK `own`.
    ///
    /// `ts_base` becomes the known value of the clock at the time of `own`. The client drops
    /// segments from the past (PAWS, RFC 7323, section 5), so it must not lie before any TSval
    /// that the client has been sent, or will be sent by the first TCP.
    pub fn between(known: &SynFacts, own: &SynFacts, ts_base: u32) -> Result<Self, Mismatch> {
        let (theirs, ours) = (&known.options, &own.options);
        if theirs.signed || ours.signed {
            return Err(Mismatch::Signed);
        }
        if theirs.wscale.is_some() != ours.wscale.is_some() {
            return Err(Mismatch::WindowScale);
        }
        if theirs.sack_ok != ours.sack_ok {
            return Err(Mismatch::Sack);
        }
        if theirs.ts.is_some() != ours.ts.is_some() {
            return Err(Mismatch::Timestamps);
        }
        if known.ecn != own.ecn || known.ecn == Ecn::Accurate {
            return Err(Mismatch::Ecn);
        }
        Ok(Self {
            seq_delta: own.isn.since(known.isn),
            ts_delta: ours.ts.map_or(0, |ts| ts.val.wrapping_sub(ts_base)),
            wscale_own: ours.wscale.unwrap_or(0),
            wscale_known: theirs.wscale.unwrap_or(0),
        })
    }

    /// Whether it changes nothing: the client knows what TCP uses.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        *self == Self::default()
    }

    /// Rewrites the header of a segment from the client, at the beginning of `tcp`, for the TCP
    /// that serves it. `partial` says that the check field holds no more than the pseudo-header's
    /// sum yet (`CHECKSUM_PARTIAL`). On an error nothing has been changed.
    pub fn inbound(&self, tcp: &mut [u8], partial: bool) -> Result<(), Malformed> {
        let mut edit = Edit::new(tcp)?;
        // Without the flag neither the number nor TSecr means anything.
        if edit.flags & flag::ACK == 0 {
            return Ok(());
        }
        edit.map32(8, |ack| ack.wrapping_add(self.seq_delta));
        edit.for_options(|edit, opt| match opt.kind {
            // With any other length the receiver ignores it (RFC 2018, section 3).
            option::SACK if opt.len % 8 == 0 => {
                let end = opt.data.saturating_add(opt.len);
                for at in (opt.data..end).step_by(4) {
                    edit.map32(at, |seq| seq.wrapping_add(self.seq_delta));
                }
            }
            option::TIMESTAMPS if opt.len == 8 => {
                // 0 says "none seen" to Linux, which leaves it alone as well.
                let ecr = |ecr: u32| match ecr {
                    0 => 0,
                    ecr => ecr.wrapping_add(self.ts_delta),
                };
                edit.map32(opt.data.saturating_add(4), ecr);
            }
            _ => {}
        });
        edit.finish(partial);
        Ok(())
    }

    /// Rewrites the header of a segment to the client, at the beginning of `tcp`. `partial` as for
    /// [`Self::inbound`]. On an error nothing has been changed.
    pub fn outbound(&self, tcp: &mut [u8], partial: bool) -> Result<(), Malformed> {
        let mut edit = Edit::new(tcp)?;
        edit.map32(4, |seq| seq.wrapping_sub(self.seq_delta));
        if edit.flags & flag::SYN == 0 {
            edit.map16(14, |window| self.window(window));
        }
        edit.for_options(|edit, opt| {
            if opt.kind == option::TIMESTAMPS && opt.len == 8 {
                edit.map32(opt.data, |val| val.wrapping_sub(self.ts_delta));
            }
        });
        edit.finish(partial);
        Ok(())
    }

    /// The window field that says to the client what `window` says in the server's own scale, or
    /// a little less. It is rounded down: a client must not send what TCP may refuse to take.
    #[must_use]
    pub fn window(&self, window: u16) -> u16 {
        let bytes = u64::from(window) << (self.wscale_own & 15);
        let window = bytes >> (self.wscale_known & 15);
        u16::try_from(window).unwrap_or(u16::MAX)
    }
}

/// An option in a header that is being edited.
#[derive(Clone, Copy)]
struct Place {
    /// The option's number.
    kind: u8,
    /// Where its data begin in the header.
    data: usize,
    /// The length of its data.
    len: usize,
}

/// A header that is being edited, and what that does to its checksum.
struct Edit<'a> {
    /// The whole header, whose options can be walked.
    bytes: &'a mut [u8],
    /// The flags byte.
    flags: u8,
    /// What has been changed.
    change: Csum,
}

impl<'a> Edit<'a> {
    /// Begins to edit the header at the beginning of `tcp`.
    fn new(tcp: &'a mut [u8]) -> Result<Self, Malformed> {
        let header = Header::parse(tcp).ok_or(Malformed)?;
        if header.walk().any(|opt| opt.is_err()) {
            return Err(Malformed);
        }
        let (len, flags) = (header.header_len(), header.flags());
        Ok(Self {
            bytes: tcp.get_mut(..len).ok_or(Malformed)?,
            flags,
            change: Csum::new(),
        })
    }

    /// The `N` bytes at `at`, if they lie in the header.
    fn field<const N: usize>(&mut self, at: usize) -> Option<&mut [u8; N]> {
        self.bytes.get_mut(at..)?.first_chunk_mut()
    }

    /// Replaces the 16 bits at `at`.
    fn map16(&mut self, at: usize, map: impl FnOnce(u16) -> u16) {
        if let Some(field) = self.field(at) {
            let old = u16::from_be_bytes(*field);
            let new = map(old);
            *field = new.to_be_bytes();
            self.change.replace16(at % 2 == 1, old, new);
        }
    }

    /// Replaces the 32 bits at `at`.
    fn map32(&mut self, at: usize, map: impl FnOnce(u32) -> u32) {
        if let Some(field) = self.field(at) {
            let old = u32::from_be_bytes(*field);
            let new = map(old);
            *field = new.to_be_bytes();
            self.change.replace32(at % 2 == 1, old, new);
        }
    }

    /// Replaces the byte at `at`.
    fn set8(&mut self, at: usize, new: u8) {
        if let Some(field) = self.bytes.get_mut(at) {
            let old = u16::from(*field);
            *field = new;
            // A byte at an even place is the upper half of its word.
            self.change.replace16(at % 2 == 0, old, u16::from(new));
        }
    }

    /// Calls `act` for each option. It may change the option's data, not its kind or length.
    fn for_options(&mut self, mut act: impl FnMut(&mut Self, Place)) {
        let mut at = HEADER_LEN;
        loop {
            let mut walk = OptionIter::new(self.bytes, self.bytes.get(at..).unwrap_or(&[]));
            let Some(Ok(opt)) = walk.next() else {
                return;
            };
            let place = Place {
                kind: opt.kind,
                data: opt.at.saturating_add(2),
                len: opt.data.len(),
            };
            at = place.data.saturating_add(place.len);
            act(self, place);
        }
    }

    /// Updates the checksum.
    fn finish(mut self, partial: bool) {
        // In a partial one the header's fields are not in it yet.
        if partial {
            return;
        }
        let change = self.change;
        if let Some(check) = self.field(CHECK_AT) {
            *check = change.apply(u16::from_be_bytes(*check)).to_be_bytes();
        }
    }
}

/// One of the two ends that a header names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The source.
    Source,
    /// The destination.
    Destination,
}

/// Replaces the address of one end in an IP header, at the beginning of `ip`, by one of the same
/// family, and updates its checksum and that of the TCP header at the beginning of `tcp`. `partial` as
/// for [`Translation::inbound`]. On an error nothing has been changed.
pub fn rewrite_addr(
    ip: &mut [u8],
    tcp: &mut [u8],
    end: End,
    new: &Addr,
    partial: bool,
) -> Result<(), Malformed> {
    let (tcp, _) = Fixed::mut_from_prefix(tcp).map_err(|_| Malformed)?;
    let mut change = Csum::new();
    match (ip::version(ip), v4_of(new)) {
        (4, Some(new)) => {
            let (ip, _) = ipv4::Fixed::mut_from_prefix(ip).map_err(|_| Malformed)?;
            ip.header_len().ok_or(Malformed)?;
            let addr = match end {
                End::Source => &mut ip.src,
                End::Destination => &mut ip.dst,
            };
            change.replace32(false, u32::from_be_bytes(*addr), u32::from_be_bytes(new));
            *addr = new;
            ip.check = U16::new(change.apply(ip.check.get()));
        }
        (6, None) => {
            let (ip, _) = ipv6::Fixed::mut_from_prefix(ip).map_err(|_| Malformed)?;
            let addr = match end {
                End::Source => &mut ip.src,
                End::Destination => &mut ip.dst,
            };
            change.replace_addr(addr, new);
            *addr = *new;
        }
        _ => return Err(Malformed),
    }
    tcp.check = U16::new(if partial {
        change.apply_partial(tcp.check.get())
    } else {
        change.apply(tcp.check.get())
    });
    Ok(())
}

/// Replaces the port of one end in the TCP header at the beginning of `tcp`. `partial` as for
/// [`Translation::inbound`]. On an error nothing has been changed.
pub fn rewrite_port(tcp: &mut [u8], end: End, new: u16, partial: bool) -> Result<(), Malformed> {
    let (tcp, _) = Fixed::mut_from_prefix(tcp).map_err(|_| Malformed)?;
    let port = match end {
        End::Source => &mut tcp.source,
        End::Destination => &mut tcp.dest,
    };
    let mut change = Csum::new();
    change.replace16(false, port.get(), new);
    port.set(new);
    if !partial {
        tcp.check = U16::new(change.apply(tcp.check.get()));
    }
    Ok(())
}

/// Takes the options for which `unwanted` holds out of the header at the beginning of `tcp`, by
/// writing [`option::NOP`] over them, and says whether there were any. `partial` as for
/// [`Translation::inbound`]. On an error nothing has been changed.
///
/// This keeps off a connection what a handoff cannot carry, such as Fast Open and Multipath TCP:
/// a TCP that is not shown the option answers as one that does not know it.
pub fn strip_options(
    tcp: &mut [u8],
    unwanted: impl Fn(&Opt<'_>) -> bool,
    partial: bool,
) -> Result<bool, Malformed> {
    let mut edit = Edit::new(tcp)?;
    let mut found = false;
    edit.for_options(|edit, place| {
        let end = place.data.saturating_add(place.len);
        let at = place.data.saturating_sub(2);
        let opt = Opt {
            at,
            kind: place.kind,
            data: edit.bytes.get(place.data..end).unwrap_or(&[]),
        };
        if unwanted(&opt) {
            found = true;
            for at in at..end {
                edit.set8(at, option::NOP);
            }
        }
    });
    edit.finish(partial);
    Ok(found)
}

/// Lets the SYN or SYN-ACK at the beginning of `tcp` ask for segments of at most `max` bytes. `partial`
/// as for [`Translation::inbound`]. On an error nothing has been changed.
pub fn clamp_mss(tcp: &mut [u8], max: u16, partial: bool) -> Result<(), Malformed> {
    let mut edit = Edit::new(tcp)?;
    edit.for_options(|edit, opt| {
        if opt.kind == option::MSS && opt.len == 2 {
            edit.map16(opt.data, |mss| mss.min(max));
        }
    });
    edit.finish(partial);
    Ok(())
}

/// Takes the request for congestion notification, classic or accurate, out of the SYN at the
/// beginning of `tcp`. `partial` as for [`Translation::inbound`]. On an error nothing has been
/// changed.
pub fn clear_ecn(tcp: &mut [u8], partial: bool) -> Result<(), Malformed> {
    let mut edit = Edit::new(tcp)?;
    let clear = u16::from_be_bytes([1, flag::ECE | flag::CWR]);
    edit.map16(12, |word| word & !clear);
    edit.finish(partial);
    Ok(())
}

/// Takes the FIN off the segment at the beginning of `tcp`. `partial` as for [`Translation::inbound`]. On
/// an error nothing has been changed.
pub fn clear_fin(tcp: &mut [u8], partial: bool) -> Result<(), Malformed> {
    let mut edit = Edit::new(tcp)?;
    let clear = u16::from_be_bytes([0, flag::FIN]);
    edit.map16(12, |word| word & !clear);
    edit.finish(partial);
    Ok(())
}

#[cfg(test)]
mod tests;
