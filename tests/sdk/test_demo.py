"""The demo: one run with few steps, and what a person would look at."""

import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from lightwell import serving
from lightwell.demo import main


class Page(HTMLParser):
    """Collects where a page's pictures come from, and checks that its elements are closed."""

    def __init__(self, text):
        super().__init__()
        self.sources, self.open, self.wrong = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.sources.append(dict(attrs)["src"])
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return main.run(tmp_path_factory.mktemp("demo") / "gallery", steps=12)


def test_the_page_needs_nothing_but_itself(page):
    text = page.read_text()
    read = Page(text)
    assert not read.open and not read.wrong
    assert len(read.sources) > 40 and all(source.startswith("data:image/png;base64,") for source in read.sources)
    assert not re.search(r"https?:|url\(|<script|<link|\$[a-z]", text)
    assert "prefers-color-scheme: dark" in text


def test_all_methods_are_on_the_page(page):
    text = page.read_text()
    assert all(
        word in text
        for word in (
            "Grad-CAM",
            "Occlusion",
            "Saliency",
            "Guided backprop",
            "difference × 10",
            "the painting",
            "step 12",
        )
    )
    names = [path.stem for path in main.samples()][: main.EXPLAINED]
    assert all(f"<b>{name}</b>" in text for name in names), "the model named its own samples differently"


def test_its_pictures_lie_beside_it(page):
    files = {path.name for path in page.parent.glob("*.png")}
    names = [path.stem for path in main.samples()][: main.EXPLAINED]
    assert {f"{name}_{method}.png" for name in names for method in main.METHODS} <= files
    assert len([name for name in files if name.startswith("painted_step_")]) == main.PREVIEWS
    assert all(Image.open(page.parent / f"attack_{n}_after.png").size == (96, 96) for n in range(1, main.ATTACKED + 1))


def test_a_server_that_cannot_start_says_why(tmp_path):
    with pytest.raises(OSError, match="did not start"), serving.served(tmp_path, "--max-jobs", "0"):
        pass


def test_a_server_that_stays_silent_is_not_waited_for(tmp_path):
    with pytest.raises(OSError, match="did not start"), serving.served(serving.bundled(), patience=0.2):
        pass
