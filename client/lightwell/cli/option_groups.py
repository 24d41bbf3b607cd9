"""Options that several commands share, defined once: a dataclass whose fields are the options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

Command = Callable[..., None]


def taking(name: str, kind: type) -> Callable[[Command], Command]:
    """Adds the options of a dataclass to a command, after its own options. The command gets an object of the dataclass
    as its argument `name`."""

    def given(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True)
        options = inspect.signature(kind, eval_str=True).parameters

        @wraps(command)
        def asked(**values: Any) -> None:  # noqa: ANN401 - of the options' types
            command(**{name: kind(**{option: values.pop(option) for option in options})}, **values)

        parameters = [one for own_name, one in own.parameters.items() if own_name != name] + list(options.values())
        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
        asked.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        asked.__annotations__ = {one.name: one.annotation for one in parameters}
        return asked

    return given
