# Functions of ./dev that bring what the build needs: Debian packages and a virtual environment in .venv.
# Sourced by ./dev; every function does nothing, quickly, when nothing is missing.

# The one list of packages (Debian 12 and Ubuntu 24.04 call them alike). docs/dependencies.md gives the reasons.
build_packages=(
  g++ cmake ninja-build ccache python3-venv
  libfmt-dev libcli11-dev libtomlplusplus-dev nlohmann-json3-dev libsimdjson-dev
  libsentencepiece-dev zlib1g-dev libzstd-dev libboost-dev libedit-dev
  libgtest-dev libgmock-dev librapidcheck-dev
  bible-kjv
)
lint_packages=(git clang-16 clang-format-16 clang-tidy-16)
fuzz_packages=(clang-16 libclang-rt-16-dev)

torch_requirement=torch==2.13.0
test_requirements=$root/python/requirements-test.txt
venv=$root/.venv

step() {
  step_start=$SECONDS
  printf '==> %s\n' "$1" >&2
}
step_done() { printf '    done in %d s\n' $((SECONDS - step_start)) >&2; }
die() {
  printf '\n./dev: %s\n' "$1" >&2
  shift
  (($# == 0)) || printf '  %s\n' "$@" >&2
  exit 1
}

# need_packages NAME...: installs the Debian packages that are missing.
need_packages() {
  if ! command -v dpkg-query >/dev/null; then
    command -v cmake >/dev/null && command -v ninja >/dev/null ||
      die "this is not a Debian or Ubuntu machine, so nothing can be installed for you." "Needed: $*"
    return 0
  fi
  local missing=() package
  local -A present=()
  while read -r package; do
    present[$package]=1
  done < <(dpkg-query -W -f='${db:Status-Status} ${Package}\n' "$@" 2>/dev/null | sed -n 's/^installed //p')
  for package in "$@"; do
    [[ -n ${present[$package]:-} ]] || missing+=("$package")
  done
  ((${#missing[@]})) || return 0

  local by_hand="apt-get install --no-install-recommends ${missing[*]}"
  local as_root=()
  if ((EUID != 0)); then
    command -v sudo >/dev/null || die "Debian packages are missing, and installing them needs root (there is no sudo)." \
      "Ask for this to be run once, then try again:" "$by_hand"
    [[ -t 0 ]] || sudo -n true 2>/dev/null || die "Debian packages are missing, and sudo wants a password." \
      "Run this once, then try again:" "sudo $by_hand"
    as_root=(sudo)
  fi
  step "Installing Debian packages: ${missing[*]}"
  mkdir -p "$root/build"
  local log=$root/build/apt.log
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 -qq -y)
  # Lists that cannot be refreshed are no failure yet: the old ones may do.
  "${apt[@]}" update >"$log" 2>&1 || true
  if ! "${apt[@]}" install --no-install-recommends "${missing[@]}" >>"$log" 2>&1 </dev/null; then
    grep -E '^[EW]:' "$log" | sort -u | tail -n 8 >&2
    die "the packages could not be installed; everything apt said is in build/apt.log." \
      "Offline? The machine needs its package mirror once; later runs work without." \
      "On Ubuntu, some of them are in the section 'universe'." "By hand: $by_hand"
  fi
  step_done
}

# Installs into .venv. A marker stands there meanwhile, so that a run that was killed is seen by the next one.
pip_install() {
  local quiet=(--quiet)
  [[ -t 2 ]] && quiet=()
  if ! "$venv/bin/python" -m pip install "${quiet[@]}" --disable-pip-version-check "$@" >&2; then
    # pip undoes what it could not finish, so what was there before is still good.
    rm -f "$venv/.unfinished"
    die "pip could not install: ${*: -1}" \
      "Offline? The package index is needed once; later runs work without." \
      "Another index for torch: RATTAN_TORCH_INDEX=URL ./dev ...   An installed torch: RATTAN_TORCH=<site-packages>/torch ./dev ..."
  fi
}

# need_python: makes .venv complete and sets torch_folder.
need_python() {
  local want_torch=$torch_requirement
  if [[ -n ${RATTAN_TORCH:-} ]]; then
    [[ -e $RATTAN_TORCH/lib/libtorch_cpu.so && -d $RATTAN_TORCH/include/ATen ]] ||
      die "RATTAN_TORCH=$RATTAN_TORCH is not the torch folder of a PyTorch wheel." \
        "It must hold lib/libtorch_cpu.so and include/ATen. Unset it to have $torch_requirement installed into .venv."
    want_torch=none
  fi
  local want
  want="$want_torch $(sha256sum <"$test_requirements")"
  if [[ -e $venv/.unfinished || ! -x $venv/bin/python || ! -e $venv/.complete || $(<"$venv/.complete") != "$want" ]]; then
    make_python "$want" "$want_torch"
  fi
  if [[ -n ${RATTAN_TORCH:-} ]]; then
    torch_folder=$(realpath "$RATTAN_TORCH")
  else
    torch_folder=$(compgen -G "$venv/lib/python3*/site-packages/torch" | head -n 1)
  fi
}

make_python() {
  local want=$1 want_torch=$2
  mkdir -p "$root/build"
  exec 9>"$root/build/.setup-lock"
  flock 9
  if [[ -e $venv/.unfinished ]]; then
    step "Removing .venv, which an earlier run left unfinished"
    rm -rf "$venv"
    step_done
  elif [[ -d $venv && ! -x $venv/bin/python ]]; then
    step "Removing .venv, whose Python is gone"
    rm -rf "$venv"
    step_done
  fi
  if [[ ! -d $venv ]]; then
    step "Creating .venv with $(python3 --version)"
    mkdir "$venv"
    touch "$venv/.unfinished"
    python3 -m venv "$venv" >&2 || die "python3 -m venv failed (its words are above)."
    step_done
  fi
  touch "$venv/.unfinished"
  rm -f "$venv/.complete"
  if [[ $want_torch != none ]]; then
    step "Installing $want_torch into .venv (about 1 GB on disk, several with CUDA)"
    pip_install ${RATTAN_TORCH_INDEX:+--index-url "$RATTAN_TORCH_INDEX"} "$want_torch"
    step_done
  fi
  step "Installing what the Python tests need into .venv"
  pip_install -r "$test_requirements"
  step_done
  printf '%s' "$want" >"$venv/.complete"
  rm "$venv/.unfinished"
  exec 9>&-
}
