#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The adapter of each best round stands in a folder of its own, as vLLM's filesystem resolver takes it, and is the adapter that was evaluated.
set -u
sakiori=${BUILDDIR:?}/sakiori
sakiorid=$BUILDDIR/sakiorid
here=${SRCDIR:?}/tests/e2e
work=$(mktemp -d)
daemon=
trap '[ -n "$daemon" ] && kill -9 "$daemon" 2>/dev/null; rm -rf "$work"' EXIT
failed=0
fail() { echo "FAIL: $*"; tail -n 20 "$work/log"; failed=1; }

# No HTTP, nobody to listen to.
sed -e "s|/tmp/sakiori-one-site|$work|g; s|peer = .*|peer = [];|; s|http = .*|http = \"\";|; s|\.\./golden|$here/../golden|" \
	-e "s|\"one-site.jsonl\"|\"$here/one-site.jsonl\"|; s|rounds = 1000|rounds = 24|; s|eval_every = 5|eval_every = 3|" "$here/one-site.conf" >"$work/site.conf"
echo "publish = { directory = \"$work/served/adapters\"; base_model = \"someone/base\"; keep = 2; };" >>"$work/site.conf"
export SAKIORI_SOCKET=$work/admin.sock

start() {
	"$sakiorid" -c "$work/site.conf" >>"$work/log" 2>&1 &
	daemon=$!
	for _ in $(seq 100); do
		"$sakiori" status >/dev/null 2>&1 && break
		sleep 0.1
	done
	"$sakiori" wait --round 24 --timeout 60s >/dev/null || fail "round 24 was not reached"
}
stop() {
	kill -TERM "$daemon"
	wait "$daemon"
	daemon=
}
# The round that evaluated best, as the daemon tells its rounds.
best_round() {
	"$sakiori" rounds --count 1000 --json | python3 -c '
import json, sys
rounds = [r for r in map(json.loads, sys.stdin) if r["eval_loss"] is not None]
print(min(rounds, key=lambda r: r["eval_loss"])["round"])'
}

start
round=$(best_round)
for _ in $(seq 100); do
	[ "$(readlink "$work/served/adapters/one-site-best")" = "one-site-round-$round" ] && break
	sleep 0.1
done
stop
python3 - "$work" "$round" "$sakiori" "$here" <<'END' || fail "what is published is not what was promised"
import json
import os
import subprocess
import sys

work, best, sakiori, here = sys.argv[1:]
served = f"{work}/served/adapters"
folders = sorted(f for f in os.listdir(served) if not os.path.islink(f"{served}/{f}"))
assert len(folders) == 2 and f"one-site-round-{best}" in folders and all(f.startswith("one-site-round-") for f in folders), folders
assert os.stat(served).st_mode & 0o777 == 0o755, "others cannot read the directory"


def resolve(base_model_name, lora_name):
    """What vLLM's resolver asks of a folder; it follows links, but not out of its directory."""
    path = os.path.realpath(f"{served}/{lora_name}")
    assert os.path.commonpath([os.path.realpath(served), path]) == os.path.realpath(served)
    with open(f"{path}/adapter_config.json", encoding="utf-8") as file:
        config = json.load(file)
    assert config["peft_type"] == "LORA" and config["base_model_name_or_path"] == base_model_name, config
    assert config["modules_to_save"] is None and config["use_dora"] is False, config
    return path


def notes(path):
    with open(f"{path}/adapter_model.safetensors", "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(size))["__metadata__"]


losses = {}
for folder in folders:
    path = resolve("someone/base", folder)
    said = notes(path)
    assert folder == f"one-site-round-{said['sakiori.round']}" and said["sakiori.run"] == "one-site", said
    for name in os.listdir(path):
        assert os.stat(f"{path}/{name}").st_mode & 0o777 == 0o644, name
    out = subprocess.run([sakiori, "eval", "--model", f"{here}/../golden/tiny.gguf", "--adapter", path, "--data", f"{here}/one-site.jsonl",
                          "--rows", "8", "--seq", "64", "--base-dtype", "f32", "--threads", "1", "--json"], check=True, stdout=subprocess.PIPE).stdout
    losses[folder] = json.loads(out)["loss"]
    # The very adapter that was evaluated then, not one that went on meanwhile.
    assert abs(losses[folder] - float(said["sakiori.eval_loss"])) < 2e-6, (folder, losses, said)
assert resolve("someone/base", "one-site-best") == os.path.realpath(f"{served}/one-site-round-{best}")
assert min(losses, key=losses.get) == f"one-site-round-{best}", losses
END

# The next start knows what the best was, and touches nothing.
before=$(ls -l --time-style=full-iso "$work/served/adapters")
start
stop
[ "$(ls -l --time-style=full-iso "$work/served/adapters")" = "$before" ] || fail "a start without a better round published something"

# A place that cannot be written is trouble that the status names, and training goes on.
sed -i "s|$work/served/adapters|$work/site.conf/nowhere|; s|rounds = 24|rounds = 48|" "$work/site.conf"
sed -i "s|state_directory = .*|state_directory = \"$work/state2\";|" "$work/site.conf"
start
for _ in $(seq 50); do
	"$sakiori" status --json | grep -q 'the best adapter could not be published: .*nowhere' && break
	sleep 0.1
done
"$sakiori" status --json | grep -q 'the best adapter could not be published: .*nowhere' || fail "the status does not name the trouble: $("$sakiori" status --json)"
stop
[ $failed = 0 ] && echo "published: round $round"
exit $failed
