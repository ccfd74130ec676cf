#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Three sites finish ten rounds; what they keep, say and publish is what was promised."""
import json
import shutil
import subprocess

from cluster import SAKIORI, TINY, Cluster, check_replicas, run, until


def commands_agree(site):
    """The CLI says what the socket says, for people and as JSON."""
    status = json.loads(run(SAKIORI, "status", "--json", "--socket", site.socket))
    assert status["state"] == "finished" and status["round"] == 10, status
    rows = [json.loads(line) for line in run(SAKIORI, "rounds", "--json", "--socket", site.socket).splitlines()]
    assert [row["round"] for row in rows] == list(range(1, 11)), rows
    peers = [json.loads(line) for line in run(SAKIORI, "peers", "--json", "--socket", site.socket).splitlines()]
    assert len(peers) == 2 and all(peer["trouble"] == "" for peer in peers), peers
    assert "site-" in run(SAKIORI, "peers", "--socket", site.socket)
    run(SAKIORI, "wait", "--round", "10", "--timeout", "1s", "--socket", site.socket)
    run(SAKIORI, "wait", "--round", "11", "--timeout", "200ms", "--socket", site.socket, code=5)
    run(SAKIORI, "status", "--socket", site.socket + ".none", code=3)


def metrics_are_clean(site):
    text = site.metrics()
    assert site.metric("sakiori_round") == 10, text
    for direction in ("sent", "received"):
        assert site.metric("sakiori_peer_bytes_total", direction=direction) > 10 * 1000, direction
    assert site.metric("sakiori_updates_rejected_total") == 0, text
    if shutil.which("promtool"):
        done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def adapters_differ_and_load(cluster):
    """The published folder loads, and it changed the model."""
    base = json.loads(run(SAKIORI, "eval", "--model", TINY, "--data", f"{cluster.folder}/eval.jsonl", "--base-dtype", "f32", "--json").splitlines()[-1])
    for site in cluster.sites:
        tuned = json.loads(run(SAKIORI, "eval", "--model", TINY, "--adapter", f"{site.state}/adapters/latest", "--base-dtype", "f32",
                               "--data", f"{cluster.folder}/eval.jsonl", "--json").splitlines()[-1])
        assert tuned["loss"] < base["loss"], (base, tuned)


with Cluster(sites=3, rounds=10) as cluster:
    cluster.write_configs()
    cluster.start()
    for site in cluster.sites:
        until(f"{site.name} has finished", site.finished)
    for site in cluster.sites:
        commands_agree(site)
        metrics_are_clean(site)
    for site in cluster.sites:
        print(f"{site.name}: SIGTERM took {site.stop():.2f} s")
    for site in cluster.sites:
        assert site.round_rows() == list(range(1, 11)), site.round_rows()
        site.check_objects()
    check_replicas(cluster.sites)
    adapters_differ_and_load(cluster)
