# Sourced by the scripts beside it, from the root of the checkout. One function matters: ensure_venv LOCKFILE.
#
# It leaves .venv holding exactly what the hash-locked file names, and does nothing when that is already so:
# .venv/.installed is a copy of the lock file that was installed last.

VENV_PYTHON=.venv/bin/python
UV=.venv/.uv/bin/uv

_python_fits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

_find_python() {
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11 python3.14; do
    if _python_fits "$candidate"; then echo "$candidate"; return 0; fi
  done
  echo "missing: Python 3.11 or newer (on Debian or Ubuntu: apt-get install python3 python3-venv)" >&2
  return 1
}

_make_venv() {
  local python
  python=$(_find_python) || return 1
  if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    echo "missing: python3-venv for $("$python" -V) (on Debian or Ubuntu: apt-get install python3-venv)" >&2
    return 1
  fi
  echo "making .venv with $("$python" -V)" >&2
  "$python" -m venv --clear .venv
}

ensure_venv() {
  local lock=$1
  if ! { _python_fits "$VENV_PYTHON" && "$VENV_PYTHON" -m pip --version >/dev/null 2>&1; }; then
    _make_venv || return 1
  fi
  if cmp -s "$lock" .venv/.installed; then return 0; fi
  # the development lock holds everything the others do, in the same versions, and the demo's all of production's
  if [ "$lock" != requirements-dev.txt ] && cmp -s requirements-dev.txt .venv/.installed; then return 0; fi
  if [ "$lock" = requirements.txt ] && cmp -s requirements-demo.txt .venv/.installed; then return 0; fi
  echo "installing $lock into .venv" >&2
  _install "$lock" || {
    echo "could not install $lock: are the package index and the network reachable?" >&2
    return 1
  }
  cp "$lock" .venv/.installed
}

# Settings of a person's pip that would send the packages elsewhere. Where they come from does not matter: hashes decide.
_pip() { env -u PIP_TARGET -u PIP_PREFIX -u PIP_USER -u PIP_CONSTRAINT -u PIP_REQUIREMENT PIP_DISABLE_PIP_VERSION_CHECK=1 \
  "$VENV_PYTHON" -m pip "$@"; }

# uv needs seconds where pip needs a minute; where it cannot (another index, no wheel for this machine), pip does it.
_install() {
  local index # of pip's own settings, which uv does not read
  if [ ! -x "$UV" ]; then
    _pip install --quiet --root-user-action=ignore --require-hashes --target .venv/.uv -r requirements-uv.txt || true
  fi
  index=$(_pip config get global.index-url 2>/dev/null) || index=
  if env ${index:+"UV_DEFAULT_INDEX=$index"} "$UV" pip install --quiet --no-config --no-cache --system-certs \
    --compile-bytecode --python "$VENV_PYTHON" --require-hashes -r "$1"; then
    return 0
  fi
  _pip install --quiet --root-user-action=ignore --require-hashes -r "$1"
}
