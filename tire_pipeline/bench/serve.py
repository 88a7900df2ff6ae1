"""`tire bench serve`: one ONNX model behind this server, LitServe and `mlflow models serve`, asked by one generator.

All servers run on the same cores, and the generator on another where there are two. A server that is not being asked is
held by SIGSTOP, so that its polling costs the others nothing. Memory is the proportional set size of a server's whole
process tree after the first round.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import psutil

from tire_pipeline.bench.load import Plan, Summary, multipart
from tire_pipeline.bench.measure import rotated
from tire_pipeline.bench.pictures import write_pictures
from tire_pipeline.bundle import MODEL, Bundle, Session
from tire_pipeline.errors import TireError
from tire_pipeline.imaging import Preprocessing, decode, prepare, resize_for
from tire_pipeline.input_gate import fit_input_gate
from tire_pipeline.models import build
from tire_pipeline.training.export import write_onnx

HERE = Path(__file__).parent
READY_S = 90.0
SIZE = 96  # of the default model's input


@dataclass(frozen=True)
class ServeRow:
    """One server's line: medians of its rounds, the extremes of its throughput, and its memory. `cpu_ms` is user and
    system time of its whole tree an answer, which what else the machine does hardly changes.
    """

    server: str
    per_s: float
    per_s_min: float
    per_s_max: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    memory_mb: float
    failed: int
    rounds: int


@dataclass(frozen=True)
class Contender:
    """A server to be: `command` is given a port at its end or in `{port}`, and `plan` says how it is asked."""

    name: str
    command: Sequence[str]
    plan: Plan


@dataclass(frozen=True)
class Cores:
    """Which cores the servers have and which the generator has; the same one where there is no other."""

    server: frozenset[int]
    load: frozenset[int]


def split_cores(available: set[int]) -> Cores:
    """The last core for the generator, the rest for the servers."""
    *servers, last = sorted(available)
    return Cores(frozenset(servers or [last]), frozenset([last]))


def compare_servers(
    work: Path,
    *,
    bundle: Path | None,
    rounds: int,
    seconds: float,
    connections: int,
    peers_python: Path,
    say: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> list[ServeRow]:
    """A row for each server, ours first, in an empty folder `work`. The peers are left out, and `say` is told, where
    there is no `peers_python`. Raises TireError where a server does not come up or answers nothing.
    """
    write_pictures(work / "pictures", num_images=20 if bundle else 40)
    served = Bundle.load(bundle) if bundle else default_bundle(work / "bundle", work / "pictures")
    cores = split_cores(os.sched_getaffinity(0))
    contenders = _contenders(served, work, Plan("", "", "", seconds, connections), peers_python, len(cores.server), say)
    runs: dict[str, list[Asked]] = {c.name: [] for c in contenders}
    memory: dict[str, float] = {}
    with stopped_by_sigterm(), ExitStack() as stack:
        there = {c.name: stack.enter_context(running(c, cores, work)) for c in contenders}
        done, total = 0, rounds * len(contenders)
        for order in rotated([c.name for c in contenders], rounds):
            for name in order:
                server = there[name]
                runs[name].append(server.ask(cores))
                memory.setdefault(name, server.memory_mb())
                progress(done := done + 1, total)
    return [row_of(name, found, memory[name]) for name, found in runs.items()]


def default_bundle(folder: Path, pictures: Path) -> Bundle:
    """An untrained `cnn`: its answers mean nothing, and take as long as a trained one's."""
    folder.mkdir()
    spec = Preprocessing(SIZE, SIZE)
    write_onnx(build("cnn", num_classes=2, seed=0).eval(), spec, folder / MODEL)
    pixels = [resize_for(decode(path.read_bytes()), spec) for path in sorted(pictures.iterdir())]
    gate = fit_input_gate(np.stack(pixels), np.arange(len(pixels)), np.arange(len(pixels)))
    bundle = Bundle(folder, ["defective", "good"], "defective", spec, "cnn", "0" * 64, input_gate=gate)
    expected = Session(bundle).probabilities(np.stack([prepare(p, spec) for p in pixels[:2]]))
    return bundle.with_golden(pixels[:2], expected).save()


def _contenders(
    bundle: Bundle, work: Path, base: Plan, peers_python: Path, cores: int, say: Callable[[str], None]
) -> list[Contender]:
    jpeg = min((work / "pictures").iterdir()).read_bytes()
    form, body = multipart("images", jpeg)
    picture = _plan(base, work / "form", "/predict", form, body)
    ours = [sys.executable, "-m", "tire_pipeline", "serve", "--bundle", str(bundle.path), "--port", "{port}"]
    if not peers_python.exists():
        say(f"left out: LitServe and MLflow, for there is no {peers_python} here. `make bench-peers`")
        return [Contender("this server", ours, picture)]
    python, spec = str(peers_python.absolute()), bundle.preprocessing
    size, model = [str(spec.height), str(spec.width)], str(bundle.path / MODEL)
    saved = work / "mlflow"
    saved.mkdir()
    _run([python, str(HERE / "serving_peers.py"), model, *size, str(saved), str(cores)])
    tensor = json.dumps({"inputs": prepare(decode(jpeg), spec)[None].tolist()}).encode()
    encoded = json.dumps({"dataframe_records": [{"picture": base64.b64encode(jpeg).decode()}]}).encode()
    # mlflow starts the uvicorn that it finds on the path
    path = f"PATH={Path(python).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    mlflow = ["env", path, python, "-m", "mlflow", "models", "serve", "--env-manager", "local", "--workers", "1"]
    mlflow += ["--port", "{port}", "--model-uri"]
    as_tensor = _plan(base, work / "tensor", "/invocations", "application/json", tensor)
    as_base64 = _plan(base, work / "base64", "/invocations", "application/json", encoded)
    litserve = [python, str(HERE / "serving_litserve.py"), model, *size, "{port}", str(cores)]
    return [
        Contender("this server", ours, picture),
        Contender("LitServe", litserve, picture),
        Contender("MLflow, ONNX flavour", [*mlflow, str(saved / "onnx")], as_tensor),
        Contender("MLflow, picture in base64", [*mlflow, str(saved / "picture")], as_base64),
    ]


def _plan(base: Plan, file: Path, path: str, content_type: str, body: bytes) -> Plan:
    file.write_bytes(body)
    return Plan(path, content_type, str(file), base.seconds, base.connections)


@dataclass(frozen=True)
class Asked:
    """One round of one server, and the CPU time that it took an answer, in ms."""

    summary: Summary
    cpu_ms: float


@dataclass(frozen=True)
class Running:
    """A contender that answers, and is held unless it is asked."""

    contender: Contender
    process: subprocess.Popen[bytes]
    address: str

    def ask(self, cores: Cores) -> Asked:
        """Let it go on, warm it up for half a second, carry out its plan, hold it again."""
        plan = self.contender.plan
        os.killpg(self.process.pid, signal.SIGCONT)
        try:
            ask(self.address, replace(plan, seconds=0.5), cores)
            before_s = self._cpu_s()
            found = ask(self.address, plan, cores)
            return Asked(found, 1000 * (self._cpu_s() - before_s) / max(1, found.codes.get("200", 0)))
        finally:
            os.killpg(self.process.pid, signal.SIGSTOP)

    def memory_mb(self) -> float:
        """Proportional set size of the process and all below it."""
        return float(sum(process.memory_full_info().pss for process in self._tree())) / 2**20

    def _tree(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def _cpu_s(self) -> float:
        times = [process.cpu_times() for process in self._tree()]
        return float(sum(one.user + one.system for one in times))


def ask(address: str, plan: Plan, cores: Cores) -> Summary:
    """Carry the plan out in a process of its own, on the generator's core."""
    command = [sys.executable, "-m", "tire_pipeline.bench.load", address, json.dumps(asdict(plan))]
    return Summary(**json.loads(_run(command, cores.load)))


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM unwinds the block instead of ending the process at once: held servers would outlive it."""

    def unwind(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def running(contender: Contender, cores: Cores, work: Path) -> Iterator[Running]:
    """The contender, started on its cores, answering, and held; killed with all its children at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [part.format(port=port) if part == "{port}" else part for part in contender.command]
    log = work / f"{port}.log"
    with log.open("wb") as out:
        started = pinned(command, cores.server)
        process = subprocess.Popen(
            started, stdout=out, stderr=out, cwd=work, env=_environment(work), start_new_session=True
        )
    try:
        _wait_until_it_answers(process, f"127.0.0.1:{port}", contender, log)
        os.killpg(process.pid, signal.SIGSTOP)
        yield Running(contender, process, f"127.0.0.1:{port}")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_it_answers(process: subprocess.Popen[bytes], address: str, contender: Contender, log: Path) -> None:
    """Until one request is answered with 200: some of these servers listen long before they can."""
    deadline = time.monotonic() + READY_S
    everywhere = Cores(frozenset(), frozenset(os.sched_getaffinity(0)))
    once = replace(contender.plan, seconds=0.1, connections=1)
    while time.monotonic() < deadline and process.poll() is None:
        if "200" in ask(address, once, everywhere).codes:
            return
        time.sleep(0.2)
    end = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
    raise TireError(f"{contender.name} did not answer within {READY_S:.0f} s:\n{end}")


def pinned(command: Sequence[str], cores: frozenset[int]) -> list[str]:
    """The command on these cores alone; set before it starts, so that whatever counts cores counts these."""
    pin = "import os, sys; os.sched_setaffinity(0, map(int, sys.argv[1].split(',')))"
    code = f"{pin}; os.execvp(sys.argv[2], sys.argv[2:])"
    return [sys.executable, "-c", code, ",".join(map(str, sorted(cores))), *command]


def _environment(work: Path) -> dict[str, str]:
    quiet = {"TIRE_HOME": str(work / "home"), "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    return {k: v for k, v in os.environ.items() if not k.startswith("TIRE_")} | quiet


def _run(command: Sequence[str], cores: frozenset[int] | None = None) -> str:
    started = pinned(command, cores) if cores else list(command)
    done = subprocess.run(started, capture_output=True, text=True, check=False)
    if done.returncode:
        end = "\n".join(done.stderr.splitlines()[-5:])
        raise TireError(f"{' '.join(command)[:200]} ended with {done.returncode}:\n{end}")
    return done.stdout


def row_of(name: str, runs: Sequence[Asked], memory_mb: float) -> ServeRow:
    found = [run.summary for run in runs]
    per_s = [one.per_s for one in found]
    return ServeRow(
        server=name,
        per_s=statistics.median(per_s),
        per_s_min=min(per_s),
        per_s_max=max(per_s),
        p50_ms=statistics.median(one.p50_ms for one in found),
        p99_ms=statistics.median(one.p99_ms for one in found),
        cpu_ms=statistics.median(run.cpu_ms for run in runs),
        memory_mb=memory_mb,
        failed=sum(count for one in found for code, count in one.codes.items() if code != "200"),
        rounds=len(runs),
    )
