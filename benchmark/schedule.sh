#!/usr/bin/env bash
# Should the preference's say change over training? lambda, its weight in the product, falls to 0, rises from 0 or is
# guided (times the critic's explained variance, so that a wrong critic is not followed), against constant in prefpoe.
#
# 4 schedules x (HalfCheetah-v4 + Walker2d-v4 + LunarLander-v3) x 5 seeds = 60 runs of 1M steps, of which 15 are also in
# reproduce.sh and breadth.sh; 70 minutes on two cores.
#   benchmark/schedule.sh && python benchmark/report.py runs/*      # options: benchmark/common.sh
# shellcheck source=benchmark/common.sh
source "$(dirname "$0")/common.sh"

for task in HalfCheetah-v4 Walker2d-v4 LunarLander-v3; do
  cell $task prefpoe 5 "$(prefpoe $task)"
  for x in falling rising guided; do cell $task prefpoe-lambda-$x 5 "$(prefpoe $task)" --lambda-schedule $x; done
done
run_sweep "$@"
