#!/usr/bin/env bash
# Table 3: milliseconds of one action by network calls, of DDPM, BESO, CD, CTM and VDD, at the
# published sizes of networks with random weights. Nothing is trained. On an otherwise idle machine;
# writes table3.md and table3.json.
#   experiments/reproduce/table3.sh [--sizes=avoiding,kitchen] [--rounds=9] [--each=50] [--render]
set -euo pipefail
exec "${PYTHON:-python}" "$(dirname "${BASH_SOURCE[0]}")/table3.py" "$@"
