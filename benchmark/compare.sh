#!/usr/bin/env bash
# Does PrefPoE beat PPO on a task, and does it beat PPO with the same network and exploration scale?
#
# 4 variants x 3 seeds = 12 runs of 1M steps; HalfCheetah-v4 on two cores: about 20 minutes.
#   benchmark/compare.sh
#   ENV_ID=Ant-v4 SEEDS="1 2 3 4 5" WORKERS=4 STEPS=500000 benchmark/compare.sh --track
# Flags go to every run. Finished runs are skipped and interrupted ones resumed, so run it again at will;
# the exit code is 0 where every run finished. PYTHON names the interpreter.
# shellcheck disable=SC2016,SC2329 # xargs starts one_run in a shell of its own
set -euo pipefail
cd "$(dirname "$0")/.."
export ENV_ID=${ENV_ID:-HalfCheetah-v4} STEPS=${STEPS:-1000000} PYTHON=${PYTHON:-python} OMP_NUM_THREADS=1
export WANDB_RUN_GROUP=compare

one_run() { # variant seed flags...: train, resume or skip; the log is runs/<name>.log
  local variant=$1 seed=$2 name=compare__${ENV_ID}__$1__$2 script=ppo_baseline.py flags=()
  shift 2
  case $variant in
    ppo-cleanrl) flags=(--no-bootstrap-truncated) ;;
    ppo) ;;
    ppo-matched) flags=(--shared-backbone --squash-mean --logstd-init -1) ;;
    prefpoe) [[ $ENV_ID =~ Lunar|CartPole|Frozen ]] && script=prefpoe_lunarlander.py || script=prefpoe_continuous.py ;;
  esac
  if [[ -f runs/$name/evaluation.json ]]; then
    echo "finished already: $name"
  elif [[ -f runs/$name/config.json ]]; then
    $PYTHON "$script" --resume "runs/$name" >>"runs/$name.log" 2>&1 || echo "FAILED: runs/$name.log"
  else
    WANDB_TAGS=$variant $PYTHON "$script" --env-id "$ENV_ID" --seed "$seed" --total-timesteps "$STEPS" \
      --run-name "$name" "${flags[@]}" "$@" >"runs/$name.log" 2>&1 || echo "FAILED: runs/$name.log"
  fi
}
export -f one_run

mkdir -p runs
for seed in ${SEEDS:-1 2 3}; do
  for variant in ppo-cleanrl ppo ppo-matched prefpoe; do echo "$variant $seed"; done
done | xargs -P "${WORKERS:-2}" -L 1 bash -c 'one_run "${@: -2}" "${@:1:$#-2}"' one_run "$@"

status=0
for seed in ${SEEDS:-1 2 3}; do
  for variant in ppo-cleanrl ppo ppo-matched prefpoe; do
    name=compare__${ENV_ID}__${variant}__$seed
    if [[ -f runs/$name/evaluation.json ]]; then
      printf '%-12s seed %s  %s\n' "$variant" "$seed" "$(tail -n 1 "runs/$name.log")"
    else
      printf '%-12s seed %s  failed, see runs/%s.log\n' "$variant" "$seed" "$name"
      status=1
    fi
  done
done
exit $status
