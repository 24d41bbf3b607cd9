"""Runs a method against a lifted graph with neither engine nor server between them."""

from lightwell_server.contract import Ask, Part, Work
from lightwell_server.models.answer import answer


def drive(generator, graph, inputs=None, seen=None):
    """A method's result. Each step and what it was sent are appended to `seen`; of a frame only the step says
    something."""
    reply = None
    while True:
        try:
            step = generator.send(reply)
        except StopIteration as end:
            return end.value
        if isinstance(step, Ask):
            (reply,) = answer(graph, [Part(step, 0, step.count, inputs or {})])
        else:
            reply = step.function(*step.arguments) if isinstance(step, Work) else None
        if seen is not None:
            seen.append((step, reply))
