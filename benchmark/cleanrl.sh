#!/usr/bin/env bash
# Is ppo-cleanrl CleanRL's PPO? Its returns beside those that CleanRL publishes, and beside ppo-cleanrl-scaled, in which
# the return that scales rewards runs on across time limits, as in CleanRL's script too.
#
# ppo-cleanrl with 10 seeds on HalfCheetah-v4, Hopper-v4, Walker2d-v4 and Ant-v4, and 5 of the other on the last two = 50
# runs of 1M steps, of which 40 are also in reproduce.sh and breadth.sh; half an hour more on two cores.
#   benchmark/cleanrl.sh && python benchmark/report.py runs/*      # options: benchmark/common.sh
# shellcheck source=benchmark/common.sh
source "$(dirname "$0")/common.sh"

for task in HalfCheetah-v4 Hopper-v4 Walker2d-v4 Ant-v4; do
  cell $task ppo-cleanrl 10 ppo_baseline.py --no-bootstrap-truncated
done
for task in Walker2d-v4 Ant-v4; do
  cell $task ppo-cleanrl-scaled 5 ppo_baseline.py --no-bootstrap-truncated --scale-across-limits
done
run_sweep "$@"
