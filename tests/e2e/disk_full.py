#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The state directory's disk fills up in the middle of a run: the daemon lives and says so; when space returns it goes on, and no round is
lost or counted twice. Needs a small file system of its own (mount), so it is skipped where that is not allowed."""
import os
import subprocess
import sys

from cluster import Cluster, until

with Cluster(sites=1, rounds=300, deadline="2s", min_deadline="1s") as cluster:
    site = cluster.sites[0]
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "tmpfs", site.state], capture_output=True).returncode != 0:
        print("mounting a tmpfs is not allowed here")
        sys.exit(77)
    try:
        cluster.write_configs()
        cluster.start()
        until("two rounds are done", lambda: site.status()["round"] >= 2)
        filler = f"{site.state}/filler"
        with open(filler, "wb", buffering=0) as out:
            try:
                while True:
                    out.write(b"\0" * 65536)
            except OSError:
                pass
        until("the daemon says that the disk is full", lambda: "space" in site.status()["trouble"])
        stuck = site.status()["round"]
        os.unlink(filler)
        until("it goes on when space returns", lambda: site.status()["round"] > stuck)
        until("it has finished", site.finished)
        site.stop()
        assert site.round_rows() == list(range(1, 301)), site.round_rows()
        site.check_objects()
    finally:
        if site.process is not None:
            site.kill()
        subprocess.run(["umount", "-l", site.state], check=True)
