// SPDX-License-Identifier: GPL-2.0

//! Requests to the kernel, and what it answers.

use crate::uapi;
use netlink_packet_core::{
    DecodeError, Emitable, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla, NlasIterator,
    ParseableParametrized, NLA_TYPE_MASK, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP,
    NLM_F_DUMP_INTR, NLM_F_REQUEST,
};
use netlink_packet_generic::{
    ctrl::{nlas::GenlCtrlAttrs, GenlCtrl, GenlCtrlCmd},
    GenlFamily, GenlHeader, GenlMessage,
};
use netlink_sys::{protocols::NETLINK_GENERIC, Socket, SocketAddr};
use nix::errno::Errno;
use std::{fmt::Debug, io, net::IpAddr};
use thiserror::Error;

/// The size of a message's header (struct nlmsghdr of linux/netlink.h).
const NETLINK_HEADER_LEN: usize = 16;

/// How often a list is read again because it changed while it was read.
const DUMP_TRIES: usize = 10;

/// Attributes of the extended acknowledgement (enum nlmsgerr_attrs of linux/netlink.h).
mod ack {
    pub const MSG: u16 = 1;
    pub const OFFS: u16 = 2;
    pub const MISS_TYPE: u16 = 5;
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum Error {
    #[error("the kernel module carisma_btcp is not loaded")]
    NotLoaded,
    #[error("{}", .0.text())]
    Refused(Refusal),
    #[error("{0}")]
    Key(String),
    #[error("{0}")]
    File(String),
    /// It is about a line of a file.
    #[error("line {0}: {1}")]
    Line(usize, Box<Error>),
    #[error("netlink: {0}")]
    Io(#[from] io::Error),
    #[error("the kernel's answer cannot be read: {0}")]
    Malformed(String),
    #[error("the list changed each of the {DUMP_TRIES} times that it was read")]
    Unsteady,
}

impl From<DecodeError> for Error {
    fn from(err: DecodeError) -> Self {
        Self::Malformed(err.to_string())
    }
}

/// The kernel refused a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub errno: Errno,
    /// The text of the extended acknowledgement.
    pub message: Option<String>,
    /// The attribute at fault.
    pub attribute: Option<&'static str>,
}

impl Refusal {
    /// What a person reads.
    fn text(&self) -> String {
        let attribute = self.attribute.map(|name| format!("{name}: "));
        match (&self.message, attribute) {
            // Our own texts name the attribute themselves.
            (Some(message), _) if message.contains(": ") => message.clone(),
            (Some(message), attribute) => attribute.unwrap_or_default() + message,
            (None, None) if self.errno == Errno::EPERM => {
                "this needs CAP_NET_ADMIN: are you root?".to_owned()
            }
            (None, attribute) => attribute.unwrap_or_default() + self.errno.desc(),
        }
    }
}

/// An attribute of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attr {
    kind: u16,
    value: Vec<u8>,
}

impl Attr {
    pub fn flag(kind: u16) -> Self {
        let value = Vec::new();
        Self { kind, value }
    }

    pub fn u16(kind: u16, value: u16) -> Self {
        let value = value.to_ne_bytes().to_vec();
        Self { kind, value }
    }

    pub fn u32(kind: u16, value: u32) -> Self {
        let value = value.to_ne_bytes().to_vec();
        Self { kind, value }
    }

    pub fn bytes(kind: u16, bytes: &[u8]) -> Self {
        let value = bytes.to_vec();
        Self { kind, value }
    }

    pub fn text(kind: u16, text: &str) -> Self {
        let value = text.bytes().chain([0]).collect();
        Self { kind, value }
    }

    pub fn addr(kind: u16, addr: IpAddr) -> Self {
        let value = match addr {
            IpAddr::V4(addr) => addr.octets().to_vec(),
            IpAddr::V6(addr) => addr.octets().to_vec(),
        };
        Self { kind, value }
    }
}

impl Nla for Attr {
    fn value_len(&self) -> usize {
        self.value.len()
    }

    fn kind(&self) -> u16 {
        self.kind
    }

    fn emit_value(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.value);
    }
}

/// The attributes of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attrs(Vec<Attr>);

impl Attrs {
    fn parse(buffer: &[u8]) -> Result<Self, DecodeError> {
        NlasIterator::new(buffer)
            .map(|attr| {
                let attr = attr?;
                Ok(Attr {
                    kind: attr.kind() & NLA_TYPE_MASK,
                    value: attr.value().to_vec(),
                })
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    fn get(&self, kind: u16) -> Option<&[u8]> {
        let attr = self.0.iter().find(|attr| attr.kind == kind)?;
        Some(&attr.value)
    }

    pub fn flag(&self, kind: u16) -> bool {
        self.get(kind).is_some()
    }

    /// An unsigned number of whatever size.
    pub fn uint(&self, kind: u16) -> Option<u64> {
        let value = self.get(kind)?;
        if let Ok(bytes) = value.try_into() {
            return Some(u64::from_ne_bytes(bytes));
        }
        if let Ok(bytes) = value.try_into() {
            return Some(u32::from_ne_bytes(bytes).into());
        }
        let bytes = value.try_into().ok()?;
        Some(u16::from_ne_bytes(bytes).into())
    }

    pub fn u16(&self, kind: u16) -> Option<u16> {
        self.uint(kind)?.try_into().ok()
    }

    pub fn text(&self, kind: u16) -> Option<String> {
        self.texts(kind).into_iter().next()
    }

    /// All of this kind, in their order.
    pub fn texts(&self, kind: u16) -> Vec<String> {
        let attrs = self.0.iter().filter(|attr| attr.kind == kind);
        attrs
            .map(|attr| attr.value.strip_suffix(&[0]).unwrap_or(&attr.value))
            .map(|value| String::from_utf8_lossy(value).into_owned())
            .collect()
    }

    pub fn addr(&self, kind: u16) -> Option<IpAddr> {
        let value = self.get(kind)?;
        if let Ok(bytes) = <[u8; 4]>::try_from(value) {
            return Some(bytes.into());
        }
        Some(<[u8; 16]>::try_from(value).ok()?.into())
    }

    /// The name of a value of an enum, which is a number if we do not know it.
    pub fn name_of(&self, kind: u16, names: &[&str]) -> Option<String> {
        let value = self.uint(kind)?;
        let name = usize::try_from(value)
            .ok()
            .and_then(|index| names.get(index));
        Some(name.map_or_else(|| value.to_string(), |&name| name.to_owned()))
    }
}

impl FromIterator<Attr> for Attrs {
    fn from_iter<I: IntoIterator<Item = Attr>>(attrs: I) -> Self {
        Self(attrs.into_iter().collect())
    }
}

/// The part of our family's messages that follows the header.
#[derive(Clone, Debug)]
struct Body {
    command: u8,
    attrs: Attrs,
}

impl GenlFamily for Body {
    fn family_name() -> &'static str {
        uapi::FAMILY
    }

    fn command(&self) -> u8 {
        self.command
    }

    fn version(&self) -> u8 {
        uapi::VERSION
    }
}

impl Emitable for Body {
    fn buffer_len(&self) -> usize {
        self.attrs.0.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attrs.0.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Body {
    fn parse_with_param(buffer: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        Ok(Self {
            command: header.cmd,
            attrs: Attrs::parse(buffer)?,
        })
    }
}

/// A line to the kernel's family `carisma`.
pub struct Connection {
    socket: Socket,
    family: u16,
    version: u32,
    sequence: u32,
}

/// What came in answer to a request.
struct Answer<B> {
    bodies: Vec<B>,
    /// The list changed while it was read.
    interrupted: bool,
}

impl Connection {
    /// Finds the family.
    pub fn open() -> Result<Self, Error> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        let mut connection = Self {
            socket,
            family: 0,
            version: 0,
            sequence: 0,
        };
        connection.find_family()?;
        Ok(connection)
    }

    /// The version that the kernel's family has.
    pub fn version(&self) -> u32 {
        self.version
    }

    fn find_family(&mut self) -> Result<(), Error> {
        let ask = GenlMessage::from_payload(GenlCtrl {
            cmd: GenlCtrlCmd::GetFamily,
            nlas: vec![GenlCtrlAttrs::FamilyName(uapi::FAMILY.to_owned())],
        });
        let answer = match self.exchange(ask, NLM_F_ACK) {
            Err(Error::Refused(Refusal {
                errno: Errno::ENOENT,
                ..
            })) => return Err(Error::NotLoaded),
            answer => answer?,
        };
        let mut id = None;
        for attr in answer.bodies.into_iter().flat_map(|ctrl| ctrl.nlas) {
            match attr {
                GenlCtrlAttrs::FamilyId(value) => id = Some(value),
                GenlCtrlAttrs::Version(value) => self.version = value,
                _ => {}
            }
        }
        self.family = id.ok_or_else(|| Error::Malformed("the family has no number".to_owned()))?;
        Ok(())
    }

    /// Asks for something to be done, and returns what came in answer.
    pub fn ask(
        &mut self,
        command: u16,
        attrs: impl IntoIterator<Item = Attr>,
    ) -> Result<Attrs, Error> {
        let request = self.request(command, attrs)?;
        let answer = self.exchange(request, NLM_F_ACK)?;
        let body = answer.bodies.into_iter().next();
        Ok(body.map(|body| body.attrs).unwrap_or_default())
    }

    /// Asks for a list.
    pub fn list(&mut self, command: u16) -> Result<Vec<Attrs>, Error> {
        for _ in 0..DUMP_TRIES {
            let request = self.request(command, [])?;
            let answer = self.exchange(request, NLM_F_DUMP)?;
            if !answer.interrupted {
                return Ok(answer.bodies.into_iter().map(|body| body.attrs).collect());
            }
        }
        Err(Error::Unsteady)
    }

    fn request(
        &self,
        command: u16,
        attrs: impl IntoIterator<Item = Attr>,
    ) -> Result<GenlMessage<Body>, Error> {
        let mut message = GenlMessage::from_payload(Body {
            command: command
                .try_into()
                .map_err(|_| Error::Malformed(format!("command {command}")))?,
            attrs: attrs.into_iter().collect(),
        });
        message.set_resolved_family_id(self.family);
        Ok(message)
    }

    /// Sends a request, and reads until all that it brought about is there.
    fn exchange<B>(&mut self, request: GenlMessage<B>, flags: u16) -> Result<Answer<B>, Error>
    where
        B: GenlFamily + Emitable + ParseableParametrized<[u8], GenlHeader> + Clone + Debug,
    {
        self.sequence += 1;
        let command = request.payload.command();
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut sent = vec![0; message.buffer_len()];
        message.serialize(&mut sent);
        self.socket.send(&sent, 0)?;

        let mut answer = Answer {
            bodies: Vec::new(),
            interrupted: false,
        };
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while rest.len() >= NETLINK_HEADER_LEN {
                let message = NetlinkMessage::<GenlMessage<B>>::deserialize(rest)?;
                let len = message.header.length as usize;
                let flags = message.header.flags;
                rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                answer.interrupted |= flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(message) => {
                        answer.bodies.push(message.payload);
                    }
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(answer),
                            Some(code) => {
                                let acks = acks(flags, &error.header);
                                Err(refusal(command, &sent, code.get(), acks))
                            }
                        };
                    }
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(refusal(command, &sent, done.code, &done.extended_ack));
                    }
                    NetlinkPayload::Done(_) => return Ok(answer),
                    _ => {}
                }
            }
        }
    }
}

/// The attributes of an extended acknowledgement, which follow what is repeated of the request.
fn acks(flags: u16, payload: &[u8]) -> &[u8] {
    if flags & NLM_F_ACK_TLVS == 0 {
        return &[];
    }
    let repeated = match (flags & NLM_F_CAPPED, payload.first_chunk()) {
        (0, Some(len)) => u32::from_ne_bytes(*len) as usize,
        _ => NETLINK_HEADER_LEN,
    };
    payload
        .get(repeated.next_multiple_of(4)..)
        .unwrap_or_default()
}

/// Makes an error of what the kernel said to a request.
fn refusal(command: u8, sent: &[u8], code: i32, acks: &[u8]) -> Error {
    // What cannot be read is left out: the error itself matters more.
    let acks = Attrs::parse(acks).unwrap_or_default();
    let at_fault = || {
        let offset = usize::try_from(acks.uint(ack::OFFS)?).ok()?;
        let attr = sent.get(offset..)?.get(2..)?.first_chunk()?;
        Some(u16::from_ne_bytes(*attr) & NLA_TYPE_MASK)
    };
    let missing = || acks.u16(ack::MISS_TYPE);
    Error::Refused(Refusal {
        errno: Errno::from_raw(code.wrapping_neg()),
        message: acks.text(ack::MSG),
        attribute: at_fault()
            .or_else(missing)
            .and_then(|attribute| uapi::attribute_name(command.into(), attribute)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn emitted(attrs: &[Attr]) -> Vec<u8> {
        let mut buffer = vec![0; attrs.buffer_len()];
        attrs.emit(&mut buffer);
        buffer
    }

    fn refused(error: Error) -> Refusal {
        match error {
            Error::Refused(refusal) => refusal,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn attributes_come_back_as_they_went() {
        let addr = Ipv4Addr::new(10, 0, 0, 100).into();
        let buffer = emitted(&[
            Attr::addr(1, addr),
            Attr::u16(2, 80),
            Attr::u32(3, 70_000),
            Attr::text(4, "fr"),
            Attr::flag(5),
        ]);
        let attrs = Attrs::parse(&buffer).unwrap();
        assert_eq!(attrs.addr(1), Some(addr));
        assert_eq!(attrs.u16(2), Some(80));
        assert_eq!(attrs.uint(3), Some(70_000));
        assert_eq!(attrs.u16(3), None);
        assert_eq!(attrs.text(4).as_deref(), Some("fr"));
        assert!(attrs.flag(5));
        assert!(!attrs.flag(6));
        assert_eq!(attrs.uint(6), None);
    }

    #[test]
    fn numbers_may_have_any_size() {
        let mut wide = Attr::u32(1, 0);
        wide.value = 5_000_000_000u64.to_ne_bytes().to_vec();
        let attrs: Attrs = [wide, Attr::text(2, "odd")].into_iter().collect();
        assert_eq!(attrs.uint(1), Some(5_000_000_000));
        // Four bytes with the one that ends it.
        assert_eq!(attrs.text(2).as_deref(), Some("odd"));
    }

    #[test]
    fn values_have_names() {
        let attrs: Attrs = [Attr::u32(1, 2), Attr::u32(2, 99)].into_iter().collect();
        assert_eq!(
            attrs.name_of(1, uapi::peer_state::NAMES).as_deref(),
            Some("up")
        );
        assert_eq!(
            attrs.name_of(2, uapi::peer_state::NAMES).as_deref(),
            Some("99")
        );
        assert_eq!(attrs.name_of(3, uapi::peer_state::NAMES), None);
    }

    #[test]
    fn a_short_attribute_is_an_error() {
        assert!(Attrs::parse(&[8, 0, 1]).is_err());
        assert!(Attrs::parse(&[40, 0, 1, 0, 1]).is_err());
    }

    #[test]
    fn refusals_name_the_attribute() {
        // A request with two attributes, of which the second is at fault.
        let mut sent = vec![0; NETLINK_HEADER_LEN + 4];
        sent.extend(emitted(&[Attr::u32(1, 0), Attr::u16(2, 0)]));
        let offset = u32::try_from(NETLINK_HEADER_LEN + 4 + 8).unwrap();
        let acks = emitted(&[Attr::u32(ack::OFFS, offset)]);
        let refusal = refused(refusal(uapi::command::SERVICE_ADD as u8, &sent, -34, &acks));
        assert_eq!(refusal.errno, Errno::ERANGE);
        assert_eq!(refusal.attribute, Some("port"));
        assert!(refusal.text().starts_with("port: "));
    }

    #[test]
    fn refusals_name_what_is_missing() {
        let acks = emitted(&[
            Attr::text(ack::MSG, "name: must be given"),
            Attr::u32(ack::MISS_TYPE, 1),
        ]);
        let refusal = refused(refusal(uapi::command::NODE_DEL as u8, &[], -22, &acks));
        assert_eq!(refusal.attribute, Some("name"));
        assert_eq!(refusal.text(), "name: must be given");
    }

    #[test]
    fn refusals_without_text_say_what_the_error_means() {
        let refusal = |code| refused(super::refusal(1, &[], code, &[])).text();
        assert!(refusal(-1).contains("CAP_NET_ADMIN"));
        assert_eq!(refusal(-12), Errno::ENOMEM.desc());
    }

    #[test]
    fn acknowledgements_follow_the_request() {
        let mut payload = vec![0; 24];
        payload[0] = 20;
        payload.extend([7; 4]);
        assert_eq!(acks(NLM_F_ACK_TLVS, &payload), &payload[20..]);
        assert_eq!(
            acks(NLM_F_ACK_TLVS | NLM_F_CAPPED, &payload),
            &payload[16..]
        );
        assert!(acks(0, &payload).is_empty());
        assert!(acks(NLM_F_ACK_TLVS, &[]).is_empty());
    }
}
