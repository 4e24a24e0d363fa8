#!/usr/bin/env bash
# Run `gitops-ml ci` with the action's inputs, which come in variables: none of them is ever read as shell.
set -euo pipefail
unset PYTHONPATH PYTHONHOME PYTHONSTARTUP

arguments=(--job="${ACTION_JOB:-all}" --id="${ACTION_ID:-default}")
add() { # option, value or nothing
  if [[ -n $2 ]]; then arguments+=("$1=$2"); fi
}
add --out "${ACTION_OUT:-}"
add --plan "${ACTION_PLAN:-}"
add --from "${ACTION_FROM:-}"
add --digest "${ACTION_DIGEST:-}"
add --forge "${ACTION_FORGE:-}"
if [[ ${ACTION_CANCELLED:-false} == true ]]; then arguments+=(--cancelled); fi
if [[ ${ACTION_APPROVED:-false} == true ]]; then arguments+=(--approved-by-environment); fi

cd -- "${ACTION_FOLDER:-.}"
exec "$ACTION_COMMAND" ci "${arguments[@]}"
