"""The picture that a stylizer makes: a method of another kind of model. Made for tests, 2026."""

from __future__ import annotations

from lightwell_server.contract import OUT, Ask, Explaining, Explanation, ModelInput, Needs, View

needs = Needs(kind="stylizer")


def stylized(image: ModelInput) -> Explaining:
    """`pictures` [2, 3, H, W] of `image` [1, 3, H, W], float32: itself, and what the model makes of it."""
    made = (yield Ask(image, want=OUT)).out
    pictures = image.new_zeros(2, *image.shape[1:])
    pictures[0], pictures[1] = image[0], made[0]
    return Explanation(tensors={"pictures": pictures}, views={"pictures": View("images")})
