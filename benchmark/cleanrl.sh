#!/usr/bin/env bash
# Is ppo-cleanrl CleanRL's PPO? Its returns beside those that CleanRL publishes. (ppo-cleanrl-exact of the results kept
# the statistics of observations and rewards as gymnasium's wrappers do, and so CleanRL's script: a flag up to commit
# b31b767, which made no difference.)
#
# 10 seeds of HalfCheetah-v4, Hopper-v4 and Walker2d-v4, 5 of Humanoid-v4 = 35 runs of 1M steps, which are also in
# reproduce.sh and breadth.sh.
#   benchmark/cleanrl.sh && python benchmark/report.py runs/*      # options: benchmark/common.sh
# shellcheck source=benchmark/common.sh
source "$(dirname "$0")/common.sh"

for task in HalfCheetah-v4 Hopper-v4 Walker2d-v4; do
  cell $task ppo-cleanrl 10 ppo_baseline.py --no-bootstrap-truncated
done
cell Humanoid-v4 ppo-cleanrl 5 ppo_baseline.py --no-bootstrap-truncated
run_sweep "$@"
