// SPDX-License-Identifier: GPL-2.0

//! The keys of the cluster, as this node has them.

use carisma_core::auth::SECRET_LEN;
use carisma_net::hmac::{
    self,
    Secret, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// A key of the cluster. It is the same object as long as it is configured.
pub(crate) struct ClusterKey {
    /// Its number.
    pub(crate) id: u8,
    /// To sign and to check with.
    pub(crate) key: hmac::Key,
    secret: Secret<SECRET_LEN>,
}

/// All of them; the first is the one to sign with.
#[derive(Default)]
pub(crate) struct Keys(KVec<Arc<ClusterKey>>);

impl Keys {
    /// Those that a message tells of. What `old` has is taken from it. Process context.
    pub(crate) fn read(told: &[u8], old: &Self) -> Result<Self> {
        let mut keys = KVec::new();
        let mut rest = told;
        while let Some((id, behind)) = rest.split_first() {
            let (secret, behind) = behind.split_first_chunk::<SECRET_LEN>().ok_or(EINVAL)?;
            let known = old
                .find(*id)
                .filter(|known| hmac::same(&known.secret, secret));
            let key = match known {
                Some(known) => known.clone(),
                None => Arc::new(
                    ClusterKey {
                        id: *id,
                        key: hmac::Key::new(secret)?,
                        secret: Secret::new(secret)?,
                    },
                    GFP_KERNEL,
                )?,
            };
            keys.push(key, GFP_KERNEL)?;
            rest = behind;
        }
        Ok(Self(keys))
    }

    /// The one to sign with; without one, nothing is signed.
    pub(crate) fn signing(&self) -> Option<&Arc<ClusterKey>> {
        self.0.first()
    }

    /// The one of this number.
    pub(crate) fn find(&self, id: u8) -> Option<&Arc<ClusterKey>> {
        self.0.iter().find(|key| key.id == id)
    }

    /// Whether it is one of them.
    pub(crate) fn has(&self, key: &Arc<ClusterKey>) -> bool {
        self.0.iter().any(|other| Arc::ptr_eq(other, key))
    }
}
