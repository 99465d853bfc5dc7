// SPDX-License-Identifier: GPL-2.0

//! Requests that are answered at once, and their attributes.

use super::{
    Family,
    Message, //
};
use crate::{
    bindings,
    pernet::Net, //
};
use core::{
    cell::Cell,
    marker::PhantomData,
    ptr::{self, NonNull},
};
use kernel::{
    error::{to_result, Error, Result},
    prelude::*,
    str::CStr, //
};

/// An attribute of a request, which the family's policy has accepted.
#[derive(Clone, Copy)]
pub struct Attr<'a> {
    raw: *const bindings::nlattr,
    payload: &'a [u8],
}

impl<'a> Attr<'a> {
    /// Borrows the attribute.
    ///
    /// # Safety
    ///
    /// `raw` must be a valid attribute with its payload behind it, for `'a`.
    unsafe fn from_raw(raw: *const bindings::nlattr) -> Self {
        // SAFETY: The caller says that the header and the payload are valid.
        let payload = unsafe {
            let len = usize::from((*raw).nla_len).saturating_sub(size_of::<bindings::nlattr>());
            core::slice::from_raw_parts(raw.add(1).cast(), len)
        };
        Self { raw, payload }
    }

    /// The bytes of the attribute.
    pub fn bytes(&self) -> &'a [u8] {
        self.payload
    }

    /// The string of the attribute, without the byte that ends it.
    pub fn text(&self) -> &'a [u8] {
        match self.payload.iter().position(|&byte| byte == 0) {
            Some(end) => self.payload.get(..end).unwrap_or_default(),
            None => self.payload,
        }
    }

    /// The value of a `u16`; 0 if the attribute is too short for one.
    pub fn u16(&self) -> u16 {
        self.payload
            .first_chunk()
            .map_or(0, |bytes| u16::from_ne_bytes(*bytes))
    }

    /// The value of a `u32`; 0 if the attribute is too short for one.
    pub fn u32(&self) -> u32 {
        self.payload
            .first_chunk()
            .map_or(0, |bytes| u32::from_ne_bytes(*bytes))
    }
}

/// Why a request is refused.
pub struct Refusal<'a> {
    /// What the user reads. It begins with the name of the attribute, and says what is allowed.
    pub text: &'static CStr,
    /// What the call returns.
    pub error: Error,
    /// The attribute at fault.
    pub at: At<'a>,
}

/// Where a refused request is at fault.
pub enum At<'a> {
    /// Nowhere in particular.
    Request,
    /// In an attribute that it has.
    Attr(Attr<'a>),
    /// In an attribute of this number that it lacks.
    Missing(u32),
}

impl From<Error> for Refusal<'_> {
    fn from(error: Error) -> Self {
        Self {
            text: c"",
            error,
            at: At::Request,
        }
    }
}

/// A request that is answered at once.
///
/// # Invariants
///
/// `info` is valid, and `maxattr` is the greatest index of its array of attributes, if it has one.
pub struct Request<'a> {
    info: NonNull<bindings::genl_info>,
    maxattr: u32,
    /// The attribute that is to be wiped in the end.
    secret: Cell<Option<u32>>,
    _info: PhantomData<&'a bindings::genl_info>,
}

impl<'a> Request<'a> {
    /// Borrows the request.
    ///
    /// # Safety
    ///
    /// `info` must be what generic netlink passed to a `doit` callback, and `'a` must not outlive that
    /// call.
    unsafe fn from_raw(info: NonNull<bindings::genl_info>) -> Self {
        // SAFETY: Generic netlink fills the structure in, and found the callback in the table of the
        // family. It sizes the array of attributes by the `maxattr` of that entry.
        let maxattr = unsafe {
            let family = (*info.as_ptr()).family;
            let command = (*(*info.as_ptr()).genlhdr).cmd;
            let ops = core::slice::from_raw_parts(
                (*family).split_ops,
                usize::from((*family).n_split_ops),
            );
            let is_do = |op: &&bindings::genl_split_ops| {
                op.cmd == command && u32::from(op.flags) & bindings::GENL_CMD_CAP_DO != 0
            };
            ops.iter().find(is_do).map_or(0, |op| op.maxattr)
        };
        // INVARIANT: The caller says that `info` is valid; `maxattr` was just looked up.
        Self {
            info,
            maxattr,
            secret: Cell::new(None),
            _info: PhantomData,
        }
    }

    /// The namespace of the socket that the request came from.
    pub fn net(&self) -> &'a Net {
        // SAFETY: By the type invariant; the socket keeps its namespace.
        unsafe { Net::from_raw(bindings::genl_info_net(self.info.as_ptr())) }
    }

    /// The attribute of this number.
    pub fn attr(&self, number: u32) -> Option<Attr<'a>> {
        // SAFETY: By the type invariant.
        let attrs = unsafe { (*self.info.as_ptr()).attrs };
        if attrs.is_null() || number > self.maxattr {
            return None;
        }
        // SAFETY: By the type invariant the array has such an element: null or an attribute of the
        // message, which was validated. CAST: The kernel's `usize` has 32 bits or more.
        unsafe {
            let raw: *const _ = *attrs.add(number as usize);
            (!raw.is_null()).then(|| Attr::from_raw(raw))
        }
    }

    /// All attributes of this number, in the order in which they were sent.
    pub fn attrs(&self, number: u32) -> impl Iterator<Item = Attr<'a>> + '_ {
        let mut last: *const bindings::nlattr = ptr::null();
        core::iter::from_fn(move || {
            self.attr(number)?;
            // SAFETY: By the type invariant; `last` is null or an attribute of the message. Each that
            // is found was validated as the others of its number, and lives as long as they.
            unsafe {
                // CAST: The number of an attribute has 16 bits.
                last = bindings::genl_next_attr(self.info.as_ptr(), last, number as c_int);
                (!last.is_null()).then(|| Attr::from_raw(last))
            }
        })
        .fuse()
    }

    /// The attribute of this number, or a refusal with this text. It is overwritten when the request
    /// has been answered.
    pub fn need_secret(&self, number: u32, text: &'static CStr) -> Result<Attr<'a>, Refusal<'a>> {
        self.secret.set(Some(number));
        self.need(number, text)
    }

    /// Overwrites the secret. Nobody may read attributes any more.
    fn wipe(self) {
        if let Some(attr) = self.secret.get().and_then(|number| self.attr(number)) {
            let (raw, len) = (attr.raw.cast_mut(), attr.payload.len());
            // SAFETY: The payload is part of the message, which the kernel made for this request and
            // frees after it; its callbacks may write to it. Nobody borrows it any more: the request,
            // which all attributes borrow from, is ours.
            unsafe { bindings::memzero_explicit(raw.add(1).cast(), len) };
        }
    }

    /// The attribute of this number, or a refusal with this text.
    pub fn need(&self, number: u32, text: &'static CStr) -> Result<Attr<'a>, Refusal<'a>> {
        self.attr(number).ok_or(Refusal {
            text,
            error: EINVAL,
            at: At::Missing(number),
        })
    }

    /// Puts a refusal into the extended acknowledgement.
    fn refuse(&self, refusal: &Refusal<'_>) -> Error {
        // SAFETY: By the type invariant. The acknowledgement is null or valid during the callback; it
        // may point into the request, and to text that outlives the family.
        unsafe {
            if let Some(extack) = (*self.info.as_ptr()).extack.as_mut() {
                if !refusal.text.is_empty() {
                    extack._msg = refusal.text.as_char_ptr();
                }
                match refusal.at {
                    At::Request => {}
                    At::Attr(attr) => extack.bad_attr = attr.raw,
                    // CAST: The number of an attribute has 16 bits.
                    At::Missing(number) => extack.miss_type = number as u16,
                }
            }
        }
        refusal.error
    }

    /// Answers the request with one message, which `fill` writes.
    pub fn reply(&self, family: &Family, fill: impl FnOnce(&mut Message<'_>) -> Result) -> Result {
        // SAFETY: An allocation; the message is freed or sent below.
        let skb = NonNull::new(unsafe { bindings::genlmsg_new() }).ok_or(ENOMEM)?;
        // SAFETY: By the type invariant.
        let (portid, seq, command) = unsafe {
            let info = self.info.as_ref();
            (info.snd_portid, info.snd_seq, (*info.genlhdr).cmd.into())
        };
        // SAFETY: The message is our own.
        if let Err(err) = unsafe { Message::write(skb, portid, seq, family, 0, command, fill) } {
            // SAFETY: Nobody else has the message.
            unsafe { bindings::nlmsg_free(skb.as_ptr()) };
            return Err(err);
        }
        // SAFETY: The message is whole; the call takes it over.
        to_result(unsafe { bindings::genlmsg_reply(skb.as_ptr(), self.info.as_ptr()) })
    }
}

/// What [`genl_doit!`](crate::genl_doit) expands to.
///
/// # Safety
///
/// `info` must be what generic netlink passed to a `doit` callback.
#[doc(hidden)]
pub unsafe fn doit(
    info: *mut c_void,
    run: impl for<'r, 'a> FnOnce(&'r Request<'a>) -> Result<(), Refusal<'a>>,
) -> c_int {
    let Some(info) = NonNull::new(info.cast()) else {
        return EINVAL.to_errno();
    };
    // SAFETY: The caller says so.
    let request = unsafe { Request::from_raw(info) };
    let status = match run(&request) {
        Ok(()) => 0,
        Err(refusal) => request.refuse(&refusal).to_errno(),
    };
    // What `run` read of the request it cannot have kept.
    request.wipe();
    status
}
