// SPDX-License-Identifier: GPL-2.0

//! A connection at its front end: any segments in any order, of the client's and of TCP's, and
//! what the caller does in between. The input says what happens, an event at a time.

#![no_main]

use carisma_core::{
    front::{
        Front,
        Input,
        Phase,
        NO_HEADERS, //
    },
    seq::Seq,
    tcp::{
        flag,
        Build,
        Header, //
    },
};
use carisma_fuzz::{
    raw,
    written, //
};
use libfuzzer_sys::{
    arbitrary::Unstructured,
    fuzz_target, //
};

const CLIENT: u16 = 40000;
const SERVER: u16 = 80;

fuzz_target!(|data: &[u8]| {
    let mut events = Unstructured::new(data);
    let mut wire = Wire {
        client: number(&mut events),
        ..Wire::default()
    };
    let syn = wire.of_client(&mut events, flag::SYN, Seq(wire.client));
    let header = Header::parse(&syn).unwrap();
    let Some(mut front) = Front::new(&header) else {
        assert!(header.options().is_err());
        return;
    };
    assert_eq!(front.phase(), Phase::Syn);
    while !events.is_empty() {
        let phase = front.phase();
        match number(&mut events) & 7 {
            0..=3 => wire.input(&mut front, &mut events),
            4 => wire.output(&mut front, &mut events),
            5 => {
                let withheld = front.on_child();
                // If TCP has answered with several numbers it may be none of ours.
                assert!(withheld || phase != Phase::Head);
                assert!(!withheld || phase != Phase::Syn);
                assert!(withheld || phase != Phase::SynAck || wire.renumbered);
                assert_eq!(front.has_child(), withheld);
                match phase {
                    Phase::Asked => assert_eq!(front.phase(), phase),
                    _ => assert_eq!(front.phase() == Phase::Head, withheld),
                }
            }
            // Nobody is asked before there is a request.
            6 if phase == Phase::Head => front.ask(),
            6 if phase == Phase::SynAck && !wire.giving => {
                front.give_ack();
                wire.giving = true;
            }
            6 => {
                front.gave_ack();
                wire.giving = false;
            }
            _ => wire.again(&mut front, &mut events),
        }
        wire.built(&front, number(&mut events));
    }
});

/// The next 32 bits of what happens; 0 at its end.
fn number(events: &mut Unstructured<'_>) -> u32 {
    events.arbitrary().unwrap_or(0)
}

/// A small signed difference, 0 more often than not.
fn near(events: &mut Unstructured<'_>) -> u32 {
    let byte: i8 = events.arbitrary().unwrap_or(0);
    i32::from(if byte & 1 == 0 { 0 } else { byte }) as u32
}

/// What both ends know of the connection.
#[derive(Default)]
struct Wire {
    /// The client's initial sequence number.
    client: u32,
    /// That of TCP's newest SYN-ACK.
    server: u32,
    /// There was another before.
    renumbered: bool,
    /// How many bytes are held.
    held: u32,
    /// Something may wait for its turn.
    waits: bool,
    /// TCP is just being given the handshake's ACK.
    giving: bool,
}

impl Wire {
    /// The next byte that is expected of the client.
    fn next(&self) -> Seq {
        Seq(self.client).add(1).add(self.held)
    }

    /// A header of the client's with options as they come.
    fn of_client(&self, events: &mut Unstructured<'_>, flags: u8, seq: Seq) -> Vec<u8> {
        let build = Build {
            source: CLIENT,
            dest: SERVER,
            seq,
            ack: Seq(self.server).add(1).add(near(events)),
            flags,
            window: number(events) as u16,
            ..Build::default()
        };
        options(&build, events)
    }

    /// A segment of the client's.
    fn input(&mut self, front: &mut Front, events: &mut Unstructured<'_>) {
        let flags = events.arbitrary::<u8>().unwrap_or(0) & !flag::SYN;
        let [size, scale] = events.arbitrary::<[u8; 2]>().unwrap_or([0; 2]);
        let scale = 1 << (scale & 4);
        let payload = u32::from(size) * scale;
        let seq = self.next().add(near(events).wrapping_mul(scale));
        // Most acknowledge something.
        let segment = self.of_client(events, flags ^ flag::ACK, seq);
        let header = Header::parse(&segment).unwrap();
        let (phase, fin) = (front.phase(), header.has(flag::FIN));
        let newest = front.newest();
        let input = front.on_input(&header, payload, 0);
        assert_eq!(front.phase(), phase);
        assert_eq!(front.held(), self.held);
        let opened = matches!(phase, Phase::Head | Phase::Asked);
        let acks = header.has(flag::ACK) && header.ack() == Seq(self.server).add(1);
        if opened && !acks {
            assert_eq!(front.newest(), newest);
        }
        self.waits |= phase == Phase::Asked || matches!(input, Input::Early | Input::Open);
        match input {
            Input::Pass => {}
            Input::Hold => {
                assert!(phase == Phase::SynAck && acks && front.holds_ack());
                assert!(payload == 0 && !fin && seq == self.next());
            }
            Input::Open => {
                assert!(phase == Phase::SynAck && acks);
                if front.may_open(&header, number(events)) {
                    assert!(seq == self.next() && !header.has(flag::URG));
                    // Another node is asked at once.
                    if number(events) & 1 == 1 {
                        front.took(payload);
                        self.held += payload;
                        front.ask();
                        return;
                    }
                }
                let mut room = NO_HEADERS;
                assert!(front.handshake(&mut room).is_some());
            }
            Input::Take { skip, fin: last } => {
                assert!(opened && acks && last == fin && !header.has(flag::RST));
                assert_eq!(seq.add(skip), self.next());
                assert!(skip < payload + u32::from(fin) && skip <= payload);
                // There may be no room for all of it.
                let took = (payload - skip).min(number(events));
                front.took(took);
                self.held += took;
            }
            // What is from the past by its timestamp may have any number, and so may what acknowledges
            // what was not sent.
            Input::Known => {
                let stamped = header.options().is_ok_and(|it| it.ts.is_some());
                assert!(opened && (front.is_next(seq) || stamped || !acks));
            }
            Input::Early if phase == Phase::SynAck => assert!(acks && self.giving),
            Input::Early => {
                assert!(opened && acks && !front.is_next(seq));
                assert_eq!(self.next().add(front.gap(seq)), seq);
            }
            Input::Reset => {
                assert!(phase != Phase::Syn && header.has(flag::RST));
                assert_eq!(seq, self.next());
            }
            Input::Challenge => assert!(opened && header.has(flag::RST) && !front.is_next(seq)),
            Input::Stray if header.has(flag::RST) => assert!(opened && seq != self.next()),
            // TCP is not told of a clock that is newer than what waits.
            Input::Stray => {
                let bare = payload == 0 && !fin && seq.ge(self.next());
                let given = phase == Phase::SynAck && bare && self.giving;
                assert!(given || opened && (!header.has(flag::ACK) || bare && self.waits));
            }
        }
    }

    /// A segment of TCP's, most often a SYN-ACK.
    fn output(&mut self, front: &mut Front, events: &mut Unstructured<'_>) {
        let build = Build {
            source: SERVER,
            dest: CLIENT,
            seq: Seq(number(events)),
            ack: Seq(self.client).add(1).add(near(events)),
            flags: flag::ACK | (events.arbitrary::<u8>().unwrap_or(0) ^ flag::SYN),
            window: number(events) as u16,
            ..Build::default()
        };
        let segment = options(&build, events);
        let header = Header::parse(&segment).unwrap();
        let before = front.phase();
        let said = front.holds_ack();
        front.on_output(&header, number(events));
        let kind = flag::SYN | flag::ACK | flag::RST | flag::FIN;
        let answers = header.flags() & kind == flag::SYN | flag::ACK
            && header.ack() == Seq(self.client).add(1)
            && header.options().is_ok();
        if matches!(before, Phase::Syn | Phase::SynAck) && answers && !said {
            assert_eq!(front.phase(), Phase::SynAck);
            self.renumbered |= before == Phase::SynAck && self.server != header.seq().0;
            self.server = header.seq().0;
        } else {
            assert_eq!(front.phase(), before);
        }
    }

    /// A SYN, the same or another.
    fn again(&mut self, front: &mut Front, events: &mut Unstructured<'_>) {
        let flags = flag::SYN | (events.arbitrary::<u8>().unwrap_or(0) & (flag::ECE | flag::CWR));
        let seq = Seq(self.client).add(near(events));
        let segment = self.of_client(events, flags, seq);
        let header = Header::parse(&segment).unwrap();
        let before = front.phase();
        let input = front.on_input(&header, 0, 0);
        assert_eq!(input == Input::Challenge, self.held > 0);
        assert!(matches!(input, Input::Pass | Input::Challenge));
        let early = matches!(before, Phase::Syn | Phase::SynAck);
        if early && seq.0 != self.client && header.options().is_ok() {
            assert_eq!(front.phase(), Phase::Syn);
            (self.client, self.server, self.renumbered) = (seq.0, 0, false);
            (self.waits, self.giving) = (false, false);
        } else {
            assert_eq!(front.phase(), before);
        }
    }

    /// Whatever is sent in the name of either end has the numbers that the other expects.
    fn built(&self, front: &Front, any: u32) {
        let first = Seq(self.client).add(1);
        assert_eq!((front.first(), front.held()), (first, self.held));
        let says = |build: Build, source: u16, seq: Seq, ack: Seq| {
            let bytes = written(&build);
            let header = Header::parse(&bytes).unwrap();
            assert!(header.options().is_ok());
            assert_eq!((header.source(), header.seq()), (source, seq));
            if header.has(flag::ACK) {
                assert_eq!(header.ack(), ack);
            }
            header.window()
        };
        let server = Seq(self.server).add(1);
        says(front.reset(), CLIENT, first, Seq(0));
        if front.phase() == Phase::Syn {
            return;
        }
        says(front.ack(), CLIENT, first, server);
        says(front.segment(any), CLIENT, first.add(any), server);
        let early = (0..any % 6).map(|n| {
            let seq = self.next().add(any.rotate_left(n * 7));
            (seq, seq.add(any >> 20))
        });
        let told = { *front }.acknowledge(any, early);
        let window = says(told, SERVER, server, self.next());
        let mut room = NO_HEADERS;
        if let Some(handshake) = front.handshake(&mut room) {
            assert_eq!(handshake.client().isn, Seq(self.client));
            assert_eq!(handshake.server().isn, Seq(self.server));
            let facts = handshake.server();
            let shift = facts.options.wscale.unwrap_or(0);
            let left = u32::from(facts.window).saturating_sub(self.held);
            assert!(u32::from(window) << shift <= left);
        }
    }
}

/// `build` with options as they come: up to 10 words of anything.
fn options(build: &Build, events: &mut Unstructured<'_>) -> Vec<u8> {
    let len = usize::from(events.arbitrary::<u8>().unwrap_or(0) % 11) * 4;
    raw(build, events.bytes(len.min(events.len())).unwrap())
}
