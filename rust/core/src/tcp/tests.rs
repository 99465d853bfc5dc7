// SPDX-License-Identifier: GPL-2.0

//! Tests of TCP headers.

use super::*;
use crate::{
    csum::Sum,
    tuple::v4_mapped, //
};
use proptest::prelude::*;
use std::{
    vec,
    vec::Vec, //
};

/// A header with `options`, padded with EOL.
fn header(flags: u8, options: &[u8]) -> Vec<u8> {
    let len = 20 + options.len().div_ceil(4) * 4;
    let mut bytes = vec![0; len];
    bytes[..20].copy_from_slice(&[
        0x12, 0x34, 0, 80, 1, 2, 3, 4, 5, 6, 7, 8, 0, flags, 0x72, 0x10, 0xab, 0xcd, 0, 9,
    ]);
    bytes[12] = (len / 4 * 16) as u8;
    bytes[20..20 + options.len()].copy_from_slice(options);
    bytes
}

#[test]
fn fields_are_read() {
    let mut bytes = header(flag::ACK | flag::PSH, &[]);
    bytes.extend_from_slice(b"payload");
    let header = Header::parse(&bytes).unwrap();
    assert_eq!((header.source(), header.dest()), (0x1234, 80));
    assert_eq!(header.seq(), Seq(0x0102_0304));
    assert_eq!(header.ack(), Seq(0x0506_0708));
    assert_eq!(header.window(), 0x7210);
    assert_eq!((header.check(), header.urgent()), (0xabcd, 9));
    assert_eq!(header.bytes(), &bytes[..20]);
    assert!(header.has(flag::ACK) && header.has(flag::ACK | flag::PSH));
    assert!(!header.has(flag::ACK | flag::FIN));
    assert_eq!(header.seq_len(7), 7);
    assert_eq!(header.options(), Ok(Options::default()));
}

#[test]
fn lengths_are_checked() {
    let bytes = header(flag::ACK, &[1, 1, 1, 1]);
    for short in 0..24 {
        assert!(Header::parse(&bytes[..short]).is_none());
    }
    assert!(Header::parse(&bytes).is_some());
    for offset in 0..5 {
        let mut bytes = bytes.clone();
        bytes[12] = offset << 4;
        assert!(Header::parse(&bytes).is_none());
    }
}

#[test]
fn options_are_read_as_linux_reads_them() {
    let ts = Some(Timestamps { val: 7, ecr: 9 });
    let none = Options::default();
    let cases: &[(&[u8], Result<Options, Malformed>)] = &[
        (&[], Ok(none)),
        (
            &[2, 4, 5, 0xb4],
            Ok(Options {
                mss: Some(1460),
                ..none
            }),
        ),
        (&[2, 4, 0, 0], Ok(none)),
        (&[2, 3, 5], Ok(none)),
        (
            &[1, 3, 3, 7],
            Ok(Options {
                wscale: Some(7),
                ..none
            }),
        ),
        (
            &[3, 3, 200],
            Ok(Options {
                wscale: Some(14),
                ..none
            }),
        ),
        (
            &[3, 3, 2, 3, 3, 5],
            Ok(Options {
                wscale: Some(5),
                ..none
            }),
        ),
        (
            &[4, 2],
            Ok(Options {
                sack_ok: true,
                ..none
            }),
        ),
        (&[4, 3, 0], Ok(none)),
        (
            &[1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9],
            Ok(Options { ts, ..none }),
        ),
        (&[8, 10, 0, 0, 0, 7, 0, 0, 0, 9], Ok(Options { ts, ..none })),
        (&[8, 9, 0, 0, 0, 7, 0, 0, 0], Ok(none)),
        // After the end of the list anything may follow.
        (&[0, 2, 4, 5, 0xb4, 1, 1, 8], Ok(none)),
        (
            &[19, 18, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            Ok(Options {
                signed: true,
                ..none
            }),
        ),
        (
            &[29, 4, 1, 1],
            Ok(Options {
                signed: true,
                ..none
            }),
        ),
        (
            &[30, 4, 1, 0x81],
            Ok(Options {
                mptcp: true,
                ..none
            }),
        ),
        (
            &[34, 2],
            Ok(Options {
                fast_open: true,
                ..none
            }),
        ),
        (
            &[254, 4, 0xf9, 0x89],
            Ok(Options {
                fast_open: true,
                ..none
            }),
        ),
        (&[254, 6, 0xe2, 0xd4, 0xc3, 0xd9], Ok(none)),
        (&[254, 3, 0xf9], Ok(none)),
        (&[5, 10, 0, 0, 0, 1, 0, 0, 0, 2], Ok(none)),
        // Lengths that cannot be.
        (&[2, 0, 0, 0], Err(Malformed)),
        (&[2, 1, 0, 0], Err(Malformed)),
        (&[1, 1, 1, 2], Err(Malformed)),
        (&[4, 2, 8, 10], Err(Malformed)),
        (&[1, 1, 99, 3], Err(Malformed)),
    ];
    for (options, expected) in cases {
        let bytes = header(flag::SYN, options);
        assert_eq!(
            Header::parse(&bytes).unwrap().options(),
            *expected,
            "{options:?}"
        );
        let header = Header::parse(&bytes).unwrap();
        assert_eq!(header.timestamps(), expected.map(|it| it.ts), "{options:?}");
    }
}

#[test]
fn walking_ends_after_an_error() {
    let bytes = header(flag::ACK, &[4, 2, 1, 77, 1, 4, 2, 0]);
    let list: Vec<_> = Header::parse(&bytes).unwrap().walk().collect();
    let sack = Opt {
        at: 20,
        kind: 4,
        data: &[],
    };
    assert_eq!(list, [Ok(sack), Err(Malformed)]);
    let bytes = header(flag::ACK, &[1, 1, 1, 8, 3, 7, 0]);
    let list: Vec<_> = Header::parse(&bytes).unwrap().walk().collect();
    assert_eq!(
        list,
        [Ok(Opt {
            at: 23,
            kind: 8,
            data: &[7]
        })]
    );
}

#[test]
fn syn_facts_need_a_syn() {
    let cases = [
        (flag::SYN, true, false),
        (flag::SYN | flag::ECE | flag::CWR, true, false),
        (flag::SYN | flag::ACK, false, true),
        (flag::SYN | flag::ACK | flag::PSH, false, true),
        (flag::SYN | flag::RST, false, false),
        (flag::SYN | flag::FIN, false, false),
        (flag::ACK, false, false),
        (0, false, false),
    ];
    for (flags, syn, syn_ack) in cases {
        let bytes = header(flags, &[]);
        let header = Header::parse(&bytes).unwrap();
        assert_eq!(SynFacts::of_syn(&header).is_some(), syn);
        assert_eq!(SynFacts::of_syn_ack(&header).is_some(), syn_ack);
    }
    let bytes = header(flag::SYN, &[2, 9]);
    assert!(SynFacts::of_syn(&Header::parse(&bytes).unwrap()).is_none());
}

#[test]
fn ecn_bits_are_read() {
    let (ece, cwr) = (flag::ECE, flag::CWR);
    let ack = flag::ACK;
    let cases = [
        (0, 0, Ecn::Off),
        (0, ece, Ecn::Off),
        (0, ece | cwr, Ecn::Classic),
        (1, ece | cwr, Ecn::Accurate),
        (1, cwr, Ecn::Off),
        (0, ack, Ecn::Off),
        (0, ack | ece, Ecn::Classic),
        (1, ack | ece, Ecn::Classic),
        (0, ack | cwr, Ecn::Accurate),
        (0, ack | cwr | ece, Ecn::Accurate),
        (1, ack, Ecn::Accurate),
        (1, ack | cwr, Ecn::Accurate),
        (1, ack | cwr | ece, Ecn::Off),
    ];
    for (ae, flags, ecn) in cases {
        let mut bytes = header(flags | flag::SYN, &[]);
        bytes[12] |= ae;
        let header = Header::parse(&bytes).unwrap();
        let facts = SynFacts::of_syn(&header).or(SynFacts::of_syn_ack(&header));
        assert_eq!(facts.unwrap().ecn, ecn, "{ae} {flags:#x}");
    }
}

#[test]
fn a_replayed_syn_offers_no_more_than_was_agreed() {
    let ts = Some(Timestamps { val: 1, ecr: 0 });
    let all = Options {
        mss: Some(1460),
        wscale: Some(7),
        sack_ok: true,
        ts,
        ..Options::default()
    };
    let client = SynFacts {
        isn: Seq(5),
        window: 100,
        options: Options {
            fast_open: true,
            mptcp: true,
            ..all
        },
        ecn: Ecn::Classic,
    };
    let mut answer = SynFacts {
        options: all,
        ecn: Ecn::Classic,
        ..SynFacts::default()
    };
    let expected = SynFacts {
        options: all,
        ..client
    };
    assert_eq!(client.restricted(&answer), expected);
    answer.options = Options::default();
    answer.ecn = Ecn::Off;
    let bare = client.restricted(&answer);
    assert_eq!((bare.isn, bare.window, bare.ecn), (Seq(5), 100, Ecn::Off));
    let mss = Options {
        mss: Some(1460),
        ..Options::default()
    };
    assert_eq!(bare.options, mss);
}

#[test]
fn a_syn_is_built_as_linux_lays_it_out() {
    let facts = SynFacts {
        isn: Seq(0xdead_beef),
        window: 64240,
        options: Options {
            mss: Some(1460),
            wscale: Some(7),
            sack_ok: true,
            ts: Some(Timestamps { val: 5, ecr: 77 }),
            ..Options::default()
        },
        ecn: Ecn::Classic,
    };
    let build = Build::syn(4711, 80, &facts);
    let (src, dst) = (v4_mapped([192, 0, 2, 1]), v4_mapped([198, 51, 100, 1]));
    let mut out = [0xee; 64];
    assert_eq!(build.write(&mut out, &src, &dst, &[]), Some(40));
    assert_eq!(build.header_len(), 40);
    let options = [
        2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 5, 0, 0, 0, 0, 1, 3, 3, 7,
    ];
    assert_eq!(&out[20..40], &options);
    assert_eq!(out[40], 0xee);
    assert_eq!(out[13], flag::SYN | flag::ECE | flag::CWR);
    assert_eq!(Sum::pseudo(&src, &dst, 40).append(&out[..40]).check(), 0);
    for short in 0..40 {
        assert_eq!(build.write(&mut out[..short], &src, &dst, &[]), None);
    }
}

#[test]
fn a_reset_carries_only_its_number() {
    let mut out = [0; 20];
    let reset = Build::rst(4711, 80, Seq(9));
    let addr = v4_mapped([192, 0, 2, 1]);
    assert_eq!(reset.write(&mut out, &addr, &addr, &[]), Some(20));
    let header = Header::parse(&out).unwrap();
    assert_eq!(
        (header.flags(), header.seq(), header.ack()),
        (flag::RST, Seq(9), Seq(0))
    );
}

#[test]
fn a_question_is_too_old_for_any_window() {
    for acked in [Seq(5), Seq(0x8000_0000), Seq(u32::MAX)] {
        let question = Build::question(4711, 80, Seq(9), acked);
        assert_eq!((question.flags, question.seq), (flag::ACK, Seq(9)));
        // The largest window is 65,535 × 2^14. What was acknowledged may lie that far behind.
        let newest = acked.add(65_535 << 14);
        assert!(question.ack.lt(acked.sub(65_535 << 14)));
        assert!(question.ack.lt(acked) && acked.le(newest));
    }
}

prop_compose! {
    fn any_options()(
        mss in prop::option::of(1u16..),
        wscale in prop::option::of(0u8..=14),
        sack_ok: bool,
        ts in prop::option::of(any::<(u32, u32)>()),
    ) -> Options {
        let ts = ts.map(|(val, ecr)| Timestamps { val, ecr });
        Options { mss, wscale, sack_ok, ts, ..Options::default() }
    }
}

proptest! {
    #[test]
    fn what_is_built_is_read(
        ports: (u16, u16), seq: u32, ack: u32, flags: u8, window: u16, urgent: u16,
        options in any_options(),
        src: [u8; 16], dst: [u8; 16], v4: bool,
        payload in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let addr = |addr: [u8; 16]| match addr {
            [a, b, c, d, ..] if v4 => v4_mapped([a, b, c, d]),
            addr => addr,
        };
        let (src, dst) = (addr(src), addr(dst));
        let build = Build {
            source: ports.0, dest: ports.1, seq: Seq(seq), ack: Seq(ack),
            flags, window, urgent, options,
            sack: Sack::NONE,
        };
        let mut out = [0; 128];
        let len = build.write(&mut out, &src, &dst, &payload).unwrap();
        prop_assert_eq!(len, build.header_len() + payload.len());
        prop_assert_eq!(Sum::pseudo(&src, &dst, len as u32).append(&out[..len]).check(), 0);
        let header = Header::parse(&out).unwrap();
        prop_assert_eq!(header.header_len(), build.header_len());
        prop_assert_eq!((header.source(), header.dest()), ports);
        prop_assert_eq!(header.seq(), Seq(seq));
        prop_assert_eq!(header.ack(), Seq(if flags & flag::ACK != 0 { ack } else { 0 }));
        prop_assert_eq!((header.flags(), header.window(), header.urgent()), (flags, window, urgent));
        prop_assert_eq!(header.options(), Ok(options));
        prop_assert_eq!(&out[header.header_len()..len], &payload[..]);
    }

    #[test]
    fn no_bytes_are_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Some(header) = Header::parse(&bytes) {
            let _ = header.options();
            let _ = SynFacts::of_syn(&header);
            let _ = SynFacts::of_syn_ack(&header);
            for opt in header.walk().flatten() {
                prop_assert_eq!(header.bytes()[opt.at], opt.kind);
                prop_assert_eq!(usize::from(header.bytes()[opt.at + 1]), opt.data.len() + 2);
            }
        }
    }

    #[test]
    fn no_options_are_too_odd(options in prop::collection::vec(prop_oneof![0u8..12, any::<u8>()], 0..=40)) {
        let bytes = header(flag::SYN, &options);
        let header = Header::parse(&bytes).unwrap();
        prop_assert_eq!(header.options().is_err(), header.walk().any(|opt| opt.is_err()));
        prop_assert_eq!(header.timestamps(), header.options().map(|it| it.ts));
    }
}
