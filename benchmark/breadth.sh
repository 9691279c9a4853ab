#!/usr/bin/env bash
# Does what holds on the headline tasks hold on others? Hopper-v4, Walker2d-v4 and Humanoid-v4 with continuous actions,
# CartPole-v1 and FrozenLake-v1 with discrete ones.
#
# 4 variants x 5 tasks x 5 seeds = 100 runs of 1M steps; 5 hours on two cores, most of it Humanoid.
#   benchmark/breadth.sh && python benchmark/report.py runs/*      # options: benchmark/common.sh
# shellcheck source=benchmark/common.sh
source "$(dirname "$0")/common.sh"

for task in Hopper-v4 Walker2d-v4 Humanoid-v4 CartPole-v1 FrozenLake-v1; do
  cell $task ppo-cleanrl 5 ppo_baseline.py --no-bootstrap-truncated
  cell $task ppo 5 ppo_baseline.py
  cell $task ppo-matched 5 "${MATCHED[@]}"
  cell $task prefpoe 5 "$(prefpoe $task)"
done
run_sweep "$@"
