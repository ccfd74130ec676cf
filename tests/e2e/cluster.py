# SPDX-License-Identifier: Apache-2.0
"""Real daemons on loopback for the end-to-end tests: start, stop, ask, kill. Python's standard library only.

A test gets a fresh folder, `Cluster(sites=3, ...)`, and everything it started is ended when it leaves the `with` block.
"""
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request

BUILD = os.environ.get("BUILDDIR", ".")
SOURCE = os.environ.get("SRCDIR", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
SAKIORI = os.path.join(BUILD, "sakiori")
SAKIORID = os.path.join(BUILD, "sakiorid")
TINY = os.path.join(os.path.abspath(SOURCE), "tests", "golden", "tiny.gguf")
PATIENCE = 120.0  # seconds for anything that has to happen at all


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def write_rows(path, seed, count=96):
    """Small prompt/completion rows over a few words; each site has its own mixture."""
    rng = random.Random(seed)
    words = "loom warp weft cloth thread dye knot strip fold seam".split()
    with open(path, "w", encoding="utf8") as out:
        for _ in range(count):
            picked = [rng.choice(words) for _ in range(rng.randint(3, 8))]
            completion = " " + words[(words.index(picked[0]) + seed) % len(words)]
            out.write(json.dumps({"prompt": " ".join(picked) + ":", "completion": completion}) + "\n")


def settings(keys):
    return " ".join(f"{key} = {json.dumps(value)};" for key, value in keys.items())


def until(what, check, patience=PATIENCE, pause=0.05):
    """Waits for check() to be true; what it waits for is in the failure."""
    end = time.monotonic() + patience
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {patience:.0f} s in vain for: {what}")
        time.sleep(pause)


class Site:
    def __init__(self, cluster, number):
        self.cluster = cluster
        self.number = number
        self.name = f"site-{number}"
        self.folder = os.path.join(cluster.folder, self.name)
        self.state = os.path.join(self.folder, "state")
        self.socket = os.path.join(self.folder, "admin.sock")
        self.config = os.path.join(self.folder, "sakiorid.conf")
        self.log_path = os.path.join(self.folder, "log")
        self.peer_port = free_port()
        self.http_port = free_port()
        self.process = None
        os.makedirs(self.state, mode=0o700)
        write_rows(os.path.join(self.folder, "train.jsonl"), seed=number)
        self.key = os.path.join(self.folder, "identity.key")
        run(SAKIORI, "keygen", "--out", self.key)
        who = json.loads(run(SAKIORI, "id", "--key", self.key, "--json"))
        self.id, self.node_id = who["id"], who["node_id"]

    def write_config(self, peers, **run_keys):
        c = self.cluster
        entries = ",\n".join(
            f'  {{ name = "{p.name}"; id = "{p.id}"; url = ["tcp://127.0.0.1:{c.port(self, p)}"]; dial = {str(c.dials(self, p)).lower()}; }}'
            for p in peers)
        keys = {"rounds": c.rounds, "local_steps": 2, "deadline": c.deadline, "min_deadline": c.min_deadline, "eval_every": 2, "seed": 11}
        keys.update(run_keys)
        with open(self.config, "w", encoding="utf8") as out:
            out.write(f'''site = {{ name = "{self.name}"; state_directory = "{self.state}"; log_level = "debug"; }};
listen = {{ peer = ["tcp://127.0.0.1:{self.peer_port}"]; http = "127.0.0.1:{self.http_port}"; admin_socket = "{self.socket}"; }};
identity = {{ key = "{self.key}"; network_secret = "{c.secret}"; }};
model = {{ path = "{c.model}"; {settings(c.model_keys)} }};
data = {{ train = "{c.train_file(self)}"; eval = "{c.eval_file()}"; {settings(c.data_keys)} }};
adapter = {{ rank = 4; alpha = 8.0; }};
optimizer = {{ lr = {c.lr}; }};
run = {{ name = "e2e"; {settings(keys)} }};
peers = (
{entries}
);
''')

    def start(self, wait=True):
        assert self.process is None
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen([SAKIORID, "-c", self.config], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        if wait:
            until(f"{self.name} answers on its admin socket", self.answers)
        return self

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def answers(self):
        if not self.alive():
            raise AssertionError(f"{self.name} ended by itself ({self.process.returncode}):\n{self.log()[-3000:]}")
        try:
            return self.ask("Status")
        except OSError:
            return None

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process = None

    def stop(self, patience=10.0):
        """SIGTERM; the promise is an end within ten seconds."""
        self.process.terminate()
        start = time.monotonic()
        try:
            code = self.process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not end within {patience} s of SIGTERM")
        self.process = None
        assert code == 0, f"{self.name}: exit code {code} after SIGTERM:\n{self.log()[-3000:]}"
        return time.monotonic() - start

    def ask(self, method, parameters=None):
        """One Varlink call; raises OSError when nobody answers, AssertionError when the reply is an error."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(10)
            s.connect(self.socket)
            s.sendall(json.dumps({"method": f"org.sakiori.Admin.{method}", "parameters": parameters or {}}).encode() + b"\0")
            data = b""
            while not data.endswith(b"\0"):
                block = s.recv(65536)
                if not block:
                    raise ConnectionResetError("closed before the reply")
                data += block
        reply = json.loads(data[:-1])
        assert "error" not in reply, reply
        return reply.get("parameters", {})

    def status(self):
        return self.ask("Status")["status"]

    def peers(self):
        return self.ask("Peers")["peers"]

    def finished(self):
        return self.answers() and self.status()["state"] == "finished"

    def metrics(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/metrics", timeout=10) as reply:
            return reply.read().decode()

    def metric(self, name, **labels):
        """The sum of the samples of that name whose labels include these."""
        total = 0.0
        for line in self.metrics().splitlines():
            head, _, value = line.rpartition(" ")
            if head.split("{")[0] == name and all(f'{k}="{v}"' in head for k, v in labels.items()):
                total += float(value)
        return total

    def log(self):
        with open(self.log_path, encoding="utf8", errors="replace") as text:
            return text.read()

    def round_rows(self):
        with self.database() as db:
            return [row[0] for row in db.execute("SELECT round FROM rounds ORDER BY round")]

    def object_bytes(self, digest):
        with open(f"{self.state}/objects/{digest}.safetensors", "rb") as data:
            return data.read()

    def check_objects(self):
        """Every file a row names is there and hashes to its name."""
        with self.database() as db:
            named = [row[0] for row in db.execute("SELECT DISTINCT hash FROM objects")]
            committed = db.execute("SELECT count(*) FROM rounds").fetchone()[0]
        assert named or committed == 0, f"{self.name}: {committed} rounds, but no object is named"
        for digest in named:
            found = hashlib.blake2b(self.object_bytes(digest), digest_size=32, person=b"sakiori-object").hexdigest()
            assert found == digest, f"{self.name}: {digest} hashes to {found}"
        return len(named)

    def database(self):
        return sqlite3.connect(f"file:{self.state}/state.sqlite?mode=ro", uri=True)


class Cluster:
    """task: a folder with site-N.jsonl and eval.jsonl; without one each site gets rows of write_rows."""
    def __init__(self, sites=3, rounds=10, deadline="20s", min_deadline="5s", model=TINY, route=None, task=None, lr=0.005, model_keys=None, data_keys=None):
        self.folder = tempfile.mkdtemp(prefix="sakiori-e2e.")
        self.rounds = rounds
        self.deadline = deadline
        self.min_deadline = min_deadline
        self.model = model
        self.task = task
        self.lr = lr
        self.model_keys = {"base_dtype": "f32", "threads": 1, **(model_keys or {})}
        self.data_keys = {"eval_rows": 16, "max_seq": 64, "batch_rows": 4, "micro_tokens": 256, **(data_keys or {})}
        self.route = route  # (from, to) -> port, to put a relay between two sites
        self.secret = os.path.join(self.folder, "network.secret")
        run(SAKIORI, "keygen", "--network", "--out", self.secret)
        write_rows(os.path.join(self.folder, "eval.jsonl"), seed=1, count=24)
        self.sites = [Site(self, n) for n in range(sites)]

    def train_file(self, site):
        return f"{self.task}/{site.name}.jsonl" if self.task else f"{site.folder}/train.jsonl"

    def eval_file(self):
        return f"{self.task}/eval.jsonl" if self.task else f"{self.folder}/eval.jsonl"

    def port(self, a, b):
        return self.route(a, b) if self.route else b.peer_port

    def dials(self, a, b):
        return True if self.route is None else a.number < b.number

    def write_configs(self, **run_keys):
        for site in self.sites:
            site.write_config([other for other in self.sites if other is not site], **run_keys)

    def start(self):
        for site in self.sites:
            site.start(wait=False)
        for site in self.sites:
            until(f"{site.name} answers", site.answers)
        return self

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        for site in self.sites:
            if site.process is not None:
                try:
                    site.process.send_signal(signal.SIGCONT)
                    site.process.kill()
                    site.process.wait()
                except OSError:
                    pass
        if kind is None:
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            for site in self.sites:
                print(f"---- end of the log of {site.name}\n{site.log()[-4000:] if os.path.exists(site.log_path) else ''}", file=sys.stderr)
            print(f"kept: {self.folder}", file=sys.stderr)


def tensors(data):
    """{name: bytes} of a safetensors file."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + size])
    return {name: data[8 + size + t["data_offsets"][0]:8 + size + t["data_offsets"][1]]
            for name, t in header.items() if name != "__metadata__"}


def check_replicas(sites):
    """Every site's replica of a neighbour equals, bit for bit, that neighbour's own public replica of the same version."""
    own, compared = {}, 0
    for site in sites:
        with site.database() as db:
            for version, digest in db.execute("SELECT version, hash FROM objects WHERE kind = 'own'"):
                own[site.node_id, version] = digest
    for site in sites:
        with site.database() as db:
            for peer, version, digest in db.execute("SELECT o.peer, e.have, o.hash FROM objects o JOIN edges e ON e.peer = o.peer WHERE o.kind = 'replica'"):
                assert own.get((peer, version)) == digest, f"{site.name}: its replica of {peer[:8]} at {version} is {digest[:8]}, {own} there"
                compared += 1
    assert compared == len(sites) * (len(sites) - 1), f"only {compared} replicas could be compared"


def run(*command, code=0):
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == code, f"{' '.join(command)}: exit code {done.returncode}, expected {code}\n{done.stdout}{done.stderr}"
    return done.stdout
