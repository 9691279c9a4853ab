#!/usr/bin/env bash
# Is ppo-cleanrl CleanRL's PPO? Its returns beside those that CleanRL publishes, and beside ppo-cleanrl-scaled, in which
# the return that scales rewards runs on across time limits, as in CleanRL's script too.
#
# 2 variants x (HalfCheetah-v4 + Hopper-v4 + Walker2d-v4) x 10 seeds and 5 on Ant-v4 = 70 runs of 1M steps, of which 35
# are also in reproduce.sh and breadth.sh; 80 minutes more on two cores.
#   benchmark/cleanrl.sh && python benchmark/report.py runs/*      # options: benchmark/common.sh
# shellcheck source=benchmark/common.sh
source "$(dirname "$0")/common.sh"

for task in Walker2d-v4 Hopper-v4 HalfCheetah-v4 Ant-v4; do
  if [[ $task == Ant-v4 ]]; then seeds=5; else seeds=10; fi
  cell $task ppo-cleanrl $seeds ppo_baseline.py --no-bootstrap-truncated
  cell $task ppo-cleanrl-scaled $seeds ppo_baseline.py --no-bootstrap-truncated --scale-across-limits
done
run_sweep "$@"
