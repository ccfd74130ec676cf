#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What passes between sites and what a site says shows nothing: no 16-byte run of an encoded update on the wire, and no 16-byte run of a
training row's text or tokens in logs, metrics, admin replies or unsealed messages. Controls find the same runs where they must be."""
import json
import os
import struct
import subprocess

from cluster import BUILD, SAKIORI, TINY, Cluster, run, tensors, until
from relay import Relay

RUN = 16


def runs(data):
    """Every 16-byte run that is not too plain to mean anything (a run of zeros is in any file)."""
    return {data[i:i + RUN] for i in range(len(data) - RUN + 1) if len(set(data[i:i + RUN])) > 6}


def finds(needles, haystack):
    return any(haystack[i:i + RUN] in needles for i in range(len(haystack) - RUN + 1))


def secrets_of(site):
    """Runs of the rows' text and of their tokens, as 32-bit and as 16-bit little-endian numbers."""
    found = set()
    with open(f"{site.folder}/train.jsonl", encoding="utf8") as rows:
        texts = [json.loads(line) for line in rows]
    for row in texts:
        text = row["prompt"] + row["completion"]
        found |= runs(text.encode())
    for row in texts[:20]:
        ids = json.loads(run(SAKIORI, "tokenize", "--model", TINY, "--text", row["prompt"] + row["completion"], "--json"))["ids"]
        for form in ("<I", "<H"):
            found |= runs(b"".join(struct.pack(form, i) for i in ids))
    return found


def updates_of(site):
    """The encoded updates that the site kept."""
    with site.database() as db:
        digests = [row[0] for row in db.execute("SELECT hash FROM objects WHERE kind = 'update'")]
    assert digests, "no encoded update is kept"
    return [tensors(site.object_bytes(digest))["payload"] for digest in digests]


relays = {}
with Cluster(sites=2, rounds=4, route=lambda a, b: relays[b.number].port if b.number in relays else b.peer_port) as cluster:
    first, second = cluster.sites
    relays[1] = Relay(second.peer_port)
    cluster.write_configs()
    cluster.start()
    for site in cluster.sites:
        until(f"{site.name} has finished", site.finished)
    until("the last updates have arrived", lambda: all(peer["round"] == 4 for site in cluster.sites for peer in site.peers()))
    said = b""
    for site in cluster.sites:
        said += site.metrics().encode()
        for method, parameters in (("Status", {}), ("Peers", {}), ("Rounds", {"count": 100}), ("Log", {"count": 200})):
            said += json.dumps(site.ask(method, parameters)).encode()
    for site in cluster.sites:
        site.stop()
        said += site.log().encode()

    wire = relays[1].bytes_seen()
    assert len(wire) > 20_000, "hardly anything passed the relay"
    payloads = [payload for site in cluster.sites for payload in updates_of(site)]
    needles = set().union(*(runs(payload) for payload in payloads))
    assert not finds(needles, wire), "an encoded update can be read on the wire"

    # The control: the same payloads as the messages that carry them, before sealing.
    unsealed = b""
    for number, payload in enumerate(payloads):
        path = f"{cluster.folder}/payload-{number}"
        with open(path, "wb") as out:
            out.write(payload)
        unsealed += subprocess.run([os.path.join(BUILD, "tests", "e2e", "unsealed"), path], capture_output=True, check=True).stdout
    for payload in payloads:
        assert finds(runs(payload), unsealed), "the control does not find an update in its own unsealed messages"

    secret = set().union(*(secrets_of(site) for site in cluster.sites))
    for place, data in (("logs, metrics or admin replies", said), ("unsealed messages", unsealed), ("the wire", wire)):
        assert not finds(secret, data), f"a training row shows in {place}"
    planted = next(iter(secret))
    assert finds(secret, said + planted + said), "the search does not find a planted row"
    print(f"{len(wire)} bytes on the wire, {len(said)} said, {len(needles)} runs of updates, {len(secret)} runs of rows: none shows")
