#!/usr/bin/env bash
# Which ingredient of PrefPoE makes the difference? PPO without any preference, with or without each of
#
#   time limits bootstrapped   ppo rather than ppo-cleanrl
#   -logstd                    log sigma = -1 at the start rather than 0
#   -squash                    means through tanh
#   -shared                    one backbone for policy and value
#
# and then the preference on top of all four (prefpoe). A main effect is each ingredient alone on ppo-cleanrl, against
# ppo-cleanrl; the full grid also shows what they do together. 17 variants x (HalfCheetah-v4 + Ant-v4) x 3 seeds, 5 for
# the main effects, all four, prefpoe and ppo-logstd, the best of the first three seeds on both tasks: 134 runs of 1M
# steps, of which 40 are also in reproduce.sh; 3½ hours more on two cores.
#   benchmark/attribution.sh && python benchmark/report.py runs/*      # options: benchmark/common.sh
# shellcheck source=benchmark/common.sh
source "$(dirname "$0")/common.sh"

for task in HalfCheetah-v4 Ant-v4; do
  for base in ppo-cleanrl ppo; do
    for logstd in "" -logstd; do
      for squash in "" -squash; do
        for shared in "" -shared; do
          flags=()
          if [[ $base == ppo-cleanrl ]]; then flags+=(--no-bootstrap-truncated); fi
          if [[ $logstd ]]; then flags+=(--logstd-init -1); fi
          if [[ $squash ]]; then flags+=(--squash-mean); fi
          if [[ $shared ]]; then flags+=(--shared-backbone); fi
          case $base$logstd$squash$shared in
            ppo-logstd-squash-shared) cell $task ppo-matched 5 "${MATCHED[@]}" ;;
            ppo | ppo-logstd | ppo-cleanrl | ppo-cleanrl-logstd | ppo-cleanrl-squash | ppo-cleanrl-shared)
              cell $task $base$logstd$squash$shared 5 ppo_baseline.py ${flags[@]+"${flags[@]}"}
              ;;
            *) cell $task $base$logstd$squash$shared 3 ppo_baseline.py ${flags[@]+"${flags[@]}"} ;;
          esac
        done
      done
    done
  done
  cell $task prefpoe 5 prefpoe_continuous.py
done
run_sweep "$@"
