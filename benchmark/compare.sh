#!/usr/bin/env bash
# Does PrefPoE beat PPO on a task, and does it beat PPO with the same network and exploration scale?
#
# 4 variants x 3 seeds = 12 runs of 1M steps; HalfCheetah-v4 on two cores: about 20 minutes.
#   benchmark/compare.sh
#   ENV_ID=Ant-v4 SEEDS="1 2 3 4 5" WORKERS=4 STEPS=500000 benchmark/compare.sh --track
#   VARIANTS="prefpoe prefpoe-plain" STEPS=300000 benchmark/compare.sh        # does compiling change what is learned?
# Flags go to every run. Finished runs are skipped and interrupted ones resumed, so run it again at will;
# the exit code is 0 where every run finished. PYTHON names the interpreter.
# shellcheck disable=SC2016,SC2329 # xargs starts one_run in a shell of its own
set -euo pipefail
cd "$(dirname "$0")/.."
export ENV_ID=${ENV_ID:-HalfCheetah-v4} STEPS=${STEPS:-1000000} PYTHON=${PYTHON:-.venv/bin/python} OMP_NUM_THREADS=1
export WANDB_RUN_GROUP=compare

one_run() { # variant seed flags...: train, resume or skip; the log is runs/<name>.log
  local variant=$1 seed=$2 name=compare$((STEPS / 1000))k__${ENV_ID}__$1__$2 script=prefpoe_continuous.py flags=()
  shift 2
  if [[ $ENV_ID =~ Lunar|CartPole|Frozen ]]; then script=prefpoe_lunarlander.py; fi
  if [[ $variant == ppo* ]]; then script=ppo_baseline.py; fi
  case $variant in
    ppo-cleanrl) flags=(--no-bootstrap-truncated) ;;
    ppo-matched) flags=(--shared-backbone --squash-mean --logstd-init -1) ;;
    *-plain) flags=(--no-compile) ;;
  esac
  if [[ -f runs/$name/evaluation.json ]]; then
    return
  elif [[ -f runs/$name/config.json ]]; then
    $PYTHON "$script" --resume "runs/$name" >>"runs/$name.log" 2>&1 || echo "FAILED: runs/$name.log"
  else
    WANDB_TAGS=$variant $PYTHON "$script" --env-id "$ENV_ID" --seed "$seed" --total-timesteps "$STEPS" \
      --run-name "$name" "${flags[@]}" "$@" >"runs/$name.log" 2>&1 || echo "FAILED: runs/$name.log"
  fi
}
export -f one_run

mkdir -p runs
read -ra variants <<<"${VARIANTS:-ppo-cleanrl ppo ppo-matched prefpoe}"
read -ra seeds <<<"${SEEDS:-1 2 3}"
for seed in "${seeds[@]}"; do
  for variant in "${variants[@]}"; do echo "$variant $seed"; done
done | xargs -P "${WORKERS:-2}" -L 1 bash -c 'one_run "${@: -2}" "${@:1:$#-2}"' one_run "$@"

folders=()
for variant in "${variants[@]}"; do
  for seed in "${seeds[@]}"; do folders+=("runs/compare$((STEPS / 1000))k__${ENV_ID}__${variant}__$seed"); done
done
$PYTHON benchmark/table.py "${folders[@]}"
for folder in "${folders[@]}"; do [[ -f $folder/evaluation.json ]] || exit 1; done
