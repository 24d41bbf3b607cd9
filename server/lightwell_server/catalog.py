"""The registry: each field of the requests' `oneof method`, and the function of the same name. All parameters are
checked here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from typing import Annotated, Any, Literal, get_type_hints

import torch
from annotated_types import Len
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, create_model
from pydantic_core import ErrorDetails
from torch import Tensor

from lightwell.v1 import explain_pb2, synthesize_pb2
from lightwell_server.contract import Facts, Needs, Result, Step, Target
from lightwell_server.contract.parameters import ImageType, LayerType, Role, marks
from lightwell_server.errors import InvalidArgument, NotApplicable

Kind = Literal["explain", "synthesize"]
Request = explain_pb2.ExplainRequest | synthesize_pb2.SynthesizeRequest
_ARGUMENTS = frozenset({"image", "target", "facts", "models", "rng"})
_REQUESTS: dict[Kind, Any] = {"explain": explain_pb2.ExplainRequest, "synthesize": synthesize_pb2.SynthesizeRequest}


@dataclass(frozen=True)
class Method:
    """A method: its name in the oneof, its function and its file's definitions, what it `needs`, and which `arguments`
    its function names besides its parameters: image, target, facts, models and rng."""

    name: str
    kind: Kind
    function: Callable[..., Any]
    checked: type[BaseModel]
    needs: Needs
    arguments: frozenset[str]
    _applies: Callable[[Facts], str | None]
    _defaults: Callable[[Facts, Mapping[str, Any]], dict[str, Any]]
    _reason: Callable[[Facts], str]

    def applies(self, facts: Facts) -> str | None:
        """Why it does not apply to a model, or None."""
        if self.needs.kind not in ("any", facts.kind):
            return f"the model is a {facts.kind}, and {self.name} needs a {self.needs.kind}"
        return self._applies(facts)

    def defaults(self, facts: Facts) -> dict[str, Any]:
        """The parameters that depend on the model, if none are given."""
        return self._defaults(facts, {})

    def layers(self, facts: Facts) -> list[str]:
        """The names of the layers that it uses if none are named."""
        given = (value for name, value in self.defaults(facts).items() if name in self.needs.layers)
        return list(dict.fromkeys(name for value in given for name in _named(value)))

    def reason(self, facts: Facts) -> str:
        """Why it uses these layers; empty if it uses none."""
        return self._reason(facts)

    @property
    def aimed(self) -> bool:
        """Whether it uses a target."""
        return "target" in self.arguments

    def check(self, given: Mapping[str, Any]) -> None:
        """Raises InvalidArgument for parameters that are bad for every model."""
        try:
            self.checked.model_validate(given, context={"facts": None})
        except ValidationError as error:
            self._refuse(error.errors(), leave="missing")  # missing ones may have a default that depends on the model

    def parameters(self, facts: Facts, given: Mapping[str, Any], model: str) -> dict[str, Any]:
        """All parameters, the given ones checked and the others filled in. Raises NotApplicable, or InvalidArgument
        with one violation for each bad parameter."""
        reason = self.applies(facts)
        if reason is not None:
            raise NotApplicable(f"{self.name} does not apply to {model}: {reason}", subject=f"{model}/{self.name}")
        try:
            checked = self.checked.model_validate({**self._defaults(facts, given), **given}, context={"facts": facts})
        except ValidationError as error:
            self._refuse(error.errors())
        return {name: getattr(checked, name) for name in type(checked).model_fields}

    def _refuse(self, errors: Sequence[ErrorDetails], leave: str = "") -> None:
        """Raises InvalidArgument with a violation for each bad field. An error of a field is left out if one of its
        parts has one. Errors of the type `leave` are ignored."""
        found = [(_path(self.name, e["loc"]), e) for e in errors]
        whole = {p for p, _ in found if any(other != p and other.startswith(p) for other, _ in found)}
        wrong = [(p, e["msg"].removeprefix("Value error, ")) for p, e in found if p not in whole and e["type"] != leave]
        if wrong:
            raise InvalidArgument("; ".join(f"{path}: {text}" for path, text in wrong), violations=wrong) from None

    def start(
        self,
        image: Tensor | None,
        target: Target,
        facts: Facts,
        seed: int,
        parameters: Mapping[str, Any],
        models: Mapping[str, Facts] | None = None,
    ) -> Generator[Step, Any, Result]:
        """The method's generator for one request; `models` are the facts of further models by their roles."""
        rng = torch.Generator().manual_seed(seed % 2**63)
        given = {"image": image, "target": target, "facts": facts, "models": models or {}, "rng": rng}
        named = {name: value for name, value in given.items() if name in self.arguments}
        return self.function(**named, **parameters)  # type: ignore[no-any-return]


def _named(value: str | Sequence[Mapping[str, Any]]) -> list[str]:
    return [value] if isinstance(value, str) else [part["layer"] for part in value]


def _path(method: str, location: tuple[int | str, ...]) -> str:
    return method + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)


@cache
def catalog() -> dict[str, Method]:
    """All methods by name. Raises if a field of the oneof has no function, or the parameters of function and message
    differ."""
    return {
        field.name: _method(field.name, kind, [parameter.name for parameter in field.message_type.fields])
        for kind, request in _REQUESTS.items()
        for field in request.DESCRIPTOR.oneofs_by_name["method"].fields
    }


def method_of(request: Request) -> Method:
    """The method that a request names. Raises InvalidArgument if it names none."""
    name = request.WhichOneof("method")
    if name is None:
        known = [f.name for f in request.DESCRIPTOR.oneofs_by_name["method"].fields]
        raise InvalidArgument.at("method", f"set one of {', '.join(known)}")
    return catalog()[name]


def _method(name: str, kind: Kind, fields: list[str]) -> Method:
    module = import_module(f"lightwell_server.methods.{name}")
    function = getattr(module, name)
    signature, hints = inspect.signature(function), get_type_hints(function, include_extras=True)
    named = [p for p in signature.parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    if sorted(fields) != sorted(parameter.name for parameter in named):
        raise TypeError(f"{name}: the message has {sorted(fields)}, the function {sorted(p.name for p in named)}")
    arguments = frozenset(signature.parameters) - {p.name for p in named}
    if unknown := arguments - _ARGUMENTS:
        raise TypeError(f"{name}: the function takes {sorted(unknown)}; it may take {', '.join(sorted(_ARGUMENTS))}")
    checked: Any = {p.name: (_counted(hints[p.name]), ... if p.default is p.empty else p.default) for p in named}
    return Method(
        name=name,
        kind=kind,
        function=function,
        checked=create_model(name, __config__=ConfigDict(extra="forbid", allow_inf_nan=False), **checked),
        needs=_needs(name, getattr(module, "needs", Needs()), hints, [p.name for p in named]),
        arguments=arguments,
        _applies=getattr(module, "applies", lambda facts: None),
        _defaults=getattr(module, "defaults", lambda facts, given: {}),
        _reason=getattr(module, "reason", lambda facts: ""),
    )


def _needs(name: str, declared: Needs, hints: Mapping[str, Any], parameters: list[str]) -> Needs:
    """What a method needs, by its file's declaration and the types in its signature."""
    for parameter in (declared.planned, declared.early):
        if parameter is not None and parameter not in parameters:
            raise TypeError(f"{name}: needs names {parameter}, which is none of its parameters {parameters}")
    roles = {parameter: next(marks(hints[parameter], Role), None) for parameter in parameters}
    return replace(
        declared,
        image=next(marks(hints["image"], ImageType)).image if "image" in hints else "none",
        models={parameter: role.kind for parameter, role in roles.items() if role is not None},
        layers=frozenset(parameter for parameter in parameters if any(marks(hints[parameter], LayerType))),
    )


def _counted(hint: Any) -> Any:  # noqa: ANN401 - a parameter's annotation
    """A hint whose length, if limited, is checked before its parts, so that a list of many bad ones is refused
    early."""
    most = [m.max_length for m in getattr(hint, "__metadata__", ()) if isinstance(m, Len) and m.max_length is not None]

    def check(value: Any) -> Any:  # noqa: ANN401
        if len(value) > most[0]:
            raise ValueError(f"has {len(value):,} entries; send at most {most[0]}")
        return value

    return Annotated[hint, BeforeValidator(check)] if most else hint
