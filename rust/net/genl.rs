// SPDX-License-Identifier: GPL-2.0

//! Generic netlink: requests, replies and dumps of a family whose tables are generated from a YAML
//! description.
//!
//! The kernel's generator makes the `genl_family`, its policies and the prototypes of the callbacks;
//! [`genl_doit!`](crate::genl_doit) and [`genl_dumpit!`](crate::genl_dumpit) define the callbacks,
//! each of which calls one safe function.
//!
//! C header: [`include/net/genetlink.h`](srctree/include/net/genetlink.h)

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
    str::CStr,
    types::Opaque, //
};

/// A family, as the generated C defines it.
#[repr(transparent)]
pub struct Family(Opaque<bindings::genl_family>);

// SAFETY: Generic netlink serialises what it writes to a family.
unsafe impl Sync for Family {}

/// Keeps a family registered.
///
/// Once this is dropped, none of the family's callbacks runs or will run.
pub struct Registration(&'static Family);

impl Registration {
    /// Registers the family. Requests may come in before this returns.
    pub fn new(family: &'static Family) -> Result<Self> {
        // SAFETY: The family lives as long as the module, and the generated code filled it in.
        to_result(unsafe { bindings::genl_register_family(family.0.get()) })?;
        Ok(Self(family))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: The family is registered. It fails only for one that is not.
        unsafe { bindings::genl_unregister_family(self.0 .0.get()) };
    }
}

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

/// A message that is being written.
///
/// # Invariants
///
/// The buffer is valid and nobody else writes to it.
pub struct Message<'a> {
    skb: NonNull<bindings::sk_buff>,
    _skb: PhantomData<&'a mut bindings::sk_buff>,
}

impl Message<'_> {
    /// Appends a message to `skb`, or leaves it as it was.
    ///
    /// # Safety
    ///
    /// `skb` must be a netlink buffer that nobody else writes to.
    unsafe fn write(
        skb: NonNull<bindings::sk_buff>,
        portid: u32,
        seq: u32,
        family: &Family,
        flags: c_int,
        command: u32,
        fill: impl FnOnce(&mut Message<'_>) -> Result,
    ) -> Result<*mut c_void> {
        // SAFETY: The caller says that the buffer may be written to; the family is registered.
        let header = unsafe {
            // CAST: The number of a command has 8 bits.
            bindings::genlmsg_put(
                skb.as_ptr(),
                portid,
                seq,
                family.0.get(),
                flags,
                command as u8,
            )
        };
        if header.is_null() {
            return Err(EMSGSIZE);
        }
        // INVARIANT: The caller says so.
        let mut message = Message {
            skb,
            _skb: PhantomData,
        };
        match fill(&mut message) {
            // SAFETY: The header was put into this buffer above.
            Ok(()) => unsafe { bindings::genlmsg_end(skb.as_ptr(), header) },
            Err(err) => {
                // SAFETY: As above.
                unsafe { bindings::genlmsg_cancel(skb.as_ptr(), header) };
                return Err(err);
            }
        }
        Ok(header)
    }

    /// Puts an attribute of these bytes.
    pub fn put(&mut self, number: u32, bytes: &[u8]) -> Result {
        let len = c_int::try_from(bytes.len()).map_err(|_| EMSGSIZE)?;
        // SAFETY: By the type invariant; `bytes` is read only.
        to_result(unsafe {
            bindings::nla_put(
                self.skb.as_ptr(),
                number as c_int, // CAST: The number of an attribute has 16 bits.
                len,
                bytes.as_ptr().cast(),
            )
        })
    }

    /// Puts a string, of which the bytes are those before the one that ends it.
    pub fn put_text(&mut self, number: u32, text: &[u8]) -> Result {
        let len = c_int::try_from(text.len())
            .ok()
            .and_then(|len| len.checked_add(1))
            .ok_or(EMSGSIZE)?;
        // SAFETY: By the type invariant. The room of the attribute holds the text and one byte more.
        // CAST: The number of an attribute has 16 bits.
        unsafe {
            let attr = bindings::nla_reserve(self.skb.as_ptr(), number as c_int, len);
            if attr.is_null() {
                return Err(EMSGSIZE);
            }
            let to: *mut u8 = attr.add(1).cast();
            ptr::copy_nonoverlapping(text.as_ptr(), to, text.len());
            to.add(text.len()).write(0);
        }
        Ok(())
    }

    /// Puts a `u16`.
    pub fn put_u16(&mut self, number: u32, value: u16) -> Result {
        self.put(number, &value.to_ne_bytes())
    }

    /// Puts a `u32`.
    pub fn put_u32(&mut self, number: u32, value: u32) -> Result {
        self.put(number, &value.to_ne_bytes())
    }

    /// Puts a `uint`, which takes 8 bytes only if it must.
    pub fn put_uint(&mut self, number: u32, value: u64) -> Result {
        match u32::try_from(value) {
            Ok(value) => self.put_u32(number, value),
            Err(_) => self.put(number, &value.to_ne_bytes()),
        }
    }

    /// Puts a flag, if it is set.
    pub fn put_flag(&mut self, number: u32, value: bool) -> Result {
        match value {
            true => self.put(number, &[]),
            false => Ok(()),
        }
    }
}

/// A dump under way: one buffer is to be filled, and the next begins where this one ends.
///
/// # Invariants
///
/// Both pointers are valid, and nobody else uses the buffer.
pub struct Dump<'a> {
    skb: NonNull<bindings::sk_buff>,
    cb: NonNull<bindings::netlink_callback>,
    _cb: PhantomData<&'a mut bindings::netlink_callback>,
}

/// What a dump remembers from one buffer to the next. It is all zeroes at first.
pub type Cursor = [u64; 4];

impl<'a> Dump<'a> {
    /// Borrows the dump.
    ///
    /// # Safety
    ///
    /// The pointers must be what netlink passed to a `dumpit` callback, and `'a` must not outlive that
    /// call.
    unsafe fn from_raw(
        skb: NonNull<bindings::sk_buff>,
        cb: NonNull<bindings::netlink_callback>,
    ) -> Self {
        // INVARIANT: The caller says so.
        Self {
            skb,
            cb,
            _cb: PhantomData,
        }
    }

    /// The namespace of the socket that the request came from.
    pub fn net(&self) -> &'a Net {
        // SAFETY: By the type invariant; the socket keeps its namespace.
        unsafe { Net::from_raw(bindings::netlink_callback_net(self.cb.as_ptr())) }
    }

    /// Where the dump is.
    pub fn cursor(&mut self) -> &mut Cursor {
        const {
            // What the C union has room for, which is aligned for pointers.
            assert!(size_of::<Cursor>() <= bindings::NETLINK_CTX_SIZE as usize);
            assert!(align_of::<Cursor>() <= align_of::<*mut c_void>());
        };
        // SAFETY: By the type invariant. The room is the callback's own, and any bytes are a cursor.
        unsafe { &mut *ptr::addr_of_mut!((*self.cb.as_ptr()).__bindgen_anon_1).cast() }
    }

    /// Says which state of affairs the entries that follow belong to. When it changes during a dump,
    /// user space is told so.
    pub fn set_generation(&mut self, generation: u32) {
        // SAFETY: By the type invariant. Netlink takes 0 for "not known".
        unsafe { (*self.cb.as_ptr()).seq = generation.max(1) };
    }

    /// Adds an entry, which `fill` writes. `EMSGSIZE` says that the buffer is full.
    pub fn entry(
        &mut self,
        family: &Family,
        command: u32,
        fill: impl FnOnce(&mut Message<'_>) -> Result,
    ) -> Result {
        // SAFETY: By the type invariant; netlink gave the socket's own buffer.
        let (portid, seq) = unsafe {
            let request = (*self.cb.as_ptr()).skb;
            let control = ptr::addr_of!((*request).cb).cast::<bindings::netlink_skb_parms>();
            ((*control).portid, (*(*self.cb.as_ptr()).nlh).nlmsg_seq)
        };
        // CAST: A flag of 16 bits.
        let flags = bindings::NLM_F_MULTI as c_int;
        // SAFETY: By the type invariant nobody else writes to the buffer.
        unsafe {
            let header = Message::write(self.skb, portid, seq, family, flags, command, fill)?;
            bindings::genl_dump_check_consistent(self.cb.as_ptr(), header);
        }
        Ok(())
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

/// What [`genl_dumpit!`](crate::genl_dumpit) expands to.
///
/// # Safety
///
/// The pointers must be what netlink passed to a `dumpit` callback.
#[doc(hidden)]
pub unsafe fn dumpit(
    skb: *mut c_void,
    cb: *mut c_void,
    run: impl FnOnce(&mut Dump<'_>) -> Result,
) -> c_int {
    let (Some(skb), Some(cb)) = (
        NonNull::<bindings::sk_buff>::new(skb.cast()),
        NonNull::new(cb.cast()),
    ) else {
        return EINVAL.to_errno();
    };
    // SAFETY: The caller says so.
    let mut dump = unsafe { Dump::from_raw(skb, cb) };
    match run(&mut dump) {
        // Nothing follows.
        Ok(()) => 0,
        Err(err) => {
            // SAFETY: The buffer is valid during the callback.
            let len = unsafe { skb.as_ref().len };
            // What fits is sent, and the callback called again. An entry that does not fit into an
            // empty buffer never will.
            match c_int::try_from(len) {
                Ok(len) if err == EMSGSIZE && len > 0 => len,
                _ => err.to_errno(),
            }
        }
    }
}

/// A dump that keeps something from its first buffer to its last.
pub trait DumpState {
    /// What it keeps.
    type Of<'a>: Send;

    /// Makes it, for a dump of this namespace. Process context.
    fn begin(net: &Net) -> Result<Self::Of<'_>>;

    /// Fills a buffer. Process context.
    fn fill(state: &mut Self::Of<'_>, dump: &mut Dump<'_>) -> Result;
}

/// What [`genl_dump!`](crate::genl_dump) expands to.
///
/// # Safety
///
/// `cb` must be what netlink passed to a `start` callback.
#[doc(hidden)]
pub unsafe fn dump_start<D: DumpState>(cb: *mut bindings::netlink_callback) -> c_int {
    let begin = || {
        // SAFETY: The callback is valid. The socket keeps its namespace, and netlink the module,
        // until `done` has been called, which drops what is made here.
        let net: &'static Net = unsafe { Net::from_raw(bindings::netlink_callback_net(cb)) };
        Ok(KBox::new(D::begin(net)?, GFP_KERNEL)?)
    };
    match begin() {
        Ok(state) => {
            // SAFETY: The callback is valid, and has room for a pointer that is nobody else's.
            unsafe {
                ptr::addr_of_mut!((*cb).__bindgen_anon_1)
                    .cast::<*mut D::Of<'static>>()
                    .write(KBox::into_raw(state));
            }
            0
        }
        Err(err) => Error::to_errno(err),
    }
}

/// What [`genl_dump!`](crate::genl_dump) expands to.
///
/// # Safety
///
/// The pointers must be what netlink passed to a `dumpit` callback whose `start` was
/// [`dump_start`] of the same `D`, and succeeded.
#[doc(hidden)]
pub unsafe fn dump_fill<D: DumpState>(
    skb: *mut c_void,
    cb: *mut bindings::netlink_callback,
) -> c_int {
    // SAFETY: `start` put the pointer there, and netlink fills one buffer of a dump at a time.
    let state =
        unsafe { &mut **ptr::addr_of_mut!((*cb).__bindgen_anon_1).cast::<*mut D::Of<'static>>() };
    // SAFETY: The caller says so.
    unsafe { dumpit(skb, cb.cast(), |dump| D::fill(state, dump)) }
}

/// What [`genl_dump!`](crate::genl_dump) expands to.
///
/// # Safety
///
/// `cb` must be what netlink passed to a `done` callback whose `start` was [`dump_start`] of the
/// same `D`, and succeeded.
#[doc(hidden)]
pub unsafe fn dump_done<D: DumpState>(cb: *mut bindings::netlink_callback) -> c_int {
    // SAFETY: `start` put the pointer there, which came from a box; nobody uses it after this.
    drop(unsafe {
        KBox::from_raw(
            ptr::addr_of_mut!((*cb).__bindgen_anon_1)
                .cast::<*mut D::Of<'static>>()
                .read(),
        )
    });
    0
}

/// Defines the callbacks `$start`, `$dumpit` and `$done` of a dump that is a [`DumpState`].
#[macro_export]
macro_rules! genl_dump {
    ($($start:ident, $dumpit:ident, $done:ident => $dump:ty;)*) => { $(
        /// Begins a dump.
        ///
        /// # Safety
        ///
        /// Only called by generic netlink.
        #[no_mangle]
        pub unsafe extern "C" fn $start(
            cb: *mut $crate::bindings::netlink_callback,
        ) -> ::kernel::ffi::c_int {
            // SAFETY: The pointer is netlink's.
            unsafe { $crate::genl::dump_start::<$dump>(cb) }
        }

        /// Fills a buffer of a dump.
        ///
        /// # Safety
        ///
        /// Only called by generic netlink.
        #[no_mangle]
        pub unsafe extern "C" fn $dumpit(
            skb: *mut ::kernel::ffi::c_void,
            cb: *mut $crate::bindings::netlink_callback,
        ) -> ::kernel::ffi::c_int {
            // SAFETY: The pointers are netlink's, which has called `$start` before.
            unsafe { $crate::genl::dump_fill::<$dump>(skb, cb) }
        }

        /// Ends a dump.
        ///
        /// # Safety
        ///
        /// Only called by generic netlink.
        #[no_mangle]
        pub unsafe extern "C" fn $done(
            cb: *mut $crate::bindings::netlink_callback,
        ) -> ::kernel::ffi::c_int {
            // SAFETY: The pointer is netlink's, which has called `$start` before.
            unsafe { $crate::genl::dump_done::<$dump>(cb) }
        }
    )* };
}

/// Declares the generated family `$symbol` as the static `$name`.
#[macro_export]
macro_rules! genl_family {
    ($(#[$meta:meta])* $vis:vis static $name:ident = $symbol:ident;) => {
        // SAFETY: The generated code defines it, and generic netlink serialises what it writes to it.
        unsafe extern "C" {
            $(#[$meta])*
            #[link_name = stringify!($symbol)]
            $vis safe static $name: $crate::genl::Family;
        }
    };
}

/// Defines the `doit` callback `$symbol`, which calls the safe function `$run`.
#[macro_export]
macro_rules! genl_doit {
    ($($symbol:ident => $run:path;)*) => { $(
        /// Answers a request.
        ///
        /// # Safety
        ///
        /// Only called by generic netlink.
        #[no_mangle]
        pub unsafe extern "C" fn $symbol(
            _skb: *mut ::kernel::ffi::c_void,
            info: *mut ::kernel::ffi::c_void,
        ) -> ::kernel::ffi::c_int {
            // SAFETY: The pointer is generic netlink's.
            unsafe { $crate::genl::doit(info, |request| $run(request)) }
        }
    )* };
}

/// Defines the `dumpit` callback `$symbol`, which calls the safe function `$run`.
#[macro_export]
macro_rules! genl_dumpit {
    ($($symbol:ident => $run:path;)*) => { $(
        /// Fills a buffer of a dump.
        ///
        /// # Safety
        ///
        /// Only called by generic netlink.
        #[no_mangle]
        pub unsafe extern "C" fn $symbol(
            skb: *mut ::kernel::ffi::c_void,
            cb: *mut ::kernel::ffi::c_void,
        ) -> ::kernel::ffi::c_int {
            // SAFETY: The pointers are netlink's.
            unsafe { $crate::genl::dumpit(skb, cb, |dump| $run(dump)) }
        }
    )* };
}
