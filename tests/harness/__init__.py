# SPDX-License-Identifier: GPL-2.0
"""A CARISMA cluster to test: described once, run in one guest or in many."""
