#!/usr/bin/env bash
# How much hangs on the coefficients, and does a plain entropy weight do the same? Each coefficient of PrefPoE is
# halved and doubled, or moved to the ends of its range, with the others at their defaults (beta_1 0.2, alpha 0.2,
# w_pref 0.05, w_cons 0.1, lambda 1); with beta_1 = 0 the preference never sees an advantage. Beside it two simpler
# alternatives: PPO, plain and matched, with --ent-coef, and matched PPO with other initial scales; log sigma = -1.35
# is what the product of two experts at -1 starts with.
#
# 22 variants x 5 seeds and prefpoe, ppo and ppo-matched on HalfCheetah-v4: 125 runs of 1M steps, of which 20 are also
# in reproduce.sh; 2¼ hours more on two cores. TASKS="HalfCheetah-v4 Ant-v4" adds tasks.
#   benchmark/sensitivity.sh && python benchmark/report.py runs/*      # options: benchmark/common.sh
# shellcheck source=benchmark/common.sh
source "$(dirname "$0")/common.sh"

for task in ${TASKS:-HalfCheetah-v4}; do
  script=$(prefpoe "$task")
  cell "$task" prefpoe 5 "$script"
  for x in 0 0.1 0.4; do cell "$task" prefpoe-beta1-$x 5 "$script" --beta1 $x; done
  for x in 0.1 0.4; do cell "$task" prefpoe-alpha-$x 5 "$script" --alpha $x; done
  for x in 0.005 0.2; do cell "$task" prefpoe-w-pref-$x 5 "$script" --w-pref $x; done
  for x in 0.02 0.2; do cell "$task" prefpoe-w-cons-$x 5 "$script" --w-cons $x; done
  for x in 0.25 0.5 2 4; do cell "$task" prefpoe-lambda-pref-$x 5 "$script" --lambda-pref $x; done
  cell "$task" ppo 5 ppo_baseline.py
  cell "$task" ppo-matched 5 "${MATCHED[@]}"
  for x in -2 -1.35 -0.5; do cell "$task" ppo-matched-logstd-$x 5 "${MATCHED[@]}" --logstd-init $x; done
  for x in -0.002 0.002 0.01; do
    cell "$task" ppo-ent-coef-$x 5 ppo_baseline.py --ent-coef $x
    cell "$task" ppo-matched-ent-coef-$x 5 "${MATCHED[@]}" --ent-coef $x
  done
done
run_sweep "$@"
