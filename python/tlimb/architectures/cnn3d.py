"""The 3D baseline of slice set networks."""

from typing import Literal

from tlimb.architectures.slice_cnn import CHANNELS, PlainCNN


class CNN3D(PlainCNN):
    """Encoder (B, in_channels, X, Y, Z) -> (B, 64): the "3D-CNN" that slice set networks are compared with.

    ======  ========================================================  =====================
    block   layers                                                    channels
    ======  ========================================================  =====================
    1 to 5  convolution 3x3x3, instance norm, maximum of 2x2x2, ReLU  32, 64, 128, 256, 256
    6       convolution 1x1x1, instance norm, ReLU                    64
    (head)  mean over space, linear
    ======  ========================================================  =====================

    Gupta et al. (2023), "Transferring models trained on natural images to 3D MRI via position encoded slice models",
    ISBI, after Peng et al. (2021), Medical Image Analysis 68, 101871. Their code averages a fixed window of 2x3x2
    positions, all that remain of 91x109x91 voxels, and its output layer is a 1x1x1 convolution on that one position:
    a linear head here, whose weights are (outputs, 64) rather than (outputs, 64, 1, 1, 1).

    channels: of the blocks that halve. head_dropout: before the head; 0 in the code of 2023, 0.5 in that of 2021.
    initialisation: "he" as the text and its commands of 2023, "torch" as those of 2021 and as the class's own default.
    in_channels, input_shape: decided by the data. Raises InputError where a volume is too small.
    """

    dims, kinds = 3, (3,)
    reference = "Gupta et al. 2023, ISBI"

    def __init__(
        self,
        channels: list[int] = CHANNELS,
        head_dropout: float = 0.0,
        initialisation: Literal["he", "torch"] = "he",
        in_channels: int = 1,
        input_shape: tuple = (),
    ):
        super().__init__(channels, head_dropout, initialisation, in_channels, input_shape)
