// SPDX-License-Identifier: GPL-2.0

//! `/proc/net/carisma_utcp`: the counters of the reader's namespace, a name and a number a line.

use crate::utcp::counters::{
    Counter,
    Counters, //
};
use carisma_net::{
    pernet::Net,
    procfs::{
        self,
        Show, //
    },
};
use kernel::{
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    sync::Arc, //
};

/// What the file shows.
pub(crate) struct Shown(Arc<Counters>);

impl Show for Shown {
    fn show(&self, file: &SeqFile) {
        for (counter, name) in Counter::ALL {
            seq_print!(file, "{} {}\n", name, self.0.get(*counter));
        }
    }
}

/// The file.
pub(crate) type File = procfs::File<Shown>;

/// Makes the file.
pub(crate) fn file(net: &Net, counters: Arc<Counters>) -> Result<File> {
    File::new(net, c"carisma_utcp", Shown(counters))
}
