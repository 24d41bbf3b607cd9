"""Queries: calls that a device serves next to its engine, without a run. Each is an rpc and the file of its name in
snake case, which holds a function of that name. The function names what it needs of

- `request`: the call's message, its images pixels and its model's name and version those of a loaded one;
- `model`: that model, a `Model`;
- `further`: the other models of the request in it, by their roles;
- `limits` and `seconds`: the limits of the device's steps, and what an Ask costs there by experience (`Pricing`);

and returns the response, or yields responses if the rpc streams. It runs on another thread than the device's. A file
may also define:

- `RIGHT`, the right that a caller needs. Default: "explain".
- `asked(request)`, the Explain or Synthesize request inside it, whose images are decoded first. Default: None.
- `complete(response, request)`, the response completed by the gateway from the request as it was sent. Default:
  unchanged.
- `completing_seconds(response, request)`, the processor seconds of that. Default: 0, which uses no thread.
- `not_applicable(error)`, the response if the method does not apply to the model. Default: the error is raised.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module, resources
from types import ModuleType
from typing import Any

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from lightwell.v1 import explainer_pb2
from lightwell_server.catalog import Request
from lightwell_server.errors import NotApplicable
from lightwell_server.requests.call import Right
from lightwell_server.requests.models import Key, models_of

_ARGUMENTS = frozenset({"request", "model", "further", "limits", "seconds"})


def _nothing(request: Any) -> None:  # noqa: ANN401 - of any rpc
    """The default of `asked`."""


def _as_it_is(response: Any, request: Any) -> Any:  # noqa: ANN401 - of any rpc
    return response


def _no_time(response: Any, request: Any) -> float:  # noqa: ANN401 - of any rpc
    return 0.0


def _raised(error: NotApplicable) -> Message:
    raise error


@dataclass(frozen=True)
class Query:
    """A query: its rpc with `path` and messages, whether it `streams` responses, and the definitions of its file.
    `arguments` are those that its function names."""

    rpc: str
    path: str
    response: type[Message]
    streams: bool
    right: Right
    arguments: frozenset[str]
    function: Callable[..., Any]
    asked: Callable[[Any], Request | None]
    complete: Callable[[Any, Any], Any]
    completing_seconds: Callable[[Any, Any], float]
    not_applicable: Callable[[NotApplicable], Message]

    @property
    def of_model(self) -> bool:
        """Whether it uses a model."""
        return "model" in self.arguments

    def keys(self, request: Any) -> frozenset[Key]:  # noqa: ANN401 - of any rpc
        """The models of a request that names loaded versions."""
        asked = self.asked(request)
        if asked is not None:
            return frozenset(models_of(asked).values())
        return frozenset({(request.model, request.version)} if self.of_model else ())

    def named(self, request: Any) -> Any:  # noqa: ANN401 - of any rpc
        """The message that names the model: the request inside it, or itself."""
        return self.asked(request) or request

    def answers(self, given: Mapping[str, Any]) -> Generator[Message, None, None]:
        """The responses; exactly one if the rpc does not stream. Raises LightwellError."""
        answer = self.function(**{name: given[name] for name in self.arguments})
        if self.streams:
            yield from answer
        else:
            yield answer


@cache
def queries() -> dict[str, Query]:
    """All queries by rpc. Raises TypeError for a file without an rpc or function, and for a function that does not
    stream as its rpc does."""
    rpcs = {rpc.name: rpc for service in explainer_pb2.DESCRIPTOR.services_by_name.values() for rpc in service.methods}
    files = {re.sub("(?<!^)(?=[A-Z])", "_", name).lower(): rpc for name, rpc in rpcs.items()}
    found = sorted(each.name.removesuffix(".py") for each in resources.files(__package__).iterdir())
    names = [name for name in found if not name.startswith("_")]
    if unknown := set(names) - set(files):
        raise TypeError(f"there is no rpc for runtime/queries/{', '.join(sorted(unknown))}")
    return {files[name].name: _query(files[name], name, import_module(f"{__package__}.{name}")) for name in names}


def _query(rpc: MethodDescriptor, name: str, module: ModuleType) -> Query:
    function = getattr(module, name, None)
    if function is None:
        raise TypeError(f"runtime/queries/{name}.py has no function {name}")
    arguments = frozenset(inspect.signature(function).parameters)
    if unknown := arguments - _ARGUMENTS:
        raise TypeError(f"{name}: the function takes {sorted(unknown)}; it may take {sorted(_ARGUMENTS)}")
    streams = bool(rpc.server_streaming)
    if streams != inspect.isgeneratorfunction(function):
        raise TypeError(f"{name}: the function {'must yield' if streams else 'must not yield'}: see the rpc")
    return Query(
        rpc=rpc.name,
        path=f"/{rpc.containing_service.full_name}/{rpc.name}",
        response=GetMessageClass(rpc.output_type),
        streams=streams,
        right=getattr(module, "RIGHT", "explain"),
        arguments=arguments,
        function=function,
        asked=getattr(module, "asked", _nothing),
        complete=getattr(module, "complete", _as_it_is),
        completing_seconds=getattr(module, "completing_seconds", _no_time),
        not_applicable=getattr(module, "not_applicable", _raised),
    )
