#!/usr/bin/env bash
# Do the two open results hold on fresh seeds? PrefPoE evaluates above matched PPO on LunarLander-v3 alone, and on Ant-v4
# the two are undecided, both by seeds 1 to 10. Here are seeds 11 to 30 and 11 to 20.
#
# 4 variants x LunarLander-v3 x 20 seeds and 2 variants x Ant-v4 x 10 seeds = 100 runs of 1M steps; 5 hours on two cores.
#   benchmark/fresh_seeds.sh && python benchmark/report.py runs/*      # options: benchmark/common.sh
#
# Written down before the first run. Every difference is one of IQMs in evaluation, with its 95 % interval, on the fresh
# seeds alone. Those together with the first ten only give its size.
#   LunarLander-v3, prefpoe - ppo-matched: above 0, and "PrefPoE evaluates above matched PPO on LunarLander-v3" stays.
#     If 0 is inside, it becomes "ahead in the first ten seeds, not in twenty fresh ones". Below 0: "not ahead".
#   LunarLander-v3, prefpoe - prefpoe-beta1-0: above 0, and the advantages do something there; the page then says so
#     first. If 0 is inside: "training without advantages makes no measurable difference" holds with 20 seeds more.
#   LunarLander-v3, prefpoe - ppo-matched-ent-coef-0.01: above 0, and the lead is more than a constant entropy bonus.
#   Ant-v4, prefpoe - ppo-matched: outside 0, and Ant-v4 is decided with that sign, if seeds 1 to 20 say the same.
#     If 0 is inside, "undecided" stays, with the smallest difference that 20 seeds could have shown.
# shellcheck source=benchmark/common.sh
source "$(dirname "$0")/common.sh"

seeds=${SEEDS:-}
SEEDS=${seeds:-$(seq -s ' ' 11 30)}
cell LunarLander-v3 prefpoe 20 prefpoe_lunarlander.py
cell LunarLander-v3 prefpoe-beta1-0 20 prefpoe_lunarlander.py --beta1 0
cell LunarLander-v3 ppo-matched 20 "${MATCHED[@]}"
cell LunarLander-v3 ppo-matched-ent-coef-0.01 20 "${MATCHED[@]}" --ent-coef 0.01
SEEDS=${seeds:-$(seq -s ' ' 11 20)}
cell Ant-v4 prefpoe 10 prefpoe_continuous.py
cell Ant-v4 ppo-matched 10 "${MATCHED[@]}"
run_sweep "$@"
