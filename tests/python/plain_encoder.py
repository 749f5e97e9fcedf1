"""The smallest encoder there is, for tests of terms."""

from torch import nn


class Plain(nn.Module):
    """Images (B, 4) -> features (B, 3), linear."""

    dims, features, blocks = 1, 3, ("layer",)

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, images):
        """Features."""
        return self.layer(images)
