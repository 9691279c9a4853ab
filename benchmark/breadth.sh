#!/usr/bin/env bash
# Does what holds on the headline tasks hold on others? Hopper-v4, Walker2d-v4, Humanoid-v4 and BipedalWalker-v3 with
# continuous actions, CartPole-v1 and FrozenLake-v1 with discrete ones; the variants of reproduce.sh but ppo.
#
# 6 variants x (10 seeds of Hopper-v4 and Walker2d-v4, 5 of each other task) = 240 runs of 1M steps; 7 hours on two cores.
#   benchmark/breadth.sh && python benchmark/report.py runs/*      # options: benchmark/common.sh
# shellcheck source=benchmark/common.sh
source "$(dirname "$0")/common.sh"

for task in Hopper-v4 Walker2d-v4 Humanoid-v4 CartPole-v1 FrozenLake-v1 BipedalWalker-v3; do
  case $task in
    Hopper-v4 | Walker2d-v4) seeds=10 ;;
    *) seeds=5 ;;
  esac
  headline $task $seeds
  entropy_controls $task $seeds
done
run_sweep "$@"
