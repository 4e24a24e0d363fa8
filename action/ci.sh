#!/usr/bin/env bash
# Run `gitops-ml ci` or `gitops-ml reconcile` with the action's inputs, which come in variables: none of them is ever read as shell.
set -euo pipefail
unset PYTHONPATH PYTHONHOME PYTHONSTARTUP

verb=${ACTION_VERB:-ci}
case $verb in
  ci | reconcile) ;;
  *) echo "::error::the input command is neither ci nor reconcile" && exit 2 ;;
esac

arguments=(--job="${ACTION_JOB:-all}" --id="${ACTION_ID:-default}")
add() { # option, value or nothing
  if [[ -n $2 ]]; then arguments+=("$1=$2"); fi
}
add --out "${ACTION_OUT:-}"
add --plan "${ACTION_PLAN:-}"
add --from "${ACTION_FROM:-}"
add --digest "${ACTION_DIGEST:-}"
add --forge "${ACTION_FORGE:-}"
# `reconcile` does not know these two.
if [[ $verb == ci && ${ACTION_DETACH:-auto} != auto ]]; then add --detach "$ACTION_DETACH"; fi
if [[ $verb == ci ]]; then add --job-limit "${ACTION_JOB_LIMIT:-}"; fi
if [[ ${ACTION_CANCELLED:-false} == true ]]; then arguments+=(--cancelled); fi
if [[ ${ACTION_APPROVED:-false} == true ]]; then arguments+=(--approved-by-environment); fi

# By these boto3 takes on the role by itself; the command keeps the job's token fresh in the file that both name.
if [[ -n ${ACTION_AWS_ROLE:-} ]]; then
  export AWS_ROLE_ARN=$ACTION_AWS_ROLE AWS_ROLE_SESSION_NAME="gitops-ml-${GITHUB_RUN_ID:-0}"
  export AWS_WEB_IDENTITY_TOKEN_FILE="${RUNNER_TEMP:-/tmp}/gitops-ml-identity/token"
  export GITOPS_ML_IDENTITY_FILE=$AWS_WEB_IDENTITY_TOKEN_FILE
fi
if [[ -n ${ACTION_AWS_REGION:-} ]]; then export AWS_REGION=$ACTION_AWS_REGION AWS_DEFAULT_REGION=$ACTION_AWS_REGION; fi

cd -- "${ACTION_FOLDER:-.}"
exec "$ACTION_COMMAND" "$verb" "${arguments[@]}"
