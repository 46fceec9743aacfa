#!/usr/bin/env bash
# Train and compare BT and NormBT over three seeds on the built-in data, offline but for pip: bash scripts/quickstart.sh
# The six runs go side by side, as many as there are cores.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
folder=outputs/quickstart
rmbench sweep loss=bt,normbt seed=0,1,2 benchmark=synthetic sweep_dir="$folder"
echo "tables: $folder/report.md and $folder/summary.csv; figures: $folder/*/diagnostics/*.png"
