#!/usr/bin/env bash
# Installs the bundle that this file came in, without network and without root: install.sh FOLDER [PYTHON]
set -euo pipefail
[ $# -ge 1 ] || { echo "Usage: $0 FOLDER [PYTHON]: where to (FOLDER/synthsr-cohort), with which Python" >&2; exit 64; }
folder=$(realpath -m "$1")
cd "$(dirname "$0")"
case "$PWD$folder" in *' '*) echo "Neither the bundle's path nor the target's may hold a space" >&2; exit 64 ;; esac
[ ! -e "$folder/synthsr-cohort" ] || { echo "$folder/synthsr-cohort is there already" >&2; exit 64; }

sha256sum --quiet --strict --check SHA256SUMS || { echo "The bundle is damaged: copy it again" >&2; exit 65; }
mkdir -p "$folder"
tar -xf repository.tar -C "$folder"
export PIP_NO_INDEX=1 PIP_FIND_LINKS="$PWD/wheels"
make -C "$folder/synthsr-cohort" setup ${2:+PYTHON="$2"}
echo "Installed in $folder/synthsr-cohort; start with its README.md"
