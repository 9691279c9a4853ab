#!/usr/bin/env bash
# Does PrefPoE beat PPO, and does it beat PPO with the same network and exploration scale?
#
#   ppo-cleanrl     CleanRL's PPO: a time limit counts as a termination
#   ppo             the same with time limits bootstrapped
#   ppo-matched     PrefPoE without the preference: shared backbone, tanh means, log sigma = -1 at the start
#   prefpoe         the product of experts
#   prefpoe-anneal  with alpha and w_cons falling to 0
#
# And does a plain entropy weight do the same? ppo-matched-ent-coef-0.01, and with -anneal the weight falling to 0.
#
# 7 variants x (HalfCheetah-v4 + LunarLander-v3 + Ant-v4) x 10 seeds, but 5 of ppo on Ant-v4 = 205 runs of 1M steps;
# 6¼ hours on two cores, more than half of it Ant-v4.
#   benchmark/reproduce.sh && python benchmark/report.py runs/*      # options: benchmark/common.sh
# shellcheck source=benchmark/common.sh
source "$(dirname "$0")/common.sh"

for task in HalfCheetah-v4 LunarLander-v3 Ant-v4; do
  headline $task 10
  entropy_controls $task 10
  if [[ $task == Ant-v4 ]]; then seeds=5; else seeds=10; fi
  cell $task ppo $seeds ppo_baseline.py
done
run_sweep "$@"
