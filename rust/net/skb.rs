// SPDX-License-Identifier: GPL-2.0

//! Packets: owned socket buffers that hold a TCP segment, or an ICMP error about one.
//!
//! C header: [`include/linux/skbuff.h`](srctree/include/linux/skbuff.h)

use crate::{
    bindings,
    netfilter::PacketContext,
    pernet::Net, //
};
use carisma_core::{
    icmp,
    ip,
    ipv4,
    ipv6,
    tuple::{v4_mapped, Addr}, //
};
use core::{mem::MaybeUninit, ptr::NonNull};
use kernel::{
    alloc::AllocError,
    prelude::*, //
};

/// The shortest IPv4 header (RFC 791, section 3.1), and TCP header (RFC 9293, section 3.1).
const MIN_HEADER: usize = 20;

/// How much of a payload is brought into the linear part, where many devices do not put any: that of most
/// requests.
const SHORT: usize = 4096;

/// Both of them.
const USUAL: usize = 2 * MIN_HEADER;

/// The protocol numbers of TCP and ICMPv6.
const TCP: u8 = bindings::IPPROTO_TCP as u8;
const ICMPV6: u8 = bindings::IPPROTO_ICMPV6 as u8;

/// A packet, owned: it is dropped with its last owner.
///
/// # Invariants
///
/// The pointer is a valid `sk_buff` whose data begins at its IP header, and nobody else uses it.
pub struct Skb(NonNull<bindings::sk_buff>);

// SAFETY: A packet is bound to no CPU.
unsafe impl Send for Skb {}

/// Where the parts of a segment are, from the beginning of its data; all are in the linear part,
/// but the payload.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Bytes of the IP header, with options or extension headers.
    pub ip: usize,
    /// Bytes of the TCP header.
    pub tcp: usize,
    /// Bytes of the payload.
    pub payload: usize,
}

impl Layout {
    /// Whether the IP header of this packet has no options or extensions.
    pub fn is_plain(&self, skb: &Skb) -> bool {
        self.ip
            == match skb.is_v6() {
                true => ipv6::HEADER_LEN,
                false => MIN_HEADER,
            }
    }

    /// Where the payload begins.
    pub fn headers(&self) -> usize {
        self.ip.saturating_add(self.tcp)
    }
}

/// The ends of a segment, in the order in which they stand in it.
#[derive(Clone, Copy)]
pub struct Ends {
    /// Source address.
    pub source: Addr,
    /// Destination address.
    pub destination: Addr,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// TCP's flags.
    pub flags: u8,
}

impl Skb {
    /// Takes over a packet from C.
    ///
    /// # Safety
    ///
    /// `skb` must be valid, with its data at the IP header, and owned by the caller.
    pub unsafe fn from_raw(skb: *mut bindings::sk_buff) -> Self {
        // INVARIANT: The caller says so.
        // SAFETY: A valid pointer is not null.
        Self(unsafe { NonNull::new_unchecked(skb) })
    }

    /// Gives the packet to C.
    pub fn into_raw(self) -> *mut bindings::sk_buff {
        let raw = self.0.as_ptr();
        core::mem::forget(self);
        raw
    }

    /// The packet, for C, which must not take it over.
    pub(crate) fn as_ptr(&self) -> *mut bindings::sk_buff {
        self.0.as_ptr()
    }

    /// The packet, which came in, whole: put together if it is a fragment of IPv4's that may hold what is
    /// of interest here (RFC 791, section 3.2). `None` if others are missing; the kernel keeps it then,
    /// with its own bounds.
    pub fn gathered(self, net: &Net, _context: &PacketContext) -> Option<Self> {
        let raw = self.into_raw();
        // SAFETY: The packet is valid and ours, and is again if the helper says so. It runs in the
        // context that it asks for.
        unsafe { bindings::gather(net.as_ptr(), raw).then(|| Self::from_raw(raw)) }
    }

    /// The ends of a TCP segment; `None` for everything else, and for fragments.
    #[inline(always)]
    pub fn ends(&self) -> Option<Ends> {
        self.usual_ends().or_else(|| self.ends_at(0))
    }

    /// The headers of most segments: IPv4 without options, and TCP, in the linear part.
    #[inline(always)]
    fn usual_headers(&self) -> Option<&[u8; USUAL]> {
        let headers: &[u8; USUAL] = self.linear().first_chunk()?;
        (headers[0] == 0x45 && headers[9] == TCP).then_some(headers)
    }

    /// Those of most segments, without a look-up in C.
    #[inline(always)]
    fn usual_ends(&self) -> Option<Ends> {
        let [_, _, _, _, _, _, hi, lo, _, _, _, _, s0, s1, s2, s3, d0, d1, d2, d3, sp0, sp1, dp0, dp1, ..] =
            *self.usual_headers()?;
        // Not all have ports (RFC 791, section 3.1).
        if u16::from_be_bytes([hi, lo]) & ipv4::FRAGMENT != 0 {
            return None;
        }
        Some(Ends {
            source: v4_mapped([s0, s1, s2, s3]),
            destination: v4_mapped([d0, d1, d2, d3]),
            source_port: u16::from_be_bytes([sp0, sp1]),
            destination_port: u16::from_be_bytes([dp0, dp1]),
            flags: self.usual_headers()?[MIN_HEADER + 13],
        })
    }

    /// The ends of the TCP segment that begins at byte `at`, if one does.
    #[cold]
    #[inline(never)]
    pub(crate) fn ends_at(&self, at: u32) -> Option<Ends> {
        let mut peek = MaybeUninit::<bindings::carisma_peek>::uninit();
        // SAFETY: The packet is valid.
        let seen = unsafe { bindings::skb_peek_tcp(self.as_ptr(), at, peek.as_mut_ptr()) };
        match seen {
            bindings::carisma_seen_CARISMA_SEEN_IT => {}
            bindings::carisma_seen_CARISMA_SEEN_EXTENSIONS => {
                let at = at.checked_add(self.behind_extensions(at, TCP)?)?;
                // SAFETY: As above; the addresses were filled in when that was seen.
                if !unsafe { bindings::skb_peek_behind(self.as_ptr(), at, peek.as_mut_ptr()) } {
                    return None;
                }
            }
            _ => return None,
        }
        // SAFETY: The helpers have filled it in.
        let peek = unsafe { peek.assume_init() };
        Some(Ends {
            source: peek.saddr,
            destination: peek.daddr,
            source_port: u16::from_be(peek.sport),
            destination_port: u16::from_be(peek.dport),
            flags: peek.flags,
        })
    }

    /// How many bytes of headers stand before this protocol's in the IPv6 packet that begins at byte
    /// `at`, if it has that.
    fn behind_extensions(&self, at: u32, protocol: u8) -> Option<u32> {
        let mut buf = [0; ipv6::CHAIN_MAX];
        // CAST: A length of 32 bits.
        let at = at as usize;
        let len = self.size().checked_sub(at)?.min(buf.len());
        let head = buf.get_mut(..len)?;
        if !self.copy(at, head) {
            return None;
        }
        let header = ipv6::Header::parse(head)?;
        let is_it = header.protocol() == protocol && !header.is_fragment();
        // CAST: It is within the buffer.
        is_it.then_some(header.header_len() as u32)
    }

    /// What an ICMP error says of a TCP segment; `None` for everything else. What it reads is within
    /// [`Skb::icmp_len`].
    pub fn icmp_error(&mut self) -> Option<icmp::Error> {
        let error = icmp::Error::parse(self.icmp_at(0)?)?;
        Some(error.on_link(self.link()))
    }

    /// The link that it came by, or will go by; 0 if that is not known, or its number too big for
    /// [`tuple::on_link`](carisma_core::tuple::on_link).
    pub(crate) fn link(&self) -> u16 {
        // SAFETY: The packet is valid.
        let link = unsafe { bindings::skb_link(self.as_ptr()) };
        u16::try_from(link).unwrap_or(0)
    }

    /// Says which link it came by, or is to go by, if it is link-local.
    pub fn set_link(&mut self, link: u16) {
        if link != 0 {
            // SAFETY: The packet is valid and ours.
            unsafe { bindings::skb_set_link(self.as_ptr(), i32::from(link)) };
        }
    }

    /// The part that matters of the ICMP error that begins at byte `at`, if one does.
    pub(crate) fn icmp_at(&mut self, at: u32) -> Option<&[u8]> {
        // SAFETY: The packet is valid.
        match unsafe { bindings::skb_peek_icmp_error(self.as_ptr(), at) } {
            bindings::carisma_seen_CARISMA_SEEN_IT => {}
            bindings::carisma_seen_CARISMA_SEEN_EXTENSIONS => {
                self.behind_extensions(at, ICMPV6)?;
            }
            _ => return None,
        }
        // CAST: A length of 32 bits.
        let at = at as usize;
        let end = self.size().min(at.saturating_add(icmp::HEAD_MAX));
        self.pull(end)?;
        self.linear().get(at..end)
    }

    /// The bytes of an ICMP error that matter.
    pub fn icmp_len(&self) -> usize {
        self.size().min(icmp::HEAD_MAX)
    }

    /// Whether a packet that came in is one that this node sent to itself.
    pub fn is_looped(&self) -> bool {
        // SAFETY: The packet is valid.
        unsafe { bindings::skb_is_looped(self.as_ptr()) }
    }

    /// Brings both headers into the linear part and measures them; `None` if they are not whole.
    pub fn layout(&mut self) -> Option<Layout> {
        if let Some(layout) = self.usual_layout() {
            return Some(layout);
        }
        self.pull(MIN_HEADER)?;
        let v6 = ip::version(self.linear()) == 6;
        let ip = match v6 {
            false => usize::from(*self.linear().first()? & 0x0f) * 4,
            true => {
                self.pull(ipv6::HEADER_LEN)?;
                match self.linear().get(6) {
                    Some(&TCP) => ipv6::HEADER_LEN,
                    // CAST: A small number.
                    _ => self.behind_extensions(0, TCP)? as usize,
                }
            }
        };
        self.pull(ip + MIN_HEADER).filter(|()| ip >= MIN_HEADER)?;
        let tcp = usize::from(*self.linear().get(ip + 12)? >> 4) * 4;
        self.pull(ip + tcp).filter(|()| tcp >= MIN_HEADER)?;
        let (at, before) = if v6 { (4, ipv6::HEADER_LEN) } else { (2, 0) };
        let field = self.linear().get(at..)?.first_chunk()?;
        let said = usize::from(u16::from_be_bytes(*field));
        let len = self.size();
        // A length of 0 is that of a merged packet of more than 64 KiB (BIG TCP).
        let end = match said {
            0 => len,
            said => said.saturating_add(before).min(len),
        };
        Some(Layout {
            ip,
            tcp,
            payload: end.checked_sub(ip + tcp)?,
        })
    }

    /// That of most segments, if it is all right.
    #[inline(always)]
    fn usual_layout(&self) -> Option<Layout> {
        let headers = self.usual_headers()?;
        let said = usize::from(u16::from_be_bytes([headers[2], headers[3]]));
        let tcp = usize::from(headers[MIN_HEADER + 12] >> 4) * 4;
        let end = MIN_HEADER + tcp;
        if tcp < MIN_HEADER || end > self.linear_len() || said < end || said > self.size() {
            return None;
        }
        Some(Layout {
            ip: MIN_HEADER,
            tcp,
            payload: said - end,
        })
    }

    /// Bytes of memory that it takes, which for a small packet is many times what it carries.
    pub fn memory(&self) -> usize {
        // SAFETY: The packet is valid. CAST: A length of 32 bits.
        unsafe { (*self.as_ptr()).truesize as usize }
    }

    /// Bytes from the IP header on, as the device brought them.
    pub fn size(&self) -> usize {
        // SAFETY: The packet is valid. CAST: A length of 32 bits.
        unsafe { (*self.as_ptr()).len as usize }
    }

    /// How many of them are in the linear part.
    fn linear_len(&self) -> usize {
        // SAFETY: The packet is valid. CAST: A length of 32 bits.
        unsafe { (*self.as_ptr()).len.wrapping_sub((*self.as_ptr()).data_len) as usize }
    }

    /// Brings the first `len` bytes into the linear part; `None` if there are not as many, or no memory.
    fn pull(&mut self, len: usize) -> Option<()> {
        // Mostly they are there.
        let there = self.linear_len() >= len
            // SAFETY: The packet is valid and ours. CAST: A few headers.
            || unsafe { bindings::pskb_may_pull(self.as_ptr(), len as u32) };
        there.then_some(())
    }

    /// The linear part.
    pub fn linear(&self) -> &[u8] {
        // SAFETY: The linear part is `headlen` initialised bytes at `data`, and nobody else writes
        // to a packet of ours.
        unsafe { core::slice::from_raw_parts((*self.as_ptr()).data, self.linear_len()) }
    }

    /// The IP header and the TCP header, for writing; `None` without memory for a private copy.
    pub fn headers_mut(&mut self, layout: &Layout) -> Option<(&mut [u8], &mut [u8])> {
        Some(self.head_mut(layout.headers())?.split_at_mut(layout.ip))
    }

    /// The first `len` bytes, of which there are as many, for writing; `None` without memory for a
    /// private copy.
    pub fn head_mut(&mut self, len: usize) -> Option<&mut [u8]> {
        // SAFETY: The packet is valid and ours. After this call `len` bytes are writable and shared
        // with nobody.
        let bytes = unsafe {
            if bindings::skb_ensure_writable(self.as_ptr(), len as u32) != 0 {
                return None;
            }
            core::slice::from_raw_parts_mut((*self.as_ptr()).data, self.linear_len())
        };
        bytes.get_mut(..len)
    }

    /// The TCP header.
    pub fn tcp(&self, layout: &Layout) -> Option<&[u8]> {
        self.linear().get(layout.ip..layout.headers())
    }

    /// The payload, if it lies in the linear part.
    pub fn payload(&self, layout: &Layout) -> Option<&[u8]> {
        let start = layout.headers();
        self.linear().get(start..start.checked_add(layout.payload)?)
    }

    /// The same; a short one is brought there. `None` of a longer one, or without memory.
    pub fn near_payload(&mut self, layout: &Layout) -> Option<&[u8]> {
        if layout.payload <= SHORT {
            self.pull(layout.headers().saturating_add(layout.payload))?;
        }
        self.payload(layout)
    }

    /// Copies the payload from byte `skip` on into `to`; whether that many bytes were there.
    #[must_use]
    pub fn copy_payload(&self, layout: &Layout, skip: usize, to: &mut [u8]) -> bool {
        let end = skip.checked_add(to.len());
        if end.is_none_or(|end| end > layout.payload) {
            return false;
        }
        self.copy(layout.headers().saturating_add(skip), to)
    }

    /// Appends `len` bytes of the payload, from byte `skip` on, to `to`; whether that many were there.
    /// Any context. Errors: those of memory.
    pub fn append_payload(
        &self,
        layout: &Layout,
        skip: usize,
        len: usize,
        to: &mut KVec<u8>,
    ) -> Result<bool, AllocError> {
        let end = skip.checked_add(len);
        let at = layout.headers().saturating_add(skip);
        let (Ok(offset), Ok(count)) = (i32::try_from(at), i32::try_from(len)) else {
            return Ok(false);
        };
        if end.is_none_or(|end| end > layout.payload) {
            return Ok(false);
        }
        to.reserve(len, GFP_ATOMIC)?;
        let room = to.spare_capacity_mut().as_mut_ptr();
        // SAFETY: The packet is valid, and there is room for as many bytes, which are initialised if
        // skb_copy_bits says so; it checks the rest.
        unsafe {
            let copied = bindings::skb_copy_bits(self.as_ptr(), offset, room.cast(), count) == 0;
            if copied {
                to.inc_len(len);
            }
            Ok(copied)
        }
    }

    /// Copies the bytes from `at` on into `to`; whether that many were there.
    #[must_use]
    pub fn copy(&self, at: usize, to: &mut [u8]) -> bool {
        let (Ok(offset), Ok(len)) = (i32::try_from(at), i32::try_from(to.len())) else {
            return false;
        };
        // SAFETY: The packet is valid, and `to` has room for the bytes; skb_copy_bits checks the
        // rest.
        unsafe { bindings::skb_copy_bits(self.as_ptr(), offset, to.as_mut_ptr().cast(), len) == 0 }
    }

    /// Whether the segment's checksum is right, or known to be. Softirq, at PRE_ROUTING.
    pub fn checksum_is_right(&mut self, layout: &Layout) -> bool {
        self.is_summed(layout.ip, TCP)
    }

    /// Whether the checksum of what is behind an IP header of `ip` bytes is right.
    pub(crate) fn is_summed(&mut self, ip: usize, protocol: u8) -> bool {
        // SAFETY: The packet is valid and ours. CAST: A small number.
        unsafe { bindings::skb_is_summed(self.as_ptr(), ip as u32, protocol) }
    }

    /// Whether it is of IPv6.
    pub(crate) fn is_v6(&self) -> bool {
        ip::version(self.linear()) == 6
    }

    /// Whether the checksum field holds only the sum of the pseudo-header so far
    /// (CHECKSUM_PARTIAL).
    pub fn checksum_is_partial(&self) -> bool {
        // SAFETY: The packet is valid.
        unsafe { bindings::skb_csum_partial(self.as_ptr()) }
    }

    /// A new packet of `len` bytes, all zero, from its IP header on. Any context. Errors: `ENOMEM`.
    pub fn new(len: usize) -> Result<Self> {
        let len = u32::try_from(len).map_err(|_| EINVAL)?;
        // SAFETY: Any length will do.
        let raw = unsafe { bindings::skb_new(len) };
        // INVARIANT: A new packet is nobody else's.
        Ok(Self(NonNull::new(raw).ok_or(ENOMEM)?))
    }

    /// The bytes of a packet that [`Skb::new`] made.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: The linear part is ours; `new` makes packets that are linear and shared with
        // nobody. For others this is empty, as for any that has a clone.
        unsafe {
            let len = bindings::skb_private_headlen(self.as_ptr()) as usize;
            core::slice::from_raw_parts_mut((*self.as_ptr()).data, len)
        }
    }

    /// Says that the IP header was written, and what is behind it begins at byte `ip`.
    pub fn set_transport(&mut self, ip: usize) {
        // SAFETY: The packet is valid and ours.
        unsafe { bindings::skb_set_transport(self.as_ptr(), ip as u32) }
    }

    /// Takes the payload off a segment whose checksum was right and whose headers are private;
    /// `false` without memory.
    #[must_use]
    pub fn cut(&mut self, layout: &Layout) -> bool {
        // SAFETY: The packet is valid and ours, and has both headers, of that size.
        unsafe { bindings::skb_cut(self.as_ptr(), layout.ip as u32, layout.tcp as u32) }
    }

    /// Counts the hop that forwarding is, on headers that are private already, unless the packet has
    /// none left.
    pub fn hop(&mut self) {
        // SAFETY: The packet is valid and ours.
        unsafe { bindings::hop(self.as_ptr()) }
    }

    /// Forgets what is valid only in the context of its arrival, so that the packet can wait.
    pub fn park(&mut self) {
        // SAFETY: The packet is valid and ours.
        unsafe { bindings::skb_park(self.as_ptr()) }
    }
}

impl Drop for Skb {
    fn drop(&mut self) {
        // SAFETY: The packet is valid and ours.
        unsafe { bindings::skb_drop(self.as_ptr()) }
    }
}

/// Packets that wait, in order, up to a bound. Mostly there are none, which takes no memory.
#[derive(Default)]
pub struct Queue(Option<KBox<Waiting>>);

/// Those that wait, and how many have been taken out before them.
struct Waiting {
    packets: KVec<Option<Skb>>,
    first: usize,
}

impl Queue {
    /// An empty queue.
    pub const fn new() -> Self {
        Self(None)
    }

    /// Lets a packet wait, unless `limit` do already: then it is dropped, as it is without memory.
    /// Any context.
    pub fn push(&mut self, mut skb: Skb, limit: usize) -> bool {
        if self.0.is_none() {
            let waiting = Waiting {
                packets: KVec::new(),
                first: 0,
            };
            self.0 = KBox::new(waiting, GFP_ATOMIC).ok();
        }
        let Some(waiting) = self.0.as_mut() else {
            return false;
        };
        if waiting.packets.len() >= limit {
            return false;
        }
        skb.park();
        waiting.packets.push(Some(skb), GFP_ATOMIC).is_ok()
    }

    /// The next one.
    pub fn pop(&mut self) -> Option<Skb> {
        let Waiting { packets, first } = &mut **self.0.as_mut()?;
        let skb = packets.get_mut(*first).and_then(Option::take);
        if skb.is_some() {
            *first = first.saturating_add(1);
        } else {
            *self = Self::new();
        }
        skb
    }
}
