#!/bin/sh
# base.sh BRANCH FILE: write the baseline that a branch of the remote has to a file.
# DWSCONV_BASELINE names it in the repository, .dwsconv/baseline.json by default.
set -eu
git fetch --quiet --depth=1 origin "$1"
baseline=${DWSCONV_BASELINE:-.dwsconv/baseline.json}
if git cat-file -e "FETCH_HEAD:$baseline" 2> /dev/null; then
    git show "FETCH_HEAD:$baseline" > "$2"
else
    echo "$1 has no $baseline, so every model is new: pytest --dws-update makes it" >&2
    echo '{"schema_version": 1, "models": {}}' > "$2"
fi
