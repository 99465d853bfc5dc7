# SPDX-License-Identifier: GPL-2.0
"""Programs that the tests run inside a guest; Python's own library only."""
