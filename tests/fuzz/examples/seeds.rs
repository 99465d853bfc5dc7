// SPDX-License-Identifier: GPL-2.0

//! Writes the seeds of the fuzz targets: one for each thing that a target should know from the
//! start. From tests/fuzz: `cargo run --example seeds`.

use carisma_core::{
    seq::Seq,
    tcp::{
        flag,
        Build,
        Header,
        Options,
        Sack,
        Timestamps, //
    },
    tuple::{
        v4_mapped,
        Tuple, //
    },
    wire::{
        Body,
        Data,
        Handoff,
        Handshake,
        Hello,
        Name,
        Reason,
        Record,
        Req,
        NONCE_LEN, //
    },
};
use carisma_fuzz::{
    raw,
    written, //
};
use std::{
    fs,
    io,
    path::Path, //
};

/// Lists of options, by what is in them.
const OPTIONS: [(&str, &[u8]); 10] = [
    ("none", &[]),
    (
        "linux",
        &[
            2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 7,
        ],
    ),
    ("timestamps", &[1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 7]),
    ("unaligned", &[1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 7, 0]),
    (
        "sack",
        &[
            1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 7, 1, 1, 5, 18, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0,
            0, 0, 4, 0,
        ],
    ),
    (
        "fast-open",
        &[2, 4, 5, 180, 34, 2, 254, 4, 0xf9, 0x89, 1, 1],
    ),
    ("mptcp", &[30, 12, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8]),
    (
        "md5",
        &[
            19, 18, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 1, 1,
        ],
    ),
    ("too-long", &[2, 4, 5, 180, 3, 9, 7, 1]),
    ("no-length", &[1, 1, 1, 3]),
];

/// Request heads, by what is in them.
const HEADS: [(&str, &str); 16] = [
    (
        "get",
        "GET /a/b/c HTTP/1.1\r\nHost: h\r\nAccept: */*\r\n\r\n",
    ),
    ("old", "GET / HTTP/1.0\r\n\r\n"),
    (
        "absolute",
        "GET http://h.:80/b?x=1 HTTP/1.1\r\nHost: other\r\n\r\n",
    ),
    ("connect", "CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n"),
    ("asterisk", "OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"),
    (
        "length",
        "POST /a/ HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody",
    ),
    (
        "chunked",
        "POST /a/ HTTP/1.1\r\nhost: H\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "two-lengths",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
    ),
    (
        "encoded",
        "GET /%61%2Fb//c;d/%2e%2e%2f HTTP/1.1\r\nHost: h\r\n\r\n",
    ),
    ("readings", "GET /;x//a%2fb HTTP/1.1\r\nHost:\r\n\r\n"),
    ("dots", "GET /a/../b HTTP/1.1\r\nHost: h\r\n\r\n"),
    ("bare-lf", "GET / HTTP/1.1\nHost: h\r\n\r\n"),
    ("obs-fold", "GET / HTTP/1.1\r\nHost: h\r\n more\r\n\r\n"),
    ("two-hosts", "GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n"),
    ("http2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("tls", "\x16\x03\x01\x02\x00\x01\x00\x01"),
];

/// A segment's fixed part.
const BUILD: Build = Build {
    source: 40000,
    dest: 80,
    seq: Seq(0xffff_fff0),
    ack: Seq(7000),
    flags: flag::ACK | flag::PSH,
    window: 64000,
    urgent: 0,
    sack: Sack::NONE,
    options: Options {
        mss: None,
        wscale: None,
        sack_ok: false,
        ts: None,
        signed: false,
        fast_open: false,
        mptcp: false,
    },
};

fn main() -> io::Result<()> {
    for (name, text) in HEADS {
        seed("head", name, text.as_bytes())?;
    }
    for (name, options) in OPTIONS {
        let syn = Build {
            flags: flag::SYN | flag::ECE | flag::CWR,
            ..BUILD
        };
        seed("options", name, &raw(&syn, options))?;
        let segment = [&raw(&BUILD, options)[..], b"payload"].concat();
        translate(name, &segment)?;
        front(name, options)?;
        back(name, options)?;
        icmp(name, &segment, segment.len(), &[])?;
    }
    icmp_v6("v6", &raw(&BUILD, &[]), &[])?;
    icmp_v6(
        "v6_extensions",
        &raw(&BUILD, &[]),
        &[0, 0, 1, 4, 0, 0, 0, 0],
    )?;
    icmp("eight", &raw(&BUILD, &[]), 8, &[])?;
    icmp("seven", &raw(&BUILD, &[]), 7, &[])?;
    icmp(
        "extension",
        &raw(&BUILD, &[]),
        20,
        &[0x20, 0, 0, 0, 0, 8, 1, 1],
    )?;
    seed("options", "syn-ack", &raw(&syn_ack(), OPTIONS[1].1))?;
    wire()
}

/// Writes a seed.
fn seed(target: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name), bytes)
}

/// The SYN-ACK to [`BUILD`]'s SYN.
fn syn_ack() -> Build {
    Build {
        source: BUILD.dest,
        dest: BUILD.source,
        seq: BUILD.ack.sub(1),
        ack: BUILD.seq,
        flags: flag::SYN | flag::ACK,
        ..BUILD
    }
}

/// A translation and a packet.
fn translate(name: &str, segment: &[u8]) -> io::Result<()> {
    let mut packet = vec![0; 20];
    let ip = carisma_core::ipv4::Build {
        src: carisma_fuzz::SRC,
        dst: carisma_fuzz::DST,
        protocol: 6,
        ttl: 64,
        tos: 0,
        id: 1,
    };
    ip.write(&mut packet, segment.len()).unwrap();
    packet.extend_from_slice(segment);
    let how = [
        &9000u32.to_le_bytes()[..],
        &100u32.to_le_bytes(),
        &[7, 9, 2, 0],
        &[10, 0, 0, 2],
    ];
    seed(
        "translate",
        name,
        &[&how.concat(), &[0x90, 0x1f][..], &packet].concat(),
    )
}

/// An error about a segment, of which so many bytes are quoted.
fn icmp(name: &str, segment: &[u8], quoted: usize, extension: &[u8]) -> io::Result<()> {
    let ip = |src, protocol, len| {
        let mut header = vec![0; 20];
        let build = carisma_core::ipv4::Build {
            src,
            dst: carisma_fuzz::DST,
            protocol,
            ttl: 64,
            tos: 0,
            id: 1,
        };
        build.write(&mut header, len).unwrap();
        header
    };
    let mut quote = ip(carisma_fuzz::DST, 6, segment.len());
    quote.extend_from_slice(&segment[..quoted]);
    let mut words = 0;
    if !extension.is_empty() {
        quote.resize(128, 0);
        words = 32;
        quote.extend_from_slice(extension);
    }
    let message = [&[3, 4, 0, 0, 0, words, 4, 0xb0][..], &quote].concat();
    let mut packet = ip([192, 0, 2, 9], 1, message.len());
    // As a router makes it.
    packet[6] = 0;
    packet.extend_from_slice(&message);
    let how = [&[10, 0, 0, 2, 0x90, 0x1f][..], &9000u32.to_le_bytes(), &[0]];
    seed("icmp", name, &[&how.concat(), &packet[..]].concat())
}

/// An error of ICMPv6's about a segment; between the headers stand these hop-by-hop options, if any.
fn icmp_v6(name: &str, segment: &[u8], extensions: &[u8]) -> io::Result<()> {
    let ip = |src: u8, protocol, payload: &[u8]| {
        let mut chain = extensions.to_vec();
        let first = match chain.first_mut() {
            Some(next) => {
                *next = protocol;
                0
            }
            None => protocol,
        };
        let build = carisma_core::ipv6::Build {
            src: [src; 16],
            dst: [0x20; 16],
            protocol: first,
            hops: 64,
            class: 0,
        };
        let rest = [&chain, payload].concat();
        let mut packet = vec![0; 40];
        build.write(&mut packet, rest.len()).unwrap();
        packet.extend_from_slice(&rest);
        packet
    };
    let quote = ip(0x20, 6, segment);
    let message = [&[2, 0, 0, 0, 0, 0, 5, 0][..], &quote].concat();
    let packet = ip(0xfd, 58, &message);
    let how = [&[10, 0, 0, 2, 0x90, 0x1f][..], &9000u32.to_le_bytes(), &[0]];
    seed("icmp", name, &[&how.concat(), &packet[..]].concat())
}

/// Options behind their number of words, as the two machines' targets take them.
fn counted(options: &[u8]) -> Vec<u8> {
    let mut list = options.to_vec();
    list.resize(options.len().next_multiple_of(4), 1);
    list.insert(0, (list.len() / 4) as u8);
    list
}

/// SYN, SYN-ACK, ACK, a socket, two pieces of a head, and another node that is asked.
fn front(name: &str, options: &[u8]) -> io::Result<()> {
    let list = &counted(options)[..];
    let number = |number: u32| number.to_le_bytes();
    // A segment and, if it brings something, how much of that is taken.
    let piece = |flags: u8, payload: u8| {
        let head = [
            &number(0)[..],
            &[flags, payload, 0, 0, 0],
            &number(500),
            &[0],
        ]
        .concat();
        let took = number(payload.into());
        [&head, &took[..if payload > 0 { 4 } else { 0 }], &number(3)].concat()
    };
    let events = [
        &[&number(100)[..], &[0], &number(64000), list].concat(),
        &[&number(4)[..], &number(5000), &[0, 0], &number(64000), list].concat(),
        &[&number(1000)[..], &number(3)].concat(),
        &piece(0, 0),
        &[number(5), number(3)].concat(),
        &piece(flag::PSH, 20),
        &piece(flag::PSH | flag::FIN, 30),
        &[number(6), number(3)].concat(),
    ];
    seed("front", name, &events.map(|event| &event[..]).concat())
}

/// A handshake, TCP's answer, a socket, and the front end's word.
fn back(name: &str, options: &[u8]) -> io::Result<()> {
    let list = &counted(options)[..];
    let number = |number: u32| number.to_le_bytes();
    let events = [
        &[&number(100)[..], &number(5000), &[0], &number(64000), &[0]].concat(),
        list,
        list,
        list,
        &number(9000),
        &[
            &number(0)[..],
            &[0],
            &number(7000),
            &number(64000),
            list,
            &number(1),
        ]
        .concat(),
        &[number(2), number(1)].concat(),
        &[number(3), number(0), number(80), number(1)].concat(),
    ];
    seed("back", name, &events.concat())
}

/// A record of each kind, and a stream of them.
fn wire() -> io::Result<()> {
    let ts = |val, ecr| Options {
        ts: Some(Timestamps { val, ecr }),
        ..Options::default()
    };
    let syn = written(&Build {
        flags: flag::SYN,
        seq: BUILD.seq.sub(1),
        options: ts(9, 0),
        ..BUILD
    });
    let answer = written(&Build {
        options: ts(7, 9),
        ..syn_ack()
    });
    let ack = written(&Build {
        options: ts(10, 7),
        ..BUILD
    });
    let header = |bytes| Header::parse(bytes).unwrap();
    let handshake = Handshake::new(header(&syn), header(&answer), header(&ack)).unwrap();
    let handoff = |body| {
        Record::Handoff(Handoff {
            id: 1,
            tuple: Tuple::v4([192, 0, 2, 1], 40000, [10, 0, 0, 2], 80),
            body,
        })
    };
    let name = Name::new(b"fr").unwrap();
    let vip = v4_mapped([10, 0, 0, 11]);
    let records = [
        (
            "hello",
            Record::Hello(Hello {
                epoch: 9,
                name,
                nonce: [7; NONCE_LEN],
                signs: true,
            }),
        ),
        ("key", Record::Key(1)),
        (
            "req",
            handoff(Body::Req(Req {
                vip,
                vip_port: 80,
                ts_now: 77,
                rtt: 0x0102,
                replay: false,
                handshake,
            })),
        ),
        ("accept", handoff(Body::Accept)),
        ("reject", handoff(Body::Reject(Reason::Mismatch))),
        (
            "data",
            handoff(Body::Data(Data {
                vip,
                vip_port: 80,
                seq: Seq(1),
                ack: Seq(2),
                tsval: 3,
                window: 4,
                bytes: b"GET / HTTP/1.1\r\n\r\n",
            })),
        ),
        ("abort", handoff(Body::Abort)),
        ("closed", handoff(Body::Closed { linger: true })),
        ("taken", handoff(Body::Taken)),
        ("check", handoff(Body::Check { vip, vip_port: 80 })),
        ("seek", handoff(Body::Seek)),
        (
            "own",
            handoff(Body::Own {
                addr: vip,
                port: 80,
            }),
        ),
    ];
    let mut stream = Vec::new();
    for (name, record) in records {
        let mut bytes = vec![0; record.encoded_len()];
        record.encode(&mut bytes).unwrap();
        seed("wire", name, &bytes)?;
        stream.extend_from_slice(&bytes);
    }
    seed("wire", "stream", &stream)
}
