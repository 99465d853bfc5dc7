// SPDX-License-Identifier: GPL-2.0

//! Tests of the records.

use super::*;
use crate::{
    tcp::{
        Build,
        Options,
        Timestamps, //
    },
    tuple::v4_mapped, //
};
use proptest::prelude::*;
use std::vec::Vec;

const CLIENT: [u8; 4] = [192, 0, 2, 1];
const VIP: [u8; 4] = [198, 51, 100, 1];
const NODE: [u8; 4] = [10, 0, 0, 2];

/// The three headers of a handshake.
struct Wires {
    syn: Vec<u8>,
    syn_ack: Vec<u8>,
    ack: Vec<u8>,
}

impl Wires {
    fn new(client: u32, server: u32, options: Options) -> Self {
        let base = Build {
            source: 4711,
            dest: 80,
            seq: Seq(client),
            flags: flag::SYN,
            window: 1000,
            options,
            ..Build::default()
        };
        let ts = Options {
            ts: options.ts,
            ..Options::default()
        };
        Self {
            syn: written(&base),
            syn_ack: written(&Build {
                source: 80,
                dest: 4711,
                seq: Seq(server),
                ack: Seq(client).add(1),
                flags: flag::SYN | flag::ACK,
                ..base
            }),
            ack: written(&Build {
                seq: Seq(client).add(1),
                ack: Seq(server).add(1),
                flags: flag::ACK,
                options: ts,
                ..base
            }),
        }
    }

    fn handshake(&self) -> Option<Handshake<'_>> {
        Handshake::new(
            Tcp::parse(&self.syn)?,
            Tcp::parse(&self.syn_ack)?,
            Tcp::parse(&self.ack)?,
        )
    }
}

fn written(build: &Build) -> Vec<u8> {
    let mut out = [0; 60];
    let addr = v4_mapped(CLIENT);
    let len = build.write(&mut out, &addr, &addr, &[]).unwrap();
    out[..len].to_vec()
}

fn tuple() -> Tuple {
    Tuple::v4(CLIENT, 4711, NODE, 8080)
}

fn handoff(body: Body<'_>) -> Record<'_> {
    Record::Handoff(Handoff {
        id: 0x0102_0304_0506_0708,
        tuple: tuple(),
        body,
    })
}

fn req(handshake: Handshake<'_>) -> Record<'_> {
    handoff(Body::Req(Req {
        vip: v4_mapped(VIP),
        vip_port: 80,
        ts_now: 77,
        rtt: 0x0102,
        replay: true,
        handshake,
    }))
}

fn encoded(record: &Record<'_>) -> Vec<u8> {
    let mut out = std::vec![0xee; record.encoded_len() + 1];
    let len = record.encode(&mut out).unwrap();
    assert_eq!(len, record.encoded_len());
    assert_eq!(out.pop(), Some(0xee));
    out
}

const DATA: Data<'_> = Data {
    vip: v4_mapped(VIP),
    vip_port: 80,
    seq: Seq(0x1112_1314),
    ack: Seq(0x2122_2324),
    tsval: 0x3132_3334,
    window: 0x4142,
    bytes: b"GET",
};

const CHECK: Body<'_> = Body::Check {
    vip: v4_mapped(VIP),
    vip_port: 80,
};

const OWN: Body<'_> = Body::Own {
    addr: v4_mapped(VIP),
    port: 80,
};

fn hello() -> Hello {
    Hello {
        epoch: 0x0a0b,
        name: Name::new(b"fr").unwrap(),
        nonce: [7; NONCE_LEN],
        signs: true,
    }
}

/// One record of each kind.
fn each(handshake: Handshake<'_>) -> [Record<'_>; 14] {
    [
        Record::Hello(hello()),
        Record::Hello(Hello {
            signs: false,
            ..hello()
        }),
        Record::Key(200),
        req(handshake),
        handoff(Body::Accept),
        handoff(Body::Reject(Reason::Mismatch)),
        handoff(Body::Data(DATA)),
        handoff(Body::Abort),
        handoff(Body::Closed { linger: true }),
        handoff(Body::Closed { linger: false }),
        handoff(Body::Taken),
        handoff(CHECK),
        handoff(Body::Seek),
        handoff(OWN),
    ]
}

fn wires() -> Wires {
    let options = Options {
        mss: Some(1460),
        wscale: Some(7),
        sack_ok: true,
        ts: Some(Timestamps { val: 5, ecr: 6 }),
        ..Options::default()
    };
    Wires::new(0xffff_ffff, 5000, options)
}

#[test]
fn the_bytes_are_those_of_the_document() {
    let common = [
        &[1, 2, 3, 4, 5, 6, 7, 8][..],
        &v4_mapped(CLIENT),
        &v4_mapped(NODE),
        &[0x12, 0x67, 0x1f, 0x90],
    ]
    .concat();
    let expected = [
        &[5, 1, 0, 68, 0, 0, 0, 0][..],
        &[0, 0, 0, 0, 0, 0, 10, 11],
        b"fr\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        &[7; 32],
        &[0, 1, 0, 0],
    ];
    assert_eq!(encoded(&Record::Hello(hello())), expected.concat());
    let expected = [5, 10, 0, 12, 0, 0, 0, 0, 200, 0, 0, 0];
    assert_eq!(encoded(&Record::Key(200)), expected);

    let wires = wires();
    let expected = [
        &[5, 2, 0, 84 + 40 + 40 + 32, 0, 0, 0, 0],
        &common[..],
        &v4_mapped(VIP),
        &[0, 80, 0, 1, 0, 0, 0, 77, 1, 2, 0, 0, 40, 40, 32, 0],
        &wires.syn,
        &wires.syn_ack,
        &wires.ack,
    ];
    assert_eq!(encoded(&req(wires.handshake().unwrap())), expected.concat());

    let data = [
        &[5, 5, 0, 87, 0, 0, 0, 0],
        &common[..],
        &v4_mapped(VIP),
        &[0x11, 0x12, 0x13, 0x14, 0x21, 0x22, 0x23, 0x24],
        &[0x31, 0x32, 0x33, 0x34, 0x41, 0x42, 0, 80],
        b"GET",
    ];
    assert_eq!(encoded(&handoff(Body::Data(DATA))), data.concat());

    let cases = [
        (Body::Accept, 3, &[][..]),
        (Body::Reject(Reason::NoRoom), 4, &[0, 3, 0, 0]),
        (Body::Abort, 6, &[]),
        (Body::Closed { linger: true }, 7, &[0, 1, 0, 0]),
        (Body::Closed { linger: false }, 7, &[0, 0, 0, 0]),
        (Body::Taken, 8, &[]),
        (CHECK, 9, &[&v4_mapped(VIP)[..], &[0, 80, 0, 0]].concat()),
        (Body::Seek, 11, &[]),
        (OWN, 12, &[&v4_mapped(VIP)[..], &[0, 80, 0, 0]].concat()),
    ];
    for (body, kind, tail) in cases {
        let len = 52 + tail.len() as u8;
        let expected = [&[5, kind, 0, len, 0, 0, 0, 0], &common[..], tail].concat();
        assert_eq!(encoded(&handoff(body)), expected);
    }
}

#[test]
fn what_is_written_is_read() {
    let wires = wires();
    for record in each(wires.handshake().unwrap()) {
        let bytes = encoded(&record);
        assert_eq!(Record::parse(&bytes), Ok(record));
        let header = Header::parse(&bytes).unwrap();
        assert_eq!((header.kind, header.len), (record.kind(), bytes.len()));
        // There is no room in less.
        let mut out = bytes.clone();
        for short in 0..bytes.len() {
            assert_eq!(record.encode(&mut out[..short]), None);
        }
    }
    for number in 0..1000 {
        assert_eq!(Reason::of(number).number(), number);
    }
}

#[test]
fn cut_and_padded_records_are_refused() {
    let wires = wires();
    for record in each(wires.handshake().unwrap()) {
        let bytes = encoded(&record);
        for short in 0..bytes.len() {
            let refused = if short < 8 {
                Refused::Short
            } else {
                Refused::Length
            };
            assert_eq!(Record::parse(&bytes[..short]), Err(refused));
        }
        let mut long = bytes.clone();
        long.push(0);
        assert_eq!(Record::parse(&long), Err(Refused::Length));
        // Nor does it help to own up to the length: only DATA may have any.
        let len = (bytes.len() as u16 + 1).to_be_bytes();
        long[2..4].copy_from_slice(&len);
        let result = Record::parse(&long);
        match record.kind() {
            Kind::Data => assert!(result.is_ok()),
            Kind::Req => assert_eq!(result, Err(Refused::Length)),
            _ => assert_eq!(result, Err(Refused::Oversize)),
        }
    }
}

#[test]
fn what_no_version_says_is_refused() {
    let wires = wires();
    let hello = encoded(&Record::Hello(hello()));
    let key = encoded(&Record::Key(9));
    let request = encoded(&req(wires.handshake().unwrap()));
    let reject = encoded(&handoff(Body::Reject(Reason::InUse)));
    let data = encoded(&handoff(Body::Data(DATA)));
    let closed = encoded(&handoff(Body::Closed { linger: true }));
    let check = encoded(&handoff(CHECK));
    let own = encoded(&handoff(OWN));
    let cases: &[(&[u8], usize, u8, Refused)] = &[
        (&hello, 0, 1, Refused::Version(1)),
        (&hello, 0, 0, Refused::Version(0)),
        (&hello, 1, 0, Refused::Kind(0)),
        (&hello, 1, 13, Refused::Kind(13)),
        (&hello, 1, 10, Refused::Oversize),
        (&hello, 1, 3, Refused::Oversize),
        (&hello, 7, 1, Refused::Reserved),
        (&hello, 16, 0, Refused::Name),
        (&hello, 31, b'x', Refused::Name),
        (&hello, 17, b'/', Refused::Name),
        (&hello, 64, 1, Refused::Reserved),
        (&hello, 65, 3, Refused::Reserved),
        (&hello, 67, 1, Refused::Reserved),
        (&key, 9, 1, Refused::Reserved),
        (&key, 11, 1, Refused::Reserved),
        (&key, 1, 3, Refused::Length),
        // One of the tuple's addresses is of another family.
        (&reject, 26, 0, Refused::Tuple),
        (&reject, 54, 1, Refused::Reserved),
        // The family of the VIP.
        (&data, 62, 0, Refused::Tuple),
        (&closed, 53, 3, Refused::Reserved),
        (&closed, 52, 1, Refused::Reserved),
        (&closed, 55, 1, Refused::Reserved),
        // The family of the VIP, its port.
        (&check, 62, 0, Refused::Tuple),
        (&check, 69, 0, Refused::Tuple),
        (&check, 71, 1, Refused::Reserved),
        // The family of its own address.
        (&own, 62, 0, Refused::Tuple),
        (&own, 71, 1, Refused::Reserved),
        // REQ: flags, what is reserved, the family of the VIP, its port.
        (&request, 71, 2, Refused::Reserved),
        (&request, 78, 1, Refused::Reserved),
        (&request, 79, 1, Refused::Reserved),
        (&request, 83, 1, Refused::Reserved),
        (&request, 62, 0, Refused::Tuple),
        (&request, 69, 81, Refused::Handshake),
        // The client's port in the tuple.
        (&request, 49, 0x68, Refused::Handshake),
        // Lengths of the headers.
        (&request, 80, 36, Refused::Handshake),
        (&request, 80, 44, Refused::Handshake),
        (&request, 82, 28, Refused::Handshake),
        (&request, 82, 36, Refused::Length),
        (&request, 80, 255, Refused::Length),
    ];
    for &(bytes, at, value, refused) in cases {
        let mut bytes = bytes.to_vec();
        bytes[at] = value;
        assert_eq!(Record::parse(&bytes), Err(refused), "{at}: {value}");
    }
    // A port of 0 takes both bytes.
    let mut bytes = reject;
    bytes[48..50].fill(0);
    assert_eq!(Record::parse(&bytes), Err(Refused::Tuple));
    // Nor can a handshake with port 0 be asked for.
    let mut bytes = request;
    let (syn, ack) = (
        usize::from(bytes[80]),
        usize::from(bytes[80]) + usize::from(bytes[81]),
    );
    for port in [68, 84 + 2, 84 + syn, 84 + ack + 2] {
        assert_eq!(bytes[port..port + 2], [0, 80]);
        bytes[port + 1] = 0;
    }
    assert_eq!(Record::parse(&bytes), Err(Refused::Tuple));
    // The length field alone.
    for (len, refused) in [
        (0u16, Refused::Length),
        (7, Refused::Length),
        (67, Refused::Length),
        (69, Refused::Oversize),
        (65535, Refused::Oversize),
    ] {
        let mut bytes = hello.clone();
        bytes[2..4].copy_from_slice(&len.to_be_bytes());
        assert_eq!(Header::parse(&bytes), Err(refused));
    }
    let mut empty = data;
    empty.truncate(68);
    empty[3] = 68;
    assert_eq!(Record::parse(&empty), Err(Refused::Length));
}

#[test]
fn other_versions_are_known_by_their_header() {
    // Version 1 as it was.
    assert!(is_foreign(&[1, 1, 0, 32, 0, 0, 0, 0, 9]));
    assert!(is_foreign(&[VERSION + 1, 1, 255, 255, 0, 0, 0, 0]));
    for none in [
        &[VERSION, 1, 0, 68, 0, 0, 0, 0][..],
        &[1, 2, 0, 32, 0, 0, 0, 0],
        &[1, 1, 0, 32, 0, 0, 0, 1],
        &[1, 1, 0, 32, 0, 0, 0],
        b"GET / HTTP/1.1",
    ] {
        assert!(!is_foreign(none), "{none:?}");
    }
}

#[test]
fn only_a_handshake_is_one() {
    assert!(wires().handshake().is_some());
    type Spoil = fn(&mut Wires);
    let cases: [(&str, Spoil); 12] = [
        ("the SYN is none", |w| w.syn[13] = flag::ACK),
        ("the SYN's options", |w| w.syn[21] = 0),
        ("the SYN-ACK is none", |w| w.syn_ack[13] = flag::SYN),
        ("the SYN-ACK acknowledges more", |w| w.syn_ack[11] = 9),
        ("the SYN-ACK's port", |w| w.syn_ack[1] = 81),
        ("the SYN-ACK's other port", |w| w.syn_ack[3] = 0),
        ("the ACK is none", |w| w.ack[13] = flag::PSH),
        ("the ACK is a SYN", |w| w.ack[13] |= flag::SYN),
        ("the ACK is a reset", |w| w.ack[13] |= flag::RST),
        ("the ACK acknowledges more", |w| w.ack[11] ^= 4),
        ("the ACK is older", |w| w.ack[4..8].fill(0xff)),
        ("the ACK's port", |w| w.ack[1] = 0),
    ];
    for (what, spoil) in cases {
        let mut wires = wires();
        spoil(&mut wires);
        assert!(wires.handshake().is_none(), "{what}");
    }
    // The ACK may be any later segment of the client, with data and even FIN.
    let mut later = wires();
    later.ack[4..8].copy_from_slice(&1000u32.to_be_bytes());
    later.ack[13] = flag::ACK | flag::PSH | flag::FIN;
    assert!(later.handshake().is_some());
}

#[test]
fn what_no_receiver_would_take_is_not_written() {
    let wires = wires();
    let mut out = std::vec![0; 70000];
    let bytes = std::vec![1; MAX_DATA + 1];
    let data = |bytes| handoff(Body::Data(Data { bytes, ..DATA }));
    assert_eq!(data(&[]).encode(&mut out), None);
    assert_eq!(data(&bytes).encode(&mut out), None);
    assert_eq!(data(&bytes[1..]).encode(&mut out), Some(MAX_LEN));
    assert_eq!(Record::parse(&out[..MAX_LEN]), Ok(data(&bytes[1..])));
    let nobody = Record::Handoff(Handoff {
        id: 1,
        tuple: Tuple::default(),
        body: Body::Accept,
    });
    assert_eq!(nobody.encode(&mut out), None);
    let Record::Handoff(mut foreign) = req(wires.handshake().unwrap()) else {
        unreachable!();
    };
    foreign.tuple = Tuple::v4(CLIENT, 4712, NODE, 8080);
    assert_eq!(Record::Handoff(foreign).encode(&mut out), None);
}

proptest! {
    #[test]
    fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Header::parse(&bytes);
        let _ = Record::parse(&bytes);
    }

    /// Bytes that almost are a record: what still parses says the same in the same bytes.
    #[test]
    fn a_record_has_one_form(
        which in 0usize..12,
        spoils in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let wires = wires();
        let mut bytes = encoded(&each(wires.handshake().unwrap())[which]);
        for (index, value) in spoils {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(record) = Record::parse(&bytes) {
            prop_assert_eq!(encoded(&record), bytes);
        }
    }

    #[test]
    fn any_data_goes_through(
        id: u64, ports: (u16, u16), seq: u32, ack: u32, tsval: u32, window: u16,
        bytes in prop::collection::vec(any::<u8>(), 1..300),
    ) {
        let tuple = Tuple::v4(CLIENT, ports.0 | 1, NODE, ports.1 | 1);
        let body = Body::Data(Data {
            seq: Seq(seq), ack: Seq(ack), tsval, window, bytes: &bytes, ..DATA
        });
        let record = Record::Handoff(Handoff { id, tuple, body });
        let bytes = encoded(&record);
        prop_assert_eq!(Record::parse(&bytes), Ok(record));
    }
}
