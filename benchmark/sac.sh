#!/usr/bin/env bash
# Does PrefPoE carry over to soft actor-critic? SAC itself (sac) against SAC with a preference that is trained on
# replayed actions (prefpoe-sac) and on actions of the policy itself (prefpoe-sac-own). The runs' names begin with sac-
# (PREFIX); the report has them as tasks of their own, sac-HalfCheetah-v4-300000-steps and so on.
#
# 3 variants x (HalfCheetah-v4 + Ant-v4) x 5 seeds = 30 runs of 300,000 steps; about 20 hours on two cores. The runs of
# prefpoe-sac diverge, so 12,000 steps of them are enough: STEPS=12000 VARIANTS=prefpoe-sac benchmark/sac.sh
#   benchmark/sac.sh; python benchmark/report.py runs/*      # options: benchmark/common.sh
STEPS=${STEPS:-300000} PREFIX=${PREFIX:-sac-}
# shellcheck source=benchmark/common.sh
source "$(dirname "$0")/common.sh"

for task in HalfCheetah-v4 Ant-v4; do
  cell $task sac 5 open_questions/prefpoe_sac.py --fusion none --w-pref 0 --w-cons 0
  cell $task prefpoe-sac 5 open_questions/prefpoe_sac.py
  cell $task prefpoe-sac-own 5 open_questions/prefpoe_sac.py --pref-actions own
done
run_sweep "$@"
