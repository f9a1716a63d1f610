#!/usr/bin/env bash
# Installs the Python package as docs/python.md says, into an environment in build/wheel_test that borrows the PyTorch
# of .venv, and runs the tests of the package against what was installed.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
source scripts/setup.sh
need_packages "${build_packages[@]}"
need_python

step "Installing the Python package into build/wheel_test"
python=$root/build/wheel_test/bin/python
rm -rf build/wheel_test
"$venv/bin/python" -m venv build/wheel_test
dirname "$torch_folder" >"$("$python" -c 'import site; print(site.getsitepackages()[0])')/torch.pth"
pip=("$python" -m pip install --quiet --disable-pip-version-check)
"${pip[@]}" "scikit-build-core>=0.11"
"${pip[@]}" --no-build-isolation --no-deps .
step_done

step "Testing the installed package"
for name in package documentation; do
  env -u PYTHONPATH -u RATTAN_OPS_LIBRARY "$python" "tests/python/${name}_test.py"
done
step_done
