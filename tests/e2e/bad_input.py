#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Bad input is normal: a clear sentence, the design's exit code, nothing lost, and the daemon lives where it can."""
import os
import re
import socket
import subprocess

from cluster import SAKIORI, SAKIORID, TINY, Cluster, run, until


def refuses(code, pattern, *command):
    """The command ends with this code and a sentence that matches; nothing is traced, dumped or asserted."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    said = done.stdout + done.stderr
    assert done.returncode == code, f"{command}: exit code {done.returncode}, expected {code}\n{said}"
    assert re.search(pattern, said, re.S), f"{command}: {pattern!r} is not in\n{said}"
    print(f"exit {code}: {done.stderr.strip().splitlines()[-1][:150] if done.stderr.strip() else said.strip()[:150]}")


def model_files(folder):
    whole = open(TINY, "rb").read()

    def variant(name, data):
        path = f"{folder}/{name}.gguf"
        with open(path, "wb") as out:
            out.write(data)
        return path

    train = lambda model: (SAKIORI, "eval", "--model", model, "--data", f"{folder}/eval.jsonl")
    refuses(1, r"cut\.gguf.*", *train(variant("cut", whole[:len(whole) // 2])))
    refuses(1, r"empty\.gguf.*", *train(variant("empty", b"")))
    refuses(1, r"magic", *train(variant("magic", b"GGML" + whole[4:])))
    refuses(1, r"version", *train(variant("version", whole[:4] + (9).to_bytes(4, "little") + whole[8:])))
    refuses(1, r"count|tensors|limit", *train(variant("count", whole[:8] + b"\xff" * 8 + whole[16:])))
    refuses(1, r"none\.gguf", *train(f"{folder}/none.gguf"))
    refuses(1, r"holds no config.json", *train(folder))


def data_files(folder):
    good = '{"prompt": "loom warp:", "completion": " weft"}\n'

    def variant(name, text):
        path = f"{folder}/{name}.jsonl"
        with open(path, "w", encoding="utf8") as out:
            out.write(text)
        return path

    def train(data, *more):
        return (SAKIORI, "train", "--model", TINY, "--data", data, "--out", f"{folder}/out", "--steps", "1", "--base-dtype", "f32", *more)

    refuses(1, r"broken\.jsonl:2", *train(variant("broken", good + '{"prompt": "loom\n' + good)))
    refuses(1, r"shape\.jsonl:3", *train(variant("shape", good * 2 + '{"question": "x"}\n')))
    refuses(1, r"nothing\.jsonl", *train(variant("nothing", "")))
    long = variant("long", good + '{"text": "' + "warp " * 500 + '"}\n')
    refuses(1, r"long\.jsonl:2", *train(long, "--seq", "32", "--over-long", "refuse"))
    refuses(0, r"truncated", *train(long, "--seq", "32"))
    refuses(2, r"--rnk", SAKIORI, "train", "--rnk", "3")
    refuses(2, r"trian.*train", SAKIORI, "trian")


def configurations(site):
    text = open(site.config, encoding="utf8").read()

    def changed(old, new):
        assert old in text, old
        path = f"{site.folder}/changed.conf"
        with open(path, "w", encoding="utf8") as out:
            out.write(text.replace(old, new, 1))
        return (SAKIORID, "-c", path, "--check-config")

    refuses(0, r"", SAKIORID, "-c", site.config, "--check-config")
    refuses(6, r"changed\.conf:\d+.*local_step.*local_steps", *changed("local_steps", "local_step"))
    refuses(6, r"changed\.conf:\d+.*rounds", *changed("rounds = 3", 'rounds = "many"'))
    refuses(6, r"changed\.conf:\d+", *changed("run = {", "run = {{"))
    refuses(6, r"107", *changed(site.socket, "/tmp/" + "x" * 120))
    refuses(6, r"nowhere\.conf", SAKIORID, "-c", f"{site.folder}/nowhere.conf")
    refuses(6, r"network_secret|network secret", *changed(f'network_secret = "{site.cluster.secret}";', ""))
    os.chmod(site.key, 0o644)
    refuses(6, r"chmod", SAKIORID, "-c", site.config)
    os.chmod(site.key, 0o600)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = changed(f'"tcp://127.0.0.1:{site.peer_port}"', f'"tcp://127.0.0.1:{port}"')
        refuses(1, rf"{port}.*in use", *command[:-1])


def wrong_base(cluster):
    """Both fingerprints are named at both ends, with a cure; the rest goes on."""
    data = bytearray(open(TINY, "rb").read())
    data[-100] ^= 1
    other_model = f"{cluster.folder}/other.gguf"
    with open(other_model, "wb") as out:
        out.write(data)
    first, second = cluster.sites
    cluster.write_configs()
    with open(second.config, encoding="utf8") as conf:
        text = conf.read().replace(cluster.model, other_model)
    with open(second.config, "w", encoding="utf8") as conf:
        conf.write(text)
    cluster.start()
    for site in cluster.sites:
        # before that, the other daemon may just not be there yet
        peer = until("the trouble is shown", lambda s=site: next((p for p in s.peers() if "base model" in (p["trouble"] or "")), None))
        assert len(set(re.findall(r"[0-9a-f]{12,}", peer["trouble"] + peer["cure"]))) >= 2, peer
        assert peer["cure"], peer
        print(f"{site.name}: {peer['trouble']} | {peer['cure']}")
        assert "base" in run(SAKIORI, "peers", "--socket", site.socket)
    for site in cluster.sites:
        until(f"{site.name} trains on by itself", site.finished)


with Cluster(sites=2, rounds=3, deadline="10s", min_deadline="1s") as cluster:
    cluster.write_configs()
    model_files(cluster.folder)
    data_files(cluster.folder)
    configurations(cluster.sites[0])
    wrong_base(cluster)
