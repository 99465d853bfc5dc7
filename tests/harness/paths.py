# SPDX-License-Identifier: GPL-2.0
"""Where things are, in the Debian tree and inside a guest."""

import os

CHECKOUT = '/carisma'
INSIDE = f'{CHECKOUT}/tests/harness/inside'
BUILD = '/build'
CACHE = '/cache'                # of the tree alone
WORK = '/tmp/carisma'           # of the guest: documents, logs, captures
RESULTS = os.path.join(BUILD, 'test-results')   # of the host: after a failure
CARISMACTL = f'{BUILD}/cargo/release/carismactl'
