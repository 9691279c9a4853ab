#!/usr/bin/env bash
# What does PrefPoE's network cost or bring before any preference, and which part of it: the one backbone for policy and
# value, or the means through tanh? PPO from log sigma = 0 with time limits bootstrapped, with neither, each, and both.
#
# 4 variants x Walker2d-v4 x 10 seeds = 40 runs of 1M steps, of which 20 are also in scale.sh; 45 minutes more on two
# cores. attribution.sh has the same four on HalfCheetah-v4 and Ant-v4.
#   benchmark/network.sh && python benchmark/report.py runs/*      # options: benchmark/common.sh
# shellcheck source=benchmark/common.sh
source "$(dirname "$0")/common.sh"

task=Walker2d-v4
cell $task ppo 10 ppo_baseline.py
cell $task ppo-squash 10 ppo_baseline.py --squash-mean
cell $task ppo-shared 10 ppo_baseline.py --shared-backbone
cell $task ppo-squash-shared 10 ppo_baseline.py --squash-mean --shared-backbone
run_sweep "$@"
