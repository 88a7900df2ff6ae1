"""The story of `tire demo`: a sample is drawn and pushed, Airflow does the rest, the server answers."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from tire_pipeline import steps
from tire_pipeline.errors import ServiceUnavailable
from tire_pipeline.sample import draw_sample
from tire_pipeline.stack.stages import Say, Stage
from tire_pipeline.wiring import Services

DAG_ID = "train_and_promote"
ENDED = ("success", "failed", "skipped", "upstream_failed", "removed")
NUM_IMAGES, DIFFICULTY = 1100, 0.4
START_S, RUN_S, SERVE_S = 120.0, 1800.0, 60.0


@dataclass(frozen=True)
class Demo:
    """How the demo ended. `seconds` are its parts by name; `leaderboard` is best first."""

    promoted: bool
    decision: str
    leaderboard: list[dict[str, Any]]
    version: str
    run_id: str
    answers: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)


def run(stage: Stage, *, num_images: int, seed: int, shuffle_labels: bool, leave: bool, say: Say) -> Demo:
    """Tell the story once. With `leave` the stack is stopped at its end, however it ends."""
    try:
        return _story(stage, num_images=num_images, seed=seed, shuffle_labels=shuffle_labels, say=say)
    finally:
        if leave:
            stage.down()


def _story(stage: Stage, *, num_images: int, seed: int, shuffle_labels: bool, say: Say) -> Demo:
    began, seconds = time.monotonic(), {}
    settings = stage.settings
    version = ("demo-noise" if shuffle_labels else "demo") + f"-v{seed + 1}"
    folder = settings.home / "samples" / f"{version}-{num_images}"
    say(f"starting the stack, drawing {num_images} photographs of tyres meanwhile")
    with ThreadPoolExecutor(1) as pool:
        drawing = pool.submit(_draw, folder, num_images=num_images, seed=seed, shuffle_labels=shuffle_labels)
        live, places = stage.up()
        seconds["stack"] = time.monotonic() - began
        drawing.result()
    seconds["stack_and_sample"] = time.monotonic() - began
    with closing(live):
        pushed = time.monotonic()
        summary = steps.push(folder, version=version, services=live)
        seconds["push"] = time.monotonic() - pushed
        uploaded_at = datetime.now(UTC)
        say(f"pushed {summary.num_images} images as dataset version {version}; Airflow takes it from here")
        run_id = f"dataset__{version}__{summary.marker}"
        record = _wait_for_run(live, run_id, say=say)
        started = datetime.fromisoformat(record["start_date"])
        seconds["upload_to_run"] = max(0.0, (started - uploaded_at).total_seconds())
        seconds["run"] = (datetime.fromisoformat(record["end_date"]) - started).total_seconds()
        evaluations = _evaluations(live, run_id)
        made = live.orchestrator.xcom(DAG_ID, run_id, "produce")
        promoted = bool(made and made["promoted"])
        answers = _ask_server(live, folder, made["model"]["version"], say=say) if promoted else []
    seconds["total"] = time.monotonic() - began
    return Demo(
        promoted=promoted,
        decision=str(record.get("note") or f"the run ended as {record['state']}; its page in Airflow says why"),
        leaderboard=evaluations,
        version=version,
        run_id=run_id,
        answers=answers,
        seconds={k: round(v, 1) for k, v in seconds.items()},
        addresses=places,
    )


def stay(stage: Stage, *, say: Say) -> None:
    """Keep the stack up until Ctrl-C, then stop it."""
    say("The stack stays up; Ctrl-C stops it.")
    try:
        stage.wait()
    except KeyboardInterrupt:
        pass
    finally:
        stage.down()


def summary(demo: Demo) -> str:
    """The end of the story for a terminal, in rich's markup."""
    board = [f"  {'candidate':<12} {'metric':<20} {'value':>6}   95 % interval"]
    for row in demo.leaderboard:
        mark = "[green]passed[/]" if row["passed"] else "[red]below the threshold[/]"
        interval = f"{row['low']:.3f} to {row['high']:.3f}"
        board.append(f"  {row['candidate']:<12} {row['metric']:<20} {row['value']:>6.3f}   {interval}   {mark}")
    answers = [
        f"  {a['filename']}: [bold]{a['decision']}[/] ({a['label']} {a['probability']:.1%})" for a in demo.answers
    ]
    times = ", ".join(f"{k.replace('_', ' ')} {v:.0f} s" for k, v in demo.seconds.items())
    places = [f"  {name:<13} {place}" for name, place in demo.addresses.items()]
    verdict = "[bold green]promoted[/]" if demo.promoted else "[bold red]not promoted[/]"
    decision = demo.decision.splitlines()[0].replace("[", "\\[")
    parts = ["", "[bold]Leaderboard[/]", *board, "", f"[bold]Decision[/] {verdict}", f"  {decision}"]
    parts += ["", "[bold]The server answers[/]", *answers] if answers else []
    return "\n".join([*parts, "", "[bold]Addresses[/]", *places, "", f"[dim]{times}[/]"])


def _draw(folder: Path, *, num_images: int, seed: int, shuffle_labels: bool) -> None:
    if not (folder / "labels.csv").is_file():  # written last: a sample that was drawn before is whole
        draw_sample(folder, num_images=num_images, seed=seed, difficulty=DIFFICULTY, shuffle_labels=shuffle_labels)


def _wait_for_run(live: Services, run_id: str, *, say: Say) -> dict[str, Any]:
    """The run's record once it has ended; each task that ends is told."""
    began, told = time.monotonic(), set[tuple[str, int, str]]()
    while True:
        record = live.orchestrator.run(DAG_ID, run_id)
        waited = time.monotonic() - began
        if record is None and waited > START_S:
            raise ServiceUnavailable(
                f"Airflow did not start {run_id} within {START_S:.0f} s. The page of dataset_watch says what it waits "
                "for; `tire status` tells whether scheduler and triggerer run."
            )
        if waited > RUN_S:
            raise ServiceUnavailable(f"The run {run_id} did not end within {RUN_S / 60:.0f} minutes; it goes on.")
        if record is not None:
            _tell_tasks(live, run_id, told, waited, say)
            if record["state"] in ("success", "failed") and record["end_date"]:
                return record
        time.sleep(2.0)


def _tell_tasks(live: Services, run_id: str, told: set[tuple[str, int, str]], waited: float, say: Say) -> None:
    for task in live.orchestrator.task_instances(DAG_ID, run_id):
        name = task["task_id"] + (f" {task['rendered_map_index']}" if task.get("rendered_map_index") else "")
        key = (task["task_id"], task["map_index"], task["state"])
        running = task["state"] == "running" and task["task_id"] == "train"
        if key in told or not (running or task["state"] in ENDED):
            continue
        told.add(key)
        took = "" if running or not task.get("duration") else f", {task['duration']:.1f} s"
        say(f"  {waited:4.0f} s  {name}: {task['state'].replace('_', ' ')}{took}")


def _evaluations(live: Services, run_id: str) -> list[dict[str, Any]]:
    """One row a candidate that was evaluated, best first."""
    tasks = [t for t in live.orchestrator.task_instances(DAG_ID, run_id) if t["task_id"] == "evaluate"]
    found = [live.orchestrator.xcom(DAG_ID, run_id, "evaluate", map_index=t["map_index"]) for t in tasks]
    rows = [
        {
            "candidate": e["trained"]["candidate"],
            "metric": e["metric"],
            "value": e["metrics"][e["metric"]],
            "low": e["metrics"][f"{e['metric']}_low"],
            "high": e["metrics"][f"{e['metric']}_high"],
            "passed": e["passed"],
            "num_test": e["num_test"],
            "cached": e["trained"]["cached"],
            "seconds": e["trained"]["seconds"],
        }
        for e in found
        if e
    ]
    return sorted(rows, key=lambda r: -r["value"])


def _ask_server(live: Services, folder: Path, version: int, *, say: Say) -> list[dict[str, Any]]:
    """The server's answers for one picture of each class, once the promoted version answers; none where it has keys,
    of which the stack knows only digests."""
    pictures = [sorted(c.glob("*.jpg"))[0] for c in sorted(folder.iterdir()) if c.is_dir()]
    deadline = time.monotonic() + SERVE_S
    while time.monotonic() < deadline:
        try:
            ready = httpx.get(f"{live.settings.serving_url}/readyz", timeout=30)
            if ready.status_code == httpx.codes.OK and ready.json()["model_version"] == version:
                files = [("images", (f"{p.parent.name}/{p.name}", p.read_bytes(), "image/jpeg")) for p in pictures]
                answer = httpx.post(f"{live.settings.serving_url}/predict", files=files, timeout=30)
                if answer.status_code == httpx.codes.UNAUTHORIZED:
                    say("The server answers only those with an API key (TIRE_API_KEYS), so no picture was sent.")
                    return []
                if answer.status_code == httpx.codes.OK:
                    found: list[dict[str, Any]] = answer.json()["predictions"]
                    return found
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise ServiceUnavailable(
        f"Version {version} was promoted, but the server at {live.settings.serving_url} did not answer with it within "
        f"{SERVE_S:.0f} s. `tire status` and the log of serving tell more."
    )
