#!/usr/bin/env bash
# Make a virtual environment with tcc-fast and all that its tests and demo need. Quick when nothing has changed.
#
# Usage: tools/setup.sh [VENV]      (PYTHON=python3.12 tools/setup.sh to choose the interpreter)
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:-.venv}
python=${PYTHON:-python3}
stamp=$venv/.setup-done
# What FFCV compiles against, and what any source build needs.
packages="build-essential pkg-config libturbojpeg0-dev libopencv-dev"

fingerprint=$(cat pyproject.toml constraints.txt tools/setup.sh | sha256sum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$fingerprint" ]; then
    exit 0
fi

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

have_ffcv_libraries() {
    command -v g++ >/dev/null && pkg-config --exists libturbojpeg opencv4 2>/dev/null
}

install_debian() {  # names of Debian packages
    command -v apt-get >/dev/null || return 1
    [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null || return 1
    echo "setup: installing $* (Debian packages)"
    export DEBIAN_FRONTEND=noninteractive
    as_root apt-get update -qq && as_root apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "setup: Python 3.11 or newer is needed; name one with PYTHON=..., such as PYTHON=python3.12 make setup" >&2
    exit 1
fi
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    install_debian "$version-venv" "$version-dev" || {
        echo "setup: $python cannot make virtual environments: apt-get install $version-venv $version-dev" >&2
        exit 1
    }
fi
have_ffcv_libraries || install_debian $packages || true

[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }
echo "setup: installing Python packages into $venv (a few minutes the first time)"
pip install -c constraints.txt -e '.[dev]'
pip install -c constraints.txt -e '.[dali]' || echo "setup: DALI could not be installed; everything else works" >&2
if have_ffcv_libraries; then
    pip install -c constraints.txt -e '.[ffcv]' || echo "setup: FFCV could not be built; everything else works" >&2
else
    echo "setup: without FFCV, whose libraries are missing: apt-get install $packages; everything else works" >&2
fi
echo "$fingerprint" > "$stamp"
