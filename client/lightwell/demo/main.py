"""`lightwell demo`: serves the bundled model, calls six methods at once, and makes a page of the results."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from google.protobuf.message import Message
from PIL import Image as Pil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lightwell import images
from lightwell.client import Client
from lightwell.demo import gallery
from lightwell.demo.gallery import Attack, Gallery, Painted, Step
from lightwell.results import Explanation
from lightwell.serving import bundled, served
from lightwell.v1 import synthesize_pb2 as synthesize
from lightwell.v1.explain_pb2 import GradCam, GuidedBackprop, Occlusion, Saliency

SAMPLES = Path(__file__).parents[1] / "samples"
SCENE, PAINTING = SAMPLES / "scene.png", SAMPLES / "painting.png"
EXPLAINED, ATTACKED, PREVIEWS = 6, 4, 8
STEPS = 150
METHODS: dict[str, Message] = {
    "grad_cam": GradCam(),
    "occlusion": Occlusion(window=24, stride=6),
    "saliency": Saliency(),
    "guided_backprop": GuidedBackprop(),
}

Report = Callable[[int, int], None]
"""Takes the number of steps done and their total."""


def run(out: Path, steps: int = STEPS) -> Path:
    """Writes the gallery and returns its page. Raises OSError if no server can run here, or if it does not stop
    cleanly."""
    began = time.monotonic()
    console = Console(stderr=True)
    console.print("starting a server with the bundled model", style="dim")
    with served(bundled()) as server, Client(server.address) as client:
        answers = _asked(client, steps, console)
    if server.exit_code:
        raise OSError(f"the server stopped with exit code {server.exit_code}")
    page = gallery.write(answers, out)
    Console().print(f"{page} in {time.monotonic() - began:.1f} seconds", markup=False, highlight=False, soft_wrap=True)
    return page


def samples() -> list[Path]:
    """The pictures of single objects, by name."""
    return sorted(path for path in SAMPLES.glob("*.png") if path not in (SCENE, PAINTING))


def _asked(client: Client, steps: int, console: Console) -> Gallery:
    """Runs all methods at once, each in a thread with a progress bar, so that short ones do not wait for the long
    one."""
    things = samples()
    columns = (TextColumn("{task.description:<16}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    began = time.monotonic()
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor() as pool:
        painted = pool.submit(_painted, client, steps, _bar(progress, "style_transfer"))
        attacks = pool.submit(_attacks, client, things[-ATTACKED:], _bar(progress, "pgd"))
        maps = {
            name: pool.submit(_explained, client, things[:EXPLAINED], method, _bar(progress, name))
            for name, method in METHODS.items()
        }
        return Gallery(
            names=[path.stem for path in things[:EXPLAINED]],
            maps={name: answers.result() for name, answers in maps.items()},
            attacks=attacks.result(),
            painted=painted.result(),
            seconds=time.monotonic() - began,
        )


def _bar(progress: Progress, name: str) -> Report:
    task = progress.add_task(name, total=None)
    return lambda done, total: progress.update(task, completed=done, total=total)


def _explained(client: Client, pictures: list[Path], method: Message, report: Report) -> list[Explanation]:
    answers = []
    for answer in client.explain_all(pictures, method, predictions=1):
        answers.append(answer)
        report(len(answers), len(pictures))
    return answers


def _attacks(client: Client, pictures: list[Path], report: Report) -> list[Attack]:
    """Attacks pictures of exactly the model's size, so that the picture shown before is the one that the model saw."""
    card = client.model().card
    attacks = []
    for path in pictures:
        before = Pil.open(path).convert("RGB").resize((card.width, card.height), Pil.Resampling.LANCZOS)
        method = synthesize.Pgd(steps=20, stop_early=False)
        attacks.append(Attack(before, client.synthesize(method, image=before, fit="exact").result()))
        report(len(attacks), len(pictures))
    return attacks


def _painted(client: Client, steps: int, report: Report) -> Painted:
    style = synthesize.Style(image=images.to_message(PAINTING))
    # Broad strokes, as in the painting, stay visible on a small picture.
    method = synthesize.StyleTransfer(styles=[style], size=256, steps=steps, style_scale=2, style_weight=500)
    stream = client.synthesize(method, image=SCENE, previews=PREVIEWS)
    way = []
    for step in stream:
        report(step.step, step.steps)
        if step.image is not None:
            way.append(Step(step.step, step.image))
    return Painted(Pil.open(SCENE), Pil.open(PAINTING), stream.result(), way)
