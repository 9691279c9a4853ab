#!/usr/bin/env bash
# Where to explore, if exploring is hard? PrefPoE's reviewers asked for sparse rewards. Three classic tasks, whose reward
# comes at the goal or ends with it, and HalfCheetah with a reward of 1 for each step faster than 1 m/s, else 0.
#
# CleanRL's PPO, matched PPO without and with the constant entropy bonus, PrefPoE; with continuous actions also matched
# PPO from log sigma = 0 and PrefPoE from 0.35, whose product starts there. The lengths were chosen by one pilot run of
# CleanRL's PPO, matched PPO and PrefPoE each (seed 101, 500,000 steps): CleanRL's PPO solved MountainCarContinuous-v0
# within 100,000 steps, it and PrefPoE came near -100 on Acrobot-v1 within 450,000, and none solved MountainCar-v0.
# PrefPoE from 0.35 (seed 101 too) solved MountainCarContinuous-v0.
#
# 6 variants x MountainCarContinuous-v0 x 10 seeds of 200,000 steps, 4 x (MountainCar-v0 + Acrobot-v1) x 10 of 500,000,
# 6 x SparseHalfCheetah-v4 x 5 of 1M = 170 runs of these lengths;
# 2 hours on two cores.
#   benchmark/sparse.sh && python benchmark/report.py runs/*      # options: benchmark/common.sh
#
# Written down before the sweep, after the pilot. A run solves its task if its evaluation reaches 90, -110, -100 or 500
# fast steps. Shares of runs that solve it are compared by Fisher's exact test at 5 %, returns by the IQMs' difference.
#   PrefPoE solves more than matched PPO and than CleanRL's PPO on any task: "the preference helps where exploring is
#     hard" goes to the top of the page, with that task.
#   PrefPoE from 0.35 solves more than matched PPO from 0: the same at equal starts, which is the fairer question.
#   The wide starts solve MountainCarContinuous-v0 and the narrow ones do not: "what a run finds there depends on how
#     wide it starts, not on the preference".
#   None of these: "where exploring is hard we found no use of the preference". A task that nothing solves takes a row.
steps=${STEPS:-} PREFIX=${PREFIX:-sparse-}
# shellcheck source=benchmark/common.sh
source "$(dirname "$0")/common.sh"

STEPS=${steps:-200000}
continuous() { # task num_seeds
  cell "$1" ppo-cleanrl "$2" ppo_baseline.py --no-bootstrap-truncated
  cell "$1" ppo-matched "$2" "${MATCHED[@]}"
  cell "$1" ppo-matched-ent-coef-0.01 "$2" "${MATCHED[@]}" --ent-coef 0.01
  cell "$1" prefpoe "$2" prefpoe_continuous.py
  cell "$1" ppo-squash-shared "$2" ppo_baseline.py --squash-mean --shared-backbone
  cell "$1" prefpoe-logstd-0.35 "$2" prefpoe_continuous.py --logstd-init 0.35
}
continuous MountainCarContinuous-v0 10
STEPS=${steps:-500000}
for task in MountainCar-v0 Acrobot-v1; do
  cell $task ppo-cleanrl 10 ppo_baseline.py --no-bootstrap-truncated
  cell $task ppo-matched 10 "${MATCHED[@]}"
  cell $task ppo-matched-ent-coef-0.01 10 "${MATCHED[@]}" --ent-coef 0.01
  cell $task prefpoe 10 "$(prefpoe $task)"
done
STEPS=${steps:-1000000}
continuous benchmark.sparse_reward:SparseHalfCheetah-v4 5
run_sweep "$@"
