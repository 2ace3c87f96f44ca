#!/usr/bin/env bash
# Figure 4: the ways that teachers and students drive, the students' coloured by expert. From the
# runs of VDD in table 1, which are made if they are not there. Writes figure4_….png, figure4.md
# and figure4.json.
#   experiments/reproduce/figure4.sh [--seeds=0] [--families=ddpm,beso] [--smoke] [-- --config.…]
set -euo pipefail
exec "${PYTHON:-python}" "$(dirname "${BASH_SOURCE[0]}")/figure4.py" "$@"
