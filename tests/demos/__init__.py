# SPDX-License-Identifier: GPL-2.0
"""The paper's three sites, each with a report of who answered what."""
