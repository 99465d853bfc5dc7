// SPDX-License-Identifier: GPL-2.0

//! A connection at its front end whose handshake was with that, by a SYN cookie ([`crate::cookie`]),
//! and not with TCP.

use super::*;
use crate::{
    cookie::Said,
    tcp::Options, //
};

/// The window of a SYN-ACK with a cookie: what every Linux offers whose receive buffers have their
/// usual size, whatever the segments' (net.ipv4.tcp_rmem).
pub const COOKIE_WINDOW: u16 = 63 << 10;

/// The shift count of the windows that follow, the same on all nodes: that of Linux with usual
/// buffers, for windows of up to 64 MiB.
pub const COOKIE_WSCALE: u8 = 10;

impl Front {
    /// Begins with the first segment of a client that had a cookie in the place of a SYN-ACK of
    /// TCP's, and what is known by it ([`Verdict::First`](crate::cookie::Verdict::First)). `clock` is the
    /// front end's timestamp clock at `now` milliseconds of
    /// the clock that [`Front::ts_now`] is given. `None` if the segment is malformed.
    #[must_use]
    pub fn of_cookie(
        first: &Header<'_>,
        (said, print): (&Said, u64),
        clock: u32,
        now: u32,
    ) -> Option<Self> {
        let ts = first.timestamps().ok()?;
        // The clock may have been set, and the client must not see it run backwards.
        let clock = ts.map_or(clock, |ts| newer(ts.ecr, clock));
        let client = SynFacts {
            isn: first.seq().sub(1),
            // What the SYN said is forgotten; the segment at hand says anew what it may be.
            window: u16::MAX,
            options: Options {
                mss: Some(said.mss),
                wscale: said.wscale,
                sack_ok: said.sack_ok,
                ts: ts.map(|ts| Timestamps { ecr: 0, ..ts }),
                ..Options::default()
            },
            ecn: Ecn::Off,
        };
        let server = SynFacts {
            isn: first.ack().sub(1),
            // What it said of the length of segments is forgotten, too: nobody goes by it any more.
            ..Self::offer(&client, None, clock)
        };
        Some(Self {
            phase: Phase::Head,
            ack: Ack::Held(now),
            child: false,
            client,
            server,
            ports: (first.source(), first.dest()),
            next: first.seq(),
            window: first.window(),
            opened: first.window(),
            ts_recent: ts.map_or(0, |ts| ts.val),
            ts_waits: None,
            syn_ack_ms: now,
            repeated: false,
            renumbered: false,
            rtt: ts.map_or(0, |ts| told(clock.wrapping_sub(ts.ecr))),
            print,
        })
    }

    /// A word that stands for the client's first segment, if that answered a cookie.
    #[must_use]
    pub fn print(&self) -> u64 {
        self.print
    }

    /// What a front end agrees to that keeps nothing of a client's SYN, but for the number.
    fn offer(client: &SynFacts, mss: Option<u16>, clock: u32) -> SynFacts {
        let asked = &client.options;
        SynFacts {
            window: COOKIE_WINDOW,
            options: Options {
                mss,
                wscale: asked.wscale.map(|_| COOKIE_WSCALE),
                sack_ok: asked.sack_ok,
                ts: asked.ts.map(|ts| Timestamps {
                    val: clock,
                    ecr: ts.val,
                }),
                ..Options::default()
            },
            ..SynFacts::default()
        }
    }

    /// The SYN-ACK with a cookie, by which the SYN that this began with is answered without TCP.
    #[must_use]
    pub fn cookie_syn_ack(&self, cookie: Seq, mss: u16, clock: u32) -> Build {
        let (client_port, port) = self.ports;
        let server = SynFacts {
            isn: cookie,
            ..Self::offer(&self.client, Some(mss), clock)
        };
        answer(client_port, port, &self.client, &server)
    }
}
