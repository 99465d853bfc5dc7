// SPDX-License-Identifier: GPL-2.0

//! Tests of request heads.

use super::*;
use proptest::prelude::*;
use std::{
    format,
    vec,
    vec::Vec, //
};

fn head(text: &str) -> Result<Head<'_>, Bad> {
    match parse(text.as_bytes()) {
        Parsed::Head(head) => Ok(head),
        Parsed::Bad(bad) => Err(bad),
        Parsed::Partial => panic!("partial: {text:?}"),
    }
}

#[test]
fn a_plain_request() {
    let text = "GET /fr/a?x=1/../2 HTTP/1.1\r\nHost: WWW.Example.:80\r\nAccept: */*\r\n\r\nmore";
    let expected = Head {
        raw: text.strip_suffix("more").unwrap().as_bytes(),
        method: b"GET",
        form: Form::Origin,
        host: Some(b"WWW.Example"),
        path: b"/fr/a",
        minor: 1,
        body: Body::None,
    };
    assert_eq!(head(text), Ok(expected));
}

#[test]
fn targets_hosts_and_paths() {
    use Form::*;
    type Case<'a> = (&'a str, &'a str, Form, Option<&'a [u8]>, &'a [u8]);
    let a = Some(&b"a"[..]);
    let cases: [Case<'_>; 14] = [
        ("GET / HTTP/1.1", "Host: a", Origin, a, b"/"),
        ("GET /?q HTTP/1.1", "Host: a", Origin, a, b"/"),
        ("GET //x HTTP/1.1", "Host: a", Origin, a, b"//x"),
        ("GET /%66r/ HTTP/1.1", "host:a", Origin, a, b"/%66r/"),
        ("GET / HTTP/1.1", "HOST: \t a \t", Origin, a, b"/"),
        ("GET / HTTP/1.1", "Host:", Origin, None, b"/"),
        ("GET / HTTP/1.0", "X: y", Origin, None, b"/"),
        ("GET / HTTP/1.0", "Host: a", Origin, a, b"/"),
        (
            "GET http://b:8/x?y HTTP/1.1",
            "Host: a",
            Absolute,
            Some(b"b"),
            b"/x",
        ),
        (
            "GET HTTPS://b HTTP/1.1",
            "Host: a",
            Absolute,
            Some(b"b"),
            b"/",
        ),
        (
            "GET http://[::1]?y HTTP/1.0",
            "X: y",
            Absolute,
            Some(b"[::1]"),
            b"/",
        ),
        ("OPTIONS * HTTP/1.1", "Host: a", Asterisk, a, b"*"),
        (
            "CONNECT b:443 HTTP/1.1",
            "Host: a",
            Authority,
            Some(b"b"),
            b"",
        ),
        ("BREW-x /pot HTTP/1.1", "Host: a", Origin, a, b"/pot"),
    ];
    for (line, header, form, host, path) in cases {
        let text = format!("{line}\r\n{header}\r\n\r\n");
        let head = head(&text).expect(line);
        assert_eq!(
            (head.form, head.host, head.path),
            (form, host, path),
            "{line}"
        );
        assert_eq!(head.raw, text.as_bytes());
    }
}

#[test]
fn bodies_end_in_one_place() {
    let cases = [
        ("Content-Length: 0", Ok(Body::Length(0))),
        ("content-length: 12 ", Ok(Body::Length(12))),
        (
            "Content-Length: 18446744073709551615",
            Ok(Body::Length(u64::MAX)),
        ),
        ("Transfer-Encoding: chunked", Ok(Body::Chunked)),
        ("transfer-encoding: CHUNKED", Ok(Body::Chunked)),
        (
            "Content-Length: 18446744073709551616",
            Err(Bad::ContentLength),
        ),
        (
            "Content-Length: 100000000000000000000",
            Err(Bad::ContentLength),
        ),
        ("Content-Length: +1", Err(Bad::ContentLength)),
        ("Content-Length: -1", Err(Bad::ContentLength)),
        ("Content-Length: 0x1", Err(Bad::ContentLength)),
        ("Content-Length:", Err(Bad::ContentLength)),
        ("Content-Length: 1, 1", Err(Bad::ContentLength)),
        ("Content-Length: 1 1", Err(Bad::ContentLength)),
        (
            "Content-Length: 1\r\nContent-Length: 1",
            Err(Bad::ContentLength),
        ),
        (
            "Content-Length: 1\r\nContent-Length: 2",
            Err(Bad::ContentLength),
        ),
        (
            "Transfer-Encoding: gzip, chunked",
            Err(Bad::TransferEncoding),
        ),
        ("Transfer-Encoding: identity", Err(Bad::TransferEncoding)),
        ("Transfer-Encoding: xchunked", Err(Bad::TransferEncoding)),
        ("Transfer-Encoding: \"chunked\"", Err(Bad::TransferEncoding)),
        ("Transfer-Encoding:", Err(Bad::TransferEncoding)),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            Err(Bad::TransferEncoding),
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 1",
            Err(Bad::TwoLengths),
        ),
        (
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            Err(Bad::TwoLengths),
        ),
        ("X-Content-Length: 1", Ok(Body::None)),
    ];
    for (lines, expected) in cases {
        let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n");
        assert_eq!(head(&text).map(|head| head.body), expected, "{lines}");
    }
    let old = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(head(old), Err(Bad::TransferEncoding));
}

#[test]
fn what_servers_might_read_differently_is_refused() {
    let dots = Bad::Path(BadPath::DotSegment);
    let byte = Bad::Path(BadPath::Byte);
    let cases = [
        ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Bad::EmptyLine),
        ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Bad::EmptyLine),
        (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", Bad::Method),
        ("\x16\x03\x01\x02", Bad::Method),
        ("GE(T / HTTP/1.1\r\n\r\n", Bad::Method),
        ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", Bad::Method),
        ("GET\r\n\r\n", Bad::Method),
        (
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA / HTTP/1.1\r\n\r\n",
            Bad::Method,
        ),
        ("GET / HTTP/1.1\nHost: a\n\n", Bad::BareLf),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", Bad::BareLf),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", Bad::BareLf),
        ("GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", Bad::BareCr),
        ("GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", Bad::BareCr),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\r\n", Bad::BareCr),
        ("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", Bad::ObsFold),
        ("GET / HTTP/1.1\r\n\tHost: a\r\n\r\n", Bad::ObsFold),
        ("GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n", Bad::Control),
        ("GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", Bad::Control),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n", Bad::Control),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Bad::Http2),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Bad::Version),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", Bad::Version),
        ("GET / HTTP/0.9\r\nHost: a\r\n\r\n", Bad::Version),
        ("GET / http/1.1\r\nHost: a\r\n\r\n", Bad::Version),
        ("GET / HTTP/1.10\r\nHost: a\r\n\r\n", Bad::RequestLine),
        ("GET /\r\n\r\n", Bad::RequestLine),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Bad::RequestLine),
        ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", Bad::Version),
        ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Bad::RequestLine),
        ("GET / a HTTP/1.1\r\nHost: a\r\n\r\n", Bad::Version),
        ("GET /\t HTTP/1.1\r\nHost: a\r\n\r\n", Bad::RequestLine),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", Bad::Target),
        ("GET fr/x HTTP/1.1\r\nHost: a\r\n\r\n", Bad::Target),
        ("GET ftp://b/ HTTP/1.1\r\nHost: a\r\n\r\n", Bad::Target),
        ("GET http:/b/ HTTP/1.1\r\nHost: a\r\n\r\n", Bad::Target),
        ("GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", Bad::Host),
        ("GET http://u@b/ HTTP/1.1\r\nHost: a\r\n\r\n", Bad::Host),
        ("GET http://b#/ HTTP/1.1\r\nHost: a\r\n\r\n", byte),
        ("CONNECT /x HTTP/1.1\r\nHost: a\r\n\r\n", Bad::Host),
        ("GET /fr/../x HTTP/1.1\r\nHost: a\r\n\r\n", dots),
        ("GET /fr/%2e%2E/x HTTP/1.1\r\nHost: a\r\n\r\n", dots),
        ("GET http://b/.. HTTP/1.1\r\nHost: a\r\n\r\n", dots),
        (
            "GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n",
            Bad::Path(BadPath::Percent),
        ),
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", byte),
        ("GET /a?b#c HTTP/1.1\r\nHost: a\r\n\r\n", byte),
        ("GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", byte),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Bad::HeaderName),
        ("GET / HTTP/1.1\r\nHo st: a\r\n\r\n", Bad::HeaderName),
        ("GET / HTTP/1.1\r\n: a\r\n\r\n", Bad::HeaderName),
        ("GET / HTTP/1.1\r\nHost\r\n\r\n", Bad::HeaderName),
        ("GET / HTTP/1.1\r\n\r\n", Bad::NoHost),
        ("GET http://b/ HTTP/1.1\r\n\r\n", Bad::NoHost),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            Bad::TwoHosts,
        ),
        (
            "GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n",
            Bad::TwoHosts,
        ),
        ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Bad::Host),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Bad::Host),
        ("GET http://b/ HTTP/1.1\r\nHost: a b\r\n\r\n", Bad::Host),
    ];
    for (text, bad) in cases {
        assert_eq!(head(text), Err(bad), "{text:?}");
    }
}

#[test]
fn the_number_of_headers_is_bounded() {
    let text = |n: usize| {
        let lines = "X: y\r\n".repeat(n);
        format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")
    };
    assert!(head(&text(MAX_HEADERS - 1)).is_ok());
    assert_eq!(head(&text(MAX_HEADERS)), Err(Bad::TooManyHeaders));
}

#[test]
fn a_scan_is_as_good_as_its_bytes() {
    let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET";
    for len in 0..text.len() {
        let parsed = parse(&text[..len]);
        assert_eq!(parsed == Parsed::Partial, len < text.len() - 3, "{len}");
    }
    let mut scan = Scan::new();
    assert_eq!(scan.advance(b""), Scanned::Partial);
    assert_eq!(scan.advance(b"GET /\n"), Scanned::Bad(Bad::BareLf));
    // A refusal stands, and so does an end.
    assert_eq!(scan.advance(b"GET /\nX"), Scanned::Bad(Bad::BareLf));
    let mut scan = Scan::new();
    assert_eq!(scan.advance(text), Scanned::Head(text.len() - 3));
    assert_eq!(scan.advance(text), Scanned::Head(text.len() - 3));
    // Less than there was is odd, but no reason to fall over.
    assert_eq!(scan.advance(b""), Scanned::Head(text.len() - 3));
}

/// Texts near to heads.
fn near_head() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        Just("GET"),
        Just(" "),
        Just("/"),
        Just("/fr"),
        Just("HTTP/1.1"),
        Just("\r\n"),
        Just("\n"),
        Just("\r"),
        Just("Host:"),
        Just("a"),
        Just(":80"),
        Just("\t"),
        Just("%2e"),
        Just(".."),
        Just("Content-Length: 1"),
        Just("Transfer-Encoding: chunked"),
        Just("\0"),
        Just("http://"),
        Just("\r\n\r\n"),
        Just("GET / HTTP/1.1\r\nHost: a\r\n"),
        Just("é"),
    ];
    prop::collection::vec(part, 0..20).prop_map(|parts| parts.concat().into_bytes())
}

proptest! {
    #[test]
    fn pieces_do_not_matter(text in near_head(), cuts in prop::collection::vec(0usize..60, 0..8)) {
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
        cuts.sort_unstable();
        cuts.push(text.len());
        let mut scan = Scan::new();
        let mut scanned = Scanned::Partial;
        for cut in cuts {
            scanned = scan.advance(&text[..cut]);
        }
        prop_assert_eq!(scanned, Scan::new().advance(&text));
    }

    #[test]
    fn a_byte_at_a_time_is_as_good(text in near_head()) {
        let mut scan = Scan::new();
        for end in 0..text.len() {
            let _ = scan.advance(&text[..end]);
        }
        prop_assert_eq!(scan.advance(&text), Scan::new().advance(&text));
    }

    #[test]
    fn no_bytes_are_too_odd(
        text in prop_oneof![near_head(), prop::collection::vec(any::<u8>(), 0..100)],
    ) {
        let whole = match parse(&text) {
            Parsed::Head(head) if head.raw.len() == text.len() => Some(head),
            _ => None,
        };
        prop_assert_eq!(Head::parse(&text).ok(), whole);
        if let Parsed::Head(head) = parse(&text) {
            prop_assert!(head.raw.ends_with(b"\r\n\r\n"));
            prop_assert_eq!(crate::path::check(head.path), Ok(()));
            // httparse, which takes more, finds the same end.
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let lax = httparse::Request::new(&mut headers).parse(&text);
            prop_assert_eq!(lax, Ok(httparse::Status::Complete(head.raw.len())));
        }
    }
}
