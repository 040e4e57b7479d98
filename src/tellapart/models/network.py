"""What every network offers to training: its features before the head, and the head by name."""

from torch import Tensor, nn


class Network(nn.Module):
    """A classifier of normalised images: float (N, C, S, S) -> logits (N, K).

    Subclasses set `head_name`, the dotted name of the last linear layer(s), and write `embed`. The split lets
    training fit the head on frozen features, and evaluation measure how familiar a picture is.
    """

    head_name: str

    def embed(self, images: Tensor) -> Tensor:
        """Return the features (N, F) that the head turns into logits."""
        raise NotImplementedError

    @property
    def head(self) -> nn.Module:
        """The layer that turns features (N, F) into logits (N, K)."""
        return self.get_submodule(self.head_name)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, K)."""
        logits: Tensor = self.head(self.embed(images))
        return logits
