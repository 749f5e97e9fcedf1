"""Networks and heads of a lab, none of which knows tlimb; named in sweeps by import path."""

import torch
from torch import nn


class Plain(nn.Module):
    """(B, C, X, Y, Z) -> (B, width), with a parameter of its own beside its children."""

    def __init__(self, width: int = 6, in_channels: int = 1):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.stem = nn.Conv3d(in_channels, 4, 3, padding=1)
        self.norm = nn.BatchNorm3d(4)
        self.pool = nn.MaxPool3d(2)
        self.last = nn.Linear(4, width)

    def forward(self, x):
        return self.last(self.pool(torch.relu(self.norm(self.stem(x * self.scale)))).flatten(2).mean(2))


class Maps(nn.Module):
    """(B, C, X, Y) -> maps (B, 8, X / 2, Y / 2); its children bear names that tlimb uses itself."""

    def __init__(self, in_chans: int = 1):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(in_chans, 4, 3, padding=1), nn.ReLU())
        self.blocks = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8))

    def forward(self, x):
        return self.blocks(self.features(x))


class Nested(nn.Module):
    """One child that holds all."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(5, 4, 3), nn.ReLU(), nn.Conv1d(4, 2, 3))

    def forward(self, x):
        return self.body(x)


class Numbers(Plain):
    """Asks its tensors for numbers, in its constructor and in its forward."""

    def __init__(self, in_channels: int = 1):
        super().__init__(3, in_channels)
        self.rate = torch.linspace(0, 0.5, 3)[1].item()

    def forward(self, x):
        return super().forward(x) * (1.0 if x.sum().item() > 1e9 else self.rate)


class Tuple(Plain):
    """Gives two things."""

    def forward(self, x):
        return super().forward(x), x


class Alone(Plain):
    """Gives one number an image, without an axis for them."""

    def forward(self, x):
        return super().forward(x)[:, 0]


class Broken(Plain):
    """A mistake in its forward."""

    def forward(self, x):
        return x.no_such_thing()


class Drawing(nn.Module):
    """Draws in evaluation mode, too."""

    def __init__(self, in_channels: int = 1):
        super().__init__()
        self.line = nn.Linear(in_channels, 3)

    def forward(self, x):
        return self.line((x + torch.randn(x.shape, device=x.device)).flatten(2).mean(2))


class Forgetful(Drawing):
    """Drops features by its own mode, not by that of a submodule."""

    def forward(self, x):
        return nn.functional.dropout(self.line(x.mean(2)), 0.5, self.training)


class Needy(Drawing):
    """Takes nothing for granted."""

    def __init__(self, width: int, *, depth: int, in_channels: int = 1):
        super().__init__(in_channels)


class Liar(Plain):
    """An encoder that states another width than it has."""

    features = 9
    blocks = ("stem", "norm", "last")


class Wide(nn.Module):
    """A head that forgets how many outputs its target needs."""

    def __init__(self, encoder: nn.Module, outputs: int):
        super().__init__()
        self.line = nn.Linear(encoder.features, outputs + 1)

    def forward(self, x):
        return self.line(x)


class Misfit(nn.Module):
    """A head for features of a width of its own."""

    def __init__(self, outputs: int):
        super().__init__()
        self.line = nn.Linear(77, outputs)

    def forward(self, x):
        return self.line(x)


class NoModule:
    """Not a network at all."""
