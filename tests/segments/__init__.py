# SPDX-License-Identifier: GPL-2.0
"""The cases of test_segments.py."""

from . import begin, stream, end

__all__ = ['begin', 'stream', 'end']
