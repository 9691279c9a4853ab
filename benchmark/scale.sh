#!/usr/bin/env bash
# Is it the preference or how widely a run explores at the start? Matched PPO and PrefPoE, each once from the width that
# CleanRL's PPO starts with, log sigma = 0, and once from that of PrefPoE's product, -1.35. ppo-squash-shared is matched
# PPO from 0; prefpoe-logstd-0.35 has a product that starts there, of two experts that start at 0.35; ppo is
# ppo-squash-shared with the two networks of CleanRL's PPO. And is it the preference or the entropy bonus that it amounts
# to, once settled? ppo-matched-logstd--1.35-ent-coef-0.01 has both, that start and that bonus.
#
# 6 variants x (HalfCheetah-v4 + Hopper-v4 + Walker2d-v4) x 10 seeds = 180 runs of 1M steps, of which 48 are also in
# reproduce.sh, breadth.sh, attribution.sh and sensitivity.sh; 3¼ hours more on two cores.
#   benchmark/scale.sh && python benchmark/report.py runs/*      # options: benchmark/common.sh
# shellcheck source=benchmark/common.sh
source "$(dirname "$0")/common.sh"

for task in HalfCheetah-v4 Hopper-v4 Walker2d-v4; do
  cell $task ppo 10 ppo_baseline.py
  cell $task ppo-squash-shared 10 ppo_baseline.py --squash-mean --shared-backbone
  cell $task ppo-matched-logstd--1.35 10 "${MATCHED[@]}" --logstd-init -1.35
  cell $task ppo-matched-logstd--1.35-ent-coef-0.01 10 "${MATCHED[@]}" --logstd-init -1.35 --ent-coef 0.01
  cell $task prefpoe-logstd-0.35 10 prefpoe_continuous.py --logstd-init 0.35
  cell $task prefpoe 10 prefpoe_continuous.py
done
run_sweep "$@"
