# shellcheck shell=bash
# What the sweeps share. A sweep names its runs with `cell` and ends with `run_sweep "$@"`. Options of every sweep:
#
#   SEEDS="1 2 3" TASKS="Ant-v4" VARIANTS="ppo prefpoe"   only these (default: each cell's number of seeds, all)
#   WORKERS=2 STEPS=1000000 PYTHON=.venv/bin/python       runs at a time, one thread each; environment steps a run
#   PREFIX=short-                                         before the runs' names, for other STEPS or flags
#   --list                                                as the first flag: print the runs and stop
#
# All other flags go to every run; with --track the sweep is its group on Weights & Biases and the variant its tag.
# A run is runs/<task>__<variant>__<seed> and its output runs/<...>.log; sweeps share the runs they have in common.
# Finished runs are skipped and interrupted ones go on, so start a sweep again at will. Failed runs are listed at the
# end; the exit code is 0 where every run has finished.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export STEPS=${STEPS:-1000000} PYTHON=${PYTHON:-.venv/bin/python} OMP_NUM_THREADS=1
WANDB_RUN_GROUP=${WANDB_RUN_GROUP:-$(basename "$0" .sh)}
export WANDB_RUN_GROUP
# shellcheck disable=SC2034 # the sweeps use it: all of PrefPoE but the preference
MATCHED=(ppo_baseline.py --shared-backbone --squash-mean --logstd-init -1)
runs=()

cell() { # task variant num_seeds script flags...: a variant on a task, one run a seed
  local task=$1 variant=$2 num_seeds=$3 seed
  shift 3
  [[ " ${TASKS:-$task} " == *" $task "* && " ${VARIANTS:-$variant} " == *" $variant "* ]] || return 0
  for seed in ${SEEDS:-$(seq "$num_seeds")}; do
    runs+=("$seed ${PREFIX:-}${task}__${variant}__$seed $* --env-id $task --seed $seed --total-timesteps $STEPS")
  done
}

prefpoe() { # task: the script for its kind of actions
  if [[ $1 =~ Lunar|CartPole|Frozen ]]; then echo prefpoe_lunarlander.py; else echo prefpoe_continuous.py; fi
}

run_sweep() { # flags...: all cells, seed by seed, so that an early look sees every variant
  local list only_list=false failed=0 name
  if [[ ${1:-} == --list ]]; then only_list=true && shift; fi
  list=$(printf '%s\n' "${runs[@]/%/${*:+ $*}}" | sort -s -n -k 1,1 | cut -d ' ' -f 2-)
  if $only_list; then echo "$list" && return; fi
  xargs -P "${WORKERS:-2}" -L 1 benchmark/run.sh <<<"$list" || failed=1
  while read -r name _; do
    if [[ ! -f runs/$name/evaluation.json ]]; then
      echo "not finished: runs/$name.log: $(tail -n 1 "runs/$name.log")"
      failed=1
    fi
  done <<<"$list"
  return $failed
}
