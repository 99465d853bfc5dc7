// SPDX-License-Identifier: GPL-2.0

//! What a front end answers itself, when no server is to see a request.

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The request head did not become whole in time (RFC 9110, section 15.5.9).
    Timeout,
    /// The request head is too long (RFC 6585, section 5).
    TooLarge,
    /// Nobody can serve the request now (RFC 9110, section 15.6.4).
    Unavailable,
}

impl Answer {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Timeout, Self::TooLarge, Self::Unavailable];

    /// Its status code.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Timeout => 408,
            Self::TooLarge => 431,
            Self::Unavailable => 503,
        }
    }

    /// The answer with this status code.
    #[must_use]
    pub fn of(status: u64) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|answer| u64::from(answer.status()) == status)
    }

    /// The whole response. It ends the connection, as nobody looks for a next request.
    #[must_use]
    pub const fn response(self) -> &'static [u8] {
        match self {
            Self::Timeout => {
                b"HTTP/1.1 408 Request Timeout\r\n\
                Connection: close\r\nContent-Length: 0\r\n\r\n"
            }
            Self::TooLarge => {
                b"HTTP/1.1 431 Request Header Fields Too Large\r\n\
                Connection: close\r\nContent-Length: 0\r\n\r\n"
            }
            Self::Unavailable => {
                b"HTTP/1.1 503 Service Unavailable\r\n\
                Connection: close\r\nContent-Length: 0\r\n\r\n"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;
    use std::string::String;

    #[test]
    fn responses_are_whole_and_close() {
        for answer in Answer::ALL {
            let text = String::from_utf8(answer.response().to_vec()).unwrap();
            let lines: std::vec::Vec<_> = text.split("\r\n").collect();
            let status = format!("HTTP/1.1 {} ", answer.status());
            assert!(lines[0].starts_with(&status), "{text}");
            assert_eq!(
                lines[1..],
                ["Connection: close", "Content-Length: 0", "", ""]
            );
            assert_eq!(Answer::of(answer.status().into()), Some(answer));
        }
        assert_eq!(Answer::of(200), None);
        assert_eq!(Answer::of(0x1_0000_0198), None);
    }
}
