// SPDX-License-Identifier: GPL-2.0

//! Writing records.

use super::*;

/// Appends to a buffer.
struct Writer<'a> {
    /// What is left of the buffer.
    rest: &'a mut [u8],
}

impl Writer<'_> {
    /// Appends `bytes`, if there is room.
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let (to, rest) = core::mem::take(&mut self.rest).split_at_mut_checked(bytes.len())?;
        to.copy_from_slice(bytes);
        self.rest = rest;
        Some(())
    }
}

impl Record<'_> {
    /// What the record is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Hello(_) => Kind::Hello,
            Self::Key(_) => Kind::Key,
            Self::Handoff(handoff) => match handoff.body {
                Body::Req(_) => Kind::Req,
                Body::Accept => Kind::Accept,
                Body::Reject(_) => Kind::Reject,
                Body::Data(_) => Kind::Data,
                Body::Abort => Kind::Abort,
                Body::Taken => Kind::Taken,
                Body::Closed { .. } => Kind::Closed,
                Body::Check { .. } => Kind::Check,
                Body::Seek => Kind::Seek,
                Body::Own { .. } => Kind::Own,
            },
        }
    }

    /// The length of the record on the wire.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let (min, _) = self.kind().len_range();
        match self {
            Self::Handoff(Handoff {
                body: Body::Req(req),
                ..
            }) => {
                let Handshake {
                    syn, syn_ack, ack, ..
                } = &req.handshake;
                // OVERFLOW: four small constants.
                HANDOFF_LEN
                    .saturating_add(size_of::<RawReq>())
                    .saturating_add(syn.header_len())
                    .saturating_add(syn_ack.header_len())
                    .saturating_add(ack.header_len())
            }
            Self::Handoff(Handoff {
                body: Body::Data(data),
                ..
            }) => DATA_OVERHEAD.saturating_add(data.bytes.len()),
            _ => min,
        }
    }

    /// Writes the record to the beginning of `out` and returns its length; `None` if there is no
    /// room for it, or if it says what no receiver would take: no bytes of data or too many, a
    /// tuple that names no connection, a request to another tuple than its handshake's.
    #[must_use]
    pub fn encode(&self, out: &mut [u8]) -> Option<usize> {
        let len = self.encoded_len();
        let kind = self.kind();
        let (min, max) = kind.len_range();
        (len >= min && len <= max).then_some(())?;
        let mut out = Writer {
            rest: out.get_mut(..len)?,
        };
        let header = RawHeader {
            version: VERSION,
            kind: kind as u8,
            length: U16::new(u16::try_from(len).ok()?),
            reserved: U32::new(0),
        };
        out.put(header.as_bytes())?;
        match self {
            Self::Hello(hello) => {
                let raw = RawHello {
                    epoch: U64::new(hello.epoch),
                    name: *hello.name.padded(),
                    nonce: hello.nonce,
                    flags: U16::new(if hello.signs { HELLO_SIGNS } else { 0 }),
                    reserved: U16::new(0),
                };
                out.put(raw.as_bytes())?;
            }
            Self::Key(id) => {
                let raw = RawKey {
                    id: *id,
                    reserved: [0; 3],
                };
                out.put(raw.as_bytes())?;
            }
            Self::Handoff(handoff) => handoff.encode(&mut out)?,
        }
        out.rest.is_empty().then_some(len)
    }
}

impl Handoff<'_> {
    /// Appends what stands behind the header.
    fn encode(&self, out: &mut Writer<'_>) -> Option<()> {
        self.tuple.is_valid().then_some(())?;
        let raw = RawHandoff {
            id: U64::new(self.id),
            tuple: self.tuple,
        };
        out.put(raw.as_bytes())?;
        match &self.body {
            Body::Accept | Body::Abort | Body::Taken | Body::Seek => Some(()),
            Body::Req(req) => {
                req.belongs_to(&self.tuple).ok()?;
                req.encode(out)
            }
            Body::Reject(reason) => {
                let raw = RawReject {
                    reason: U16::new(reason.number()),
                    reserved: U16::new(0),
                };
                out.put(raw.as_bytes())
            }
            Body::Data(data) => {
                let vip = self.tuple.with_local(data.vip, data.vip_port);
                vip.is_valid().then_some(())?;
                let raw = RawData {
                    vip: data.vip,
                    seq: U32::new(data.seq.0),
                    ack: U32::new(data.ack.0),
                    tsval: U32::new(data.tsval),
                    window: U16::new(data.window),
                    vip_port: U16::new(data.vip_port),
                };
                out.put(raw.as_bytes())?;
                out.put(data.bytes)
            }
            Body::Closed { linger } => {
                let raw = RawClosed {
                    flags: U16::new(if *linger { CLOSED_LINGER } else { 0 }),
                    reserved: U16::new(0),
                };
                out.put(raw.as_bytes())
            }
            Body::Check {
                vip: addr,
                vip_port: port,
            }
            | Body::Own { addr, port } => {
                let end = self.tuple.with_local(*addr, *port);
                end.is_valid().then_some(())?;
                let raw = RawCheck {
                    addr: *addr,
                    port: U16::new(*port),
                    reserved: U16::new(0),
                };
                out.put(raw.as_bytes())
            }
        }
    }
}

impl Req<'_> {
    /// Appends the body of a request.
    fn encode(&self, out: &mut Writer<'_>) -> Option<()> {
        let Handshake {
            syn, syn_ack, ack, ..
        } = &self.handshake;
        let len = |tcp: &Tcp<'_>| u8::try_from(tcp.header_len()).ok();
        let raw = RawReq {
            vip: self.vip,
            vip_port: U16::new(self.vip_port),
            flags: U16::new(if self.replay { REQ_REPLAY } else { 0 }),
            ts_now: U32::new(self.ts_now),
            rtt: U16::new(self.rtt),
            zero: U16::new(0),
            syn_len: len(syn)?,
            syn_ack_len: len(syn_ack)?,
            ack_len: len(ack)?,
            reserved: 0,
        };
        out.put(raw.as_bytes())?;
        out.put(syn.bytes())?;
        out.put(syn_ack.bytes())?;
        out.put(ack.bytes())
    }
}
