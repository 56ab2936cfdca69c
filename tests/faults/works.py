"""What the campaign kills: figures, training, feature extraction, downloads and weights, all small."""

import hashlib
import http.server
import io
import json
import os
import signal
import socket
import struct
import subprocess
import time
import traceback
import zipfile
from pathlib import Path

import numpy as np
import project
import test_training_processes as training
import torch
import torch._dynamo  # this and the next: a first training imports them, each child would anew
import torch.distributed.fsdp  # noqa: F401

from cmf import cache, catalogue, runs, training_processes, weights
from cmf.book import __main__ as book
from cmf.encoders import features
from faults.kill import Work, tell

GOOD = np.random.default_rng(0).bytes(400_000)
PARTS = 5  # stored pieces of features


# figures

def project_in(place: Path, notebooks: int = 2) -> None:
    """The small project of the tests; with notebooks > 2, further ones that wait for no other."""
    project.make(place)
    for k in range(3, notebooks + 1):
        text = project.ONE.replace('"first"', f'"figure{k}"').replace("power = 2 ", f"power = {k} ")
        (place / "notebooks" / f"{k:02}_more.py").write_text(text)


def draw(place: Path, jobs: int = 1) -> None:
    for name in [name for name in os.environ if name.startswith("CMF_")]:
        del os.environ[name]
    os.chdir(place)
    if book.main(["figures", "--jobs", str(jobs)]):
        raise RuntimeError("a notebook failed")


def drawn(place: Path) -> dict:
    """Bytes of the figures, without the seconds that provenance counts."""
    found = project.files(place / "figures")
    for name in found:
        if name.endswith(".json"):
            record = json.loads(found[name])
            for run in (record.get("run", record), *(v for v in record.values() if isinstance(v, dict))):
                run.pop("seconds", None)
            found[name] = json.dumps(record, sort_keys=True).encode()
    return found | dict(left=[p.name for p in (place / "build").rglob("*.part*")])


# training

def train(place: Path) -> None:
    torch.set_num_threads(1)
    found = training.draw(place / "run")
    out = place / f"out.{os.environ.get('RANK', 0)}"
    torch.save(found, f"{out}.part")
    os.replace(f"{out}.part", out)


def trained(place: Path) -> dict:
    """Digests of what each process found, and of the checkpoint without its seconds."""
    found = {p.name: cache.digest(torch.load(p, weights_only=True)) for p in place.glob("out.*") if p.suffix != ".part"}
    kept = torch.load(place / "run/checkpoint.pt", weights_only=True)
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in kept["history"]]
    return found | dict(kept=cache.digest(kept | dict(history=rows, sha256="of the seconds too")),
                        config=(place / "run/config.json").read_bytes())


def train_two(place: Path) -> None:
    """Two processes as torchrun starts them; when one is lost, the other ends by itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_WORLD_SIZE="2")
    for rank in range(2):
        pid = os.fork()
        if not pid:
            status = 1
            try:
                os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
                train(place)
                training_processes.leave()
                tell()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
    first = os.waitpid(-1, 0)
    limit = time.monotonic() + 60
    while not (second := os.waitpid(-1, os.WNOHANG))[0]:
        if first[1] and time.monotonic() > limit:
            raise RuntimeError("a process did not end within a minute after the other was lost")
        time.sleep(0.005)
    if signal.SIGKILL in (first[1], second[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    if first[1] or second[1]:
        raise RuntimeError(f"the processes ended with {first[1]} and {second[1]}")


def train_torchrun(place: Path) -> None:
    """The real launcher, which starts two interpreters."""
    script = place / "script.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
                      "from faults.works import train\nfrom pathlib import Path\ntrain(Path(sys.argv[1]))\n")
    here = str(Path(__file__).parents[2])
    subprocess.run([*training.TORCHRUN, str(script), str(place)], check=True,
                   env=os.environ | dict(OMP_NUM_THREADS="1", PYTHONPATH=here))


# feature extraction

def extract(place: Path) -> None:
    """Radiometry of generated stamps, in pieces, through the cache."""
    os.environ["CMF_CACHE_DIR"] = str(place / "cache")
    for part in range(PARTS):
        stamps = np.random.default_rng(part).normal(100, 5, (6, 2, 63, 63))  # (n, F, H, W)
        runs.cached("radiometry", lambda stamps=stamps: dict(x=features.radiometric(stamps)),
                    inputs=dict(stamps=stamps), parameters=dict(part=part), code=[features.radiometric])


def extracted(place: Path) -> dict:
    return {name: data for name, data in project.files(place / "cache").items() if not name.endswith(".lock")}


# downloads

def archive() -> bytes:
    """A zip of four files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as store:
        for k in range(4):
            store.writestr(zipfile.ZipInfo(f"folder/{k}.bin"), GOOD[k * 50_000:(k + 1) * 50_000])
    return buffer.getvalue()


class Server(http.server.BaseHTTPRequestHandler):
    """good, archive: whole, in pieces; cut: half of it; wrong: other bytes; stall: half, then silence; reset: half,
    then the connection is reset."""

    def do_GET(self):
        kind, _, what = self.path.strip("/").partition("-")
        body = archive() if what == "archive" else GOOD
        body = body[::-1] if kind == "wrong" else body
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        end = len(body) if kind in ("good", "wrong") else len(body) // 2
        for k in range(0, end, 20_000):
            self.wfile.write(body[k:min(end, k + 20_000)])
            time.sleep(0.002)
        if kind == "stall":
            time.sleep(60)
        if kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def log_message(self, *arguments):
        """Quiet."""


def serve() -> tuple[int, int]:
    """Start the server in a process of its own: its id and port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        pid = os.fork()
        if not pid:
            server.handle_error = lambda *arguments: None
            server.serve_forever()
        return pid, server.server_port


def fetch(place: Path, port: int, kinds: tuple[str, ...] = ("good",)) -> None:
    """A file and an archive through the catalogue; kinds: what each address in turn answers."""
    os.environ["CMF_CACHE"] = str(place / "cache")
    os.environ.pop("CMF_DATA", None)
    for what, body in (("file", GOOD), ("archive", archive())):
        addresses = tuple(f"http://127.0.0.1:{port}/{kind}-{what}" for kind in kinds)
        catalogue.ENTRIES[what] = catalogue.Entry(
            "data", f"{what}.data", "MIT", "nobody", "generated", address=addresses, unpack=what == "archive",
            sha256=hashlib.sha256(body).hexdigest())
        catalogue.get(what, progress=False)


def fetched(place: Path) -> dict:
    """What was downloaded; a part that a killed run left is no result."""
    return {name: data for name, data in project.files(place / "cache").items() if not name.endswith(".part")}


# weights

def save(place: Path) -> None:
    """Weights of three seeds, one after the other under one name and each under its own."""
    for seed in range(3):
        net = training.Net()
        with torch.no_grad():
            for p in net.parameters():
                p.fill_(seed)
        for name in ("last", f"seed{seed}"):
            weights.save(place / f"{name}.safetensors", net, dict(seed=seed), data="generated")



FIGURES = Work("figures", draw, drawn, project_in, chain=4)
ONE = Work("training, one process", train, trained)
TWO = Work("training, two processes", train_two, trained)
TORCHRUN = Work("training, torchrun", train_torchrun, trained)
FEATURES = Work("feature extraction", extract, extracted)
WEIGHTS = Work("weights", save, lambda place: {p.name: p.read_bytes() for p in place.glob("*.safetensors")})


def downloads(port: int) -> Work:
    return Work("downloads", lambda place: fetch(place, port), fetched)
