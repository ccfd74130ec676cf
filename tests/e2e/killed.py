#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One of three sites is killed with -9 at random moments, 20 times: no round is lost or counted twice, every committed file still
hashes to its row, and at the end the sites' replicas of each other agree."""
import random
import time

from cluster import Cluster, check_replicas, until

SEED = 20
KILLS = 20
ROUNDS = 60

rng = random.Random(SEED)
with Cluster(sites=3, rounds=ROUNDS, deadline="20s", min_deadline="2s") as cluster:
    cluster.write_configs()
    cluster.start()
    victim = cluster.sites[1]
    highest = 0
    for kill in range(KILLS):
        # Somewhere inside the next round or two, or while it is still starting.
        if rng.random() < 0.8:
            until("the victim answers", victim.answers)
            before = victim.status()["round"]
            if before < ROUNDS - 2 and rng.random() < 0.7:
                until("the victim's round moves", lambda: victim.status()["round"] > before)
        time.sleep(rng.uniform(0, 0.3))
        victim.kill()
        rows = victim.round_rows()
        assert rows == list(range(1, len(rows) + 1)), f"after kill {kill + 1}: rounds {rows}"
        assert len(rows) >= highest, f"after kill {kill + 1}: {len(rows)} rounds, but {highest} had been committed"
        highest = len(rows)
        victim.check_objects()
        victim.start(wait=False)
    print(f"{KILLS} kills, {highest} rounds committed before the last one")
    for site in cluster.sites:
        until(f"{site.name} has finished", site.finished)

    def settled():
        """Every peer holds the newest version of every other: nothing is on the way any more."""
        return all(peer["state"] in ("up", "finished") and peer["round"] == ROUNDS for site in cluster.sites for peer in site.peers())

    until("the last updates have arrived everywhere", settled)
    for site in cluster.sites:
        site.stop()
    for site in cluster.sites:
        assert site.round_rows() == list(range(1, ROUNDS + 1)), site.round_rows()
        site.check_objects()
    check_replicas(cluster.sites)
