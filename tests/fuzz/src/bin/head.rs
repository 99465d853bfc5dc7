// SPDX-License-Identifier: GPL-2.0

//! Request heads: the same in any pieces, and what is accepted is what RFC 9112 calls a request,
//! with the parts that a second, plainer reading finds.

#![no_main]

use carisma_core::{
    http::{
        parse,
        Body,
        Form,
        Head,
        Parsed,
        Scan,
        Scanned, //
    },
    rule::{
        route,
        Ambiguous,
        Rule, //
    },
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = Scan::new().advance(bytes);
    // A byte at a time, and in pieces whose sizes the bytes themselves say.
    assert_eq!(in_pieces(bytes, |_| 1), whole);
    assert_eq!(in_pieces(bytes, |byte| 1 + usize::from(byte) % 16), whole);
    if let Scanned::Head(len) = whole {
        assert!(lines_of(&bytes[..len]).is_some());
    }
    // What is read without a scan is what a scan would have had read.
    let unscanned = match parse(bytes) {
        Parsed::Head(head) if head.raw.len() == bytes.len() => Some(head),
        _ => None,
    };
    assert_eq!(Head::parse(bytes).ok(), unscanned);
    match (whole, parse(bytes)) {
        (Scanned::Partial, Parsed::Partial) | (Scanned::Head(_), Parsed::Bad(_)) => {}
        (Scanned::Bad(one), Parsed::Bad(other)) => assert_eq!(one, other),
        (Scanned::Head(len), Parsed::Head(head)) => {
            assert_eq!(head.raw, &bytes[..len]);
            assert_eq!(Some(head), strict(&bytes[..len]));
            if let Some(value) = head.cookie(b"a") {
                assert!(!value.contains(&b';') && !value.contains(&b'\n'));
            }
            assert_eq!(
                route(RULES, head.host, head.path),
                model(head.host, head.path)
            );
        }
        other => panic!("{other:?}"),
    }
});

/// What a scan says of `bytes` that come in pieces.
fn in_pieces(bytes: &[u8], size: impl Fn(u8) -> usize) -> Scanned {
    let mut scan = Scan::new();
    let mut seen = scan.advance(&[]);
    let mut end = 0;
    while end < bytes.len() {
        // What was said stands.
        let before = seen;
        end = bytes.len().min(end + size(bytes[end]));
        seen = scan.advance(&bytes[..end]);
        assert!(before == Scanned::Partial || seen == before);
    }
    seen
}

/// Reads a head line by line. `None` if there is anything about it that a server may read in
/// another way.
fn strict(head: &[u8]) -> Option<Head<'_>> {
    let lines = lines_of(head)?;
    let (first, fields) = lines.split_first()?;
    let parts: Vec<_> = first.split(|byte| *byte == b' ').collect();
    let [method, target, version] = parts[..] else {
        return None;
    };
    let minor = match version {
        b"HTTP/1.0" => 0,
        b"HTTP/1.1" => 1,
        _ => return None,
    };
    (is_token(method) && fields.len() <= 64).then_some(())?;
    let mut named: [Vec<&[u8]>; 3] = Default::default();
    for field in fields {
        let colon = field.iter().position(|byte| *byte == b':')?;
        let (name, value) = (&field[..colon], field[colon + 1..].trim_ascii());
        is_token(name).then_some(())?;
        let names = ["host", "content-length", "transfer-encoding"];
        if let Some(at) = names
            .iter()
            .position(|it| it.as_bytes().eq_ignore_ascii_case(name))
        {
            named[at].push(value);
        }
    }
    let own = match named[0][..] {
        [] if minor == 0 => None,
        [value] => host_of(value)?,
        _ => return None,
    };
    let body = match (&named[1][..], &named[2][..]) {
        ([], []) => Body::None,
        ([length], []) if length.iter().all(u8::is_ascii_digit) => {
            Body::Length(std::str::from_utf8(length).ok()?.parse().ok()?)
        }
        ([], [encoding]) if minor == 1 && encoding.eq_ignore_ascii_case(b"chunked") => {
            Body::Chunked
        }
        _ => return None,
    };
    let (form, theirs, path) = target_of(method, target)?;
    Some(Head {
        raw: head,
        method,
        form,
        host: theirs.or(own),
        path,
        minor,
        body,
    })
}

/// The lines of a head, if each ends as it should and none has a byte that none can have.
fn lines_of(head: &[u8]) -> Option<Vec<&[u8]>> {
    let mut lines: Vec<_> = head.split(|byte| *byte == b'\n').collect();
    (lines.pop()?.is_empty() && lines.pop()? == b"\r").then_some(())?;
    let lines: Vec<_> = lines
        .into_iter()
        .map(|line| line.strip_suffix(b"\r"))
        .collect::<Option<_>>()?;
    let odd = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
    let bad = |line: &&[u8]| line.is_empty() || line.iter().any(odd);
    (!lines.iter().any(bad)).then_some(lines)
}

/// Whether this can be the name of a method or a header (RFC 9110, section 5.6.2).
fn is_token(name: &[u8]) -> bool {
    let valid = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !name.is_empty() && name.iter().all(valid)
}

/// Form, host and path.
type Target<'a> = (Form, Option<&'a [u8]>, &'a [u8]);

/// The parts of a target.
fn target_of<'a>(method: &[u8], target: &'a [u8]) -> Option<Target<'a>> {
    if method == b"CONNECT" {
        return Some((Form::Authority, Some(host_of(target)??), b""));
    }
    if method == b"OPTIONS" && target == b"*" {
        return Some((Form::Asterisk, None, target));
    }
    let (form, host, rest) = if target.first() == Some(&b'/') {
        (Form::Origin, None, target)
    } else {
        let scheme = target.iter().position(|byte| *byte == b':')?;
        let name = target[..scheme].to_ascii_lowercase();
        (name == b"http" || name == b"https").then_some(())?;
        let rest = target[scheme + 1..].strip_prefix(b"//")?;
        let end = rest.iter().position(|byte| b"/?#".contains(byte));
        let (host, rest) = rest.split_at(end.unwrap_or(rest.len()));
        (Form::Absolute, Some(host_of(host)??), rest)
    };
    let odd = |byte: &u8| *byte <= b' ' || *byte == 0x7f || *byte == b'#';
    (!rest.iter().any(odd)).then_some(())?;
    let path = rest.split(|byte| *byte == b'?').next()?;
    let path = if path.is_empty() { b"/" } else { path };
    let decoded = decode(path)?;
    let segments = decoded.split(|(byte, _)| b"/\\".contains(byte));
    for segment in segments {
        let name: Vec<u8> = segment.iter().map(|(byte, _)| *byte).collect();
        let name = name.split(|byte| *byte == b';').next()?;
        (name != b"." && name != b"..").then_some(())?;
    }
    Some((form, host, path))
}

/// A path's bytes, and whether each was encoded; `None` if it has a byte that no path has.
fn decode(path: &[u8]) -> Option<Vec<(u8, bool)>> {
    let mut decoded = Vec::new();
    let mut rest = path;
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'\\' => return None,
            b'%' => {
                let digits = tail.get(..2)?;
                digits.iter().all(u8::is_ascii_hexdigit).then_some(())?;
                let byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
                (byte != 0).then_some(())?;
                decoded.push((byte, true));
                rest = &tail[2..];
            }
            _ => decoded.push((*byte, false)),
        }
    }
    Some(decoded)
}

/// The host of an authority, `Some(None)` if that is empty.
fn host_of(authority: &[u8]) -> Option<Option<&[u8]>> {
    if authority.is_empty() {
        return Some(None);
    }
    let end = match authority.strip_prefix(b"[") {
        Some(inner) => inner.iter().position(|byte| *byte == b']')? + 2,
        None => {
            let colon = authority.iter().position(|byte| *byte == b':');
            colon.unwrap_or(authority.len())
        }
    };
    let (host, port) = authority.split_at(end);
    let digits = port.strip_prefix(b":").unwrap_or(port);
    (digits.iter().all(u8::is_ascii_digit) && (port.is_empty() || port[0] == b':')).then_some(())?;
    if let Some(inner) = host.strip_prefix(b"[") {
        let valid = |byte: &u8| byte.is_ascii_hexdigit() || b":.]".contains(byte);
        return (inner.len() > 1 && inner.iter().all(valid)).then_some(Some(host));
    }
    let host = host.strip_suffix(b".").unwrap_or(host);
    let valid = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
    let mut labels = host.split(|byte| *byte == b'.');
    labels
        .all(|label| !label.is_empty() && label.iter().all(valid))
        .then_some(Some(host))
}

const fn rule<'a>(host: Option<&'a [u8]>, prefix: &'a [u8], target: u8) -> Rule<'a, u8> {
    Rule {
        host,
        prefix,
        target,
    }
}

const RULES: [Rule<'_, u8>; 7] = [
    rule(None, b"/a/", 1),
    rule(None, b"/a/b/", 2),
    rule(Some(b"h"), b"/", 3),
    rule(Some(b"h"), b"/b", 4),
    rule(Some(b"[::1]"), b"", 5),
    rule(None, b"/a/", 6),
    rule(None, b"/b", 1),
];

/// Where [`RULES`] lead in each way to read `path`, each path being written out.
fn model(host: Option<&[u8]>, path: &[u8]) -> Result<Option<u8>, Ambiguous> {
    let decoded = decode(path).unwrap();
    let mut all = Vec::new();
    for reading in 0..8u8 {
        let (merge, slash, cut) = (reading & 1 != 0, reading & 2 != 0, reading & 4 != 0);
        let mut read: Vec<Option<u8>> = Vec::new();
        let mut cutting = false;
        for &(byte, encoded) in &decoded {
            let parts = byte == b'/' && (!encoded || slash);
            cutting = !parts && (cutting || (cut && byte == b';' && !encoded));
            if cutting || (merge && parts && read.last() == Some(&Some(b'/'))) {
                continue;
            }
            // No rule can name a slash that is none.
            read.push((byte != b'/' || parts).then_some(byte));
        }
        let fits = |rule: &&Rule<'_, u8>| {
            let host = rule
                .host
                .is_none_or(|name| host.is_some_and(|host| host.eq_ignore_ascii_case(name)));
            let prefix: Vec<_> = rule.prefix.iter().copied().map(Some).collect();
            host && read.starts_with(&prefix)
        };
        let rank = |rule: &&Rule<'_, u8>| (rule.host.is_some(), rule.prefix.len());
        // Of equals, `max_by_key` takes the last.
        let best = RULES.iter().rev().filter(fits).max_by_key(rank);
        all.push(best.map(|rule| rule.target));
    }
    if all.iter().all(|target| *target == all[0]) {
        Ok(all[0])
    } else {
        Err(Ambiguous)
    }
}
