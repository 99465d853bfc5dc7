// SPDX-License-Identifier: GPL-2.0

//! Files in sysfs that are about a network namespace.
//!
//! A [`Root`] is a folder below `/sys/kernel`. In it every namespace has a [`Folder`] of the same
//! name, of which each mount of sysfs shows the one of its own namespace. The files of a folder are
//! statics: a [`File`] is one value, a [`Group`] some files, in a folder of their own or not.
//!
//! C headers: [`include/linux/sysfs.h`](srctree/include/linux/sysfs.h),
//! [`include/linux/kobject.h`](srctree/include/linux/kobject.h)

use crate::{
    bindings,
    pernet::{
        Net,
        NetRef, //
    },
};
use core::{
    fmt,
    marker::PhantomData,
    ptr::{
        self,
        NonNull, //
    },
};
use kernel::{
    error::to_result,
    page::PAGE_SIZE,
    prelude::*,
    str::CStrExt,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            AtomicFlag,
            Full,
            Release, //
        },
        Completion, //
    },
    types::Opaque, //
};

/// A file: its name, its mode, and a number by which its owner knows it.
#[repr(C)]
pub struct File {
    attr: bindings::attribute,
    number: usize,
}

// SAFETY: It is never written to, and points to nothing but its name, which is a static.
unsafe impl Sync for File {}

impl File {
    /// A file that everybody may read.
    pub const fn readable(name: &'static CStr, number: usize) -> Self {
        Self::new(name, number, 0o444)
    }

    /// A file that everybody may read, and the administrator of the namespace may write.
    pub const fn writable(name: &'static CStr, number: usize) -> Self {
        Self::new(name, number, 0o644)
    }

    const fn new(name: &'static CStr, number: usize, mode: bindings::umode_t) -> Self {
        // SAFETY: All zeroes is a valid value. Kernels with lockdep have more fields, which are to
        // be zero.
        let mut attr: bindings::attribute = unsafe { core::mem::zeroed() };
        attr.name = kernel::str::as_char_ptr_in_const_context(name);
        attr.mode = mode;
        Self { attr, number }
    }
}

/// The list of the files of a group. `N` is one more than there are.
#[repr(transparent)]
pub struct List<const N: usize>([*const bindings::attribute; N]);

// SAFETY: It is never written to, and points to statics that may be shared.
unsafe impl<const N: usize> Sync for List<N> {}

impl<const N: usize> List<N> {
    /// A list of these files.
    pub const fn new(files: &'static [File]) -> Self {
        assert!(files.len() + 1 == N, "a null ends the list");
        let mut list = [ptr::null(); N];
        let mut i = 0;
        while i < files.len() {
            list[i] = &raw const files[i].attr;
            i += 1;
        }
        Self(list)
    }
}

/// Some files.
#[repr(transparent)]
pub struct Group(bindings::attribute_group);

// SAFETY: It is never written to, and points to statics that may be shared.
unsafe impl Sync for Group {}

impl Group {
    /// Files right in the namespace's folder.
    pub const fn flat<const N: usize>(list: &'static List<N>) -> Self {
        Self::new(ptr::null(), list)
    }

    /// Files in a folder of this name.
    pub const fn folder<const N: usize>(name: &'static CStr, list: &'static List<N>) -> Self {
        Self::new(kernel::str::as_char_ptr_in_const_context(name), list)
    }

    const fn new<const N: usize>(name: *const c_char, list: &'static List<N>) -> Self {
        // SAFETY: All zeroes is a valid value.
        let mut group: bindings::attribute_group = unsafe { core::mem::zeroed() };
        group.name = name;
        group.__bindgen_anon_2.attrs_const = list.0.as_ptr();
        Self(group)
    }
}

/// The list of the groups of a folder. `N` is one more than there are.
#[repr(transparent)]
pub struct Groups<const N: usize>([*const bindings::attribute_group; N]);

// SAFETY: It is never written to, and points to statics that may be shared.
unsafe impl<const N: usize> Sync for Groups<N> {}

impl<const N: usize> Groups<N> {
    /// A list of these groups.
    pub const fn new(groups: &'static [Group]) -> Self {
        assert!(groups.len() + 1 == N, "a null ends the list");
        let mut list = [ptr::null(); N];
        let mut i = 0;
        while i < groups.len() {
            list[i] = &raw const groups[i].0;
            i += 1;
        }
        Self(list)
    }

    /// For [`Files::GROUPS`].
    pub const fn list(&'static self) -> GroupList {
        GroupList(self.0.as_ptr())
    }
}

/// The groups of a kind of folder.
///
/// # Invariants
///
/// It points to a static [`Groups`].
#[derive(Clone, Copy)]
pub struct GroupList(*const *const bindings::attribute_group);

/// What the files of a folder hold.
pub trait Files: 'static {
    /// The files that there are.
    const GROUPS: GroupList;

    /// Writes what a file holds. Process context.
    fn show(net: &Net, file: usize, to: &mut Page<'_>) -> Result;

    /// Takes what was written to a file. If it is no good nothing changes. The writer may administrate
    /// the namespace. Process context.
    fn store(net: &Net, file: usize, text: &[u8]) -> Result;
}

/// What a reader of a file gets.
///
/// # Invariants
///
/// `buffer` may be written to, for a page's size, of which `len` bytes were.
pub struct Page<'a> {
    buffer: NonNull<u8>,
    len: usize,
    _buffer: PhantomData<&'a mut [u8]>,
}

impl fmt::Write for Page<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len.checked_add(text.len()).ok_or(fmt::Error)?;
        if end > PAGE_SIZE {
            return Err(fmt::Error);
        }
        // SAFETY: By the type invariant; the end was just checked.
        unsafe {
            let at = self.buffer.as_ptr().add(self.len);
            ptr::copy_nonoverlapping(text.as_ptr(), at, text.len());
        }
        // INVARIANT: So much was written.
        self.len = end;
        Ok(())
    }
}

/// A kobject that its owner waits for.
#[pin_data]
struct Object {
    kobj: Opaque<bindings::kobject>,
    /// Only in a [`Folder`]. It outlives the object.
    net: Option<NetRef>,
    /// In sysfs.
    present: AtomicFlag,
    /// Nobody refers to it any more.
    #[pin]
    released: Completion,
}

// SAFETY: What C does to the kobject may be done by any thread.
unsafe impl Send for Object {}
// SAFETY: As above, several at a time.
unsafe impl Sync for Object {}

impl Object {
    /// Makes an object and its folder in sysfs.
    ///
    /// # Safety
    ///
    /// `parent` must be a valid kobject, and `ktype` one of those below that fits: its callbacks find
    /// an `Object` around the kobject, with a namespace if they want one.
    unsafe fn add(
        name: &CStr,
        net: Option<NetRef>,
        parent: *mut bindings::kobject,
        ktype: &'static bindings::kobj_type,
    ) -> Result<Owned> {
        let object = Owned(KBox::pin_init(
            pin_init!(Self {
                // Zeroes, as kobjects must be at first.
                kobj: Opaque::new(bindings::kobject::default()),
                net,
                present: AtomicFlag::new(false),
                released <- Completion::new(),
            }),
            GFP_KERNEL,
        )?);
        // SAFETY: The kobject is zeroed and pinned, and will not be freed before it is released. Its
        // name is copied. Even if this fails, the kobject is initialised then.
        to_result(unsafe {
            bindings::kobject_init_and_add(
                object.0.kobj.get(),
                ktype,
                parent,
                c"%s".as_char_ptr(),
                name.as_char_ptr(),
            )
        })?;
        object.0.present.store(true, Release);
        Ok(object)
    }

    /// Takes the folder out of sysfs. When this returns, none of its files is being read or written.
    fn remove(&self) {
        if self.present.xchg(false, Full) {
            // SAFETY: The kobject was added by `add`.
            unsafe { bindings::kobject_del(self.kobj.get()) };
        }
    }

    /// Finds the object around its kobject.
    ///
    /// # Safety
    ///
    /// `kobj` must be part of an `Object` that is valid for `'a`.
    unsafe fn around<'a>(kobj: *const bindings::kobject) -> &'a Self {
        let kobj: *const Opaque<bindings::kobject> = kobj.cast();
        // SAFETY: The caller says so.
        unsafe { &*kernel::container_of!(kobj, Self, kobj) }
    }

    /// The last reference is gone.
    ///
    /// # Safety
    ///
    /// Called by kobject_put() only.
    unsafe extern "C" fn release(kobj: *mut bindings::kobject) {
        // SAFETY: Its owner waits for this before it frees the object.
        unsafe { Self::around(kobj) }.released.complete_all();
    }
}

/// Owns an [`Object`], whose kobject was initialised.
struct Owned(Pin<KBox<Object>>);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.remove();
        // SAFETY: The kobject was initialised, and this is the owner's reference.
        unsafe { bindings::kobject_put(self.0.kobj.get()) };
        self.0.released.wait_for_completion();
    }
}

/// A folder below `/sys/kernel`, in which every namespace sees its own.
///
/// # Invariants
///
/// The pointer is null, or that of a kobject that is there until it is null again.
pub struct Root(Atomic<*mut bindings::kobject>);

impl Root {
    /// There is no folder yet.
    #[expect(clippy::new_without_default)] // A static needs a const.
    pub const fn new() -> Self {
        Self(Atomic::new(ptr::null_mut()))
    }

    /// Makes the folder, for as long as the result is there. It must outlive all [`Folder`]s in it.
    pub fn create(&'static self, name: &CStr) -> Result<RootRegistration> {
        // SAFETY: The parent is there always. The type wants no namespace.
        let object = unsafe { Object::add(name, None, bindings::kernel_kobj, &ROOT_TYPE.0)? };
        // INVARIANT: The registration clears it before the kobject goes.
        self.0.store(object.0.kobj.get(), Release);
        Ok(RootRegistration {
            root: self,
            _object: object,
        })
    }
}

/// Keeps the folder of a [`Root`].
pub struct RootRegistration {
    root: &'static Root,
    _object: Owned,
}

impl Drop for RootRegistration {
    fn drop(&mut self) {
        self.root.0.store(ptr::null_mut(), Release);
    }
}

/// What can be a static although it has pointers.
#[repr(transparent)]
struct Constant<T>(T);

// SAFETY: It is never written to, and points to statics.
unsafe impl<T> Sync for Constant<T> {}

/// The type of a [`Root`]'s object.
static ROOT_TYPE: Constant<bindings::kobj_type> = Constant(bindings::kobj_type {
    release: Some(Object::release),
    sysfs_ops: ptr::null(),
    default_groups: ptr::null_mut(),
    child_ns_type: Some(root_child_ns_type),
    namespace: None,
    get_ownership: None,
});

/// Says that what is in a [`Root`] belongs to network namespaces.
///
/// # Safety
///
/// Called by the driver core only.
unsafe extern "C" fn root_child_ns_type(
    _kobj: *const bindings::kobject,
) -> *const bindings::kobj_ns_type_operations {
    &raw const bindings::net_ns_type_operations
}

/// The folder of a namespace, with files of the kind `T`.
///
/// It belongs into state of the namespace, which outlives it in any case.
pub struct Folder<T: Files> {
    object: Owned,
    _files: PhantomData<T>,
}

impl<T: Files> Folder<T> {
    const OPS: bindings::sysfs_ops = bindings::sysfs_ops {
        show: Some(Self::show),
        store: Some(Self::store),
    };

    const TYPE: bindings::kobj_type = bindings::kobj_type {
        release: Some(Object::release),
        sysfs_ops: &Self::OPS,
        default_groups: T::GROUPS.0.cast_mut(),
        child_ns_type: None,
        namespace: Some(Self::namespace),
        get_ownership: Some(Self::get_ownership),
    };

    /// Makes the folder, whose files can be read and written before this returns. Errors: `ENODEV` if
    /// the root is not there. Process context.
    pub fn new(root: &'static Root, name: &CStr, net: NetRef) -> Result<Self> {
        let parent = root.0.load(Acquire);
        if parent.is_null() {
            return Err(ENODEV);
        }
        // SAFETY: By the invariant of `Root`, whose registration outlives this. The object has a
        // namespace, and nobody writes to the type.
        let object = unsafe { Object::add(name, Some(net), parent, &Self::TYPE)? };
        Ok(Self {
            object,
            _files: PhantomData,
        })
    }

    /// Takes the folder out of sysfs. When this returns, none of its files is being read or written.
    pub fn remove(&self) {
        self.object.0.remove();
    }

    /// The namespace that a folder belongs to.
    ///
    /// # Safety
    ///
    /// Called by the driver core only, with a kobject of this type.
    unsafe extern "C" fn namespace(kobj: *const bindings::kobject) -> *const bindings::ns_common {
        // SAFETY: The kobject is that of a folder.
        match unsafe { &Object::around(kobj).net } {
            // SAFETY: The namespace outlives the folder.
            Some(net) => unsafe { &raw const (*net.as_ptr()).ns },
            None => ptr::null(),
        }
    }

    /// The users who own the files of a folder: root, as the namespace sees it.
    ///
    /// # Safety
    ///
    /// Called by the driver core only, with a kobject of this type.
    unsafe extern "C" fn get_ownership(
        kobj: *const bindings::kobject,
        uid: *mut bindings::kuid_t,
        gid: *mut bindings::kgid_t,
    ) {
        // SAFETY: The kobject is that of a folder.
        if let Some(net) = unsafe { &Object::around(kobj).net } {
            // SAFETY: The namespace outlives the folder; the numbers are the driver core's.
            unsafe { bindings::net_ns_get_ownership(net.as_ptr(), uid, gid) };
        }
    }

    /// Which file an attribute is.
    ///
    /// # Safety
    ///
    /// `attr` must be one of the files of `T`.
    unsafe fn number(attr: *mut bindings::attribute) -> usize {
        // SAFETY: The caller says so; files are made of nothing but `File`s.
        unsafe { (*kernel::container_of!(attr, File, attr)).number }
    }

    /// Reads a file.
    ///
    /// # Safety
    ///
    /// Called by sysfs only, with a kobject of this type.
    unsafe extern "C" fn show(
        kobj: *mut bindings::kobject,
        attr: *mut bindings::attribute,
        buffer: *mut c_char,
    ) -> isize {
        // SAFETY: The kobject is that of a folder, the attribute one of its files.
        let (object, file) = unsafe { (Object::around(kobj), Self::number(attr)) };
        let (Some(net), Some(buffer)) = (&object.net, NonNull::new(buffer.cast())) else {
            return to_size(Err(EIO));
        };
        // INVARIANT: Sysfs gives a page.
        let mut page = Page {
            buffer,
            len: 0,
            _buffer: PhantomData,
        };
        to_size(T::show(net, file, &mut page).map(|()| page.len))
    }

    /// Writes a file.
    ///
    /// # Safety
    ///
    /// Called by sysfs only, with a kobject of this type.
    unsafe extern "C" fn store(
        kobj: *mut bindings::kobject,
        attr: *mut bindings::attribute,
        buffer: *const c_char,
        len: usize,
    ) -> isize {
        // SAFETY: The kobject is that of a folder, the attribute one of its files, and the buffer has
        // so many bytes.
        let (object, file, text) = unsafe {
            let text = core::slice::from_raw_parts(buffer.cast::<u8>(), len);
            (Object::around(kobj), Self::number(attr), text)
        };
        let Some(net) = &object.net else {
            return to_size(Err(EIO));
        };
        to_size(match net.may_administrate() {
            true => T::store(net, file, text).map(|()| len),
            false => Err(EPERM),
        })
    }
}

/// What sysfs expects of a callback.
fn to_size(result: Result<usize>) -> isize {
    match result {
        // CAST: At most a page.
        Ok(len) => len as isize,
        // CAST: An `isize` is no smaller.
        Err(err) => err.to_errno() as isize,
    }
}
