#!/usr/bin/env bash
# Is it the product? The product of the experts against their average and against the main expert alone, which a
# preference trained beside it then reaches through the shared backbone and L_cons only; ppo-matched has none at all.
#
# 4 variants x 3 tasks x 5 seeds = 60 runs of 1M steps, of which 30 are also in reproduce.sh; an hour more on two cores.
#   benchmark/fusion.sh && python benchmark/report.py runs/*      # options: benchmark/common.sh
# shellcheck source=benchmark/common.sh
source "$(dirname "$0")/common.sh"

for task in HalfCheetah-v4 LunarLander-v3 Ant-v4; do
  cell $task prefpoe 5 "$(prefpoe $task)"
  cell $task prefpoe-linear 5 "$(prefpoe $task)" --fusion linear
  cell $task prefpoe-none 5 "$(prefpoe $task)" --fusion none
  cell $task ppo-matched 5 "${MATCHED[@]}"
done
run_sweep "$@"
