// SPDX-License-Identifier: GPL-2.0

//! What the two segments that open a connection fix for all others.
//!
//! RFC 9293, section 3.5; RFC 7323, section 1.3; RFC 9768, section 3.1.

use super::{
    flag,
    Header,
    Options, //
};
use crate::seq::Seq;

/// What a handshake segment says about explicit congestion notification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ecn {
    /// Nothing.
    #[default]
    Off,
    /// RFC 3168.
    Classic,
    /// RFC 9768; its counters cannot be handed over by replay.
    Accurate,
}

impl Ecn {
    /// What the ECN bits of a SYN or SYN-ACK say.
    fn of(header: &Header<'_>) -> Self {
        let bit = |flag: u8| u8::from(header.has(flag));
        let (ae, cwr, ece) = (header.fixed.offset & 1, bit(flag::CWR), bit(flag::ECE));
        match (header.has(flag::ACK), ae, cwr, ece) {
            (false, 1, 1, 1) => Self::Accurate,
            (false, _, 1, 1) => Self::Classic,
            (false, ..) | (true, 0, 0, 0) | (true, 1, 1, 1) => Self::Off,
            // 1 0 1 was once reserved for the nonce (RFC 9768, table 2).
            (true, _, 0, 1) => Self::Classic,
            (true, ..) => Self::Accurate,
        }
    }
}

/// What a SYN or SYN-ACK fixes for the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SynFacts {
    /// The initial sequence number.
    pub isn: Seq,
    /// The window, which is never scaled in these segments.
    pub window: u16,
    /// The options.
    pub options: Options,
    /// Explicit congestion notification.
    pub ecn: Ecn,
}

impl SynFacts {
    /// The facts of a client's SYN; `None` if `header` is none, or its options cannot be walked.
    #[must_use]
    pub fn of_syn(header: &Header<'_>) -> Option<Self> {
        Self::of(header, flag::SYN)
    }

    /// The facts of a SYN-ACK; `None` if `header` is none, or its options cannot be walked.
    #[must_use]
    pub fn of_syn_ack(header: &Header<'_>) -> Option<Self> {
        Self::of(header, flag::SYN | flag::ACK)
    }

    /// The facts, if of the flags that name a segment's kind exactly `flags` are set.
    fn of(header: &Header<'_>, flags: u8) -> Option<Self> {
        let kind = flag::SYN | flag::ACK | flag::RST | flag::FIN;
        (header.flags() & kind == flags).then_some(())?;
        Some(Self {
            isn: header.seq(),
            window: header.window(),
            options: header.options().ok()?,
            ecn: Ecn::of(header),
        })
    }

    /// This SYN, offering only what `answer`, the SYN-ACK, agreed to. A TCP that is shown the
    /// result cannot agree to more than the client believes was agreed (paper, section 4, "TCP
    /// state migration").
    #[must_use]
    pub fn restricted(&self, answer: &Self) -> Self {
        let (mine, theirs) = (&self.options, &answer.options);
        Self {
            options: Options {
                mss: mine.mss,
                wscale: mine.wscale.filter(|_| theirs.wscale.is_some()),
                sack_ok: mine.sack_ok && theirs.sack_ok,
                ts: mine.ts.filter(|_| theirs.ts.is_some()),
                ..Options::default()
            },
            ecn: match (self.ecn, answer.ecn) {
                (Ecn::Off, _) | (_, Ecn::Off) => Ecn::Off,
                (Ecn::Accurate, Ecn::Accurate) => Ecn::Accurate,
                _ => Ecn::Classic,
            },
            ..*self
        }
    }
}
