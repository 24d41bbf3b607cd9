"""The benchmark of refusals, in small: that it tells what each mistake cost and was told. Figures are not looked at."""

import pytest

from bench import refusals
from bench.files.checked import Checked, checked
from bench.files.mistakes import MISTAKES
from bench.files.miswritten import NETWORKS

NAMES = ("twice the size", "too many labels", "a Git LFS pointer", "truncated")


@pytest.fixture(scope="module")
def done():
    """Some mistakes on the smallest network, checked in this process."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(refusals, "_apart", checked)
        mistakes = [mistake for mistake in MISTAKES if mistake.name in NAMES]
        return list(refusals.refusals(NETWORKS["cnn"], mistakes, 1))


def test_each_mistake_is_refused_and_told_beside_the_right_check(done, capsys):
    assert tuple(each.mistake for each in done) == NAMES
    assert all(each.wrong.told and not each.right.told and each.right.seconds > 0 for each in done)
    refusals.print_refusals(done)
    told = capsys.readouterr().out
    assert "twice the size: the file fails as the card has it (mat1 and mat2 shapes" in told
    assert "the file runs with input.size = [64, 64]: set it in the card" in told
    assert "too many labels: the card has 11 labels and the model 10 classes" in told


def test_goals_are_of_the_shares():
    right = Checked(2.0, 100.0, "")
    each = [
        refusals.Refusal("cnn", "a", Checked(1.0, 200.0, "no"), right),
        refusals.Refusal("cnn", "b", Checked(4.0, None, ""), right),
    ]
    figures = [(goal.figure, goal.met) for goal in refusals.goals(each)]
    assert figures == [(1, False), (0, True), (1.25, True), (2.0, False), (2.0, False), (2.0, False)]


def test_mistakes_have_names_of_their_own():
    assert len({mistake.name for mistake in MISTAKES}) == len(MISTAKES) >= 50
