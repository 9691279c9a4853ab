#!/usr/bin/env bash
# Does the preference use the advantages? Gaussian noise of growing std is added to the normalised advantages that the
# preference alone sees: where its guidance matters, return falls with the noise, towards or below ppo-matched. The
# noise drowns the advantages, but leaves the mean of their gradient; prefpoe-beta1-0 of sensitivity.sh takes that away
# too.
#
# 5 levels and ppo-matched on HalfCheetah-v4 x 5 seeds = 30 runs of 1M steps, of which 10 are also in reproduce.sh;
# half an hour more on two cores. TASKS="HalfCheetah-v4 Ant-v4 LunarLander-v3" adds tasks.
#   benchmark/advantage_noise.sh && python benchmark/report.py runs/*      # options: benchmark/common.sh
# shellcheck source=benchmark/common.sh
source "$(dirname "$0")/common.sh"

for task in ${TASKS:-HalfCheetah-v4}; do
  cell "$task" ppo-matched 5 "${MATCHED[@]}"
  cell "$task" prefpoe 5 "$(prefpoe "$task")"
  for noise in 0.5 1 2 4; do
    cell "$task" prefpoe-noise-$noise 5 "$(prefpoe "$task")" --advantage-noise $noise
  done
done
run_sweep "$@"
