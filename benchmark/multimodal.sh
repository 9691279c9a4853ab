#!/usr/bin/env bash
# Does the preference scale to several modes? A preference of four Gaussians (prefpoe-modes-4) against one of one, on a
# task with four goals, where it should keep all of them, and on two without: there PrefPoE itself (prefpoe) is
# the one of one mode, which it equals given the same noise. How many goals are reached: benchmark/multimodal.py.
#
# On the task with goals also with the preference's say raised (lambda 8, so that the main expert, which has one mode,
# hardly counts, and alpha 1, an entropy bonus five times the default), and by either alone: can anything keep the modes?
#
# 6 variants x 10 seeds of MultiGoal-v0 and 2 x 5 of HalfCheetah-v4 and of Ant-v4 = 80 runs of 60,000 to 1M steps, of
# which 10 are also in reproduce.sh. MultiGoal-v0 has 0.06 of the others' STEPS: the report calls it
# MultiGoal-v0-60000-steps; three quarters of an hour on one core, the others an hour and a half more on two.
#   benchmark/multimodal.sh && python benchmark/report.py runs/*      # options: benchmark/common.sh
# shellcheck source=benchmark/common.sh
source "$(dirname "$0")/common.sh"

goals() { STEPS=$((STEPS * 6 / 100)) cell MultiGoal-v0 "$1" 10 open_questions/prefpoe_multimodal.py "${@:2}"; }
for modes in 1 4; do
  goals prefpoe-modes-$modes --num-modes $modes
  goals prefpoe-modes-$modes-raised --num-modes $modes --lambda-pref 8 --alpha 1
done
goals prefpoe-modes-4-lambda-8 --num-modes 4 --lambda-pref 8
goals prefpoe-modes-4-alpha-1 --num-modes 4 --alpha 1
for task in HalfCheetah-v4 Ant-v4; do
  cell $task prefpoe 5 prefpoe_continuous.py
  cell $task prefpoe-modes-4 5 open_questions/prefpoe_multimodal.py --num-modes 4
done
run_sweep "$@"
