// SPDX-License-Identifier: GPL-2.0

//! `/sys/kernel/carisma/net`: the counters, gauges and knobs of a namespace, one value a file.
//!
//! The folder shows the namespace in which sysfs was mounted.

use crate::{counters::Stat, knobs::Knob, state::State};
use carisma_net::{
    pernet::{
        Net,
        NetRef,
        PerNet,
        Slot, //
    },
    sysfs::{
        File,
        Files,
        Folder,
        Group,
        GroupList,
        Groups,
        List,
        Page,
        Root,
        RootRegistration, //
    },
};
use core::fmt::Write;
use kernel::{
    prelude::*,
    str::{
        parse_int::ParseInt,
        BStr, //
    },
};

static ROOT: Root = Root::new();

/// Makes the folder that those of the namespaces are in.
pub(crate) fn create_root() -> Result<RootRegistration> {
    ROOT.create(c"carisma")
}

/// Files have the numbers of what is counted, then those of the knobs.
const FIRST_KNOB: usize = Stat::COUNT;

static COUNTERS: [File; FIRST_KNOB] = {
    let mut files = [const { File::readable(c"", 0) }; FIRST_KNOB];
    let mut number = 0;
    while let Some(stat) = Stat::of(number) {
        files[number] = File::readable(stat.name(), number);
        number += 1;
    }
    files
};

static KNOBS: [File; Knob::ALL.len()] = {
    let mut files = [const { File::readable(c"", 0) }; Knob::ALL.len()];
    let mut index = 0;
    while index < files.len() {
        files[index] = File::writable(Knob::ALL[index].range().name, FIRST_KNOB + index);
        index += 1;
    }
    files
};

static COUNTER_LIST: List<{ FIRST_KNOB + 1 }> = List::new(&COUNTERS);
static KNOB_LIST: List<{ Knob::ALL.len() + 1 }> = List::new(&KNOBS);
static GROUP_ARRAY: [Group; 2] = [
    Group::flat(&KNOB_LIST),
    Group::folder(c"counters", &COUNTER_LIST),
];
static GROUPS: Groups<3> = Groups::new(&GROUP_ARRAY);

/// What a file is about.
enum Value {
    Stat(Stat),
    Knob(Knob),
}

impl Value {
    /// What the file of this number is about.
    fn of(file: usize) -> Option<Self> {
        let knob = || Knob::ALL.get(file.checked_sub(FIRST_KNOB)?).copied();
        Stat::of(file)
            .map(Self::Stat)
            .or_else(|| knob().map(Self::Knob))
    }
}

/// The folder of a namespace.
///
/// It is made after the [`State`] that it shows, and goes before that.
pub(crate) struct Namespace(Folder<Values>);

static SLOT: Slot = Slot::new();

impl PerNet for Namespace {
    fn slot() -> &'static Slot {
        &SLOT
    }

    fn init(net: NetRef) -> Result<Pin<KBox<Self>>> {
        Ok(KBox::pin(
            Self(Folder::new(&ROOT, c"net", net)?),
            GFP_KERNEL,
        )?)
    }

    fn pre_exit(&self) {
        self.0.remove();
    }

    fn exit(&self) {}
}

/// The values of a namespace.
struct Values;

impl Files for Values {
    const GROUPS: GroupList = GROUPS.list();

    fn show(net: &Net, file: usize, to: &mut Page<'_>) -> Result {
        let state = State::of(net).ok_or(ENODEV)?;
        let value = match Value::of(file).ok_or(EIO)? {
            Value::Stat(stat) => state.value(stat),
            Value::Knob(knob) => state.knobs.get(knob).into(),
        };
        writeln!(to, "{value}").map_err(|_| EIO)
    }

    fn store(net: &Net, file: usize, text: &[u8]) -> Result {
        let state = State::of(net).ok_or(ENODEV)?;
        let Some(Value::Knob(knob)) = Value::of(file) else {
            return Err(EIO);
        };
        let value = u32::from_str(BStr::from_bytes(text.trim_ascii())).map_err(|_| EINVAL)?;
        state.knobs.set(knob, value)
    }
}
