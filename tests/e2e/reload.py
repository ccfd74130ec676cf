#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Peers come and go by reload, while everybody trains on; a configuration that is wrong changes nothing, and a replaced secret is named."""
import os
import re
import subprocess

from cluster import SAKIORI, Cluster, run, until


def rewrite(site, change):
    with open(site.config, encoding="utf8") as text:
        before = text.read()
    with open(site.config, "w", encoding="utf8") as text:
        text.write(change(before))
    return before


with Cluster(sites=3, rounds=100000, deadline="2s", min_deadline="1s") as cluster:
    cluster.write_configs()
    cluster.start()
    a, b, c = cluster.sites
    names = lambda site: [peer["name"] for peer in site.peers()]
    up = lambda site, name: any(peer["name"] == name and peer["state"] in ("up", "behind") for peer in site.peers())
    until("all are up", lambda: all(up(x, y.name) for x in cluster.sites for y in cluster.sites if x is not y))

    whole = rewrite(a, lambda text: re.sub(r'\n *\{ name = "site-1";.*?\},', "", text))
    said = run(SAKIORI, "reload", "--socket", a.socket, "--json")
    assert '"applied":["peers.site-1"]' in said, said
    until("site-1 is gone at site-0", lambda: names(a) == ["site-2"])
    assert 'peer="site-1"' not in a.metrics(), "a peer that left still has samples"
    round_then = a.status()["round"]
    until("site-0 trains on", lambda: a.status()["round"] > round_then + 2)
    until("site-1 shows that site-0 is not up", lambda: not up(b, "site-0"))

    # Both ends forget, then both come back: the edge starts afresh.
    whole_b = rewrite(b, lambda text: re.sub(r'\n *\{ name = "site-0";.*?\},', "", text))
    run(SAKIORI, "reload", "--socket", b.socket)
    until("site-0 is gone at site-1", lambda: names(b) == ["site-2"])
    rewrite(a, lambda text: whole)
    rewrite(b, lambda text: whole_b)
    for site in (a, b):
        run(SAKIORI, "reload", "--socket", site.socket)
    until("they are up again", lambda: up(a, "site-1") and up(b, "site-0"))
    for peer in a.peers():
        port = next(site.peer_port for site in cluster.sites if site.name == peer["name"])
        assert peer["address"].endswith(f":{port}"), peer
        assert peer["trouble"] == "", peer

    rewrite(c, lambda text: text.replace("local_steps", "local_stepz"))
    done = subprocess.run([SAKIORI, "reload", "--socket", c.socket], capture_output=True, text=True, timeout=30)
    assert done.returncode == 6 and "local_steps" in done.stderr, done
    rewrite(c, lambda text: text.replace("local_stepz", "local_steps"))

    # A key or secret that is replaced under its old name is not in use before a restart, and reload says so.
    run(SAKIORI, "keygen", "--network", "--out", cluster.secret + ".new")
    os.rename(cluster.secret, cluster.secret + ".old")
    os.rename(cluster.secret + ".new", cluster.secret)
    said = run(SAKIORI, "reload", "--socket", c.socket, "--json")
    assert '"needs_restart":["identity.network_secret"]' in said, said
    os.rename(cluster.secret + ".old", cluster.secret)
    said = run(SAKIORI, "reload", "--socket", c.socket, "--json")
    assert '"applied":[],"needs_restart":[]' in said, said
    assert c.alive() and len(c.peers()) == 2
    for site in cluster.sites:
        site.stop()
        site.check_objects()
