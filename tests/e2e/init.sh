#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# init, keygen and id: what they write is private, never overwritten by accident, and a configuration that loads.
set -u
sakiori=${BUILDDIR:?}/sakiori
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
failed=0

# says CODE PATTERN COMMAND...: ends with this code and says something that matches
says() {
	local code=$1 pattern=$2 out rc
	shift 2
	out=$("$@" 2>&1)
	rc=$?
	[ $rc = "$code" ] && grep -Eq -- "$pattern" <<<"$out" && return
	printf 'FAIL: %s: code %s, expected %s; said:\n%s\nexpected: %s\n' "$*" $rc "$code" "$out" "$pattern"
	failed=1
}

echo '{"text": "a"}' >rows.jsonl
says 0 'site/sakiorid.conf is written' "$sakiori" init --dir site --name north --model shape:tiny --data rows.jsonl
says 0 '"complete":true' "$sakiori" init --dir site --force --json --name north --model shape:tiny --data rows.jsonl
says 1 'exists already' "$sakiori" init --dir site
id=$("$sakiori" id --key site/identity.key)
says 0 "^sakiori1:[A-Za-z0-9_-]{176}$" echo "$id"
says 0 "made_identity_key\":false.*$id" "$sakiori" init --dir site --force --json
says 0 'Still missing: .*model.path is missing' "$sakiori" init --dir site --force
says 0 '^600 600 $' stat --printf '%a ' site/identity.key site/network.key
says 1 'never overwritten' "$sakiori" keygen --out site/identity.key
says 1 'exist' "$sakiori" keygen --network --out site/network.key
says 2 '--out FILE is missing' "$sakiori" keygen
says 0 '"id":"sakiori1:' "$sakiori" keygen --out other.key --json
says 0 '"file":"other.secret"' "$sakiori" keygen --network --out other.secret --json
says 0 '"generation":1' "$sakiori" id --key other.key --json
[ "$id" != "$("$sakiori" id --key other.key)" ] || { echo 'FAIL: two keys with one id'; failed=1; }
cmp -s site/network.key other.secret && { echo 'FAIL: two equal secrets'; failed=1; }
says 1 'nowhere: there is no key: .*keygen --out nowhere' "$sakiori" id --key nowhere
chmod 644 other.key
says 4 'chmod' "$sakiori" id --key other.key
says 0 '^	#rounds = 100;$' "$sakiori" init --example

# completion knows commands and options from the program itself
completes() {
	# shellcheck source=/dev/null disable=SC2317
	(PATH=${sakiori%/*}:$PATH; . "${SRCDIR:?}/etc/sakiori.bash-completion"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _sakiori; echo "${COMPREPLY[@]}")
}
says 0 '^keygen$' completes sakiori ke
says 0 '--network .*--json' completes sakiori keygen --
exit $failed
