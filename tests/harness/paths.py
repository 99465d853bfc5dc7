# SPDX-License-Identifier: GPL-2.0
"""Where things are inside a guest."""

import os

CHECKOUT = '/carisma'
INSIDE = f'{CHECKOUT}/tests/harness/inside'
BUILD = '/build'
WORK = '/tmp/carisma'           # of the guest: documents, logs, captures
RESULTS = os.path.join(BUILD, 'test-results')   # of the host: after a failure
CARISMACTL = f'{BUILD}/cargo/release/carismactl'
