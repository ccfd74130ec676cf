#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What systemd is told: READY once training can start, STATUS while the model loads, WATCHDOG all along, STOPPING; SIGTERM in the
middle of a round ends within ten seconds with the last round kept; SIGHUP reads the configuration again."""
import os
import signal
import socket
import subprocess
import time

from cluster import SAKIORID, Cluster, until

with Cluster(sites=1, rounds=100000) as cluster:
    site = cluster.sites[0]
    cluster.write_configs()
    path = f"{cluster.folder}/notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        systemd.setblocking(False)
        said = []

        def hear(what):
            try:
                while True:
                    said.extend(systemd.recv(4096).decode().splitlines())
            except BlockingIOError:
                pass
            return any(line.startswith(what) for line in said)

        environment = dict(os.environ, NOTIFY_SOCKET=path, WATCHDOG_USEC="1000000")
        environment.pop("WATCHDOG_PID", None)
        with open(site.log_path, "ab") as log:
            site.process = subprocess.Popen([SAKIORID, "-c", site.config], stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment)
        until("it says that it is ready", lambda: hear("READY=1"))
        assert any(line.startswith("STATUS=") for line in said), said
        assert not hear("STOPPING"), said
        until("rounds are done", lambda: site.answers() and site.ask("Status")["status"]["round"] >= 5)
        before = sum(line == "WATCHDOG=1" for line in said)
        until("the watchdog is fed while it trains", lambda: hear("WATCHDOG=1") and sum(line == "WATCHDOG=1" for line in said) >= before + 4)

        with open(site.config, encoding="utf8") as text:
            changed = text.read().replace('log_level = "debug"', 'log_level = "info"')
        with open(site.config, "w", encoding="utf8") as text:
            text.write(changed)
        site.process.send_signal(signal.SIGHUP)
        until("SIGHUP is answered in the log", lambda: "reloaded applied=1 needs_restart=0" in site.log())

        committed = site.ask("Status")["status"]["round"]
        start = time.monotonic()
        site.stop()
        assert time.monotonic() - start < 10
        assert hear("STOPPING=1"), said
        site.start()
        assert site.ask("Status")["status"]["state"] in ("loading", "training", "committing", "evaluating", "gathering", "settling")
        until("it goes on from where it was", lambda: any(row["round"] > committed for row in site.ask("Rounds", {"count": 1})["rounds"]))
        assert site.metric("sakiori_round_duration_seconds_sum") < 600, "a round that an earlier process trained was timed"
        rows = [row["round"] for row in site.ask("Rounds", {"count": 1000})["rounds"]]
        assert rows == list(range(rows[0], rows[0] + len(rows))), rows
