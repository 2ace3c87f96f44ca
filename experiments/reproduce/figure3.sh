#!/usr/bin/env bash
# Figure 3: what changes with the number of experts, the gating, the noise levels and the bound.
# For each seed one run from demonstrations to the evaluated student, shared with table 1, and a
# distillation with its teacher for each bar; those on bounds alone are the longest. Writes
# figure3_….png, figure3.md and figure3.json.
#   experiments/reproduce/figure3.sh [--seeds=0,1,2] [--ablations=experts,gating,…] [--smoke]
set -euo pipefail
exec "${PYTHON:-python}" "$(dirname "${BASH_SOURCE[0]}")/figure3.py" "$@"
