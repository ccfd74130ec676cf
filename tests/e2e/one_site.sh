#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# One daemon without peers on the tiny model: rounds, pages, commands, SIGTERM, kill -9, and going on after both.
set -u
sakiori=${BUILDDIR:?}/sakiori
sakiorid=$BUILDDIR/sakiorid
here=${SRCDIR:?}/tests/e2e
work=$(mktemp -d)
daemon=
trap '[ -n "$daemon" ] && kill -9 "$daemon" 2>/dev/null; rm -rf "$work"' EXIT
failed=0
fail() { echo "FAIL: $*"; tail -n 20 "$work/log"; failed=1; }

read -r peer_port http_port < <(python3 -c '
import socket
a, b = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
print(a.getsockname()[1], b.getsockname()[1])')
sed -e "s|/tmp/sakiori-one-site|$work|g; s|127.0.0.1:7411|127.0.0.1:$peer_port|; s|127.0.0.1:9411|127.0.0.1:$http_port|" \
	-e "s|\.\./golden|$here/../golden|; s|\"one-site.jsonl\"|\"$here/one-site.jsonl\"|" "$here/one-site.conf" >"$work/site.conf"
export SAKIORI_SOCKET=$work/admin.sock

start() {
	"$sakiorid" -c "$work/site.conf" >>"$work/log" 2>&1 &
	daemon=$!
	for _ in $(seq 100); do
		"$sakiori" status >/dev/null 2>&1 && break
		sleep 0.1
	done
	"$sakiori" wait --round "$1" --timeout 60s >/dev/null || fail "round $1 was not reached"
}
field() { "$sakiori" "$1" --json | python3 -c 'import json, sys; print(json.loads(sys.stdin.readlines()[-1])[sys.argv[1]])' "$2"; }
page() { python3 -c 'import sys, urllib.request; print(urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}{sys.argv[2]}", timeout=10).read().decode())' "$http_port" "$1"; }

"$sakiori" status >/dev/null 2>&1
[ $? = 3 ] || fail "without a daemon the exit code is 3"
"$sakiorid" -c "$work/site.conf" --check-config >/dev/null || fail "the configuration is valid"

start 3
page /readyz | grep '^ready' >/dev/null || fail "/readyz"
page /metrics >"$work/metrics"
grep -q '^sakiori_train_loss [0-9]' "$work/metrics" || fail "no training loss in /metrics"
if command -v promtool >/dev/null; then promtool check metrics <"$work/metrics" || fail "promtool"; fi
page /api/v1/status | grep '"site":"one-site"' >/dev/null || fail "/api/v1/status"
[ -f "$work/state/adapters/latest/adapter_config.json" ] || fail "no adapter was published"
"$sakiorid" -c "$work/site.conf" 2>&1 | grep "process id $daemon:" >/dev/null || fail "a second daemon is refused by the first one's name"

"$sakiori" pause --json | grep '"state"' >/dev/null || fail "pause"
for _ in $(seq 50); do [ "$(field status state)" = paused ] && break; sleep 0.1; done
[ "$(field status state)" = paused ] || fail "paused, but the state is $(field status state)"
round=$(field status round)
"$sakiori" wait --round $((round + 1)) --timeout 300ms >/dev/null 2>&1
[ $? = 5 ] || fail "what is not reached ends with exit code 5"
"$sakiori" reload --json | grep '"applied":\[\]' >/dev/null || fail "an unchanged configuration changes nothing"
sed -i 's/rounds = 1000/rounds = 2000/; s/name = "one-site";$/&\n	log_level = "debug";/; ' "$work/site.conf"
sed -i '0,/log_level = "debug";/!{/log_level = "debug";/d}' "$work/site.conf"
"$sakiori" reload --json | grep '"applied":\["site.log_level"\],"needs_restart":\["run.rounds"\]' >/dev/null || fail "reload names what it did: $("$sakiori" reload --json)"
"$sakiori" resume >/dev/null || fail "resume"

began=$(date +%s)
kill -TERM "$daemon"
wait "$daemon"
code=$?
[ $code = 0 ] || fail "SIGTERM ends with $code"
[ $(($(date +%s) - began)) -le 10 ] || fail "SIGTERM took over 10 s"
[ -e "$SAKIORI_SOCKET" ] && fail "the socket is left behind"

for _ in 1 2 3; do
	start $((round + 2))
	round=$(field status round)
	kill -9 "$daemon"
	wait "$daemon" 2>/dev/null
done
start $((round + 1))
"$sakiori" rounds --count 1000 --json | python3 -c '
import json, sys
rounds = [json.loads(line)["round"] for line in sys.stdin]
assert rounds == list(range(1, len(rounds) + 1)), rounds' || fail "a round is missing or counted twice"
kill -TERM "$daemon"
wait "$daemon"
daemon=
[ $failed = 0 ] && echo "one site: $round rounds"
exit $failed
