#!/usr/bin/env bash
# The embedded pipeline on real photographs: every stage, top-1 beside adaptive PGT, retraining with and without RoI drop.
#   benchmarks/voc07_mini.sh path/to/voc07-mini
# Writes runs/voc07-mini and prints the table of benchmarks/RESULTS.md.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:?usage: benchmarks/voc07_mini.sh path/to/voc07-mini}
weaksam=.venv/bin/weaksam
common=(--dataset voc07-mini --profile embedded)

$weaksam data "$data" --dataset voc07-mini
for stage in cam prompt propose wsod pgt; do
    $weaksam $stage "${common[@]}"
done
$weaksam pgt "${common[@]}" --recipe top1 --variant top1
# Each training uses one thread, so the two share the two cores.
$weaksam retrain "${common[@]}" --set roi_drop.enabled=false --variant no-drop &
$weaksam retrain "${common[@]}"
wait
$weaksam eval "${common[@]}"
.venv/bin/python benchmarks/run_table.py runs/voc07-mini
