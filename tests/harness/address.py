# SPDX-License-Identifier: GPL-2.0
"""How an address of either family is written."""

# What nft and the like call the family.
NAMES = {4: 'ip', 6: 'ip6'}


def family(address: str) -> int:
    """4 or 6."""
    return 6 if ':' in address else 4


def bracketed(address: str) -> str:
    """As a URL has it, where a port may follow."""
    return f'[{address}]' if family(address) == 6 else address


def endpoint(address: str, port: int) -> str:
    """With a port, as carismactl reads and writes it."""
    return f'{bracketed(address)}:{port}'


def alone(address: str) -> str:
    """The prefix that has this address alone."""
    return f'{address}/{128 if family(address) == 6 else 32}'
