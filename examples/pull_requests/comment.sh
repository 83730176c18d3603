#!/bin/sh
# comment.sh FILE: make a file the comment of a pull request, in place of that of an earlier run.
# GH_TOKEN, GITHUB_REPOSITORY and PULL_REQUEST are those of the job.
set -eu
marker='<!-- pytest-dwsconv -->'
body=$(mktemp)
{ echo "$marker"; cat "$1"; } > "$body"
repository=repos/$GITHUB_REPOSITORY
comments=$repository/issues/$PULL_REQUEST/comments
mine=".[] | select(.body | startswith(\"$marker\")) | .id"
earlier=$(gh api --paginate --jq "$mine" "$comments" | head -n 1)
if [ -n "$earlier" ]; then
    gh api --silent --method PATCH --field "body=@$body" "$repository/issues/comments/$earlier"
else
    gh api --silent --method POST --field "body=@$body" "$comments"
fi
rm -f "$body"
