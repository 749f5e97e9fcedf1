"""Networks for time series against torch's own layers and the formulas of their papers."""

import numpy as np
import pytest
import torch
from encoder_checks import check_encoder
from torch import nn

from tlimb.architectures.cnn1d import CNN1D
from tlimb.architectures.gru import GRU
from tlimb.architectures.temporal_transformer import Layer, TemporalTransformer, sinusoids
from tlimb.errors import InputError

SHAPES = [(5, 24), (3, 17)]
SERIES = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "init_args"),
    [
        ("CNN1D", {}),
        ("CNN1D", {"widths": [8, 6], "kernel_size": 5, "norm": "instance", "dropout": 0.1, "pooling": "max"}),
        ("CNN1D", {"widths": [8], "norm": "layer"}),
        ("CNN1D", {"widths": [8], "norm": "none"}),
        ("TemporalTransformer", {"width": 16, "layers": 2}),
        ("TemporalTransformer", {"width": 15, "heads": 3, "layers": 1, "positions": "learned", "pooling": "token"}),
        ("TemporalTransformer", {"width": 16, "layers": 1, "positions": "none", "hidden": 2.0}),
        ("GRU", {"width": 8}),
        ("GRU", {"width": 8, "layers": 3, "bidirectional": True, "pooling": "last", "dropout": 0.2}),
        ("GRU", {"width": 8, "layers": 1, "pooling": "last"}),
    ],
)
def test_what_every_encoder_must_hold(name, init_args):
    check_encoder(name, SHAPES, **init_args)


def test_a_cnn_is_torchs_layers_one_after_the_other():
    own = CNN1D(widths=[4, 6], kernel_size=5, in_channels=5)
    peer = nn.Sequential(
        *(nn.Conv1d(5, 4, 5, padding=2, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2)),
        *(nn.Conv1d(4, 6, 5, padding=2, bias=False), nn.BatchNorm1d(6), nn.ReLU(), nn.MaxPool1d(2)),
        *(nn.AdaptiveAvgPool1d(1), nn.Flatten()),
    )
    peer.load_state_dict(dict(zip(peer.state_dict(), own.state_dict().values())))
    torch.testing.assert_close(own(SERIES), peer(SERIES))
    assert [level.shape[1:] for level in own.levels(SERIES)] == [(4, 12), (6, 6)]


def test_a_cnn_has_the_parameters_of_its_layers():
    expected = sum(3 * inputs * outputs + 2 * outputs for inputs, outputs in ((116, 64), (64, 128), (128, 256)))
    assert sum(tensor.numel() for tensor in CNN1D(in_channels=116).parameters()) == expected == 146_048


@pytest.mark.parametrize("bidirectional", [False, True])
def test_layers_of_recurrence_are_torchs_stacked_ones(bidirectional):
    own = GRU(width=7, layers=3, bidirectional=bidirectional, in_channels=5).eval()
    peer = nn.GRU(5, 7, num_layers=3, batch_first=True, bidirectional=bidirectional)
    peer.load_state_dict(dict(zip(peer.state_dict(), own.state_dict().values())))
    states, last = peer(SERIES.transpose(1, 2))
    torch.testing.assert_close(own.maps(SERIES), states.transpose(1, 2))
    torch.testing.assert_close(own(SERIES), states.mean(1))
    own.pooling = "last"
    directions = last[-2:] if bidirectional else last[-1:]
    torch.testing.assert_close(own(SERIES), torch.cat(list(directions), 1))


def test_recurrence_is_the_formula_of_its_docstring():
    own = GRU(width=3, layers=1, in_channels=5)
    layer = {name: tensor.detach().numpy().astype(float) for name, tensor in own.layer1.named_parameters()}
    (W_ir, W_iz, W_in), (W_hr, W_hz, W_hn) = (np.split(layer[f"weight_{of}_l0"], 3) for of in ("ih", "hh"))
    (b_ir, b_iz, b_in), (b_hr, b_hz, b_hn) = (np.split(layer[f"bias_{of}_l0"], 3) for of in ("ih", "hh"))
    h = np.zeros(3)
    for x in SERIES[0].numpy().astype(float).T:
        r = 1 / (1 + np.exp(-(W_ir @ x + b_ir + W_hr @ h + b_hr)))
        z = 1 / (1 + np.exp(-(W_iz @ x + b_iz + W_hz @ h + b_hz)))
        n = np.tanh(W_in @ x + b_in + r * (W_hn @ h + b_hn))
        h = (1 - z) * n + z * h
    np.testing.assert_allclose(own.maps(SERIES)[0, :, -1].detach(), h, rtol=1e-5, atol=1e-6)


def test_a_layer_of_attention_is_torchs():
    own = Layer(width=12, heads=3, hidden=20, dropout=0.0)
    peer = nn.TransformerEncoderLayer(12, 3, 20, 0.0, "gelu", batch_first=True, norm_first=True)
    names = {"self_attn.in_proj_": "qkv.", "self_attn.out_proj.": "project."}
    state = own.state_dict()
    with torch.no_grad():
        own.qkv.bias.normal_()
        for name, tensor in peer.state_dict().items():
            for theirs, ours in names.items():
                name = name.replace(theirs, ours)
            tensor.copy_(state.pop(name))
    assert not state
    tokens = torch.randn(2, 9, 12)
    torch.testing.assert_close(own(tokens), peer(tokens))


def test_a_transformer_has_the_parameters_of_torchs():
    own = TemporalTransformer(in_channels=116, input_shape=(116, 200))
    layers = nn.TransformerEncoderLayer(128, 4, 512)
    expected = 116 * 128 + 128 + 4 * sum(tensor.numel() for tensor in layers.parameters()) + 2 * 128
    assert sum(tensor.numel() for tensor in own.parameters()) == expected


def test_sinusoidal_positions_are_the_papers():
    table, width = sinusoids(30, 10)[0].numpy(), 10
    for t in (0, 1, 29):
        for i in range(width // 2):
            angle = t / 10000 ** (2 * i / width)
            np.testing.assert_allclose(table[t, 2 * i : 2 * i + 2], [np.sin(angle), np.cos(angle)], atol=1e-5)
    assert sinusoids(4, 7).shape == (1, 4, 7)


def test_order_in_time_matters_by_positions_alone():
    backwards = SERIES.flip(2)
    for positions, same in (("none", True), ("sinusoidal", False), ("learned", False)):
        torch.manual_seed(0)
        own = TemporalTransformer(16, 1, positions=positions, in_channels=5, input_shape=(5, 24)).eval()
        assert torch.allclose(own(SERIES), own(backwards), atol=1e-5) == same


@pytest.mark.filterwarnings("ignore:The tensor attributes self.layer1._flat_weights")  # torch's GRU, unrolled
@pytest.mark.parametrize(
    "build",
    [
        lambda: CNN1D([8], in_channels=5),
        lambda: GRU(8, 1, True, "last", in_channels=5),
        lambda: TemporalTransformer(8, 1, 2, pooling="token", in_channels=5, input_shape=(5, 6)),
    ],
)
def test_a_network_exports_for_batches_of_any_size(build):
    own = build().eval()
    batch = {0: torch.export.Dim("batch")}
    exported = torch.export.export(own, (torch.randn(3, 5, 6),), dynamic_shapes=(batch,)).module()
    torch.testing.assert_close(exported(SERIES[:, :, :6]), own(SERIES[:, :, :6]))


def test_a_recurrence_between_layers_drops_in_training_alone():
    own = GRU(width=4, dropout=0.5, in_channels=5)
    assert not torch.equal(own(SERIES), own(SERIES))
    own.eval()
    assert torch.equal(own(SERIES), own(SERIES))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: CNN1D(kernel_size=4), "expected an odd number"),
        (lambda: CNN1D(widths=[]), "expected a number of channels for each block"),
        (lambda: TemporalTransformer(width=10, heads=4, input_shape=(5, 24)), "10 cannot be shared by 4 heads"),
        (lambda: GRU(layers=0), "init_args.layers: expected at least 1, found 0"),
    ],
)
def test_what_cannot_be_is_refused(build, words):
    with pytest.raises(InputError, match=words):
        build()
