#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Strangers and liars on the peer port: none is parsed, each is counted and hung up on, and the honest round goes on."""
import socket
import struct
import time

from cluster import Cluster, Site, check_replicas, until
from relay import Relay

ROUNDS = 120


def refused(site):
    """Whoever it claims to be: a replayed handshake carries the name of a neighbour."""
    return site.metric("sakiori_connections_rejected_total") + site.metric("sakiori_updates_rejected_total")


def attack(site, name, send, hangs_up_within=15.0):
    """Sends bytes, then waits to be hung up on; the site counts it."""
    before = refused(site)
    with socket.create_connection(("127.0.0.1", site.peer_port)) as s:
        s.settimeout(hangs_up_within)
        if send:
            s.sendall(send)
        start = time.monotonic()
        answer = b""
        try:
            while True:
                block = s.recv(4096)
                if not block:
                    break
                answer += block
        except ConnectionResetError:
            pass
        took = time.monotonic() - start
    until(f"{name} is counted", lambda: refused(site) > before, patience=10)
    print(f"{name}: hung up on after {took:.1f} s, {len(answer)} bytes answered")
    return answer


relays = {}
with Cluster(sites=2, rounds=ROUNDS, deadline="20s", min_deadline="5s", route=lambda a, b: relays[b.number].port if b.number in relays else b.peer_port) as cluster:
    honest, other = cluster.sites
    relays[1] = Relay(other.peer_port)  # site 0 dials site 1 through it
    cluster.write_configs(local_steps=60)
    cluster.start()
    until("two rounds are done", lambda: honest.status()["round"] >= 2)

    before = sum(site.metric("sakiori_connections_rejected_total", reason="decrypt") + site.metric("sakiori_updates_rejected_total", reason="decrypt")
                 for site in cluster.sites)
    relays[1].flip_next = True
    until("the flipped byte is counted", lambda: sum(site.metric("sakiori_connections_rejected_total", reason="decrypt") +
                                                     site.metric("sakiori_updates_rejected_total", reason="decrypt") for site in cluster.sites) > before)
    print("flipped byte: did not authenticate, session ended")

    # A third site that knows the network's secret and everybody's key, but that nobody pinned.
    intruder = Site(cluster, 2)
    cluster.dials = lambda a, b: True
    intruder.write_config([honest])
    before = honest.metric("sakiori_connections_rejected_total", reason="unknown_key")
    intruder.start()
    until("the unpinned key is counted", lambda: honest.metric("sakiori_connections_rejected_total", reason="unknown_key") > before)
    intruder.kill()
    print("unpinned key: refused as unknown_key")

    assert attack(other, "replayed handshake", relays[1].first_from_dialler()) is not None
    assert attack(honest, "4 GiB length", struct.pack("<I", 0xFFFFFFFF)) == b""
    assert attack(honest, "NNG's 16-byte packet", bytes.fromhex("0053500000100000") + b"\xff" * 7 + b"\xe0") == b""
    assert attack(honest, "plain text", b"GET / HTTP/1.1\r\nHost: site\r\n\r\n" + b"x" * 200) == b""
    assert attack(honest, "silence", b"") == b""

    for site in cluster.sites:
        assert site.alive()
        until(f"{site.name} has finished", site.finished, patience=300)
    until("the last updates have arrived", lambda: all(peer["round"] == ROUNDS for site in cluster.sites for peer in site.peers()))
    for site in cluster.sites:
        site.stop()
        assert site.round_rows() == list(range(1, ROUNDS + 1))
        site.check_objects()
    check_replicas(cluster.sites)
