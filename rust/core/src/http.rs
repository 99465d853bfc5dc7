// SPDX-License-Identifier: GPL-2.0

//! Heads of HTTP/1 requests, read strictly.
//!
//! RFC 9110 and RFC 9112. httparse takes a head apart; this adds what a node needs that routes a
//! request which another server will answer: whatever the two might understand differently is
//! refused with a reason, a [`Bad`], and what to do then is the caller's. Bytes are looked at in
//! this order:
//!
//! 1. [`Scan`] finds the end of a head that comes in any number of pieces, looking at each byte
//!    once, and refuses what is no HTTP/1 as soon as it shows.
//! 2. [`Head::parse`] reads the whole head.
//!
//! Most requests come in one piece, with nothing behind: what [`may_be_whole`] is not scanned first.

use crate::path::BadPath;
use core::mem::MaybeUninit;

mod cookie;
mod host;
mod scan;

pub use cookie::check_cookie;
pub(crate) use host::host_of;
pub use scan::{
    Scan,
    Scanned, //
};

/// How many header lines a head can have.
pub const MAX_HEADERS: usize = 64;

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// The first bytes are no method: this is not HTTP, or TLS.
    Method,
    /// An empty line before the request line.
    EmptyLine,
    /// A line that ends with LF alone.
    BareLf,
    /// A CR without LF.
    BareCr,
    /// A header line that begins with a space (obs-fold, RFC 9112, section 5.2).
    ObsFold,
    /// NUL or another control character.
    Control,
    /// The preface of HTTP/2 (RFC 9113, section 3.4).
    Http2,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    Version,
    /// The request line has another shape than RFC 9112, section 3, gives it.
    RequestLine,
    /// A target in a form that its method does not have, or with another scheme than http(s).
    Target,
    /// The target's path.
    Path(BadPath),
    /// A header name that is no token, or with a space before the colon.
    HeaderName,
    /// A header value with a byte that none can have.
    HeaderValue,
    /// More than [`MAX_HEADERS`].
    TooManyHeaders,
    /// HTTP/1.1 without Host.
    NoHost,
    /// More than one Host.
    TwoHosts,
    /// A Host, or a target's authority, that is not a host and perhaps a port.
    Host,
    /// A Content-Length that is not one number, or more than one such header.
    ContentLength,
    /// A Transfer-Encoding that is not `chunked` alone, more than one, or one in HTTP/1.0.
    TransferEncoding,
    /// Content-Length and Transfer-Encoding.
    TwoLengths,
}

/// How a target is written (RFC 9112, section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A path.
    Origin,
    /// A whole URI, as proxies are sent it.
    Absolute,
    /// Host and port, for CONNECT.
    Authority,
    /// `*`, for OPTIONS.
    Asterisk,
}

/// Where the request's body ends (RFC 9112, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// There is none.
    None,
    /// After so many bytes.
    Length(u64),
    /// Where the last chunk says it.
    Chunked,
}

/// The head of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    /// All of it, the empty line included.
    pub raw: &'a [u8],
    /// The method.
    pub method: &'a [u8],
    /// How the target is written.
    pub form: Form,
    /// The host that is asked for, without port and trailing dot, in the client's own case: the
    /// target's if it names one, else that of the Host header (RFC 9112, section 3.2.2). `None`
    /// if the client names none.
    pub host: Option<&'a [u8]>,
    /// The path as the client wrote it, without query; `*` and empty for the forms without one.
    /// [`crate::path::check`] holds for it.
    pub path: &'a [u8],
    /// The minor version: 0 or 1.
    pub minor: u8,
    /// Where the body ends.
    pub body: Body,
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'a> {
    /// The beginning of a head, as far as can be seen.
    Partial,
    /// No head to go by.
    Bad(Bad),
    /// A whole head, and perhaps more behind it.
    Head(Head<'a>),
}

/// Reads the head at the beginning of `bytes`. Who gets them in pieces keeps a [`Scan`] instead,
/// so as not to begin anew with each piece.
#[must_use]
pub fn parse(bytes: &[u8]) -> Parsed<'_> {
    match Scan::new().advance(bytes) {
        Scanned::Partial => Parsed::Partial,
        Scanned::Bad(bad) => Parsed::Bad(bad),
        Scanned::Head(len) => match Head::parse(bytes.get(..len).unwrap_or(bytes)) {
            Ok(head) => Parsed::Head(head),
            Err(bad) => Parsed::Bad(bad),
        },
    }
}

/// Whether [`Head::parse`] is worth trying before a [`Scan`].
#[must_use]
pub fn may_be_whole(bytes: &[u8]) -> bool {
    bytes.ends_with(b"\r\n\r\n")
}

impl<'a> Head<'a> {
    /// Reads `bytes`, which are a whole head. The reason for a refusal is the right one if [`Scan`] said
    /// that they are; if it would not, they are refused as well.
    // The header array takes 2 KiB of stack, which must not stay in a caller's frame for longer.
    #[inline(never)]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Bad> {
        let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut []);
        let status = request
            .parse_with_uninit_headers(bytes, &mut headers)
            .map_err(|error| reason(error, bytes))?;
        if status != httparse::Status::Complete(bytes.len()) {
            return Err(Bad::RequestLine);
        }
        let (Some(method), Some(target), Some(minor)) =
            (request.method, request.path, request.version)
        else {
            return Err(Bad::RequestLine);
        };
        // What httparse takes and the scan does not.
        if method.as_ptr() != bytes.as_ptr() {
            return Err(Bad::EmptyLine);
        }
        if method.len() > scan::MAX_METHOD {
            return Err(Bad::Method);
        }
        let mut ends = request.headers.iter().map(|header| {
            let len = (header.name.as_ptr() as usize).wrapping_sub(bytes.as_ptr() as usize);
            bytes.get(..len).unwrap_or(&[])
        });
        if !may_be_whole(bytes) || !ends.all(|before| before.ends_with(b"\r\n")) {
            return Err(Bad::BareLf);
        }
        let lines = Lines::read(request.headers)?;
        let body = lines.body(minor)?;
        let own = lines.host(minor)?;
        let Target { form, host, path } = Target::read(method.as_bytes(), target.as_bytes())?;
        Ok(Self {
            raw: bytes,
            method: method.as_bytes(),
            form,
            host: host.or(own),
            path,
            minor,
            body,
        })
    }
}

/// What an error of httparse says here.
fn reason(error: httparse::Error, bytes: &[u8]) -> Bad {
    match error {
        httparse::Error::HeaderName => Bad::HeaderName,
        httparse::Error::HeaderValue => Bad::HeaderValue,
        httparse::Error::NewLine | httparse::Error::Status => Bad::RequestLine,
        httparse::Error::Token => Bad::RequestLine,
        httparse::Error::TooManyHeaders => Bad::TooManyHeaders,
        httparse::Error::Version if bytes.starts_with(b"PRI * HTTP/2.0\r\n") => Bad::Http2,
        httparse::Error::Version => Bad::Version,
    }
}

/// The header lines that matter here.
#[derive(Default)]
struct Lines<'a> {
    /// Host.
    host: Option<&'a [u8]>,
    /// Content-Length.
    length: Option<&'a [u8]>,
    /// Transfer-Encoding.
    encoding: Option<&'a [u8]>,
}

impl<'a> Lines<'a> {
    /// Picks them out. None of them may be there twice, not even with the same value: not all
    /// servers compare, and those that take one do not all take the same.
    fn read(headers: &[httparse::Header<'a>]) -> Result<Self, Bad> {
        let mut lines = Self::default();
        for header in headers {
            let (slot, twice) = if header.name.eq_ignore_ascii_case("host") {
                (&mut lines.host, Bad::TwoHosts)
            } else if header.name.eq_ignore_ascii_case("content-length") {
                (&mut lines.length, Bad::ContentLength)
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                (&mut lines.encoding, Bad::TransferEncoding)
            } else {
                continue;
            };
            if slot.replace(header.value).is_some() {
                return Err(twice);
            }
        }
        Ok(lines)
    }

    /// The host of the Host header, which may be empty but, from HTTP/1.1 on, not missing (RFC
    /// 9112, section 3.2).
    fn host(&self, minor: u8) -> Result<Option<&'a [u8]>, Bad> {
        match self.host {
            Some(value) => host_of(value).ok_or(Bad::Host),
            None if minor == 0 => Ok(None),
            None => Err(Bad::NoHost),
        }
    }

    /// Where the body ends.
    fn body(&self, minor: u8) -> Result<Body, Bad> {
        match (self.length, self.encoding) {
            (None, None) => Ok(Body::None),
            (Some(_), Some(_)) => Err(Bad::TwoLengths),
            (Some(length), None) => number(length).map(Body::Length).ok_or(Bad::ContentLength),
            (None, Some(encoding)) => {
                if minor == 1 && encoding.eq_ignore_ascii_case(b"chunked") {
                    Ok(Body::Chunked)
                } else {
                    Err(Bad::TransferEncoding)
                }
            }
        }
    }
}

/// A decimal number of digits only.
fn number(digits: &[u8]) -> Option<u64> {
    (!digits.is_empty()).then_some(())?;
    digits.iter().try_fold(0u64, |number, digit| {
        let digit = char::from(*digit).to_digit(10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// The parts of a target.
struct Target<'a> {
    /// How it is written.
    form: Form,
    /// The host that it names.
    host: Option<&'a [u8]>,
    /// Its path.
    path: &'a [u8],
}

impl<'a> Target<'a> {
    /// Reads the target of a request with `method`.
    fn read(method: &[u8], target: &'a [u8]) -> Result<Self, Bad> {
        if method == b"CONNECT" {
            return Ok(Self {
                form: Form::Authority,
                host: Some(authority(target)?),
                path: b"",
            });
        }
        let (form, host, rest) = match target {
            [b'/', ..] => (Form::Origin, None, target),
            b"*" if method == b"OPTIONS" => (Form::Asterisk, None, target),
            _ => {
                let rest = after_scheme(target).ok_or(Bad::Target)?;
                let len = rest.iter().position(|byte| b"/?#".contains(byte));
                let (name, rest) = rest
                    .split_at_checked(len.unwrap_or(rest.len()))
                    .ok_or(Bad::Target)?;
                (Form::Absolute, Some(authority(name)?), rest)
            }
        };
        let (path, query) = match rest.iter().position(|byte| *byte == b'?') {
            Some(len) => rest.split_at_checked(len).ok_or(Bad::Target)?,
            None => (rest, &[][..]),
        };
        // An absolute URI without a path means the root (RFC 9112, section 3.2.1).
        let path = if path.is_empty() { b"/" } else { path };
        crate::path::check(path).map_err(Bad::Path)?;
        if query.contains(&b'#') {
            return Err(Bad::Path(BadPath::Byte));
        }
        Ok(Self { form, host, path })
    }
}

/// The host of an authority, which must name one.
fn authority(authority: &[u8]) -> Result<&[u8], Bad> {
    host_of(authority).flatten().ok_or(Bad::Host)
}

/// What follows `http://` or `https://`.
fn after_scheme(target: &[u8]) -> Option<&[u8]> {
    [&b"http://"[..], b"https://"].iter().find_map(|scheme| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    })
}

#[cfg(test)]
mod tests;
