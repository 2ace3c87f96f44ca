#!/usr/bin/env bash
# Table 1: success and entropy of DDPM, BESO, both with one step, CD, CTM, VDD-DDPM and VDD-BESO.
# For each seed two runs from demonstrations to the evaluated student (the README of the repository
# has their time) and two of consistency models. Writes table1.md and table1.json.
#   experiments/reproduce/table1.sh [--seeds=0,1,2] [--methods=vdd,cd,ctm] [--smoke] [-- --config.…]
set -euo pipefail
exec "${PYTHON:-python}" "$(dirname "${BASH_SOURCE[0]}")/tables.py" table1 "$@"
