#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The demo's live table: demo_table.py SAKIORI WORK ROUNDS; ends when all three sites have done their rounds."""
import json
import os
import subprocess
import sys
import time

SAKIORI, WORK, ROUNDS = sys.argv[1], sys.argv[2], int(sys.argv[3])
SITES = range(3)
LIVE = sys.stdout.isatty()


def ask(site, command):
    done = subprocess.run([SAKIORI, command, "--socket", f"{WORK}/site-{site}/admin.sock", "--json"], capture_output=True, text=True)
    if done.returncode != 0:
        return None
    return [json.loads(line) for line in done.stdout.splitlines()]


def number(value, form):
    return format("-", ">" + form.split(".")[0]) if value is None else format(value, form)


def table(states, seconds):
    lines = [f"{'site':8}{'state':12}{'round':>8}{'loss':>9}{'eval':>9}{'accuracy':>10}{'distance':>11}{'sent MB':>9}{'recv MB':>9}"]
    for site in SITES:
        s = states[site]
        if s is None:
            lines.append(f"site-{site}  starting")
            continue
        last = s.get("last") or {}
        lines.append(f"site-{site}  {s['state']:12}{s['round']:>4}/{ROUNDS:<3}{number(last.get('loss'), '9.3f')}{number(last.get('eval_loss'), '9.3f')}"
                     f"{number(last.get('accuracy'), '10.3f')}{number(last.get('consensus_distance'), '11.4f')}"
                     f"{s['bytes_sent'] / 1e6:9.1f}{s['bytes_received'] / 1e6:9.1f}")
    lines.append(f"{seconds:5.0f} s")
    return lines


def main():
    start, shown, drawn = time.time(), None, 0
    while True:
        states = []
        for site in SITES:
            answer = ask(site, "status")
            states.append(answer[0] if answer else None)
        key = [(s or {}).get("round") for s in states]
        if LIVE or key != shown:
            lines = table(states, time.time() - start)
            if LIVE and drawn:
                print(f"\033[{drawn}A\033[J", end="")
            print("\n".join(lines), flush=True)
            shown, drawn = key, len(lines)
        if all(s and s["state"] == "finished" for s in states):
            return
        if any(s and s["state"] in ("failed", "halted") for s in states):
            for site in SITES:
                if states[site] and states[site].get("trouble"):
                    print(f"site-{site}: {states[site]['trouble']}", file=sys.stderr)
            sys.exit(1)
        if time.time() - start > 60 and all(s is None for s in states):
            sys.exit(f"no daemon answers; see {WORK}/site-0/log")
        time.sleep(2 if LIVE else 5)


if not os.path.isdir(WORK):
    sys.exit(f"{WORK}: not there")
main()
