#!/bin/sh
# Build the one wheel into dist/, from nothing: modules and wheels that earlier builds left would travel with it.
# `.venv` (make setup) builds without the network; without it pip fetches setuptools into an environment of its own.
set -eu
cd "$(dirname "$0")/.."
rm -rf build dist ./*.egg-info
if [ -x .venv/bin/python ]; then
  .venv/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index --wheel-dir dist .
else
  python3 -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
fi
rm -rf build
