# shellcheck shell=bash
# Which runs a sweep has: it calls these functions for each of its tasks, and they fill `runs`, a line a run with the seed
# before it, quoted for the shell. TASKS, VARIANTS and SEEDS choose.
runs=() tasks="" variants="" # the last two: all that there are, chosen or not
MATCHED=(ppo_baseline.py --shared-backbone --squash-mean --logstd-init -1) # all of PrefPoE but the preference

cell() { # task variant num_seeds script flags...: a variant on a task, one run a seed
  local task=$1 variant=$2 num_seeds=$3 name=${1##*:} seed flags # the name is without the module that registers it
  [[ $variant != *__* ]] || fail "variant $variant: __ separates the parts of a run's name"
  printf -v flags ' %q' "${@:4}" --env-id "$task" --seed
  [[ " $tasks " == *" $task "* ]] || tasks+="${tasks:+ }$task"
  [[ " $variants " == *" $variant "* ]] || variants+="${variants:+ }$variant"
  [[ " ${TASKS:-$task} " == *" $task "* && " ${VARIANTS:-$variant} " == *" $variant "* ]] || return 0
  for seed in ${SEEDS:-$(seq "$num_seeds")}; do
    runs+=("$seed ${PREFIX:-}${name//\//_}__${variant}__$seed$flags $seed --total-timesteps $STEPS")
  done
}

prefpoe() { # task: the script for its kind of actions
  case $1 in
    LunarLander-v* | CartPole-* | FrozenLake-* | MountainCar-* | Acrobot-*) echo prefpoe_lunarlander.py ;;
    *) echo prefpoe_continuous.py ;;
  esac
}

headline() { # task num_seeds: CleanRL's PPO, with all of PrefPoE but the preference, and PrefPoE
  cell "$1" ppo-cleanrl "$2" ppo_baseline.py --no-bootstrap-truncated
  cell "$1" ppo-matched "$2" "${MATCHED[@]}"
  cell "$1" prefpoe "$2" "$(prefpoe "$1")"
  cell "$1" prefpoe-anneal "$2" "$(prefpoe "$1")" --anneal-pref
}

entropy_controls() { # task num_seeds: a plain entropy weight instead of the preference, constant or falling to 0
  cell "$1" ppo-matched-ent-coef-0.01 "$2" "${MATCHED[@]}" --ent-coef 0.01
  cell "$1" ppo-matched-ent-coef-0.01-anneal "$2" "${MATCHED[@]}" --ent-coef 0.01 --anneal-ent
}
