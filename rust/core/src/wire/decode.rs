// SPDX-License-Identifier: GPL-2.0

//! Reading records.

use super::*;

/// Cuts the next fixed part off `bytes`.
fn take<'a, T>(bytes: &mut &'a [u8]) -> Result<&'a T, Refused>
where
    T: FromBytes + zerocopy::KnownLayout + zerocopy::Immutable + zerocopy::Unaligned,
{
    let (part, rest) = T::ref_from_prefix(bytes).map_err(|_| Refused::Length)?;
    *bytes = rest;
    Ok(part)
}

/// Cuts a TCP header of exactly `len` bytes off `bytes`.
fn take_tcp<'a>(bytes: &mut &'a [u8], len: u8) -> Result<Tcp<'a>, Refused> {
    let (header, rest) = bytes
        .split_at_checked(usize::from(len))
        .ok_or(Refused::Length)?;
    *bytes = rest;
    let tcp = Tcp::parse(header).ok_or(Refused::Handshake)?;
    if tcp.header_len() != header.len() {
        return Err(Refused::Handshake);
    }
    Ok(tcp)
}

impl<'a> Record<'a> {
    /// Reads `bytes`, which must be one whole record and nothing else.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Refused> {
        let header = Header::parse(bytes)?;
        if header.len != bytes.len() {
            return Err(Refused::Length);
        }
        let mut rest = bytes.get(HEADER_LEN..).ok_or(Refused::Short)?;
        let record = match header.kind {
            Kind::Hello => Self::Hello(Hello::parse(&mut rest)?),
            Kind::Key => {
                let raw: &RawKey = take(&mut rest)?;
                let [a, b, c] = raw.reserved;
                zero(a | b | c)?;
                Self::Key(raw.id)
            }
            kind => Self::Handoff(Handoff::parse(kind, &mut rest)?),
        };
        if !rest.is_empty() {
            return Err(Refused::Length);
        }
        Ok(record)
    }
}

impl Hello {
    /// Cuts a HELLO off `rest`, which begins behind the header.
    fn parse(rest: &mut &[u8]) -> Result<Self, Refused> {
        let raw: &RawHello = take(rest)?;
        zero(raw.reserved.get())?;
        zero(raw.flags.get() & !HELLO_SIGNS)?;
        Ok(Self {
            epoch: raw.epoch.get(),
            name: Name::from_padded(raw.name).ok_or(Refused::Name)?,
            nonce: raw.nonce,
            signs: raw.flags.get() & HELLO_SIGNS != 0,
        })
    }
}

impl<'a> Handoff<'a> {
    /// Cuts a record of `kind` off `rest`, which begins behind the header.
    fn parse(kind: Kind, rest: &mut &'a [u8]) -> Result<Self, Refused> {
        let raw: &RawHandoff = take(rest)?;
        let (id, tuple) = (raw.id.get(), raw.tuple);
        if !tuple.is_valid() {
            return Err(Refused::Tuple);
        }
        let body = match kind {
            Kind::Req => Body::Req(Req::parse(&tuple, rest)?),
            Kind::Accept => Body::Accept,
            Kind::Reject => {
                let raw: &RawReject = take(rest)?;
                zero(raw.reserved.get())?;
                Body::Reject(Reason::of(raw.reason.get()))
            }
            Kind::Data => Body::Data(Data::parse(&tuple, rest)?),
            Kind::Abort => Body::Abort,
            Kind::Taken => Body::Taken,
            Kind::Closed => {
                let raw: &RawClosed = take(rest)?;
                zero(raw.reserved.get())?;
                zero(raw.flags.get() & !CLOSED_LINGER)?;
                Body::Closed {
                    linger: raw.flags.get() & CLOSED_LINGER != 0,
                }
            }
            Kind::Check | Kind::Own => {
                let raw: &RawCheck = take(rest)?;
                zero(raw.reserved.get())?;
                let (addr, port) = (raw.addr, raw.port.get());
                if !tuple.with_local(addr, port).is_valid() {
                    return Err(Refused::Tuple);
                }
                match kind {
                    Kind::Own => Body::Own { addr, port },
                    _ => Body::Check {
                        vip: addr,
                        vip_port: port,
                    },
                }
            }
            Kind::Seek => Body::Seek,
            Kind::Hello | Kind::Key => return Err(Refused::Kind(kind as u8)),
        };
        Ok(Self { id, tuple, body })
    }
}

impl<'a> Req<'a> {
    /// Cuts the body of a request to the owner of `tuple` off `rest`.
    fn parse(tuple: &Tuple, rest: &mut &'a [u8]) -> Result<Self, Refused> {
        let raw: &RawReq = take(rest)?;
        zero(raw.flags.get() & !REQ_REPLAY)?;
        zero(raw.zero.get())?;
        zero(raw.reserved)?;
        let syn = take_tcp(rest, raw.syn_len)?;
        let syn_ack = take_tcp(rest, raw.syn_ack_len)?;
        let ack = take_tcp(rest, raw.ack_len)?;
        let req = Self {
            vip: raw.vip,
            vip_port: raw.vip_port.get(),
            ts_now: raw.ts_now.get(),
            rtt: raw.rtt.get(),
            replay: raw.flags.get() & REQ_REPLAY != 0,
            handshake: Handshake::new(syn, syn_ack, ack).ok_or(Refused::Handshake)?,
        };
        req.belongs_to(tuple)?;
        Ok(req)
    }

    /// Whether this can be asked of the owner of `tuple`: one client, one address family.
    pub(super) fn belongs_to(&self, tuple: &Tuple) -> Result<(), Refused> {
        if !tuple.with_local(self.vip, self.vip_port).is_valid() {
            return Err(Refused::Tuple);
        }
        let syn = self.handshake.syn();
        match self.vip_port == syn.dest() && tuple.client_port.get() == syn.source() {
            true => Ok(()),
            false => Err(Refused::Handshake),
        }
    }
}

impl<'a> Data<'a> {
    /// Cuts the body of a DATA record to the owner of `tuple` off `rest`.
    fn parse(tuple: &Tuple, rest: &mut &'a [u8]) -> Result<Self, Refused> {
        let raw: &RawData = take(rest)?;
        if !tuple.with_local(raw.vip, raw.vip_port.get()).is_valid() {
            return Err(Refused::Tuple);
        }
        Ok(Self {
            vip: raw.vip,
            vip_port: raw.vip_port.get(),
            seq: Seq(raw.seq.get()),
            ack: Seq(raw.ack.get()),
            tsval: raw.tsval.get(),
            window: raw.window.get(),
            bytes: core::mem::take(rest),
        })
    }
}
