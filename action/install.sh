#!/usr/bin/env bash
# Install gitops-ml from the checkout that this file stands in, with the dependencies of requirements.lock and no others,
# into an environment of its own under RUNNER_TEMP. Sets the output `command`.
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
# What a step before us left in the environment must not choose what is imported here.
unset PYTHONPATH PYTHONHOME PYTHONSTARTUP

fits() { # an interpreter
  "$1" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

python=
for candidate in "${ACTION_PYTHON:-}" python3 python python3.14 python3.13 python3.12 python3.11; do
  if [[ -n $candidate ]] && fits "$candidate"; then
    python=$candidate
    break
  fi
  if [[ -n ${ACTION_PYTHON:-} ]]; then
    echo "::error::the input python names no interpreter of Python 3.11 or later" && exit 2
  fi
done
if [[ -z $python ]]; then
  echo "::error::gitops-ml needs Python 3.11 or later; run actions/setup-python first, or name one as the input python"
  exit 2
fi

if [[ ${ACTION_INSTALL:-true} == false ]]; then
  "$python" -I -c 'import gitops_ml' || { echo "::error::install: false, but the interpreter has no gitops-ml" && exit 2; }
  # The scripts folder of the interpreter itself: what is first on the path may be another gitops-ml.
  command=$("$python" -I -c 'import sysconfig; print(sysconfig.get_path("scripts"))')/gitops-ml
else
  home="${RUNNER_TEMP:-/tmp}/gitops-ml-action"
  made_from="$(cksum <"$here/requirements.lock") $("$python" -I -VV) $here"
  if [[ $(cat "$home/made-from" 2>/dev/null || true) != "$made_from" ]]; then
    rm -rf "$home"
    "$python" -I -m venv "$home"
    install=("$home/bin/python" -I -m pip install --quiet --disable-pip-version-check --no-input --no-cache-dir --no-deps)
    "${install[@]}" --require-hashes --only-binary :all: -r "$here/requirements.lock"
    # The build backend is among the locked ones, so nothing is fetched to build.
    "${install[@]}" --no-index --no-build-isolation "$here/.."
    echo "$made_from" >"$home/made-from"
  fi
  command=$home/bin/gitops-ml
fi

"$command" --version
echo "command=$command" >>"$GITHUB_OUTPUT"
