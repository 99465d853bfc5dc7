// SPDX-License-Identifier: GPL-2.0

//! A connection at its front end, from the client's SYN until it is decided where the request is
//! served (paper, section 4, "3-way TCP handshake" and "URL parsing").
//!
//! The front end's own TCP finishes the handshake, or in frequent mode BTCP does without it
//! ([`Front::of_cookie`]). From then on the client's payload is kept from TCP, so that both outcomes
//! stay open: TCP gets the payload, or a reset. What is kept, and where, is the caller's business;
//! this is only what follows from the headers.

use crate::{
    back::Back,
    seq::Seq,
    tcp::{
        flag,
        Build,
        Ecn,
        Header,
        Sack,
        SynFacts,
        Timestamps,
        MAX_HEADER_LEN, //
    },
    wire::Handshake,
};

mod cookie;

pub use cookie::{COOKIE_WINDOW, COOKIE_WSCALE};

/// Room for the three headers of a handshake.
pub type Room = [[u8; MAX_HEADER_LEN]; 3];

/// Such room with nothing in it.
pub const NO_HEADERS: Room = [[0; MAX_HEADER_LEN]; 3];

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The client's SYN was seen.
    Syn,
    /// TCP's SYN-ACK as well.
    SynAck,
    /// TCP has made a socket, which UTCP withholds; the request head is awaited.
    Head,
    /// Another node was asked to take the connection over; perhaps before TCP has made a socket.
    Asked,
}

/// What is to be done with a segment of the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// It is TCP's.
    Pass,
    /// It ends the handshake, and no more than that: drop it. TCP is to get [`Front::ack`] when some
    /// time is over, and nothing else has come by then.
    Hold,
    /// It shows that the client has ended the handshake, and brings more than that, or something
    /// else: TCP is to get [`Front::ack`] first; then ask again. Or it is to get just this segment, or
    /// nothing, see [`Front::may_open`].
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
    /// Something is missing before it, if only TCP's socket: acknowledge what is held, and keep it until
    /// its turn comes, or drop it.
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

/// What has become of the client's ACK that ends the handshake, before TCP has made a socket.
#[derive(Clone, Copy)]
enum Ack {
    /// It has not come.
    Awaited,
    /// It came at this time, and TCP has not got it: mostly the request comes right behind it.
    Held(u32),
    /// TCP is just being given it, or what stands for it: there is no socket yet, or will be in a moment.
    Giving,
    /// TCP has got it.
    Given,
}

/// A connection whose place is undecided.
#[derive(Clone, Copy)]
pub struct Front {
    phase: Phase,
    ack: Ack,
    /// TCP has made a socket.
    child: bool,
    client: SynFacts,
    server: SynFacts,
    /// The ports of the client and of TCP.
    ports: (u16, u16),
    /// The next byte that is expected of the client.
    next: Seq,
    /// The client's newest window.
    window: u16,
    /// The newest timestamp of a segment that did not come too early: what is older than that is
    /// from the past (RFC 7323, section 5.3).
    ts_recent: u32,
    /// The oldest of one that did, or that came since another node was asked. TCP gets such a segment as it
    /// is, after what is held.
    ts_waits: Option<u32>,
    /// The window of the ACK that ended the handshake. Whoever goes on begins with that, as TCP here would:
    /// Linux does not follow a segment that has the same number and a smaller window, unless that is 0
    /// (net/ipv4/tcp_input.c, tcp_may_update_window()).
    opened: u16,
    /// When TCP sent the SYN-ACK.
    syn_ack_ms: u32,
    /// It was sent more than once: nobody knows which one the client answers.
    repeated: bool,
    /// It had another number before, which the client may acknowledge: a TCP that answers by SYN cookies takes
    /// that for a minute or two.
    renumbered: bool,
    /// See [`Front::rtt`].
    rtt: u16,
    /// See [`Front::print`].
    print: u64,
}

/// For how long the ACK that ends a handshake is kept from TCP if nothing else comes, in milliseconds.
pub const HOLD_MS: u32 = 20;

/// The longest round trip that is told, in milliseconds. A TCP that knows none waits three seconds
/// before it repeats its first segment (TCP_TIMEOUT_FALLBACK), and with this one it does as well.
const RTT_MAX: u32 = 1_000;

/// A round trip as it is told. What was measured may be the client's idle time too.
fn told(rtt: u32) -> u16 {
    // CAST: At most `RTT_MAX`.
    rtt.clamp(1, RTT_MAX) as u16
}

impl Front {
    /// Begins with the client's SYN; `None` if it is none, or malformed.
    #[must_use]
    pub fn new(syn: &Header<'_>) -> Option<Self> {
        let client = SynFacts::of_syn(syn)?;
        Some(Self {
            phase: Phase::Syn,
            ack: Ack::Awaited,
            child: false,
            client,
            server: SynFacts::default(),
            ports: (syn.source(), syn.dest()),
            next: client.isn.add(1),
            window: client.window,
            opened: client.window,
            ts_recent: client.options.ts.map_or(0, |ts| ts.val),
            ts_waits: None,
            syn_ack_ms: 0,
            repeated: false,
            renumbered: false,
            rtt: 0,
            print: 0,
        })
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
        // Which of several the client answers it has said when its ACK is held.
        if !matches!(self.phase, Phase::Syn | Phase::SynAck) || self.holds_ack() {
            return;
        }
        // A SYN-ACK that is sent again brings newer timestamps along.
        if let Some(server) = SynFacts::of_syn_ack(header) {
            if header.ack() == self.client.isn.add(1) {
                self.repeated = self.phase == Phase::SynAck;
                self.renumbered |= self.repeated && server.isn != self.server.isn;
                self.server = server;
                self.syn_ack_ms = now;
                self.phase = Phase::SynAck;
            }
        }
    }

    /// Decides about a segment of the client's with `payload` bytes, at `now` milliseconds of the
    /// clock that [`Front::on_output`] is given.
    pub fn on_input(&mut self, header: &Header<'_>, payload: u32, now: u32) -> Input {
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
            Phase::SynAck => self.on_handshake(header, payload, now),
            Phase::Head | Phase::Asked => self.on_data(header, payload),
        }
    }

    fn on_handshake(&mut self, header: &Header<'_>, payload: u32, now: u32) -> Input {
        if header.has(flag::RST) && header.seq() == self.next {
            return Input::Reset;
        }
        if header.has(flag::RST) || !header.has(flag::ACK) || header.ack() != self.acked() {
            return Input::Pass;
        }
        if !self.is_acceptable(header, payload) {
            // TCP makes no socket of what is old.
            return Input::Pass;
        }
        // What comes too early is kept only if TCP makes a socket now.
        self.ts_waits = None;
        self.note(header, payload);
        self.renumbered = false;
        self.opened = self.window;
        if self.rtt == 0 && !self.repeated {
            self.rtt = told(now.wrapping_sub(self.syn_ack_ms));
        }
        if header.seq_len(payload) == 0 && header.seq() == self.next {
            return match self.ack {
                // There its flags say what has become of those of the SYN-ACK.
                Ack::Awaited if self.server.ecn != Ecn::Accurate => {
                    self.ack = Ack::Held(now);
                    Input::Hold
                }
                Ack::Giving => Input::Stray,
                _ => {
                    self.ack = Ack::Given;
                    Input::Pass
                }
            };
        }
        // The handshake's ACK was lost or overtaken, or is this segment: TCP gets one of our making,
        // or the payload would be TCP's as well.
        match self.ack {
            Ack::Giving => Input::Early,
            _ => Input::Open,
        }
    }

    /// Whether a segment for which [`Input::Open`] was the answer or, after a cookie, [`Input::Take`], at
    /// `now`, may end the handshake by itself: if the request in it is TCP's here, that makes its socket of
    /// it; if another node is to have it, TCP need not make one before.
    #[must_use]
    pub fn may_open(&self, header: &Header<'_>, now: u32) -> bool {
        let soon = match self.ack {
            Ack::Awaited => true,
            Ack::Held(since) => now.wrapping_sub(since) <= HOLD_MS,
            Ack::Giving | Ack::Given => false,
        };
        soon && self.server.ecn != Ecn::Accurate
            && header.seq() == self.next
            && !header.has(flag::URG)
            && !self.is_past(header)
            && !self.echoes_later(header)
    }

    /// Whether a segment echoes a timestamp that came after TCP's SYN-ACK. TCP answers what it has no use for
    /// while it waits for the handshake's ACK, and would take nothing that echoes this for that
    /// (net/ipv4/tcp_minisocks.c, tcp_check_req()).
    fn echoes_later(&self, header: &Header<'_>) -> bool {
        let echo = header.timestamps().ok().flatten().map(|ts| ts.ecr);
        match (self.phase, echo, self.server.options.ts) {
            (Phase::SynAck, Some(echo), Some(sent)) => Seq(sent.val).lt(Seq(echo)),
            _ => false,
        }
    }

    /// When the ACK came that ended the handshake, if TCP has not got it.
    #[must_use]
    pub fn answered(&self) -> Option<u32> {
        match self.ack {
            Ack::Held(since) => Some(since),
            _ => None,
        }
    }

    /// Whether TCP waits for the handshake's ACK, which came and is held.
    #[must_use]
    pub fn holds_ack(&self) -> bool {
        self.phase == Phase::SynAck && self.answered().is_some()
    }

    /// TCP is about to get [`Front::ack`]. Until [`Front::gave_ack`] what comes has to wait.
    pub fn give_ack(&mut self) {
        self.ack = Ack::Giving;
    }

    /// Whether what comes has to wait for that.
    #[must_use]
    pub fn gives_ack(&self) -> bool {
        matches!(self.ack, Ack::Giving)
    }

    /// TCP has got it.
    pub fn gave_ack(&mut self) {
        self.ack = Ack::Given;
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
        if !header.has(flag::ACK) {
            return Input::Stray;
        }
        if self.is_past(header) {
            return Input::Known;
        }
        // TCP has sent nothing but its SYN-ACK: who acknowledges anything else is not the client (RFC
        // 5961, section 5). What is bare TCP answers, not as often as it comes.
        if header.ack() != self.acked() {
            return match header.seq_len(payload) {
                0 => self.place(header, payload),
                _ => Input::Known,
            };
        }
        if self.is_acceptable(header, payload) {
            self.note(header, payload);
        }
        self.place(header, payload)
    }

    /// Whether a segment has something of the window, or would have if it were not empty (RFC 9293,
    /// section 3.10.7.4): else it says nothing of what is newest, whoever sent it.
    fn is_acceptable(&self, header: &Header<'_>, payload: u32) -> bool {
        let (seq, len) = (header.seq(), header.seq_len(payload));
        seq.within(self.next, self.left().saturating_add(1)) || self.next.within(seq, len)
    }

    /// Decides about a segment that came before its turn, was kept, and may have it now. However old
    /// it is by now, it was not when it came.
    pub fn on_kept(&self, header: &Header<'_>, payload: u32) -> Input {
        match self.phase {
            Phase::Head | Phase::Asked => self.place(header, payload),
            // TCP has made no socket: it will come again.
            Phase::Syn | Phase::SynAck => Input::Stray,
        }
    }

    /// Decides about a segment by its place in the stream.
    fn place(&self, header: &Header<'_>, payload: u32) -> Input {
        let fin = header.has(flag::FIN);
        if payload == 0 && !fin {
            // A keep-alive probe asks for an acknowledgement of what TCP has not got. And TCP must not
            // learn that the client's clock has gone on while something older waits for its turn.
            return match self.ts_waits {
                _ if header.seq().lt(self.next) => Input::Known,
                Some(_) => Input::Stray,
                None => Input::Pass,
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
    fn note(&mut self, header: &Header<'_>, payload: u32) {
        self.window = header.window();
        let Some(ts) = self.ts_of(header) else {
            return;
        };
        let early = header.seq().gt(self.next);
        if !early {
            self.ts_recent = newer(self.ts_recent, ts);
        }
        let kept = early || self.phase == Phase::Asked;
        if kept && header.seq_len(payload) != 0 {
            self.ts_waits = Some(self.ts_waits.map_or(ts, |waits| older(waits, ts)));
        }
    }

    /// The timestamp that TCP is given what is held with: what waits behind that must not seem to be from
    /// the past, as the client may have been told that it has come.
    fn ts(&self) -> u32 {
        self.ts_waits
            .map_or(self.ts_recent, |waits| older(waits, self.ts_recent))
    }

    /// What the client acknowledges, as long as TCP has sent nothing but its SYN-ACK.
    fn acked(&self) -> Seq {
        self.server.isn.add(1)
    }

    /// The client's timestamp, if timestamps were agreed.
    fn ts_of(&self, header: &Header<'_>) -> Option<u32> {
        self.server.options.ts?;
        Some(header.timestamps().ok()??.val)
    }

    /// Whether a segment is from the past by its timestamp, for which Linux allows for one tick.
    fn is_past(&self, header: &Header<'_>) -> bool {
        self.ts_of(header)
            .is_some_and(|ts| Seq(ts.wrapping_add(1)).lt(Seq(self.ts_recent)))
    }

    /// TCP has made a socket of the connection: whether it is to be withheld. One whose numbers are not
    /// known cannot be.
    pub fn on_child(&mut self) -> bool {
        if matches!(self.phase, Phase::SynAck | Phase::Asked) && !self.renumbered {
            self.child = true;
        }
        if self.child && self.phase == Phase::SynAck {
            self.phase = Phase::Head;
        }
        self.child
    }

    /// TCP has made a socket of a connection that began with a cookie.
    pub fn adopted(&mut self) {
        self.child = true;
    }

    /// Whether TCP has made a socket, which is withheld.
    #[must_use]
    pub fn has_child(&self) -> bool {
        self.child
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

    /// Whether a number is this connection's, and all that comes before it is held.
    #[must_use]
    pub fn has(&self, number: Seq) -> bool {
        self.next.since(number) <= self.held()
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

    /// The handshake between the client and TCP, once TCP has answered. Its headers are built, in `room`:
    /// who did not need them has not kept them. They say what was agreed, and the TSval of
    /// [`Front::newest`].
    #[must_use]
    pub fn handshake<'a>(&self, room: &'a mut Room) -> Option<Handshake<'a>> {
        if self.phase == Phase::Syn {
            return None;
        }
        let (client_port, port) = self.ports;
        // Of congestion notification not all that can be asked for can be built, but all that can be
        // agreed to.
        let client = self.client.restricted(&self.server);
        let [syn, syn_ack, ack] = room;
        Handshake::new(
            header_of(&Build::syn(client_port, port, &client), syn)?,
            header_of(&answer(client_port, port, &client, &self.server), syn_ack)?,
            header_of(&self.ack(), ack)?,
        )
    }

    /// The connection at its back end, if that is this node: its TCP's port and, as the clock of TCP's
    /// timestamps, that at `now` milliseconds of the clock that [`Front::on_output`] was given.
    #[must_use]
    pub fn back(&self, port: u16, now: u32) -> Back {
        let newest = (self.acked(), self.opened, self.ts());
        let ports = (self.ports.0, port);
        Back::begun(&self.client, &self.server, ports, newest, self.ts_now(now))
    }

    /// The newest acknowledgement number and window of the client's, and the newest TSval that is not newer than
    /// that of a segment that waits for its turn.
    #[must_use]
    pub fn newest(&self) -> (Seq, u16, u32) {
        (self.acked(), self.window, self.ts())
    }

    /// The round trip to the client and back, by the handshake, in milliseconds: 1 to 1,000, or 0 if
    /// none was measured.
    #[must_use]
    pub fn rtt(&self) -> u16 {
        self.rtt
    }

    /// The same, as a segment tells it that is handed over in band, where 0 says that it is none: the most
    /// that is told if none was measured.
    #[must_use]
    pub fn handed_rtt(&self) -> u16 {
        match self.rtt {
            0 => told(RTT_MAX),
            rtt => rtt,
        }
    }

    /// The clock of TCP's timestamps towards the client, at `now` milliseconds of the clock that
    /// [`Front::on_output`] was given.
    #[must_use]
    pub fn ts_now(&self, now: u32) -> u32 {
        let base = self.server.options.ts.map_or(0, |ts| ts.val);
        base.wrapping_add(now.wrapping_sub(self.syn_ack_ms))
    }

    /// What is sent as the client's from now on, at `now`, tells what that clock says: who gets nothing else
    /// goes on from that.
    pub fn tell_clock(&mut self, now: u32) {
        let clock = self.ts_now(now);
        if let Some(ts) = &mut self.server.options.ts {
            ts.val = clock;
            self.syn_ack_ms = now;
        }
    }

    /// The timestamps of a segment that seems to be the client's.
    fn client_ts(&self) -> Option<Timestamps> {
        let ts = self.server.options.ts?;
        Some(Timestamps {
            val: self.ts(),
            ecr: ts.val,
        })
    }

    /// The client's: the ACK that ends the handshake, without the payload that it brought.
    #[must_use]
    pub fn ack(&self) -> Build {
        Build {
            window: self.opened,
            ..self.segment(0)
        }
    }

    /// The client's: a segment with the bytes that are held, from byte `offset` on.
    #[must_use]
    pub fn segment(&self, offset: u32) -> Build {
        let (source, dest) = self.ports;
        let seq = self.client.isn.add(1).add(offset);
        let ack = self.acked();
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
        let (source, dest) = self.ports;
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
    pub fn acknowledge(
        &mut self,
        now: u32,
        early: impl Iterator<Item = (Seq, Seq)> + Clone,
    ) -> Build {
        if self.phase == Phase::Head && self.answered().is_some() {
            // The clock of a TCP that enters as of the handshake's ACK would go back for the client.
            self.ack = Ack::Given;
        }
        let (client, server) = self.ports;
        let shift = self.server.options.wscale.unwrap_or(0);
        // CAST: at most the 16 bits that the SYN-ACK had.
        let window = self.left().checked_shr(u32::from(shift)).unwrap_or(0) as u16;
        let ts = self.server.options.ts.map(|_| Timestamps {
            val: self.ts_now(now),
            ecr: self.ts_recent,
        });
        let ack = self.acked();
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

/// A SYN-ACK.
fn answer(client_port: u16, port: u16, client: &SynFacts, server: &SynFacts) -> Build {
    let echo = match server.ecn {
        Ecn::Classic => flag::ECE,
        Ecn::Off | Ecn::Accurate => 0,
    };
    Build {
        flags: flag::SYN | flag::ACK | echo,
        ack: client.isn.add(1),
        options: server.options,
        ..Build::syn(port, client_port, server)
    }
}

/// The header of a segment that we make, in `room`. Its checksum means nothing.
fn header_of<'a>(build: &Build, room: &'a mut [u8]) -> Option<Header<'a>> {
    let any = [0; 16];
    let len = build.write(room, &any, &any, &[])?;
    Header::parse(room.get(..len)?)
}

/// The newer of two timestamps.
fn newer(a: u32, b: u32) -> u32 {
    Seq(a).later(Seq(b)).0
}

/// The older of two timestamps.
fn older(a: u32, b: u32) -> u32 {
    if Seq(a).lt(Seq(b)) {
        a
    } else {
        b
    }
}

#[cfg(test)]
mod tests;
