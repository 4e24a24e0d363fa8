#!/usr/bin/env bash
# Write requirements.lock anew: what the action installs, each version with the hashes of all its files.
# Needs a package index and uv (python3 -m pip install uv). To take newer versions: action/lock.sh --upgrade
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
# hatchling builds gitops-ml itself, without an isolated environment that would fetch what is not locked.
echo "hatchling>=1.25" | python3 -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --only-binary :all: --no-annotate --no-header --no-emit-index-url --extra aws --extra github --extra gitlab \
  --output-file action/requirements.lock "$@" pyproject.toml -
sed -i.old '1i # Made by action/lock.sh. Installed with --require-hashes.' action/requirements.lock
rm action/requirements.lock.old
