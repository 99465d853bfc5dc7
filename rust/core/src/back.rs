// SPDX-License-Identifier: GPL-2.0

//! A connection at its back end, from the handoff request until its TCP has the request (paper,
//! section 4, "TCP state migration").
//!
//! It is *adopted* where that can be: TCP here is given one ACK, and what the handshake agreed to, and
//! makes a socket with the numbers that the client has ([`Back::adopt`]). Nothing is translated then.
//!
//! Else it is *replayed*: the back end plays the client towards its own TCP. It repeats the client's
//! SYN and ACK, and keeps the SYN-ACK to itself. From the difference between that and the front end's
//! SYN-ACK follows the translation of all later segments.

use crate::{
    seq::Seq,
    tcp::{
        flag,
        Build,
        Ecn,
        Header,
        Options,
        SynFacts,
        Timestamps, //
    },
    translate::{
        Mismatch,
        Translation, //
    },
    wire::Handshake,
};

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// An ACK was, or is being, given to TCP with an [`Adoption`].
    Adopt,
    /// The SYN was, or is being, given to TCP.
    Syn,
    /// TCP has answered; the ACK was, or is being, given to it.
    Ack,
    /// TCP has made a socket, which UTCP withholds until the front end commits itself.
    Offered,
    /// The front end has: the connection is TCP's and the client's.
    Live,
}

/// What TCP here needs to know besides an ACK, to have a connection with the numbers that the client
/// has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adoption {
    /// What the client takes in a segment.
    pub mss: u16,
    /// The window in the SYN-ACK that the client was sent.
    pub window: u16,
    /// The shift counts of the client's windows and of the server's, if they have any.
    pub wscale: Option<(u8, u8)>,
    /// Selective acknowledgements were agreed.
    pub sack_ok: bool,
    /// The client's newest TSval, and the server's clock as it is now, if timestamps were agreed.
    pub ts: Option<Timestamps>,
    /// Congestion notification was agreed.
    pub ecn: bool,
}

/// A connection that is being given to TCP.
#[derive(Clone, Copy)]
pub struct Back {
    phase: Phase,
    port: u16,
    client_port: u16,
    /// What the replayed SYN says: what the client said as far as the front end agreed.
    client: SynFacts,
    /// The front end's SYN-ACK, which the client knows.
    known: SynFacts,
    /// The clock of TCP here.
    own_ts: Option<u32>,
    translation: Translation,
    /// The front end's timestamp clock when it asked.
    ts_base: u32,
    /// The newest acknowledgement (in the front end's numbers), window and TSval of the client's.
    acked: Seq,
    window: u16,
    ts: u32,
}

impl Back {
    /// Begins with the handshake that the front end saw. `port` is that of the server here,
    /// `ts_base` the front end's timestamp clock.
    #[must_use]
    pub fn new(handshake: &Handshake<'_>, port: u16, ts_base: u32) -> Self {
        let ack = handshake.ack();
        let ts = ack.timestamps().ok().flatten().map_or(0, |ts| ts.val);
        let newest = (ack.ack(), ack.window(), ts);
        let ports = (ack.source(), port);
        Self::begun(
            handshake.client(),
            handshake.server(),
            ports,
            newest,
            ts_base,
        )
    }

    /// Begins with what the handshake's segments fixed, the ports of client and server, and the newest
    /// acknowledgement number, window and TSval of the client's.
    pub(crate) fn begun(
        client: &SynFacts,
        known: &SynFacts,
        (client_port, port): (u16, u16),
        (acked, window, ts): (Seq, u16, u32),
        ts_base: u32,
    ) -> Self {
        Self {
            phase: Phase::Syn,
            port,
            client_port,
            client: client.restricted(known),
            known: *known,
            own_ts: None,
            translation: Translation::default(),
            ts_base,
            acked,
            window,
            ts,
        }
    }

    /// How far it has come.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Begins with an adoption: TCP is to be given this and [`Back::bare_ack`]. `None` if the
    /// connection has what cannot be adopted.
    pub fn adopt(&mut self) -> Option<Adoption> {
        // The client's are those that were agreed.
        let (client, known) = (&self.client.options, &self.known.options);
        if self.phase != Phase::Syn || known.signed || self.known.ecn == Ecn::Accurate {
            return None;
        }
        self.phase = Phase::Adopt;
        self.own_ts = client.ts.map(|_| self.ts_base);
        Some(Adoption {
            // RFC 9293, section 3.7.1.
            mss: client.mss.filter(|&mss| mss != 0).unwrap_or(536),
            window: self.known.window,
            wscale: client.wscale.zip(known.wscale),
            sack_ok: client.sack_ok,
            ts: self.own_ts.map(|ecr| Timestamps { val: self.ts, ecr }),
            ecn: self.client.ecn == Ecn::Classic,
        })
    }

    /// TCP has not adopted it: it is replayed.
    pub fn replay(&mut self) {
        if self.phase == Phase::Adopt {
            self.phase = Phase::Syn;
            self.own_ts = None;
        }
    }

    /// Whether TCP says by this that it knows of no connection that [`Back::bare_ack`] belongs to, which
    /// may have come late, when there was nothing to be adopted any more (RFC 9293, section 3.10.7.1).
    #[must_use]
    pub fn is_stray(&self, header: &Header<'_>) -> bool {
        header.flags() & (flag::RST | flag::ACK) == flag::RST
            && header.seq() == self.known.isn.add(1)
    }

    /// The client's: an ACK without timestamps. By those TCP would measure a round trip that the
    /// client's idle time is part of.
    #[must_use]
    pub fn bare_ack(&self) -> Build {
        Build {
            options: Options::default(),
            ..self.segment(0)
        }
    }

    /// The client's SYN, for TCP here.
    #[must_use]
    pub fn syn(&self) -> Build {
        Build::syn(self.client_port, self.port, &self.client)
    }

    /// TCP's SYN-ACK: `Ok(false)` if the header is none, or none to this SYN. An error says what
    /// TCP did not agree to.
    pub fn on_syn_ack(&mut self, header: &Header<'_>) -> Result<bool, Mismatch> {
        if !matches!(self.phase, Phase::Syn | Phase::Ack) {
            return Ok(false);
        }
        let Some(own) = SynFacts::of_syn_ack(header) else {
            return Ok(false);
        };
        if header.ack() != self.client.isn.add(1) {
            return Ok(false);
        }
        self.translation = Translation::between(&self.known, &own, self.ts_base)?;
        self.own_ts = own.options.ts.map(|ts| ts.val);
        self.phase = Phase::Ack;
        Ok(true)
    }

    /// The client's ACK to TCP's SYN-ACK.
    #[must_use]
    pub fn ack(&self) -> Build {
        self.segment(0)
    }

    /// TCP has made a socket: whether it is this connection's, and to be withheld.
    pub fn on_child(&mut self) -> bool {
        if matches!(self.phase, Phase::Adopt | Phase::Ack) {
            self.phase = Phase::Offered;
        }
        self.phase == Phase::Offered
    }

    /// The front end commits itself, and passes on the newest of the client's; whether that was
    /// awaited.
    pub fn commit(&mut self, acked: Seq, window: u16, ts: u32) -> bool {
        if self.phase != Phase::Offered {
            return false;
        }
        self.acked = acked;
        self.window = window;
        self.ts = ts;
        self.phase = Phase::Live;
        true
    }

    /// The front end has committed itself when it handed the connection over: whether TCP has it.
    pub fn settle(&mut self) -> bool {
        let (acked, window, ts) = (self.acked, self.window, self.ts);
        self.commit(acked, window, ts)
    }

    /// The number of the server's first byte, as the client knows it.
    #[must_use]
    pub fn first_sent(&self) -> Seq {
        self.known.isn.add(1)
    }

    /// How later segments are translated.
    #[must_use]
    pub fn translation(&self) -> Translation {
        self.translation
    }

    /// The number of the client's first byte.
    #[must_use]
    pub fn first(&self) -> Seq {
        self.client.isn.add(1)
    }

    /// The client's: a segment with bytes from `offset` on.
    #[must_use]
    pub fn segment(&self, offset: u32) -> Build {
        let ts = self.own_ts.map(|own| Timestamps {
            val: self.ts,
            ecr: own,
        });
        let ack = self.acked.add(self.translation.seq_delta);
        let seq = self.first().add(offset);
        Build::ack(self.client_port, self.port, seq, ack, self.window, ts)
    }

    /// The client's: a reset with the exact number that TCP expects, which has got no payload yet.
    #[must_use]
    pub fn reset(&self) -> Build {
        Build::rst(self.client_port, self.port, self.first())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        tuple::v4_mapped, //
    };

    fn facts(isn: u32, ts: Option<u32>, wscale: u8) -> SynFacts {
        SynFacts {
            isn: Seq(isn),
            window: 64000,
            options: Options {
                mss: Some(1460),
                wscale: Some(wscale),
                sack_ok: true,
                ts: ts.map(|val| Timestamps { val, ecr: 0 }),
                ..Options::default()
            },
            ..SynFacts::default()
        }
    }

    fn write(build: Build) -> std::vec::Vec<u8> {
        let mut out = [0; 60];
        let (a, b) = (v4_mapped([10, 0, 0, 1]), v4_mapped([10, 0, 0, 2]));
        let len = build.write(&mut out, &a, &b, &[]).unwrap();
        out[..len].to_vec()
    }

    fn syn_ack(facts: &SynFacts, ack: u32) -> std::vec::Vec<u8> {
        write(Build {
            flags: flag::SYN | flag::ACK,
            ack: Seq(ack),
            ..Build::syn(80, 40000, facts)
        })
    }

    fn handshake(ts: Option<u32>) -> [std::vec::Vec<u8>; 3] {
        let echo = ts.map(|val| Timestamps { val, ecr: 9000 });
        [
            write(Build::syn(40000, 80, &facts(100, ts, 5))),
            syn_ack(&facts(500, ts.map(|_| 9000), 7), 101),
            write(Build::ack(40000, 80, Seq(101), Seq(501), 500, echo)),
        ]
    }

    fn back(handshake: &[std::vec::Vec<u8>; 3]) -> Back {
        let [syn, syn_ack, ack] = handshake.each_ref().map(|h| Header::parse(h).unwrap());
        Back::new(&Handshake::new(syn, syn_ack, ack).unwrap(), 8080, 9100)
    }

    #[test]
    fn a_replay_goes_through_its_phases() {
        let mut back = back(&handshake(Some(70)));
        let syn = write(back.syn());
        let syn = Header::parse(&syn).unwrap();
        assert_eq!(
            (syn.source(), syn.dest(), syn.seq()),
            (40000, 8080, Seq(100))
        );
        assert_eq!(syn.options().unwrap().ts.unwrap().val, 70);
        assert!(!back.on_child());

        let own = syn_ack(&facts(7000, Some(50), 6), 101);
        assert_eq!(back.on_syn_ack(&Header::parse(&own).unwrap()), Ok(true));
        let ack = write(back.ack());
        let ack = Header::parse(&ack).unwrap();
        assert_eq!(
            (ack.seq(), ack.ack(), ack.window()),
            (Seq(101), Seq(7001), 500)
        );
        assert_eq!(
            ack.options().unwrap().ts.unwrap(),
            Timestamps { val: 70, ecr: 50 }
        );
        assert!(!back.commit(Seq(501), 400, 80));

        assert!(back.on_child());
        assert_eq!(back.phase(), Phase::Offered);
        assert!(back.commit(Seq(501), 400, 80));
        let data = write(back.segment(10));
        let data = Header::parse(&data).unwrap();
        assert_eq!(
            (data.seq(), data.ack(), data.window()),
            (Seq(111), Seq(7001), 400)
        );
        let translation = back.translation();
        assert_eq!(translation.seq_delta, 6500);
        assert_eq!((translation.wscale_own, translation.wscale_known), (6, 7));
    }

    #[test]
    fn an_adoption_keeps_the_numbers_that_the_client_has() {
        let mut back = back(&handshake(Some(70)));
        assert_eq!(
            back.adopt(),
            Some(Adoption {
                mss: 1460,
                window: 64000,
                wscale: Some((5, 7)),
                sack_ok: true,
                ts: Some(Timestamps { val: 70, ecr: 9100 }),
                ecn: false,
            })
        );
        let ack = write(back.bare_ack());
        let ack = Header::parse(&ack).unwrap();
        assert_eq!(
            (ack.seq(), ack.ack(), ack.window(), ack.dest()),
            (Seq(101), Seq(501), 500, 8080)
        );
        assert_eq!(ack.options().unwrap().ts, None);
        // A SYN-ACK is none of it.
        let own = syn_ack(&facts(7000, Some(50), 6), 101);
        assert_eq!(back.on_syn_ack(&Header::parse(&own).unwrap()), Ok(false));

        let rst = |seq, flags| {
            let bytes = write(Build {
                flags,
                ..Build::rst(8080, 40000, Seq(seq))
            });
            back.is_stray(&Header::parse(&bytes).unwrap())
        };
        assert!(rst(501, flag::RST));
        assert!(!rst(502, flag::RST) && !rst(501, flag::RST | flag::ACK) && !rst(501, flag::ACK));

        assert!(back.on_child());
        assert!(back.commit(Seq(501), 400, 80));
        assert_eq!(back.translation(), Translation::default());
        let data = write(back.segment(10));
        let data = Header::parse(&data).unwrap();
        assert_eq!((data.seq(), data.ack()), (Seq(111), Seq(501)));
        let ts = data.options().unwrap().ts.unwrap();
        assert_eq!(ts, Timestamps { val: 80, ecr: 9100 });
    }

    #[test]
    fn without_options_there_is_little_to_adopt() {
        let plain = |isn| SynFacts {
            isn: Seq(isn),
            window: 1000,
            ..SynFacts::default()
        };
        let handshake = [
            write(Build::syn(40000, 80, &plain(100))),
            syn_ack(&plain(500), 101),
            write(Build::ack(40000, 80, Seq(101), Seq(501), 500, None)),
        ];
        let adoption = back(&handshake).adopt().unwrap();
        assert_eq!((adoption.mss, adoption.wscale), (536, None));
        assert_eq!((adoption.sack_ok, adoption.ts), (false, None));
    }

    #[test]
    fn what_is_not_adopted_is_replayed() {
        let mut back = back(&handshake(Some(70)));
        assert!(back.adopt().is_some());
        back.replay();
        assert_eq!(back.phase(), Phase::Syn);
        assert!(!back.on_child());
        let own = syn_ack(&facts(7000, Some(50), 6), 101);
        assert_eq!(back.on_syn_ack(&Header::parse(&own).unwrap()), Ok(true));
        assert!(back.on_child());
        assert_eq!(back.translation().seq_delta, 6500);
    }

    #[test]
    fn what_tcp_here_does_not_agree_to_is_an_error() {
        let mut back = back(&handshake(Some(70)));
        let own = syn_ack(&facts(7000, None, 6), 101);
        assert_eq!(
            back.on_syn_ack(&Header::parse(&own).unwrap()),
            Err(Mismatch::Timestamps)
        );
    }

    #[test]
    fn an_old_syn_ack_is_not_taken() {
        let mut back = back(&handshake(None));
        let old = syn_ack(&facts(7000, None, 6), 99);
        assert_eq!(back.on_syn_ack(&Header::parse(&old).unwrap()), Ok(false));
        assert_eq!(back.phase(), Phase::Syn);
    }
}
