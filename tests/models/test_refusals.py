"""What cannot be explained is refused with one sentence that names the node, its source line and what to do; nothing
else suffers from it."""

import contextlib
import json
import pickle
import re
import socket
import subprocess
import sys
import time
import zipfile

import pytest
import torch
from torch import nn

from lightwell import Client, GradCam, UnavailableError
from lightwell.v1 import models_pb2
from lightwell_server.errors import NotFound, Refused
from lightwell_server.models import store
from lightwell_server.models.lifting import archive, files
from lightwell_server.models.lifting.lift import InputSpec, Sample, lift
from tests.curating import curated
from tests.nets import PLAIN, Residual, export, seeded

SIDE = 16


class BranchOnData(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) if bool(x.sum() > 0) else x.amax((2, 3))


class NumberOfData(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) * float(x.sum().item())


class SizeOfData(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) * x[x > 0.5].sum()


class Random(nn.Module):
    def forward(self, x):
        return (x + torch.rand_like(x)).mean((2, 3))


class Stateful(nn.Module):
    count: int

    def __init__(self):
        super().__init__()
        self.count = 0

    def forward(self, x):
        self.count = self.count + 1
        return x.mean((2, 3)) * self.count


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        self.seen.add_(1)
        return x.mean((2, 3)) * self.seen


class WithoutGradient(nn.Module):
    def forward(self, x):
        return torch.histc(x[0], 4)[None].expand(x.size(0), 4) * 1.0


class Rounded(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)).mul(100).long().to(x.dtype)


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(9, 5)

    def forward(self, tokens):
        return self.words(tokens).mean(1)


class Huge(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) @ torch.ones(3, 1000000000000)


class Endless(nn.Module):
    def forward(self, x):
        steps = 0
        while steps >= 0:
            steps += 1
        return x.mean((2, 3)) * steps


class Long(nn.Module):
    def forward(self, x):
        steps = 0
        for _ in range(150000):
            steps += 1
        return x.mean((2, 3)) * steps


class Raising(nn.Module):
    def forward(self, x):
        if x.size(2) < 100:
            raise ValueError("too small")
        return x.mean((2, 3))


class Slow(nn.Module):
    """Takes many seconds to be read."""

    def forward(self, x):
        steps = 0
        for _ in range(60000):
            steps += 1
        return x.mean((2, 3)) * steps


class NoInput(nn.Module):
    def forward(self):
        return torch.ones(2, 3)


class Quantised(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


REFUSED = {
    BranchOnData: (r"aten::Bool in the model", "depends on the image", "torch.where"),
    NumberOfData: (r"aten::item in the model", "depends on the image", "torch.where"),
    SizeOfData: (r"aten::index in the model", "depends on the image", "torch.where"),
    Random: (r"aten::rand_like in the model", "random numbers", "export the model in eval mode"),
    Stateful: (r"prim::SetAttr in the model", "its own attributes", "export it without state"),
    Counting: (r"aten::mul in the model", "changes seen of its own", "export it without state"),
    WithoutGradient: (r"aten.histc.default in the model", "no gradient", "can be differentiated"),
    Rounded: (r"aten.to.dtype in the model|aten.long", "no gradient", "can be differentiated"),
    Huge: (r"aten::ones in the model", "more memory than there is", "give the server more"),
    Endless: (r"aten::\w+ in the model", "1,000 rounds", "shorten it"),
    Long: (r"aten::\w+ in the model", "200,000 operations", "shorten its loops"),
    Raising: (r"prim::RaiseException in the model", "too small", "export it for those"),
}


@pytest.mark.parametrize("module", REFUSED, ids=lambda module: module.__name__)
def test_a_sentence_names_node_and_line_and_says_what_to_do(tmp_path, module):
    path = export(module().eval(), "scripted", tmp_path)
    with pytest.raises(Refused) as caught:
        lift(path, Sample((SIDE, SIDE), **PLAIN))
    sentence = str(caught.value)
    node, *parts = REFUSED[module]
    assert all(part in sentence for part in parts), sentence
    assert re.search(node, sentence), sentence
    assert ".py:" in sentence and "\n" not in sentence and len(sentence) < 450


def test_quantised_weights(tmp_path):
    torch.jit.script(torch.ao.quantization.quantize_dynamic(Quantised().eval(), {nn.Linear}, torch.qint8)).save(
        tmp_path / "model.pt"
    )
    with pytest.raises(Refused, match=r"quantized::linear_dynamic in 4 \(.*\.py:\d+\): quantised .* floating point"):
        lift(tmp_path / "model.pt", Sample((SIDE, SIDE), **PLAIN))


class Sound(nn.Module):
    """Of sound [n, samples]."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 64, stride=32)

    def forward(self, x):
        return self.conv(x.unsqueeze(1)).mean(2)


class Volume(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(2, 4, 3)

    def forward(self, x):
        return self.conv(x).mean((2, 3, 4))


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(10, 3 * 64)

    def forward(self, codes):
        return self.fc(codes).sigmoid().view(-1, 3, 8, 8)


def flat(width):
    return nn.Sequential(nn.Flatten(), nn.Linear(width, 4))


INSTEAD = {
    "words": (Text, r"takes numbers of words or other tokens \[n, length\] of int64 and no image"),
    "rows": (lambda: nn.Sequential(nn.Linear(10, 4), nn.Tanh()), r"takes rows of 10 numbers \[n, 10\] and no image"),
    "channels of a signal": (
        lambda: nn.Sequential(nn.Conv1d(12, 4, 3), nn.Flatten()),
        r"takes signals \[n, 12, length\]",
    ),
    "sound": (Sound, r"takes signals \[n, samples\], such as sound, and no image"),
    "volumes": (Volume, r"takes volumes \[n, 2, depth, height, width\] and no image"),
    "codes": (Generator, "makes images of rows of 10 numbers .* set its kind to generator, and input.code to 10"),
    "another size": (lambda: flat(3 * 24 * 24), "runs with input.size = .24, 24.: set it"),
}


@pytest.mark.parametrize("kind", INSTEAD)
def test_what_a_script_takes_instead_of_an_image(tmp_path, kind):
    make, sentence = INSTEAD[kind]
    with pytest.raises(Refused, match=sentence):
        lift(export(make().eval(), "scripted", tmp_path), Sample((SIDE, SIDE), **PLAIN))


@pytest.fixture
def runs(monkeypatch):
    """Rows, height and width of each run of a file's own function."""
    images, run = [], files.Script.run

    def counted(script, inputs):
        images.append((len(inputs[0]), *inputs[0].shape[2:]))
        return run(script, inputs)

    monkeypatch.setattr(files.Script, "run", counted)
    return images


@pytest.fixture
def recorded(monkeypatch):
    """How many rows were recorded, each time."""
    rows, record = [], files.Script.record

    def counted(script, inputs, recorder):
        rows.append(len(inputs[0].value))
        return record(script, inputs, recorder)

    monkeypatch.setattr(files.Script, "record", counted)
    return rows


class Viewed(nn.Module):
    """Made for images of 16 x 16; it counts four rows in one image of twice that."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * SIDE * SIDE, 5)

    def forward(self, x):
        return self.head(self.conv(x).relu().view(-1, 4 * 16 * 16))


@pytest.mark.parametrize("make", [lambda: flat(3 * SIDE * SIDE), Viewed], ids=["flatten", "view(-1, K)"])
def test_a_wrong_size_is_found_with_one_row_and_recorded_with_none(tmp_path, runs, recorded, make):
    path = export(make().eval(), "scripted", tmp_path)
    with pytest.raises(
        Refused, match=r"the file fails as the card has it \(.*\); the file runs with input.size = .16, 16."
    ):
        lift(path, Sample((2 * SIDE, 2 * SIDE), **PLAIN))
    assert runs[0] == (1, 2 * SIDE, 2 * SIDE)
    assert all(rows * height * width <= 5 * (2 * SIDE) ** 2 for rows, height, width in runs)
    assert not recorded


def test_wrong_channels_are_found_by_three_runs(tmp_path, runs, recorded):
    path = export(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 14 * 14, 5)).eval(), "scripted", tmp_path
    )
    with pytest.raises(Refused, match=r"the file runs with input.channels = 1: set it"):
        lift(path, Sample((SIDE, SIDE), **PLAIN))
    assert (runs, recorded) == ([(1, SIDE, SIDE), (2, SIDE, SIDE), (1, SIDE, SIDE)], [])


class Told(nn.Module):
    def forward(self, x, age):
        return x.mean((2, 3)) + age.view(-1, 3)


def test_what_no_card_mends_is_recorded_with_one_row(tmp_path, runs, recorded):
    path = export(Told().eval(), "scripted", tmp_path)
    with pytest.raises(Refused, match=r"aten::view in the model .* so does the file itself on images of 16 x 16"):
        lift(path, Sample((SIDE, SIDE), inputs={"age": InputSpec((4,))}, **PLAIN))
    assert recorded == [1]
    assert all(rows * height * width <= 5 * SIDE**2 for rows, height, width in runs)


def test_loops_that_may_have_no_end_are_not_run(tmp_path, runs):
    for module in (Endless(), Long()):
        with pytest.raises(Refused, match="; shorten it"):
            lift(export(module.eval(), "scripted", tmp_path), Sample((SIDE, SIDE), **PLAIN))
    assert not runs


class Decided(nn.Module):
    def forward(self, x):
        return {"label": x.mean((2, 3)).argmax(1), "sure": x.mean((2, 3)).amax(1) > 0.5}


@pytest.mark.parametrize("form", ["scripted", "pt2"])
def test_decisions_are_no_scores(tmp_path, form):
    path = export(Decided(), form, tmp_path, torch.rand(2, 3, SIDE, SIDE))
    with pytest.raises(Refused, match=r"returns decisions, .* no scores: .* export it without its argmax"):
        lift(path, Sample((SIDE, SIDE), **PLAIN))


def test_a_model_without_an_image(tmp_path):
    path = export(NoInput(), "scripted", tmp_path)
    with pytest.raises(Refused, match="takes no input"):
        lift(path, Sample((SIDE, SIDE), **PLAIN))
    tokens = torch.zeros(2, 7, dtype=torch.long)
    program = torch.export.export(Text(), (tokens,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.export.save(program, tmp_path / "text.pt2")
    with pytest.raises(Refused, match=r"first input has shape \[any, 7\], which is no image"):
        lift(tmp_path / "text.pt2", Sample((SIDE, SIDE), **PLAIN))


class Captioned(nn.Module):
    def forward(self, x, tokens):
        return x.mean((2, 3)) + tokens.sum()


@pytest.mark.parametrize("form", ["scripted", "pt2"])
def test_a_model_with_inputs_that_the_card_does_not_name(tmp_path, form):
    path = export(Captioned(), form, tmp_path, torch.rand(2, 3, SIDE, SIDE), torch.rand(2, 4))
    with pytest.raises(Refused, match=r"takes 2 inputs and the card describes 1; .* in this order: tokens"):
        lift(path, Sample((SIDE, SIDE), **PLAIN))


@pytest.mark.parametrize(("field", "card"), [("channels", {"channels": 1}), ("size", {"size": (32, 32)})])
def test_a_program_for_other_images_than_the_cards(tmp_path, field, card):
    path = export(seeded(Residual), "pt2", tmp_path, torch.rand(2, 3, SIDE, SIDE))
    plain = {"size": (SIDE, SIDE), "mean": (0.0,), "std": (1.0,), **card}
    with pytest.raises(Refused, match=f"set input.{field} in the card"):
        lift(path, Sample(**plain))


def rewritten(source, target, member, change):
    """A copy of an archive with one member changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for item in old.infolist():
            data = old.read(item)
            new.writestr(item.filename, change(data) if item.filename.endswith(member) else data)
    return target


def newer_schema(data: bytes) -> bytes:
    return json.dumps({**json.loads(data), "schema_version": {"major": 999, "minor": 1}}).encode()


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]


def make(kind: str, folder):
    """A file of that kind, and what its refusal must say."""
    path = folder / "model.pt"
    script = export(seeded(Residual), "scripted", folder)
    if kind == "garbage":
        path.write_bytes(b"not a model at all")
        return path, "no TorchScript archive and no torch.export program"
    if kind == "empty":
        path.write_bytes(b"")
        return path, "is empty; copy it again"
    if kind == "truncated":
        path.write_bytes(script.read_bytes()[:-3000])
        return path, "truncated: the end of the archive is missing; copy it again"
    if kind == "damaged":
        path.write_bytes(flipped(script.read_bytes()))
        return path, "damaged: .* does not have its checksum; copy it again"
    if kind == "state dict":
        torch.save({"model": seeded(Residual).state_dict(), "epoch": 3}, path)
        return path, r"holds weights \(a state dict\) and no code"
    if kind == "pickled network":
        torch.save(seeded(Residual), path, pickle_module=pickle)
        return path, r"a pickled network \(tests.nets.Residual\) without its code"
    if kind == "old pickle":
        torch.save(seeded(Residual), path, _use_new_zipfile_serialization=False)
        return path, "no code; export the network"
    if kind == "newer script":
        return rewritten(script, path, "/version", lambda _: b"999\n"), "a newer torch than this one"
    if kind == "newer program":
        program = export(seeded(Residual), "pt2", folder, torch.rand(2, 3, SIDE, SIDE))
        return rewritten(
            program, folder / "model.pt2", ("model.json", "program.json"), newer_schema
        ), "a newer torch than this one"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "hello")
    return path, "no model: it holds neither code nor a program"


KINDS = ["garbage", "empty", "truncated", "damaged", "state dict", "pickled network", "old pickle", "newer script"]


@pytest.mark.parametrize("kind", [*KINDS, "newer program", "some zip"])
def test_files_that_are_no_models(tmp_path, kind):
    path, sentence = make(kind, tmp_path)
    with pytest.raises(Refused, match=sentence) as caught:
        lift(path, Sample((SIDE, SIDE), **PLAIN))
    assert str(caught.value).startswith(path.name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_model_that_does_not_fit_into_memory_is_not_even_read(tmp_path, monkeypatch):
    path = export(seeded(Residual), "scripted", tmp_path)
    monkeypatch.setattr(archive, "free_memory", lambda: 1000)
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("the file was read"))
    with pytest.raises(Refused, match=r"needs about .* GiB of memory .* give the server more memory"):
        lift(path, Sample((SIDE, SIDE), **PLAIN))


def test_the_refused_neither_stop_the_others_nor_make_them_wait(tmp_path, monkeypatch):
    """Good models are decided while a bad one is still at work; each is told as soon as it is decided."""
    decided = []

    def lifting(path, *given):
        """The bad one is at work until both good ones are told, or far too late."""
        patience = time.monotonic() + 60
        while path.parent.parent.name == "endless" and len(decided) < 2 and time.monotonic() < patience:
            time.sleep(0.01)
        return lift(path, *given)

    monkeypatch.setattr(store, "lift", lifting)
    for name, module in (("endless", Endless()), ("good", seeded(Residual)), ("better", seeded(Residual))):
        directory = tmp_path / name / "1"
        directory.mkdir(parents=True)
        export(module, "scripted", directory).rename(directory / "model.pt")
        (directory / "card.toml").write_text(f"[input]\nsize = [{SIDE}, {SIDE}]\n")
    library, _, before = curated(tmp_path, decided)
    assert {model.state for model in before.models} == {models_pb2.MODEL_STATE_LOADING}
    assert decided[-1] == "endless"
    assert sorted(decided[:2]) == ["better", "good"] and library.get("better").id == "better@1"
    with pytest.raises(Refused, match="more than 1,000 rounds"):
        library.get("endless")
    with pytest.raises(NotFound):
        library.get("other")
    assert [entry.ready for entry in library.all()] == [True, False, True]


def test_a_server_that_is_still_loading_answers_and_can_be_stopped(tmp_path):
    for name, module in (("slow", Slow()), ("good", seeded(Residual))):
        directory = tmp_path / name / "1"
        directory.mkdir(parents=True)
        export(module, "scripted", directory).rename(directory / "model.pt")
        (directory / "card.toml").write_text(f"[input]\nsize = [{SIDE}, {SIDE}]\n")
    address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "lightwell_server", "--repository", str(tmp_path), "--metrics-port", "0"]
    process = subprocess.Popen([*command, "--address", address], stderr=subprocess.DEVNULL)
    try:
        with Client(address, timeout=60) as client:
            states, patience = {}, time.monotonic() + 60
            while states.get("good") != models_pb2.MODEL_STATE_READY and time.monotonic() < patience:
                with contextlib.suppress(UnavailableError):  # it does not listen yet
                    states = {model.name: model.state for model in client.models()}
            assert states["slow"] == models_pb2.MODEL_STATE_LOADING
            assert client.explain(torch.rand(3, SIDE, SIDE).numpy(), GradCam(), model="good").map.any()
        process.terminate()
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
