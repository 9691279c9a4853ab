#!/usr/bin/env bash
# Is ppo-cleanrl CleanRL's PPO? Its returns beside those that CleanRL publishes, and beside ppo-cleanrl-exact, which
# keeps the statistics of observations and rewards as gymnasium's wrappers do, and so CleanRL's script.
#
# ppo-cleanrl on HalfCheetah-v4, Hopper-v4 and Walker2d-v4 and ppo-cleanrl-exact on the last two, 10 seeds each, and
# ppo-cleanrl on Humanoid-v4, 5 seeds = 55 runs of 1M steps, of which 35 are also in reproduce.sh and breadth.sh; half
# an hour more on two cores.
#   benchmark/cleanrl.sh && python benchmark/report.py runs/*      # options: benchmark/common.sh
# shellcheck source=benchmark/common.sh
source "$(dirname "$0")/common.sh"

for task in HalfCheetah-v4 Hopper-v4 Walker2d-v4; do
  cell $task ppo-cleanrl 10 ppo_baseline.py --no-bootstrap-truncated
done
cell Humanoid-v4 ppo-cleanrl 5 ppo_baseline.py --no-bootstrap-truncated
for task in Walker2d-v4 Hopper-v4; do
  cell $task ppo-cleanrl-exact 10 ppo_baseline.py --no-bootstrap-truncated --gymnasium-statistics
done
run_sweep "$@"
