// SPDX-License-Identifier: GPL-2.0

//! A connection at its front end, from the client's SYN until it is decided where the request is
//! served (paper, section 4, "3-way TCP handshake" and "URL parsing").
//!
//! The front end's own TCP finishes the handshake. From then on the client's payload is kept from
//! it, so that both outcomes stay open: TCP gets the payload, or a reset. What is kept, and where,
//! is the caller's business; this is only what follows from the headers.

use crate::{
    cookie::Said,
    seq::Seq,
    tcp::{
        flag,
        Build,
        Ecn,
        Header,
        Options,
        Sack,
        SynFacts,
        Timestamps,
        MAX_HEADER_LEN, //
    },
    wire::Handshake,
};

/// The window of a SYN-ACK with a cookie: what every Linux offers whose receive buffers have their
/// usual size, whatever the segments' (net.ipv4.tcp_rmem).
pub const COOKIE_WINDOW: u16 = 63 << 10;

/// The shift count of the windows that follow, the same on all nodes: that of Linux with usual
/// buffers, for windows of up to 64 MiB.
pub const COOKIE_WSCALE: u8 = 10;

/// A TCP header that is kept to be sent elsewhere.
#[derive(Clone, Copy)]
pub struct Kept {
    len: u8,
    bytes: [u8; MAX_HEADER_LEN],
}

impl Kept {
    const EMPTY: Self = Self {
        len: 0,
        bytes: [0; MAX_HEADER_LEN],
    };

    fn of(header: &Header<'_>) -> Self {
        let mut kept = Self::EMPTY;
        if let Some(to) = kept.bytes.get_mut(..header.header_len()) {
            to.copy_from_slice(header.bytes());
            // CAST: a header has at most 60 bytes.
            kept.len = header.header_len() as u8;
        }
        kept
    }

    /// The header of a segment that we make. Its checksum means nothing.
    fn built(build: &Build) -> Self {
        let mut kept = Self::EMPTY;
        let any = [0; 16];
        if let Some(len) = build.write(&mut kept.bytes, &any, &any, &[]) {
            // CAST: a header has at most 60 bytes.
            kept.len = len as u8;
        }
        kept
    }

    /// The header; empty if there was none.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[])
    }
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The client's SYN was seen.
    Syn,
    /// TCP's SYN-ACK as well.
    SynAck,
    /// TCP has made a socket, which UTCP withholds; the request head is awaited.
    Head,
    /// Another node was asked to take the connection over.
    Asked,
}

/// What is to be done with a segment of the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// It is TCP's.
    Pass,
    /// It shows that the client has ended the handshake, and brings more than that, or something
    /// else: TCP is to get [`Front::ack`] first; then ask again.
    Open,
    /// It continues what is held, from byte `skip` of its payload on; `fin` ends the stream behind
    /// it.
    Take {
        /// Bytes that are held already.
        skip: u32,
        /// The client will send no more.
        fin: bool,
    },
    /// It brings nothing that is not held already: acknowledge that again, and drop it.
    Known,
    /// Something is missing before it: acknowledge what is held, and keep it until its turn comes,
    /// or drop it.
    Early,
    /// The client has reset the connection, with the exact number that it takes (RFC 5961, section
    /// 3).
    Reset,
    /// A reset or a SYN that is not to be believed: the client is to be told what is held, and if
    /// it means it, it names that number then (RFC 5961, sections 3 and 4). TCP, which has not got
    /// what is held, would name and believe another. Drop it.
    Challenge,
    /// Nothing of it counts: drop it.
    Stray,
}

/// A connection whose place is undecided.
#[derive(Clone, Copy)]
pub struct Front {
    phase: Phase,
    client: SynFacts,
    server: SynFacts,
    syn: Kept,
    syn_ack: Kept,
    ack: Kept,
    /// The next byte that is expected of the client.
    next: Seq,
    /// The newest acknowledgement, window and timestamp of the client's.
    acked: Seq,
    window: u16,
    ts: u32,
    /// The newest timestamp of a segment that did not come too early: what is older than that is
    /// from the past (RFC 7323, section 5.3).
    ts_recent: u32,
    /// When TCP sent the SYN-ACK.
    syn_ack_ms: u32,
}

impl Front {
    /// Begins with the client's SYN; `None` if it is none, or malformed.
    #[must_use]
    pub fn new(syn: &Header<'_>) -> Option<Self> {
        let client = SynFacts::of_syn(syn)?;
        Some(Self {
            phase: Phase::Syn,
            client,
            server: SynFacts::default(),
            syn: Kept::of(syn),
            syn_ack: Kept::EMPTY,
            ack: Kept::EMPTY,
            next: client.isn.add(1),
            acked: Seq(0),
            window: client.window,
            ts: client.options.ts.map_or(0, |ts| ts.val),
            ts_recent: client.options.ts.map_or(0, |ts| ts.val),
            syn_ack_ms: 0,
        })
    }

    /// Begins with the first segment of a client that had a cookie in the place of a SYN-ACK of
    /// TCP's, which said `mss`. `clock` is the front end's timestamp clock at `now` milliseconds of
    /// the clock that [`Front::ts_now`] is given. `None` if the segment is malformed.
    #[must_use]
    pub fn of_cookie(
        first: &Header<'_>,
        said: &Said,
        mss: u16,
        clock: u32,
        now: u32,
    ) -> Option<Self> {
        let ts = first.options().ok()?.ts;
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
            ..Self::offer(&client, mss, clock)
        };
        let (source, dest) = (first.source(), first.dest());
        let mut front = Self {
            phase: Phase::Head,
            client,
            server,
            syn: Kept::built(&Build::syn(source, dest, &client)),
            syn_ack: Kept::built(&Self::answer(source, dest, &client, &server)),
            ack: Kept::EMPTY,
            next: first.seq(),
            acked: first.ack(),
            window: first.window(),
            ts: ts.map_or(0, |ts| ts.val),
            ts_recent: ts.map_or(0, |ts| ts.val),
            syn_ack_ms: now,
        };
        front.ack = Kept::built(&front.ack());
        Some(front)
    }

    /// What a front end agrees to that keeps nothing of a client's SYN, but for the number.
    fn offer(client: &SynFacts, mss: u16, clock: u32) -> SynFacts {
        let asked = &client.options;
        SynFacts {
            window: COOKIE_WINDOW,
            options: Options {
                mss: Some(mss),
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

    /// A SYN-ACK.
    fn answer(client_port: u16, port: u16, client: &SynFacts, server: &SynFacts) -> Build {
        Build {
            flags: flag::SYN | flag::ACK,
            ack: client.isn.add(1),
            options: server.options,
            ..Build::syn(port, client_port, server)
        }
    }

    /// The SYN-ACK with a cookie, by which the SYN that this began with is answered without TCP.
    #[must_use]
    pub fn cookie_syn_ack(&self, cookie: Seq, mss: u16, clock: u32) -> Build {
        let (client_port, port) = self.ports();
        let server = SynFacts {
            isn: cookie,
            ..Self::offer(&self.client, mss, clock)
        };
        Self::answer(client_port, port, &self.client, &server)
    }

    /// What the client's SYN fixed.
    #[must_use]
    pub fn client(&self) -> &SynFacts {
        &self.client
    }

    /// How far it has come.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Looks at a segment that TCP sends, at `now` milliseconds of any clock.
    pub fn on_output(&mut self, header: &Header<'_>, now: u32) {
        if !matches!(self.phase, Phase::Syn | Phase::SynAck) {
            return;
        }
        // A SYN-ACK that is sent again brings newer timestamps along.
        if let Some(server) = SynFacts::of_syn_ack(header) {
            if header.ack() == self.client.isn.add(1) {
                self.server = server;
                self.syn_ack = Kept::of(header);
                self.syn_ack_ms = now;
                self.phase = Phase::SynAck;
            }
        }
    }

    /// Decides about a segment of the client's with `payload` bytes.
    pub fn on_input(&mut self, header: &Header<'_>, payload: u32) -> Input {
        if header.has(flag::SYN) {
            // The same again, or a new beginning, which TCP judges; what it answers says which.
            if let (Phase::Syn | Phase::SynAck, Some(again)) = (self.phase, Self::new(header)) {
                // Of those that TCP has not answered the last one counts: its options may be others.
                if again.client.isn != self.client.isn || self.phase == Phase::Syn {
                    *self = again;
                }
            }
            return match self.held() {
                0 => Input::Pass,
                _ => Input::Challenge,
            };
        }
        match self.phase {
            Phase::Syn => Input::Pass,
            Phase::SynAck => self.on_handshake(header, payload),
            Phase::Head | Phase::Asked => self.on_data(header, payload),
        }
    }

    fn on_handshake(&mut self, header: &Header<'_>, payload: u32) -> Input {
        if header.has(flag::RST) && header.seq() == self.next {
            return Input::Reset;
        }
        if header.has(flag::RST) || !header.has(flag::ACK) || header.ack() != self.server.isn.add(1)
        {
            return Input::Pass;
        }
        let len = header.seq_len(payload);
        let end = header.seq().add(len);
        if header.seq().lt(self.next) && end.le(self.next) {
            // TCP makes no socket of what is old.
            return Input::Pass;
        }
        self.note(header);
        if len == 0 && header.seq() == self.next {
            self.ack = Kept::of(header);
            return Input::Pass;
        }
        // The handshake's ACK was lost or overtaken, or is this segment: TCP gets one of our making,
        // or the payload would be TCP's as well.
        self.ack = Kept::built(&self.ack());
        Input::Open
    }

    fn on_data(&mut self, header: &Header<'_>, payload: u32) -> Input {
        if header.has(flag::RST) {
            let ahead = header.seq().since(self.next);
            return match ahead {
                0 => Input::Reset,
                _ if ahead < self.left() => Input::Challenge,
                _ => Input::Stray,
            };
        }
        if self.is_past(header) {
            return Input::Known;
        }
        self.note(header);
        self.place(header, payload)
    }

    /// Decides about a segment that came before its turn, was kept, and may have it now. However old
    /// it is by now, it was not when it came.
    pub fn on_kept(&self, header: &Header<'_>, payload: u32) -> Input {
        match self.phase {
            Phase::Head | Phase::Asked => self.place(header, payload),
            Phase::Syn | Phase::SynAck => Input::Pass,
        }
    }

    /// Decides about a segment by its place in the stream.
    fn place(&self, header: &Header<'_>, payload: u32) -> Input {
        let fin = header.has(flag::FIN);
        if payload == 0 && !fin {
            // A keep-alive probe asks for an acknowledgement of what TCP has not got.
            return if header.seq().lt(self.next) {
                Input::Known
            } else {
                Input::Pass
            };
        }
        let end = header.seq().add(header.seq_len(payload));
        if header.seq().gt(self.next) {
            Input::Early
        } else if end.le(self.next) {
            Input::Known
        } else {
            Input::Take {
                skip: self.next.since(header.seq()),
                fin,
            }
        }
    }

    /// Keeps what is newest of the client's.
    fn note(&mut self, header: &Header<'_>) {
        if header.has(flag::ACK) && (self.phase == Phase::SynAck || header.ack().ge(self.acked)) {
            self.acked = header.ack();
            self.window = header.window();
            if let Some(ts) = self.ts_of(header) {
                // What TCP is given must not seem to be from the past.
                self.ts = newer(self.ts, ts);
                if header.seq().le(self.next) {
                    self.ts_recent = newer(self.ts_recent, ts);
                }
            }
        }
    }

    /// The client's timestamp, if timestamps were agreed.
    fn ts_of(&self, header: &Header<'_>) -> Option<u32> {
        self.server.options.ts?;
        Some(header.options().ok()?.ts?.val)
    }

    /// Whether a segment is from the past by its timestamp, for which Linux allows for one tick.
    fn is_past(&self, header: &Header<'_>) -> bool {
        self.ts_of(header)
            .is_some_and(|ts| Seq(ts.wrapping_add(1)).lt(Seq(self.ts_recent)))
    }

    /// TCP has made a socket of the connection: whether it is to be withheld.
    pub fn on_child(&mut self) -> bool {
        if self.phase == Phase::SynAck {
            self.phase = Phase::Head;
        }
        self.phase == Phase::Head
    }

    /// Whether a segment that came too early, and begins at `seq`, has its turn now.
    #[must_use]
    pub fn is_next(&self, seq: Seq) -> bool {
        seq.le(self.next)
    }

    /// How many bytes are missing before a segment that begins at `seq`.
    #[must_use]
    pub fn gap(&self, seq: Seq) -> u32 {
        seq.since(self.next)
    }

    /// `bytes` more are held.
    pub fn took(&mut self, bytes: u32) {
        self.next = self.next.add(bytes);
    }

    /// The number behind the last byte that is held.
    #[must_use]
    pub fn next(&self) -> Seq {
        self.next
    }

    /// How many bytes are held.
    #[must_use]
    pub fn held(&self) -> u32 {
        self.next.since(self.client.isn.add(1))
    }

    /// Another node was asked.
    pub fn ask(&mut self) {
        self.phase = Phase::Asked;
    }

    /// Whether only the client and TCP can make segments of this connection, or change any.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        self.client.options.signed
    }

    /// Whether another TCP could go on with this connection: nothing was agreed that a replay
    /// cannot repeat.
    #[must_use]
    pub fn is_portable(&self) -> bool {
        let (client, server) = (&self.client.options, &self.server.options);
        !(client.signed
            || server.signed
            || server.mptcp
            || server.fast_open
            || (self.client.ecn != Ecn::Off && self.server.ecn == Ecn::Accurate))
    }

    /// The handshake between the client and TCP, once it is whole.
    #[must_use]
    pub fn handshake(&self) -> Option<Handshake<'_>> {
        Handshake::new(
            Header::parse(self.syn.bytes())?,
            Header::parse(self.syn_ack.bytes())?,
            Header::parse(self.ack.bytes())?,
        )
    }

    /// The newest acknowledgement number, window and TSval of the client's.
    #[must_use]
    pub fn newest(&self) -> (Seq, u16, u32) {
        (self.acked, self.window, self.ts)
    }

    /// The clock of TCP's timestamps towards the client, at `now` milliseconds of the clock that
    /// [`Front::on_output`] was given.
    #[must_use]
    pub fn ts_now(&self, now: u32) -> u32 {
        let base = self.server.options.ts.map_or(0, |ts| ts.val);
        base.wrapping_add(now.wrapping_sub(self.syn_ack_ms))
    }

    /// The ports, client's first.
    fn ports(&self) -> (u16, u16) {
        Header::parse(self.syn.bytes()).map_or((0, 0), |syn| (syn.source(), syn.dest()))
    }

    /// The timestamps of a segment that seems to be the client's.
    fn client_ts(&self) -> Option<Timestamps> {
        let ts = self.server.options.ts?;
        Some(Timestamps {
            val: self.ts,
            ecr: ts.val,
        })
    }

    /// The client's: the ACK that ends the handshake, without the payload that it brought.
    #[must_use]
    pub fn ack(&self) -> Build {
        self.segment(0)
    }

    /// The client's: a segment with the bytes that are held, from byte `offset` on.
    #[must_use]
    pub fn segment(&self, offset: u32) -> Build {
        let (source, dest) = self.ports();
        let seq = self.client.isn.add(1).add(offset);
        let ack = self.server.isn.add(1);
        Build::ack(source, dest, seq, ack, self.window, self.client_ts())
    }

    /// The number of the client's first byte.
    #[must_use]
    pub fn first(&self) -> Seq {
        self.client.isn.add(1)
    }

    /// The client's: a reset with the exact number that TCP expects, which has got no payload yet.
    #[must_use]
    pub fn reset(&self) -> Build {
        let (source, dest) = self.ports();
        Build::rst(source, dest, self.client.isn.add(1))
    }

    /// What is left of the window that the SYN-ACK offered.
    fn left(&self) -> u32 {
        u32::from(self.server.window).saturating_sub(self.held())
    }

    /// TCP's: an acknowledgement of what is held, at `now`. The window is what is left of the one
    /// that the SYN-ACK offered. `early` is what came before its turn, as [`Sack::new`] takes it:
    /// a client that may be told of it repeats what is missing, and need not wait for a timer.
    #[must_use]
    pub fn acknowledge(&self, now: u32, early: impl Iterator<Item = (Seq, Seq)> + Clone) -> Build {
        let (client, server) = self.ports();
        let shift = self.server.options.wscale.unwrap_or(0);
        // CAST: at most the 16 bits that the SYN-ACK had.
        let window = self.left().checked_shr(u32::from(shift)).unwrap_or(0) as u16;
        let ts = self.server.options.ts.map(|_| Timestamps {
            val: self.ts_now(now),
            ecr: self.ts,
        });
        let ack = self.server.isn.add(1);
        let sack = match self.server.options.sack_ok && self.client.options.sack_ok {
            true => Sack::new(self.next, early),
            false => Sack::NONE,
        };
        Build {
            sack,
            ..Build::ack(server, client, ack, self.next, window, ts)
        }
    }
}

/// The newer of two timestamps.
fn newer(a: u32, b: u32) -> u32 {
    if Seq(a).lt(Seq(b)) {
        b
    } else {
        a
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp::{option, HEADER_LEN};
    use crate::tuple::v4_mapped;

    const CLIENT: u16 = 40000;
    const SERVER: u16 = 80;

    fn bytes(build: &Build) -> ([u8; 60], usize) {
        let mut out = [0; 60];
        let (a, b) = (v4_mapped([10, 0, 0, 1]), v4_mapped([10, 0, 0, 2]));
        let len = build.write(&mut out, &a, &b, &[]).unwrap();
        (out, len)
    }

    fn with<R>(build: &Build, f: impl FnOnce(&Header<'_>) -> R) -> R {
        let (bytes, len) = bytes(build);
        f(&Header::parse(&bytes[..len]).unwrap())
    }

    fn facts(isn: u32, ts: u32) -> SynFacts {
        SynFacts {
            isn: Seq(isn),
            window: 64000,
            options: Options {
                mss: Some(1460),
                wscale: Some(7),
                sack_ok: true,
                ts: Some(Timestamps { val: ts, ecr: 0 }),
                ..Options::default()
            },
            ..SynFacts::default()
        }
    }

    fn syn_ack(isn: u32, ack: u32) -> Build {
        Build {
            flags: flag::SYN | flag::ACK,
            ack: Seq(ack),
            ..Build::syn(SERVER, CLIENT, &facts(isn, 9000))
        }
    }

    #[test]
    fn a_cookie_is_as_good_as_a_handshake() {
        let client = facts(100, 70);
        let syn = with(&Build::syn(CLIENT, SERVER, &client), |syn| Front::new(syn)).unwrap();
        let answer = syn.cookie_syn_ack(Seq(7000), 1400, 9000);
        let sent = with(&answer, |header| {
            assert_eq!((header.source(), header.dest()), (SERVER, CLIENT));
            assert_eq!(header.ack(), Seq(101));
            SynFacts::of_syn_ack(header)
        })
        .unwrap();
        assert_eq!((sent.isn, sent.window), (Seq(7000), COOKIE_WINDOW));
        let options = sent.options;
        assert_eq!((options.mss, options.wscale), (Some(1400), Some(COOKIE_WSCALE)));
        assert_eq!(options.ts, Some(Timestamps { val: 9000, ecr: 70 }));

        let echo = Some(Timestamps { val: 75, ecr: 9000 });
        let first = Build::ack(CLIENT, SERVER, Seq(101), Seq(7001), 500, echo);
        let said = Said::of(&client);
        let mut front = with(&first, |first| {
            Front::of_cookie(first, &said, 1400, 9100, 3)
        })
        .unwrap();
        assert_eq!(front.phase(), Phase::Head);
        let handshake = front.handshake().unwrap();
        let (mine, theirs) = (handshake.client(), handshake.server());
        assert_eq!((mine.isn, mine.options.wscale), (Seq(100), Some(7)));
        assert_eq!((theirs.isn, theirs.options.wscale), (Seq(7000), Some(COOKIE_WSCALE)));
        assert_eq!(theirs.options.mss, Some(1400));
        assert_eq!(front.ts_now(13), 9110);
        // The stream goes on as behind any handshake.
        let data = Build {
            flags: flag::ACK | flag::PSH,
            ..first
        };
        let input = with(&data, |data| front.on_input(data, 10));
        assert_eq!(
            input,
            Input::Take {
                skip: 0,
                fin: false
            }
        );
    }

    #[test]
    fn without_options_a_cookie_grants_none() {
        let plain = SynFacts {
            isn: Seq(100),
            ..SynFacts::default()
        };
        let syn = with(&Build::syn(CLIENT, SERVER, &plain), |syn| Front::new(syn)).unwrap();
        let answer = syn.cookie_syn_ack(Seq(7000), 1460, 9000).options;
        assert_eq!((answer.wscale, answer.sack_ok, answer.ts), (None, false, None));
    }

    fn segment(seq: u32, flags: u8) -> Build {
        Build {
            flags,
            ..Build::ack(
                CLIENT,
                SERVER,
                Seq(seq),
                Seq(501),
                500,
                Some(Timestamps { val: 77, ecr: 9000 }),
            )
        }
    }

    /// A connection whose child is withheld: the client's first byte is 101, the server's 501.
    fn open() -> Front {
        let mut front = with(&Build::syn(CLIENT, SERVER, &facts(100, 70)), |h| {
            Front::new(h).unwrap()
        });
        with(&syn_ack(500, 101), |h| front.on_output(h, 1000));
        let input = with(&segment(101, flag::ACK), |h| front.on_input(h, 0));
        assert_eq!(input, Input::Pass);
        assert!(front.on_child());
        front
    }

    #[test]
    fn the_handshake_passes_and_is_kept() {
        let front = open();
        let handshake = front.handshake().unwrap();
        assert_eq!(handshake.client().isn, Seq(100));
        assert_eq!(handshake.server().isn, Seq(500));
        assert_eq!(handshake.ack().seq(), Seq(101));
        assert_eq!(handshake.ack().header_len(), HEADER_LEN + 12);
        assert!(front.is_portable());
        assert_eq!(front.newest(), (Seq(501), 500, 77));
    }

    #[test]
    fn a_payload_with_the_handshake_s_ack_waits_for_the_child() {
        let mut front = with(&Build::syn(CLIENT, SERVER, &facts(100, 70)), |h| {
            Front::new(h).unwrap()
        });
        with(&syn_ack(500, 101), |h| front.on_output(h, 1000));
        let data = segment(101, flag::ACK | flag::PSH);
        assert_eq!(with(&data, |h| front.on_input(h, 10)), Input::Open);
        with(&front.ack(), |h| {
            assert_eq!((h.seq(), h.ack()), (Seq(101), Seq(501)));
        });
        assert!(front.on_child());
        assert_eq!(
            with(&data, |h| front.on_input(h, 10)),
            Input::Take {
                skip: 0,
                fin: false
            }
        );
    }

    #[test]
    fn what_overtakes_the_handshake_s_ack_opens_the_connection_all_the_same() {
        // (sequence number, bytes, flags, what is decided, and what when there is a socket)
        let cases = [
            (111, 10, flag::ACK | flag::PSH, Input::Open, Input::Early),
            (111, 0, flag::ACK | flag::FIN, Input::Open, Input::Early),
            (111, 0, flag::ACK, Input::Open, Input::Pass),
            (
                96,
                10,
                flag::ACK,
                Input::Open,
                Input::Take {
                    skip: 5,
                    fin: false,
                },
            ),
            // What is old opens nothing.
            (100, 1, flag::ACK, Input::Pass, Input::Known),
            (100, 0, flag::ACK, Input::Pass, Input::Known),
            // The client thinks better of it.
            (101, 0, flag::RST, Input::Reset, Input::Reset),
            (102, 0, flag::RST, Input::Pass, Input::Challenge),
        ];
        for (seq, payload, flags, first, then) in cases {
            let mut front = with(&Build::syn(CLIENT, SERVER, &facts(100, 70)), |h| {
                Front::new(h).unwrap()
            });
            with(&syn_ack(500, 101), |h| front.on_output(h, 1000));
            let input = with(&segment(seq, flags), |h| front.on_input(h, payload));
            assert_eq!(input, first, "{payload} bytes at {seq}");
            if first == Input::Open {
                // It can be handed off: the ACK that TCP gets stands for the client's.
                let handshake = front.handshake().unwrap();
                let ack = handshake.ack();
                assert_eq!((ack.seq(), ack.ack()), (Seq(101), Seq(501)));
                assert_eq!(ack.options().unwrap().ts.unwrap().val, 77);
            }
            assert!(front.on_child());
            let input = with(&segment(seq, flags), |h| front.on_input(h, payload));
            assert_eq!(input, then, "{payload} bytes at {seq}");
        }
    }

    #[test]
    fn what_came_early_has_its_turn_when_the_gap_is_filled() {
        let mut front = open();
        assert!(!front.is_next(Seq(111)));
        assert_eq!(front.gap(Seq(111)), 10);
        front.took(10);
        assert!(front.is_next(Seq(111)));
        assert!(front.is_next(Seq(105)));
    }

    #[test]
    fn payload_is_taken_in_order_and_once() {
        // (held before, sequence number, bytes, flags, what is decided)
        let take = |skip, fin| Input::Take { skip, fin };
        let cases = [
            (0, 101, 10, flag::ACK, take(0, false)),
            (10, 101, 10, flag::ACK, Input::Known),
            (10, 101, 15, flag::ACK, take(10, false)),
            (10, 111, 5, flag::ACK | flag::FIN, take(0, true)),
            (10, 111, 0, flag::ACK | flag::FIN, take(0, true)),
            (10, 112, 5, flag::ACK, Input::Early),
            (10, 111, 0, flag::ACK, Input::Pass),
            (10, 110, 0, flag::ACK, Input::Known),
            (10, 111, 0, flag::RST, Input::Reset),
            (0, 300, 0, flag::SYN, Input::Pass),
            (10, 300, 0, flag::SYN, Input::Challenge),
            // TCP would believe the number of the first byte, and the client has sent more.
            (10, 101, 0, flag::RST, Input::Stray),
            (10, 112, 0, flag::RST, Input::Challenge),
            (10, 101 + 63_999, 0, flag::RST, Input::Challenge),
            (10, 101 + 64_000, 0, flag::RST, Input::Stray),
        ];
        for (held, seq, payload, flags, expected) in cases {
            let mut front = open();
            front.took(held);
            let input = with(&segment(seq, flags), |h| front.on_input(h, payload));
            assert_eq!(input, expected, "{held} held, {payload} bytes at {seq}");
            assert_eq!(front.phase(), Phase::Head);
        }
    }

    #[test]
    fn what_is_from_the_past_is_not_taken() {
        let stamped = |seq: u32, val: u32| {
            let ts = Some(Timestamps { val, ecr: 9000 });
            Build::ack(CLIENT, SERVER, Seq(seq), Seq(501), 500, ts)
        };
        // (sequence number, timestamp, what is decided, the newest timestamp then)
        let take = Input::Take {
            skip: 0,
            fin: false,
        };
        let cases = [
            (101, 77, take, 77),
            (101, 76, take, 77),
            (101, 75, Input::Known, 77),
            (101, 78, take, 78),
            // One that came too early says nothing of those before it.
            (111, 90, Input::Early, 90),
            (101, 78, take, 90),
            (101, 99, take, 99),
            (111, 90, Input::Known, 99),
        ];
        let mut front = open();
        for (seq, ts, expected, newest) in cases {
            let input = with(&stamped(seq, ts), |h| front.on_input(h, 10));
            assert_eq!(input, expected, "{seq} at {ts}");
            assert_eq!(front.newest().2, newest, "{seq} at {ts}");
        }
        // What was kept meanwhile has not become old.
        front.took(10);
        assert_eq!(with(&stamped(111, 90), |h| front.on_kept(h, 10)), take);
    }

    #[test]
    fn sequence_numbers_wrap() {
        let mut front = with(&Build::syn(CLIENT, SERVER, &facts(u32::MAX - 4, 70)), |h| {
            Front::new(h).unwrap()
        });
        with(&syn_ack(500, u32::MAX - 3), |h| front.on_output(h, 1000));
        with(&segment(u32::MAX - 3, flag::ACK), |h| front.on_input(h, 0));
        assert!(front.on_child());
        front.took(10);
        assert_eq!(front.held(), 10);
        let input = with(&segment(u32::MAX - 3, flag::ACK), |h| front.on_input(h, 12));
        assert_eq!(
            input,
            Input::Take {
                skip: 10,
                fin: false
            }
        );
    }

    #[test]
    fn what_is_held_is_acknowledged_with_the_clock_and_window_of_tcp() {
        let mut front = open();
        front.took(1000);
        with(&front.acknowledge(1250, core::iter::empty()), |h| {
            assert_eq!((h.seq(), h.ack()), (Seq(501), Seq(1101)));
            assert!(!h.walk().flatten().any(|opt| opt.kind == option::SACK));
            assert_eq!((h.source(), h.dest()), (SERVER, CLIENT));
            assert_eq!(u32::from(h.window()), (64000 - 1000) >> 7);
            let ts = h.options().unwrap().ts.unwrap();
            assert_eq!((ts.val, ts.ecr), (9250, 77));
        });
        with(&front.reset(), |h| {
            assert_eq!(h.seq(), Seq(101));
            assert!(h.has(flag::RST));
        });
    }

    #[test]
    fn what_came_early_is_told_if_the_client_asked_for_that() {
        for permitted in [true, false] {
            let mut front = open();
            front.client.options.sack_ok = permitted;
            let early = [(Seq(301), Seq(401)), (Seq(201), Seq(251))];
            with(&front.acknowledge(1250, early.into_iter()), |h| {
                let mut told = h.walk().flatten().filter(|o| o.kind == option::SACK);
                let blocks = [301_u32, 401, 201, 251].map(u32::to_be_bytes).concat();
                assert_eq!(
                    told.next().map(|o| o.data),
                    permitted.then_some(&blocks[..])
                );
                assert_eq!(h.options().unwrap().ts.map(|ts| ts.val), Some(9250));
                assert_eq!(h.ack(), Seq(101));
            });
        }
    }

    #[test]
    fn a_new_syn_begins_anew_only_before_there_is_a_child() {
        let mut front = with(&Build::syn(CLIENT, SERVER, &facts(100, 70)), |h| {
            Front::new(h).unwrap()
        });
        with(&syn_ack(500, 101), |h| front.on_output(h, 1000));
        with(&Build::syn(CLIENT, SERVER, &facts(300, 71)), |h| {
            front.on_input(h, 0)
        });
        assert_eq!(front.phase(), Phase::Syn);
        // The same number with other options, before there is an answer.
        let mut fewer = facts(300, 72);
        fewer.options.sack_ok = false;
        with(&Build::syn(CLIENT, SERVER, &fewer), |h| {
            front.on_input(h, 0)
        });
        assert!(!front.client.options.sack_ok);
        // The answer to the old SYN no longer counts.
        with(&syn_ack(500, 101), |h| front.on_output(h, 1000));
        assert_eq!(front.phase(), Phase::Syn);
        assert!(!front.on_child());

        let mut front = open();
        with(&Build::syn(CLIENT, SERVER, &facts(300, 71)), |h| {
            front.on_input(h, 0)
        });
        assert_eq!(front.phase(), Phase::Head);
    }
}
