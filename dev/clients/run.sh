#!/usr/bin/env bash
# Real clients of other projects against `assay serve`, each in an environment of its own.
#   dev/clients/run.sh                  all of them; fails where a reward differs, or the table of docs/serving.md is another
#   dev/clients/run.sh --write          the same, and the table is written anew
#   dev/clients/run.sh openai cohere    some of them; the table is left alone
# A lock is made anew from its .in file, which names the client, by
#   uv pip compile --generate-hashes --only-binary :all: --no-annotate --no-header --python-version 3.11 NAME.in -o NAME.txt
set -euo pipefail
cd "$(dirname "$0")/../.."
export PIP_DISABLE_PIP_VERSION_CHECK=1 OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
exec .venv/bin/python dev/clients/matrix.py "$@"
