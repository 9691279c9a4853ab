#!/usr/bin/env bash
# Does it hold at the paper's length, said to be 2M steps? The variants of reproduce.sh but ppo, for twice as long. The
# runs' names begin with long- (PREFIX), or they would be those of 1M steps; the report has them as a task of its own,
# long-HalfCheetah-v4-2000000-steps.
#
# 6 variants on HalfCheetah-v4 x 5 seeds = 30 runs of 2M steps; 75 minutes on two cores.
# TASKS="HalfCheetah-v4 Ant-v4" adds tasks.
#   benchmark/length.sh && python benchmark/report.py runs/*      # options: benchmark/common.sh
STEPS=${STEPS:-2000000} PREFIX=${PREFIX:-long-}
# shellcheck source=benchmark/common.sh
source "$(dirname "$0")/common.sh"

for task in ${TASKS:-HalfCheetah-v4}; do
  headline "$task" 5
  entropy_controls "$task" 5
done
run_sweep "$@"
