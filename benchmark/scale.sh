#!/usr/bin/env bash
# Is it the preference or how widely a run explores at the start? Matched PPO and PrefPoE, each once from the width that
# CleanRL's PPO starts with, log sigma = 0, and once from that of PrefPoE's product, -1.35. ppo-squash-shared is matched
# PPO from 0; prefpoe-logstd-0.35 has a product that starts there, of two experts that start at 0.35; ppo is
# ppo-squash-shared with the two networks of CleanRL's PPO. And is it the preference or the entropy bonus that it amounts
# to, once settled? ppo-matched-logstd--1.35-ent-coef-0.01 has both, that start and that bonus.
#
# 6 variants x (HalfCheetah-v4 + Hopper-v4 + Walker2d-v4) x 10 seeds, and x Ant-v4 x 5 seeds = 210 runs of 1M steps, of
# which 58 are also in reproduce.sh, breadth.sh, attribution.sh and sensitivity.sh; 5½ hours more on two cores.
#   benchmark/scale.sh && python benchmark/report.py runs/*      # options: benchmark/common.sh
#
# Written down before the runs of Ant-v4, of differences of IQMs in evaluation with their 95 % intervals:
#   prefpoe-logstd-0.35 - prefpoe: below 0, and the start decides on Ant-v4 as on HalfCheetah-v4. If 0 is inside, the page
#     says that of HalfCheetah-v4 alone.
#   prefpoe-logstd-0.35 - ppo-squash-shared, both from log sigma = 0: above 0, and the preference adds something there.
#   prefpoe - ppo-matched-logstd--1.35-ent-coef-0.01: if 0 is inside, "PPO with that start and that bonus is not told from
#     PrefPoE" holds on four tasks; else it is taken back for Ant-v4.
# shellcheck source=benchmark/common.sh
source "$(dirname "$0")/common.sh"

for task in HalfCheetah-v4 Hopper-v4 Walker2d-v4 Ant-v4; do
  if [[ $task == Ant-v4 ]]; then seeds=5; else seeds=10; fi
  cell $task ppo $seeds ppo_baseline.py
  cell $task ppo-squash-shared $seeds ppo_baseline.py --squash-mean --shared-backbone
  cell $task ppo-matched-logstd--1.35 $seeds "${MATCHED[@]}" --logstd-init -1.35
  cell $task ppo-matched-logstd--1.35-ent-coef-0.01 $seeds "${MATCHED[@]}" --logstd-init -1.35 --ent-coef 0.01
  cell $task prefpoe-logstd-0.35 $seeds prefpoe_continuous.py --logstd-init 0.35
  cell $task prefpoe $seeds prefpoe_continuous.py
done
run_sweep "$@"
