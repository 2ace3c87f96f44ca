#!/usr/bin/env bash
# Table 2: success and entropy of EM, IMC, BC-GMM (mixtures without a teacher) and VDD-BESO.
# For each seed one run from demonstrations to the evaluated student, shared with table 1, and three
# of the mixtures. Writes table2.md and table2.json.
#   experiments/reproduce/table2.sh [--seeds=0,1,2] [--methods=em,imc,…] [--smoke] [-- --config.…]
set -euo pipefail
exec "${PYTHON:-python}" "$(dirname "${BASH_SOURCE[0]}")/tables.py" table2 "$@"
