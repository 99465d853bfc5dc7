// SPDX-License-Identifier: GPL-2.0

//! TCP headers: what is read of them, and what taking options out leaves. The input is a segment.

#![no_main]

use carisma_core::{
    seq::Seq,
    tcp::{
        flag,
        option,
        Build,
        Ecn,
        Header,
        Opt,
        Options,
        SynFacts, //
    },
    translate::{
        clear_ecn,
        strip_options, //
    },
};
use carisma_fuzz::{
    be32,
    check,
    header_len,
    options,
    set_check,
    written,
    DST,
    SRC, //
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|segment: &[u8]| {
    let Some(header) = Header::parse(segment) else {
        assert_eq!(header_len(segment), None);
        return;
    };
    assert_eq!(header_len(segment), Some(header.header_len()));
    assert_eq!(header.seq(), Seq(be32(segment, 4)));
    assert_eq!(header.ack(), Seq(be32(segment, 8)));
    let walked = header
        .walk()
        .map(|opt| opt.map(|opt| (opt.at, opt.kind, opt.data)))
        .collect::<Result<Vec<_>, _>>()
        .ok();
    assert_eq!(walked, options(header.bytes()));

    let facts = [SynFacts::of_syn(&header), SynFacts::of_syn_ack(&header)];
    let kind = flag::SYN | flag::ACK | flag::RST | flag::FIN;
    for (facts, flags) in facts.iter().zip([flag::SYN, flag::SYN | flag::ACK]) {
        let opens = walked.is_some() && header.flags() & kind == flags;
        assert_eq!(facts.is_some(), opens);
        if let Some(facts) = facts {
            repeated(facts);
        }
    }
    for partial in [false, true] {
        stripped(segment, walked.as_deref(), partial);
    }
});

/// What a SYN that is built of these facts says again.
fn repeated(facts: &SynFacts) {
    let syn = written(&Build::syn(1, 2, facts));
    let again = SynFacts::of_syn(&Header::parse(&syn).unwrap()).unwrap();
    let options = Options {
        ts: facts.options.ts.map(|mut ts| {
            ts.ecr = 0;
            ts
        }),
        signed: false,
        fast_open: false,
        mptcp: false,
        ..facts.options
    };
    let ecn = match facts.ecn {
        Ecn::Classic => Ecn::Classic,
        _ => Ecn::Off,
    };
    let expected = SynFacts {
        options,
        ecn,
        ..*facts
    };
    assert_eq!(again, expected);
    // Agreeing to everything leaves what there is, to nothing leaves nothing of it.
    assert_eq!(
        facts.restricted(facts).options,
        Options {
            ts: facts.options.ts,
            ..options
        }
    );
    let bare = facts.restricted(&SynFacts::default());
    let mss = facts.options.mss;
    assert_eq!(
        bare.options,
        Options {
            mss,
            ..Options::default()
        }
    );
    assert_eq!(bare.ecn, Ecn::Off);
}

/// Takes options out of `segment`, whose options were walked.
fn stripped(segment: &[u8], walked: Option<&[(usize, u8, &[u8])]>, partial: bool) {
    let mut before = segment.to_vec();
    set_check(&mut before, partial);
    let unwanted: [fn(&Opt<'_>) -> bool; 3] = [
        |opt| opt.is_fast_open() || opt.kind == option::MPTCP,
        |opt| opt.data.len() % 2 == 1,
        |_| true,
    ];
    for unwanted in unwanted {
        let mut after = before.clone();
        let result = strip_options(&mut after, unwanted, partial);
        let Some(walked) = walked else {
            assert!(result.is_err() && after == before);
            continue;
        };
        let kept = |(at, kind, data): &(usize, u8, &[u8])| {
            !unwanted(&Opt {
                at: *at,
                kind: *kind,
                data,
            })
        };
        assert_eq!(result, Ok(!walked.iter().all(kept)));
        let len = header_len(&before).unwrap();
        assert_eq!(header_len(&after), Some(len));
        let expected: Vec<_> = walked.iter().copied().filter(kept).collect();
        assert_eq!(options(&after[..len]), Some(expected));
        assert_eq!(
            (&after[..16], &after[len..]),
            (&before[..16], &before[len..])
        );
        right(&after, partial);
    }

    let mut after = before.clone();
    assert_eq!(clear_ecn(&mut after, partial).is_ok(), walked.is_some());
    if walked.is_some() {
        before[12] &= !1;
        before[13] &= !(flag::ECE | flag::CWR);
        set_check(&mut before, partial);
    }
    assert_eq!(after, before);
}

/// The checksum is what one would compute anew.
fn right(segment: &[u8], partial: bool) {
    let sum = be32(segment, 16) >> 16;
    assert_eq!(sum, check(SRC, DST, segment, partial).into());
}
