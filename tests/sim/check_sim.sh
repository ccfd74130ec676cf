#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The simulations at length; SEEDS sets how many worlds of whole sites, and a hundred times as many of rounds alone.
set -eu
seeds=${SEEDS:-2000}
SAKIORI_SIM_SEEDS=$((seeds * 100)) "$BUILDDIR/tests/check_round"
SAKIORI_SIM_SEEDS=$seeds "$BUILDDIR/tests/check_site"
