#!/usr/bin/env bash
# Does more guidance help, and where does it break? beta_1 weighs the advantages in the preference's loss: from 0, where
# it never sees them, over the default of 0.2 (prefpoe) to 20 times that.
#
# 5 values x (HalfCheetah-v4 + Walker2d-v4) x 5 seeds, with 5 more of the value that came out best, 2, on HalfCheetah-v4,
# and that value on Ant-v4 = 60 runs of 1M steps; an hour on two cores. Of them 15 are also in other sweeps.
#   benchmark/guidance.sh && python benchmark/report.py runs/*      # options: benchmark/common.sh
# shellcheck source=benchmark/common.sh
source "$(dirname "$0")/common.sh"

for task in HalfCheetah-v4 Walker2d-v4; do
  cell $task prefpoe 5 prefpoe_continuous.py
  for x in 0 1 4; do cell $task prefpoe-beta1-$x 5 prefpoe_continuous.py --beta1 $x; done
done
cell HalfCheetah-v4 prefpoe-beta1-2 10 prefpoe_continuous.py --beta1 2 # 6 to 10 are fresh: 1 to 5 chose the value
for task in Walker2d-v4 Ant-v4; do cell $task prefpoe-beta1-2 5 prefpoe_continuous.py --beta1 2; done
run_sweep "$@"
