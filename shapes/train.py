"""Train the bundled classifier on drawn pictures: `python -m shapes.train` from the repository root."""

import argparse
import io
import zipfile
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from shapes.data import SIZE, Norm, Pictures, drawn, roughened, statistics, turned
from shapes.draw import CLASSES
from shapes.model import Classifier

UNSEEN = 2000
"""Number of pictures kept for the test; their seeds lie below those of every training picture."""

_BUNDLED = Path(__file__).parents[1] / "server" / "lightwell_server" / "bundled" / "shapes" / "1"
_BATCH = 64
_CARD = """\
# The bundled classifier of drawn shapes and textures; `python -m shapes.train` writes this folder.
kind = "classifier"

[input]
size = [{size}, {size}]
resize = {size}            # shorter side, then centre crop
mean = {mean}
std = {std}

[output]
labels = "labels.txt"
"""


def stray(maps: Tensor, masks: Tensor) -> Tensor:
    """Return the share, 0..1, of the activation in `maps`, float [N, C, h, w], that lies outside the objects.

    Holding it down keeps the model's evidence on the object, which gives explanations a known right place.
    """
    outside = 1 - functional.adaptive_avg_pool2d(masks, (maps.shape[2], maps.shape[3]))
    return (maps * outside).sum() / maps.sum()


def loss_of(model: Classifier, data: Pictures, rows: Tensor, norm: Norm) -> Tensor:
    """Return the training loss on some rows: the cross-entropy and half the stray share.

    Channels-last memory and bfloat16 arithmetic make a step on the CPU up to three times as fast; the weights
    themselves stay in float32.
    """
    both = turned(torch.cat([data.pixels[rows].float() / 255, data.masks[rows].float()], dim=1))
    batch = norm(roughened(both[:, :3])).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        maps = model.features(batch)
        logits = model.scores(maps)
    entropy = functional.cross_entropy(logits.float(), data.labels[rows], label_smoothing=0.05)
    return entropy + 0.5 * stray(maps.float(), both[:, 3:])


def train(model: Classifier, data: Pictures, norm: Norm, epochs: int) -> None:
    """Fit `model` in place with AdamW under a one-cycle learning rate."""
    steps = len(data.labels) // _BATCH
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.05)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, total_steps=epochs * steps, pct_start=0.15)
    model.train().to(memory_format=torch.channels_last)
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(data.labels))[: steps * _BATCH].view(steps, _BATCH):
            loss = loss_of(model, data, rows, norm)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            rate.step()
            total += loss.item()
        print(f"epoch {epoch + 1:2d}: loss {total / steps:.3f}", flush=True)
    model.eval().to(memory_format=torch.contiguous_format)


@torch.no_grad()
def report(model: Classifier, data: Pictures, norm: Norm) -> None:
    """Print the accuracy on unseen pictures, for each class and in all."""
    guesses = [model(norm(part.float() / 255)).argmax(1) for part in data.pixels.chunk(8)]
    right = torch.cat(guesses) == data.labels
    for index, name in enumerate(CLASSES):
        mine = right[data.labels == index]
        print(f"{name:>14}: {100 * mine.float().mean():6.2f} % of {len(mine)}")
    print(f"{'all':>14}: {100 * right.float().mean():6.2f} % of {len(right)}")


def write_script(model: Classifier, path: Path) -> None:
    """Write the model as TorchScript, less the debug records, which name folders of the machine that trained it."""
    whole = io.BytesIO()
    torch.jit.save(torch.jit.script(model), whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                target.writestr(entry, source.read(entry))


def save(model: Classifier, norm: Norm, folder: Path) -> None:
    """Write model.pt (TorchScript), labels.txt and card.toml into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_script(model, folder / "model.pt")
    (folder / "labels.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    mean, std = ([round(value, 4) for value in part.flatten().tolist()] for part in norm)
    card = _CARD.format(size=SIZE, mean=mean, std=std)
    (folder / "card.toml").write_text(card, encoding="utf-8")


def main() -> None:
    """Draw the pictures, train, report the accuracy on unseen ones and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--pictures", type=int, default=12000, help="number of training pictures")
    parser.add_argument("--out", type=Path, default=_BUNDLED, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights and of the augmentation")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    data = drawn(range(UNSEEN, UNSEEN + options.pictures))
    norm = statistics(data.pixels)
    model = Classifier()
    train(model, data, norm, options.epochs)
    report(model, drawn(range(UNSEEN)), norm)
    save(model, norm, options.out)


if __name__ == "__main__":
    main()
