"""The contract: every field of the oneof has its function, every parameter its field, every enum its words, on both
sides."""

import re
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

import lightwell
from lightwell.v1 import explain_pb2, synthesize_pb2
from lightwell_server.catalog import catalog
from lightwell_server.codec.parameters import fill_parameters, read_parameters, words
from lightwell_server.contract import Needs
from lightwell_server.methods import saliency

REQUESTS = (explain_pb2.ExplainRequest, synthesize_pb2.SynthesizeRequest)
FIELDS = {field.name: field for request in REQUESTS for field in request.DESCRIPTOR.oneofs_by_name["method"].fields}
METHODS = sorted(catalog())


def literal_words(annotation) -> set[str] | None:
    """The words of a Literal, also within Optional."""
    if get_origin(annotation) is Literal:
        return set(get_args(annotation))
    found = [literal_words(inner) for inner in get_args(annotation)]
    return next((words for words in found if words), None)


def test_the_catalog_is_the_oneof():
    assert set(catalog()) == set(FIELDS)


@pytest.mark.parametrize(
    ("function", "wrong"),
    [
        (
            lambda image, model, *, magnitude, channels: None,
            "takes ['model']; it may take facts, image, models, rng, target",
        ),
        (lambda image, target, *, magnitude: None, "the message has ['channels', 'magnitude']"),
    ],
)
def test_a_function_that_does_not_fit_stops_start_up(monkeypatch, function, wrong):
    function.__annotations__ = dict(get_type_hints(saliency.saliency, include_extras=True))
    monkeypatch.setattr(saliency, "saliency", function)
    with pytest.raises(TypeError, match=re.escape(wrong)):
        catalog.__wrapped__()


def test_needs_of_a_parameter_that_is_none_stop_start_up(monkeypatch):
    monkeypatch.setattr(saliency, "needs", Needs(planned="rounds"), raising=False)
    with pytest.raises(TypeError, match="saliency: needs names rounds, which is none of its parameters"):
        catalog.__wrapped__()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_tests_of_its_own(name):
    assert (Path(__file__).parent / "methods" / f"test_{name}.py").is_file()


@pytest.mark.parametrize("name", METHODS)
def test_the_sdk_offers_the_message_by_its_name(name):
    assert getattr(lightwell, FIELDS[name].message_type.name).DESCRIPTOR is FIELDS[name].message_type


@pytest.mark.parametrize("name", METHODS)
def test_method_names_are_the_messages_names(name):
    assert name.replace("_", "") == FIELDS[name].message_type.name.lower()


@pytest.mark.parametrize("name", METHODS)
def test_what_is_unset_is_absent(name):
    message = FIELDS[name].message_type
    assert read_parameters(message._concrete_class(), name, lambda image, path: image) == {}
    for field in message.fields:
        assert field.is_repeated or field.has_presence, f"{name}.{field.name} cannot tell unset from zero"


@pytest.mark.parametrize("name", METHODS)
def test_enums_have_the_words_of_the_signature(name):
    checked = catalog()[name].checked.model_fields
    for field in FIELDS[name].message_type.fields:
        if field.enum_type is not None:
            assert set(words(field.enum_type)) == literal_words(checked[field.name].annotation), field.name


@pytest.mark.parametrize("name", METHODS)
def test_numbers_have_ranges(name):
    """Every number of a signature is bounded on one side at least, or is a class that the method checks itself."""
    for field_name, field in catalog()[name].checked.model_fields.items():
        if field.annotation in (int, float):
            assert field.metadata, f"{name}.{field_name} takes any number"


def test_a_parameter_without_a_field_stops_the_start(monkeypatch):
    from lightwell_server.catalog import _method

    with pytest.raises(TypeError, match="saliency: the message has"):
        _method("saliency", "explain", ["magnitude"])


def test_a_field_without_a_function_stops_the_start():
    from lightwell_server.catalog import _method

    with pytest.raises(ModuleNotFoundError):
        _method("no_such_method", "explain", [])


@pytest.mark.parametrize("name", METHODS)
def test_parameters_survive_the_way_there_and_back(name):
    """What fills a message from parameters is the inverse of what reads them."""
    message = FIELDS[name].message_type._concrete_class()
    for field in message.DESCRIPTOR.fields:
        if (
            field.message_type is None and not field.is_repeated and field.containing_oneof is None
        ) or field.name == "fill":
            value = {"bool": True, "enum": 1, "float": 0.5, "string": "x"}.get(_kind(field), 3)
            setattr(message, field.name, value)
    read = read_parameters(message, name, lambda image, path: image)
    again = type(message)()
    fill_parameters(again, read)
    assert again == message


def _kind(field) -> str:
    if field.enum_type is not None:
        return "enum"
    return {field.TYPE_BOOL: "bool", field.TYPE_FLOAT: "float", field.TYPE_STRING: "string"}.get(field.type, "int")
