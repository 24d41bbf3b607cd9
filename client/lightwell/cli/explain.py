"""`lightwell explain | estimate`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.message import Message
from rich.text import Text

from lightwell.cli import files, formatting
from lightwell.cli.connection import Server, asking
from lightwell.cli.files import Plan
from lightwell.cli.options import (
    Fit,
    FitOption,
    Method,
    Methods,
    Model,
    Parameters,
    Readout,
    ReadoutOption,
    Seed,
    Target,
    Version,
)
from lightwell.cli.record import fingerprint, fingerprint_of, record
from lightwell.cli.terminal import Json, bar, failed, remark, say, sentence, watched
from lightwell.client import Client
from lightwell.images import to_message
from lightwell.parameters import Usage, command_of
from lightwell.parameters import method as method_of
from lightwell.parameters import target as target_of
from lightwell.requests import CONCURRENCY, ExplainOptions, explain_request
from lightwell.results import Explanation
from lightwell.transport.errors import InvalidArgumentError
from lightwell.v1 import types_pb2 as types
from lightwell.v1.explain_pb2 import ExplainRequest

Ask = Callable[[types.Image | None], list[Explanation]]
Line = Text | dict[str, Any]
Tell = Callable[[Explanation, str, Path | None], Line]


class BadImage(ValueError):
    """An image that cannot be read or explained, while others may be."""


@asking
def explain(
    server: Server,
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE", help="Pictures, folders of them, patterns like 'photos/**/*.jpg'; most methods need one."
        ),
    ] = None,
    method: Methods = None,
    parameter: Parameters = None,
    model: Model = "",
    version: Version = "",
    target: Target = None,
    readout: ReadoutOption = Readout.SCORE,
    fit: FitOption = Fit.CARD,
    seed: Seed = 0,
    top: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Explain that many classes, those of the highest scores.")
    ] = None,
    out: Annotated[Path, typer.Option(help="A directory for what is written, or the one file.")] = Path(),
    resume: Annotated[
        bool, typer.Option("--resume", help="Leave out what is there already, written for the same request and model.")
    ] = False,
    as_json: Json = False,
) -> None:
    """What the model saw: a picture for each image, such as an overlay, a sheet of channels, or an object that is cut
    out (PNG with transparency); of methods without a picture their numbers (.npz, float32), such as the vector of an
    embedding; predictions are printed."""
    with server.client() as client:
        if top and target is not None:
            raise Usage("--top chooses the targets itself; leave --target out")
        messages = _messages(method or ["grad_cam"], parameter or [])
        options: ExplainOptions = {
            "model": model,
            "version": version,
            "target": target_of(target),
            "readout": readout.value,
            "seed": seed,
        }
        names = list(messages)
        planned = files.plans(images, names, out, top) if images else files.alone(names, out, top)
        what = "images" if len(names) == 1 else "explanations"
        asked = _Asked(messages, options, fit, top)
        plans = planned
        if resume:
            digest = client.model(model, version).summary.digest
            plans = [plan for plan in planned if not asked.done(plan, digest)]
            remark(f"{len(planned) - len(plans)} of {len(planned)} {what} are done already")
        asks = {name: _asker(client, each, top, len(plans) == 1, options) for name, each in messages.items()}
        bad = 0
        tell, named = _teller(as_json, len(names) > 1), out != Path()
        outcomes = _outcomes(client, plans, lambda plan: _made(plan, asked, asks[plan.method], tell, named))
        with closing(outcomes), bar(len(plans) > 1) as progress:
            for outcome in progress.track(outcomes, total=len(plans), description=", ".join(names)):
                if isinstance(outcome, BadImage):
                    bad += 1
                    remark(str(outcome))
                    continue
                for line in outcome:
                    say(line)
        if len(plans) > 1 and bad:
            raise failed(f"{bad} of {len(plans)} {what} failed")
        if bad:
            raise typer.Exit(1)


@asking
def estimate(
    server: Server,
    image: Annotated[Path | None, typer.Argument(help="The picture that the request would be about.")] = None,
    method: Method = "grad_cam",
    parameter: Parameters = None,
    model: Model = "",
    version: Version = "",
    target: Target = None,
    readout: ReadoutOption = Readout.SCORE,
    fit: FitOption = Fit.CARD,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """What a request would cost, without running it; methods of explain and of synthesize."""
    with server.client() as client:
        cost = client.estimate(
            method_of(command_of(method), method, parameter or ()),
            image,
            model=model,
            version=version,
            target=target_of(target),
            readout=readout.value,
            fit=fit.value,
            seed=seed,
        )
        say(formatting.estimate(cost, method) if as_json else formatting.estimate_line(cost, method))


@dataclass(frozen=True)
class _Asked:
    """What is asked about each image."""

    messages: dict[str, Message]
    options: ExplainOptions
    fit: Fit
    top: int | None

    def request(self, plan: Plan) -> ExplainRequest:
        """The request of an image and a method. Raises OSError for an image that cannot be read."""
        image = None if plan.image is None else to_message(plan.image, self.fit.value)
        return explain_request(image, self.messages[plan.method], **self.options)

    def done(self, plan: Plan, digest: str) -> bool:
        """Whether the files of a plan answer this request to the model of that digest."""
        if not plan.written:
            return False
        try:
            request = self.request(plan)
        except OSError:
            return False  # that is told in its turn
        # All of them: a later run that was interrupted may have replaced some.
        return set(map(fingerprint_of, plan.written)) == {fingerprint(request, digest, self.top)}


def _messages(methods: list[str], parameters: list[str]) -> dict[str, Message]:
    """The messages of methods by name; a parameter is set in all that have it. Raises `Usage` for one that none has."""
    own: dict[str, list[str]] = {name: [] for name in methods}
    fields = {name: method_of("explain", name).DESCRIPTOR.fields_by_name for name in own}
    for word in parameters:
        having = [name for name in own if word.partition("=")[0] in fields[name]]
        for name in having or own:  # the first one without it says what it has
            own[name].append(word)
    return {name: method_of("explain", name, words) for name, words in own.items()}


def _asker(client: Client, message: Message, top: int | None, alone: bool, options: ExplainOptions) -> Ask:
    """The function that explains an image. For a single one it shows a progress bar on a terminal."""
    if top:
        return lambda image: client.explain(image, message, targets=top, **options)
    if alone and watched():
        return lambda image: [_followed(client, image, message, options)]
    return lambda image: [client.explain(image, message, **options)]


def _followed(client: Client, image: types.Image | None, message: Message, options: ExplainOptions) -> Explanation:
    stream = client.explain_stream(image, message, **options)
    with bar() as progress:
        task = progress.add_task("rows", total=None)
        for step in stream:
            progress.update(task, completed=step.step, total=step.steps)
    return stream.result()


def _outcomes(
    client: Client, plans: list[Plan], make: Callable[[Plan], list[Line] | BadImage]
) -> Generator[list[Line] | BadImage, None, None]:
    """The outcome of each plan, in order. Images are sent, drawn and written on several threads. An error that does not
    belong to one image ends all."""
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        try:
            yield from pool.map(make, plans)
        except BaseException:
            client.close()  # ends the calls for which the threads wait
            pool.shutdown(cancel_futures=True)
            raise


def _made(plan: Plan, asked: _Asked, ask: Ask, tell: Tell, named: bool) -> list[Line] | BadImage:
    """Explains one image, writes its files, and returns the lines to print. Raises Usage if a file is `named` and the
    method writes another kind of file, or none."""
    try:
        request = asked.request(plan)
        answers = ask(request.image if plan.image is not None else None)
    except OSError as error:
        return BadImage(sentence(error))
    except InvalidArgumentError as error:
        about = any(field.startswith("image") for field, _ in error.violations)
        if about and plan.image is None:
            raise Usage("this method looks at an image; name one") from None
        if about:
            return BadImage(f"{plan.image}: {error.message}")
        raise
    lines = []
    # Written from the last to the first, so that the first file means that all exist.
    for seen, place in reversed(list(zip_longest(answers, plan.places[: len(answers)]))):
        file = _file(seen, place, named) if place else None
        if file:
            files.write(file, partial(seen.save, record=record(seen, request, asked.top)))
        lines.append(tell(seen, str(plan.image or seen.method), file))
    return lines[::-1]


def _file(seen: Explanation, place: Path, named: bool) -> Path | None:
    """The path to write a result to, if any."""
    if seen.ending is None:
        if named:
            raise Usage(f"{seen.method} writes no file; leave --out out")
        return None
    if place.suffix == files.UNKNOWN:
        return place.with_suffix(seen.ending)
    if seen.ending == ".npz" and place.suffix not in files.NUMBERS:
        raise Usage(f"{place}: what is written is numbers and no picture; let it end in {seen.ending}")
    if seen.ending == ".png" and place.suffix == ".npy":
        raise Usage(f"{place}: what is written is a picture; let it end in .png, or in .npz for its numbers")
    return place


def _teller(as_json: bool, several: bool) -> Tell:
    """The function that tells an explanation; of `several` methods the lines name theirs."""
    if as_json:
        return formatting.explanation
    if not several:
        return formatting.explanation_line
    return lambda seen, name, file: formatting.explanation_line(seen, f"{name} {seen.method}", file)
