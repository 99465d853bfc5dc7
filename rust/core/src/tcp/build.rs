// SPDX-License-Identifier: GPL-2.0

//! Building the segments that BTCP injects.

use super::{
    flag,
    Ecn,
    Fixed,
    Options,
    Sack,
    SynFacts,
    Timestamps,
    HEADER_LEN,
    MAX_HEADER_LEN, //
};
use crate::{
    csum::Sum,
    seq::Seq,
    tuple::Addr, //
};
use zerocopy::{
    byteorder::network_endian::{
        U16,
        U32, //
    },
    IntoBytes, //
};

/// A segment to be built.
#[derive(Clone, Copy, Debug, Default)]
pub struct Build {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub dest: u16,
    /// Sequence number.
    pub seq: Seq,
    /// Acknowledgement number; written as 0 unless `flags` has [`flag::ACK`].
    pub ack: Seq,
    /// The [`flag`]s.
    pub flags: u8,
    /// Window, not scaled.
    pub window: u16,
    /// Urgent pointer.
    pub urgent: u16,
    /// Options. Those that [`Options`] calls never built are not.
    pub options: Options,
    /// What was received behind a gap.
    pub sack: Sack,
}

impl Build {
    /// The SYN that `facts` describe. Of congestion notification only [`Ecn::Classic`] can be
    /// asked for; anything else is left off.
    #[must_use]
    pub fn syn(source: u16, dest: u16, facts: &SynFacts) -> Self {
        let ecn = match facts.ecn {
            Ecn::Classic => flag::ECE | flag::CWR,
            Ecn::Off | Ecn::Accurate => 0,
        };
        Self {
            source,
            dest,
            seq: facts.isn,
            flags: flag::SYN | ecn,
            window: facts.window,
            // There is nothing yet to be echoed (RFC 7323, section 3.2).
            options: Options {
                ts: facts.options.ts.map(|ts| Timestamps { ecr: 0, ..ts }),
                ..facts.options
            },
            ..Self::default()
        }
    }

    /// An acknowledgement, to which payload and further flags may be added. `ts` is the timestamps
    /// option, if the connection uses it.
    #[must_use]
    pub fn ack(
        source: u16,
        dest: u16,
        seq: Seq,
        ack: Seq,
        window: u16,
        ts: Option<Timestamps>,
    ) -> Self {
        Self {
            source,
            dest,
            seq,
            ack,
            flags: flag::ACK,
            window,
            options: Options {
                ts,
                ..Options::default()
            },
            ..Self::default()
        }
    }

    /// A reset, which is believed if `seq` is exactly the number that its receiver expects next
    /// (RFC 9293, section 3.10.7.4; RFC 5961, section 3.2).
    #[must_use]
    pub fn rst(source: u16, dest: u16, seq: Seq) -> Self {
        Self {
            source,
            dest,
            seq,
            flags: flag::RST,
            ..Self::default()
        }
    }

    /// A segment that TCP answers by an acknowledgement of all that it has, if `seq` is a number up to
    /// which it has everything: it is one before it (RFC 9293, sections 3.8.4 and 3.10.7.4).
    #[must_use]
    pub fn probe(source: u16, dest: u16, seq: Seq) -> Self {
        Self::ack(source, dest, seq.sub(1), Seq(0), 0, None)
    }

    /// A segment that TCP answers by an acknowledgement, as it answers a SYN with number `seq` on a
    /// connection that lives (RFC 5961, sections 4 and 5): if that number is not outside its window,
    /// the acknowledgement is too old. `acked` is one that was acceptable. To a connection that has
    /// ended the answer is a reset, which nobody believes who has sent a SYN: it acknowledges nothing.
    #[must_use]
    pub fn question(source: u16, dest: u16, seq: Seq, acked: Seq) -> Self {
        // More than the largest window (RFC 7323, section 2.3), less than half of all numbers.
        const LONG_AGO: u32 = 0x6000_0000;
        Self::ack(source, dest, seq, acked.sub(LONG_AGO), 0, None)
    }

    /// The length of the header that will be written.
    #[must_use]
    pub fn header_len(&self) -> usize {
        let mut options = [0; MAX_HEADER_LEN - HEADER_LEN];
        self.options
            .write(&mut options, &self.sack)
            .saturating_add(HEADER_LEN)
    }

    /// Writes header and `payload`, with the checksum for IPv4 if both addresses are v4-mapped and
    /// for IPv6 if not, to the beginning of `out`, and returns their length; `None` if `out` is
    /// too short.
    #[must_use]
    pub fn write(&self, out: &mut [u8], src: &Addr, dst: &Addr, payload: &[u8]) -> Option<usize> {
        let mut options = [0; MAX_HEADER_LEN - HEADER_LEN];
        let len = self.options.write(&mut options, &self.sack);
        let options = options.get(..len)?;
        let header_len = options.len().saturating_add(HEADER_LEN);
        let len = header_len.checked_add(payload.len())?;
        let ack = if self.flags & flag::ACK != 0 {
            self.ack.0
        } else {
            0
        };
        let mut fixed = Fixed {
            source: U16::new(self.source),
            dest: U16::new(self.dest),
            seq: U32::new(self.seq.0),
            ack: U32::new(ack),
            // CAST, OVERFLOW: at most 60 / 4 words, in the upper half of the byte.
            offset: (header_len / 4 * 16) as u8,
            flags: self.flags,
            window: U16::new(self.window),
            check: U16::new(0),
            urgent: U16::new(self.urgent),
        };
        let sum = Sum::pseudo(src, dst, u32::try_from(len).ok()?)
            .append(fixed.as_bytes())
            .append(options)
            .append(payload);
        fixed.check = U16::new(sum.check());

        let out = out.get_mut(..len)?;
        let (head, tail) = out.split_at_mut_checked(header_len)?;
        fixed.write_to_prefix(head).ok()?;
        head.get_mut(HEADER_LEN..)?.copy_from_slice(options);
        tail.copy_from_slice(payload);
        Some(len)
    }
}
