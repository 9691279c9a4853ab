#!/usr/bin/env bash
# Does PrefPoE beat PPO, and does it beat PPO with the same network and exploration scale?
#
#   ppo-cleanrl     PPO as published results have it: a time limit counts as a termination
#   ppo             the same with time limits bootstrapped
#   ppo-matched     PrefPoE without the preference: shared backbone, tanh means, log sigma = -1 at the start
#   prefpoe         the product of experts
#   prefpoe-anneal  with alpha and w_cons falling to 0
#
# 5 variants x (10 seeds HalfCheetah-v4 + 10 LunarLander-v3 + 5 Ant-v4) = 125 runs of 1M steps; 3 hours on two cores.
#   benchmark/reproduce.sh && python benchmark/report.py runs/*      # options: benchmark/common.sh
# shellcheck source=benchmark/common.sh
source "$(dirname "$0")/common.sh"

for task in HalfCheetah-v4 LunarLander-v3 Ant-v4; do
  seeds=10
  if [[ $task == Ant-v4 ]]; then seeds=5; fi
  cell $task ppo-cleanrl $seeds ppo_baseline.py --no-bootstrap-truncated
  cell $task ppo $seeds ppo_baseline.py
  cell $task ppo-matched $seeds "${MATCHED[@]}"
  cell $task prefpoe $seeds "$(prefpoe $task)"
  cell $task prefpoe-anneal $seeds "$(prefpoe $task)" --anneal-pref
done
run_sweep "$@"
