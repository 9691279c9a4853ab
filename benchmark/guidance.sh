#!/usr/bin/env bash
# Does more guidance help, and where does it break? beta_1 weighs the advantages in the preference's loss: from 0, where
# it never sees them, over the default of 0.2 (prefpoe) to 20 times that.
#
# 5 values x (HalfCheetah-v4 + Walker2d-v4) x 5 seeds = 50 runs of 1M steps; an hour on two cores. Of
# them 15 are also in reproduce.sh, breadth.sh and sensitivity.sh.
#   benchmark/guidance.sh && python benchmark/report.py runs/*      # options: benchmark/common.sh
# shellcheck source=benchmark/common.sh
source "$(dirname "$0")/common.sh"

for task in HalfCheetah-v4 Walker2d-v4; do
  cell $task prefpoe 5 prefpoe_continuous.py
  for x in 0 1 2 4; do cell $task prefpoe-beta1-$x 5 prefpoe_continuous.py --beta1 $x; done
done
run_sweep "$@"
