#!/usr/bin/env bash
# Mutation testing of rlkit_core/returns.py with mutmut 3, in a copy of the tree: docs/mutation.md says what came out.
#
#   tests/benchmarks/mutation.sh [folder]        needs the `test` extra; the folder must be new
#
# Prints the mutants that no test noticed; exits 1 where one of them is not listed in docs/mutation.md.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
work=${1:-$(mktemp -d)/rlkit}
mkdir -p "$work/tests"
cp -r "$root/rlkit_core" "$root/pyproject.toml" "$work"
cp "$root"/tests/conftest.py "$root"/tests/test_{returns,normalization,estimators}.py "$work/tests"
cd "$work"
cat > setup.cfg <<'CONFIG'
[mutmut]
source_paths = rlkit_core
only_mutate = rlkit_core/returns.py
pytest_add_cli_args =
    -q
    -x
    -n0
    -p
    no:cacheprovider
pytest_add_cli_args_test_selection = tests
use_git_change_detection = false
CONFIG

export HYPOTHESIS_PROFILE=mutation OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
mutmut run --max-children "${JOBS:-2}"
mutmut export-cicd-stats > /dev/null
cat mutants/mutmut-cicd-stats.json
echo

unlisted=0
while read -r mutant _; do
    diff=$(mutmut show "${mutant%:}" | sed -n '/^@@/,$p')
    echo "$diff"
    # Listed by the changed line, because mutants are numbered anew whenever the source changes.
    changed=$(sed -n 's/^+ *//p' <<< "$diff")
    if grep -qF -- "\`$changed\`" "$root/docs/mutation.md"; then
        echo "EQUIVALENT, listed: ${mutant%:}"
    else
        echo "SURVIVED, not listed: ${mutant%:}"
        unlisted=1
    fi
done < <(mutmut results)
exit $unlisted
