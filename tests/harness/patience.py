# SPDX-License-Identifier: GPL-2.0
"""How long to wait: some kernels are slower than others."""


class Patience:
    """How much longer than usual things take in this run."""

    factor = 1


def patient(seconds: float) -> float:
    """How long to allow for what usually takes no more than `seconds`."""
    return seconds * Patience.factor
