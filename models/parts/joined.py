"""Linear layers of the same inputs, multiplied as one, so that the fixed cost of a call is paid once."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

# Children of one module that are given the same inputs, first to last, in every language model here.
SAME_INPUTS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class JoinedLinear:
    """A layer [..., in] -> [..., sum of `sizes`] in the place of several.

    The outputs are kept from the first layer's call to the last one's, and are only for the very tensor that they were
    made of; another one, also of another thread's, is multiplied anew.
    """

    def __init__(self, layer: nn.Module, sizes: Sequence[int]) -> None:
        self.layer, self._sizes = layer, list(sizes)
        self._kept: tuple[Tensor, tuple[Tensor, ...]] | None = None

    def __call__(self, index: int, inputs: Tensor) -> Tensor:
        """The outputs of the layer with this index."""
        kept = self._kept
        if kept is None or kept[0] is not inputs:
            self._kept = kept = (inputs, self.layer(inputs).split(self._sizes, dim=-1))
        if index == len(self._sizes) - 1:
            self._kept = None
        return kept[1][index]


class JoinedPart(nn.Module):
    """`nn.Linear` for inference, of which the product is a `JoinedLinear`'s."""

    def __init__(self, joined: JoinedLinear, index: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.joined, self._index = joined, index

    def forward(self, inputs: Tensor) -> Tensor:
        """See the class."""
        return self.joined(self._index, inputs)


def put_joined(parent: nn.Module, names: Sequence[str], layer: nn.Module, sizes: Sequence[int]) -> None:
    """Put a layer in the place of these children, whose outputs have these sizes."""
    joined = JoinedLinear(layer, sizes)
    for index, (name, size) in enumerate(zip(names, sizes, strict=True)):
        setattr(parent, name, JoinedPart(joined, index, int(layer.in_features), size))  # type: ignore[arg-type]
    parent.add_module(f"joined_{names[0]}", layer)  # so that its parameters count as the model's
