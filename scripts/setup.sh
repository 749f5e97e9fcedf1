#!/usr/bin/env bash
# Make .venv in this repository: the exact packages of requirements.lock, tlimb itself (editable), a workflow engine.
# Run again it brings an existing .venv up to date. Whatever is missing is said in one line, with the way to get it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

NEEDED_GB=8 # the packages take 6.5, most of it torch
GET_PYTHON="Debian 12, Ubuntu 24.04 or newer: apt-get install python3 python3-venv; macOS: brew install python@3.12"

stop() {
    echo "set-up: $*" >&2
    exit 1
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    local name
    for name in python3.13 python3.12 python3.11 python3; do
        if command -v "$name" >/dev/null && new_enough "$name"; then
            echo "$name"
            return
        fi
    done
    if command -v python3 >/dev/null; then
        stop "$(python3 --version 2>&1) is too old, 3.11 or newer is needed ($GET_PYTHON)"
    fi
    stop "no Python found, 3.11 or newer is needed ($GET_PYTHON)"
}

require_disk() {
    local free_kb
    free_kb=$(df -Pk . | awk 'NR == 2 {print $4}')
    ((free_kb >= NEEDED_GB * 1000000)) ||
        stop "$((free_kb / 1000000)) GB free on the disk of $PWD, $NEEDED_GB GB are needed; free some or use another"
}

make_venv() {
    local python
    python=$(find_python)
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        stop "$python has no venv module (Debian, Ubuntu: apt-get install $(basename "$python")-venv)"
    require_disk
    "$python" -m venv --clear .venv
}

# Run a command that needs the registry; where it fails, end with the last line it said.
online() {
    local answer
    answer=$("$@" 2>&1) ||
        stop "the package registry doesn't answer; check the network or the proxy" \
            "($(awk 'NF {sub(/^ +/, ""); last = $0} END {print last}' <<<"$answer"))"
}

find_uv() {
    command -v uv && return
    if [[ ! -x .venv/bin/uv ]]; then
        .venv/bin/python -m pip --version &>/dev/null || .venv/bin/python -m ensurepip &>/dev/null
        online .venv/bin/python -m pip install --quiet --retries 1 uv
    fi
    echo .venv/bin/uv
}

command -v ps >/dev/null || stop "no ps, which Nextflow measures tasks with (Debian, Ubuntu: apt-get install procps)"
new_enough .venv/bin/python || make_venv
uv=$(find_uv)
online "$uv" pip compile --quiet --no-cache --no-deps --python .venv/bin/python - <<<"idna"
echo "set-up: installing the packages of requirements.lock into .venv (the first time 6.5 GB and some minutes)"
"$uv" pip install --python .venv/bin/python --compile-bytecode --require-hashes -r requirements.lock ||
    stop "the packages can't be installed, see above"
"$uv" pip install --python .venv/bin/python --quiet --no-deps --editable . || stop "tlimb can't be installed, see above"
PATH=$PWD/.venv/bin:$PATH .venv/bin/python -m tlimb.engine
