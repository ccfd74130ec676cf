#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One site is stopped (SIGSTOP) for three rounds of the others: nobody waits beyond the deadline, and it catches up afterwards."""
import signal
import time

from cluster import Cluster, check_replicas, until

DEADLINE = 4.0
ROUNDS = 80

with Cluster(sites=3, rounds=ROUNDS, deadline=f"{DEADLINE:.0f}s", min_deadline="1s") as cluster:
    cluster.write_configs(local_steps=60)
    cluster.start()
    stopped, others = cluster.sites[0], cluster.sites[1:]
    until("three rounds are done", lambda: all(site.status()["round"] >= 3 for site in cluster.sites))
    stopped.process.send_signal(signal.SIGSTOP)
    for _ in range(3):
        for site in others:
            before, start = site.status()["round"], time.monotonic()
            until(f"{site.name} goes on without the stopped one", lambda s=site, b=before: s.status()["round"] > b, patience=DEADLINE + 8)
            print(f"{site.name}: round {before + 1} after {time.monotonic() - start:.1f} s")
    stopped.process.send_signal(signal.SIGCONT)
    for site in cluster.sites:
        until(f"{site.name} has finished", site.finished)
    for site in others:
        with site.database() as db:
            longest = max(row[0] for row in db.execute("SELECT gather_seconds FROM rounds"))
        print(f"{site.name}: waited {longest:.1f} s at most, the deadline is {DEADLINE:.0f} s")
        assert longest <= DEADLINE + 0.5, longest
    until("the last updates have arrived everywhere",
          lambda: all(peer["round"] == ROUNDS for site in cluster.sites for peer in site.peers()))
    for site in cluster.sites:
        site.stop()
        assert site.round_rows() == list(range(1, ROUNDS + 1)), site.round_rows()
        site.check_objects()
    check_replicas(cluster.sites)
