"""Terms that hide, turn or move images and have the network say what was done or what was there."""

import numpy as np
import pandas as pd
import pytest
import torch
from contracts import check_json
from encoder_checks import build, images_of
from monai.networks.nets import MaskedAutoEncoderViT
from training_jobs import LABELS, RESNET, make_people, make_store, pack_job, pretrain_job, roles, stage, trial_line

from tlimb.architectures.build import build_network
from tlimb.data.targets import fit_targets
from tlimb.errors import InputError
from tlimb.evaluation.predict import Bootstrap
from tlimb.evaluation.reconstruction import scores_without_targets
from tlimb.files import read_json
from tlimb.objectives.masked_autoencoder import MaskedAutoencoder, patches_of, positions_of
from tlimb.objectives.rotation_prediction import RotationPrediction, turned
from tlimb.objectives.term import Beginning, Step, Term
from tlimb.objectives.transform_prediction import TransformPrediction
from tlimb.scenarios.finetune import finetune
from tlimb.scenarios.prepare import Source
from tlimb.scenarios.pretrain import pretrain
from tlimb.scenarios.results import Settings
from tlimb.store import Store

VIT = {"class_path": "ViT", "init_args": {"hidden_size": 24, "layers": 2, "heads": 4, "patch_size": 8}}
SMALL = {"width": 24, "depth": 1, "attentions": 4}
SLICE = {"class_path": "CropCenterDataModule", "init_args": {"slices": "axial", "count": 1}}
VOLUME = {"class_path": "BaseDataModule", "init_args": {}}


def named(class_path, **init_args):
    return {"class_path": class_path, "init_args": init_args}


def network_for(term, architecture, shape, seed=0):
    """A network for images (C, ...) and the term, started on it."""
    network = build_network(architecture, shape, {}, seed)
    torch.manual_seed(seed)
    term.start(Beginning(network, input_shape=shape))
    return network


def step_of(network, images, labelled=None, training=True):
    return Step(network, images, [], labelled=len(images) if labelled is None else labelled, training=training)


def vit(**changes):
    return {"class_path": "ViT", "init_args": VIT["init_args"] | changes}


@pytest.mark.parametrize(("shape", "patch"), [((2, 12, 10), (4, 5)), ((1, 6, 8, 10), (3, 2, 5))])
def test_patches_are_those_of_numpy_and_go_back_to_the_image(shape, patch):
    images = images_of(shape, 3)
    grid = [length // side for length, side in zip(shape[1:], patch)]
    found = patches_of(images, grid)
    rebuilt = np.empty(images.shape, "float32")
    for number, place in enumerate(np.ndindex(*grid)):
        box = tuple(slice(index * side, (index + 1) * side) for index, side in zip(place, patch))
        rebuilt[(..., *box)] = found[:, number].reshape(3, shape[0], *patch)
    np.testing.assert_array_equal(rebuilt, images)


@pytest.mark.parametrize(
    ("shape", "pooling"), [((1, 20, 16, 16), "class"), ((1, 16, 16, 16), "mean"), ((2, 32, 40), "first")]
)
def test_shown_patches_have_the_tokens_that_they_have_where_all_are_shown(shape, pooling):
    encoder = build("ViT", shape, **VIT["init_args"] | {"dims": len(shape) - 1, "pooling": pooling}).eval()
    images = images_of(shape)
    count = int(np.prod(encoder.grid))
    order = torch.stack([torch.randperm(count) for _ in images])
    whole = encoder.maps(images).flatten(2).transpose(1, 2)
    first = int(pooling == "class")
    expected = torch.cat([whole[:, :first], whole[:, first:][torch.arange(2)[:, None], order]], dim=1)
    torch.testing.assert_close(encoder.visible(images, order), expected, rtol=1e-5, atol=1e-5)


def test_tokens_of_shown_patches_know_nothing_of_the_others():
    encoder, images = build("ViT", (1, 32, 32), **VIT["init_args"] | {"dims": 2}).eval(), images_of((1, 32, 32))
    keep = torch.tensor([[0, 5, 10], [3, 1, 15]])
    shown = torch.zeros(2, 16, dtype=torch.bool).scatter(1, keep, True).reshape(2, 1, 4, 4)
    shown = shown.repeat_interleave(8, 2).repeat_interleave(8, 3)
    other = torch.where(shown, images, 9.0)
    torch.testing.assert_close(encoder.visible(images, keep), encoder.visible(other, keep), rtol=0, atol=0)


@pytest.mark.parametrize("masked", [0.75, 0.3, 0.01, 0.99])
def test_the_share_of_patches_that_it_says_is_hidden_of_each_image(masked):
    term = MaskedAutoencoder(masked, **SMALL)
    network_for(term, VIT, (1, 24, 24, 24))
    hidden = 27 - term.shown
    assert hidden == {0.75: 20, 0.3: 8, 0.01: 1, 0.99: 26}[masked]


@pytest.mark.parametrize("normalise", [True, False])
def test_the_loss_is_that_of_numpy_on_the_hidden_patches_alone(normalise):
    term, images = MaskedAutoencoder(**SMALL, normalise=normalise), images_of((1, 16, 24, 20), 3) * 3 + 1
    network = network_for(term, VIT, (1, 16, 24, 20))
    made = {}
    term.decoder.register_forward_hook(lambda module, given, output: made.update(order=given[1], output=output))
    torch.manual_seed(4)
    value = term(step_of(network, images))
    padded = np.pad(images.numpy(), [(0, 0)] * 4 + [(0, 4)]).astype("float64")
    cut = padded.reshape(3, 2, 8, 3, 8, 3, 8).transpose(0, 1, 3, 5, 2, 4, 6).reshape(3, 18, 512)
    errors = []
    for scan, order in enumerate(made["order"].numpy()):
        for place, number in enumerate(order[4:]):
            voxels = cut[scan, number]
            if normalise:
                voxels = (voxels - voxels.mean()) / np.sqrt(voxels.var(ddof=1) + 1e-6)
            errors.append(np.mean((made["output"][scan, place].detach().numpy() - voxels) ** 2))
    assert made["output"].shape == (3, 14, 512)
    assert value.item() == pytest.approx(np.mean(errors), rel=1e-5)


def test_it_predicts_what_the_masked_autoencoder_of_monai_does():
    shape, patch = (1, 16, 16, 24), 8
    peer = MaskedAutoEncoderViT(1, shape[1:], patch, 24, 96, 2, 4, 0.75, 48, 192, 1, 4, qkv_bias=True).eval()
    term = MaskedAutoencoder(width=48, depth=1, attentions=4)
    network = network_for(term, vit(qkv_bias=True), shape).eval()
    taken = {name.replace("blocks.2.", "norm."): tensor for name, tensor in peer.state_dict().items()}
    encoder = {name.replace("blocks.", "layers."): tensor for name, tensor in taken.items()}
    encoder["patch_embedding.cls_token"] = encoder["cls_token"]
    own = network.encoder.state_dict()
    network.encoder.load_state_dict({name: encoder[name].reshape(own[name].shape) for name in own})
    decoder = {
        name.replace("decoder_blocks.1.", "norm.").replace("decoder_blocks.", "layers."): tensor
        for name, tensor in peer.state_dict().items()
    }
    decoder |= {"hidden": decoder["mask_tokens"].flatten()}
    decoder |= {f"embed.{name}": decoder[f"decoder_embed.{name}"] for name in ("weight", "bias")}
    decoder |= {f"predict.{name}": decoder[f"decoder_pred.{name}"] for name in ("weight", "bias")}
    term.decoder.load_state_dict({name: decoder[name] for name in term.decoder.state_dict()})
    term.decoder.positions = peer.decoder_pos_embedding.data[0]

    images, order = images_of(shape, 3), torch.stack([torch.randperm(12) for _ in range(3)])
    rows = torch.arange(3)[:, None]
    mask = torch.ones(3, 12).index_put((rows, order[:, :3]), torch.zeros(()))
    peer._masking = lambda tokens, masking_ratio=None: (tokens[rows, order[:, :3]], order[:, :3], mask)
    expected = peer(images)[0][rows, order[:, 3:]]
    found = term.decoder(network.encoder.visible(images, order[:, :3]), order, 3)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_positions_are_sines_and_cosines_along_each_axis():
    found = positions_of((2, 3), 9).reshape(2, 3, 9)
    for row, column in np.ndindex(2, 3):
        waves = [np.sin(row), np.cos(row), np.sin(row / 100), np.cos(row / 100)]
        waves += [np.sin(column), np.cos(column), np.sin(column / 100), np.cos(column / 100), 0]
        np.testing.assert_allclose(found[row, column], waves, rtol=1e-6)


def test_masked_autoencoding_sends_a_gradient_to_every_weight_and_learns():
    term = MaskedAutoencoder(0.5, **SMALL)
    network = network_for(term, VIT, (1, 16, 16, 16))
    images = torch.linspace(0, 1, 16).expand(4, 1, 16, 16, 16) + images_of((1, 1, 1, 1), 4)
    weights = [*network.parameters(), *term.parameters()]
    optimiser, values = torch.optim.Adam(weights, lr=3e-3), []
    for number in range(25):
        optimiser.zero_grad()
        torch.manual_seed(number)
        values.append(term(step_of(network, images)))
        values[-1].backward()
        assert number or all(weight.grad is not None and weight.grad.any() for weight in weights)
        optimiser.step()
    assert values[-1] < values[0] / 2


def test_an_encoder_that_cannot_be_shown_parts_is_told_what_can():
    with pytest.raises(InputError, match=r"and ResNet cannot.*expected ViT; Reconstruction with `masked`"):
        network_for(MaskedAutoencoder(), RESNET, (1, 32, 32))
    with pytest.raises(InputError, match="two or more patches of two or more voxels, found 1 of 512"):
        network_for(MaskedAutoencoder(), VIT, (1, 8, 8, 8))


def test_arguments_out_of_range_are_told_together():
    with pytest.raises(InputError) as told:
        MaskedAutoencoder(masked=1.0, depth=0, width=-1)
    assert all(word in str(told.value) for word in ("masked", "depth", "width"))
    with pytest.raises(InputError, match="masked"):
        MaskedAutoencoder(masked=float("nan"))
    with pytest.raises(InputError, match="30 cannot be shared by 16"):
        MaskedAutoencoder(width=30)
    with pytest.raises(InputError) as told:
        TransformPrediction(degrees=float("nan"), scale=-1, translation=float("inf"))
    assert all(word in str(told.value) for word in ("degrees", "scale", "translation"))
    with pytest.raises(InputError, match="all 0"):
        TransformPrediction(0, 0, 0, 0)
    with pytest.raises(InputError, match="at most 0.9"):
        TransformPrediction(scale=1.5)


def test_slices_are_turned_in_their_plane_and_keep_their_frame():
    images = images_of((2, 6, 9), 4)
    found = turned(images, torch.arange(4))
    for quarters in range(4):
        expected = np.zeros((2, 6, 9), "float32")
        expected[:, :, 1:7] = np.rot90(images[quarters, :, :, 1:7].numpy(), quarters, (1, 2))
        np.testing.assert_array_equal(found[quarters], expected)


def test_volumes_are_turned_about_each_axis_in_ten_ways():
    images = images_of((1, 5, 7, 6), 1).expand(10, -1, -1, -1, -1)
    found = turned(images, torch.arange(10))
    cube = images[0, :, :, 1:6, :5].numpy()
    ways = [np.rot90(cube, quarters, plane) for plane in ((1, 2), (2, 3), (1, 3)) for quarters in (1, 2, 3)]
    expected = np.zeros((10, 1, 5, 7, 6), "float32")
    expected[:, :, :, 1:6, :5] = np.stack([cube, *ways])
    np.testing.assert_array_equal(found, expected)
    assert len({image.numpy().tobytes() for image in found}) == 10


def test_rotation_is_the_cross_entropy_of_the_turns_that_were_drawn():
    term, images = RotationPrediction(), images_of((1, 33, 40), 5)
    network = network_for(term, RESNET, (1, 33, 40)).eval()
    torch.manual_seed(6)
    value = term(step_of(network, images, labelled=2))
    torch.manual_seed(6)
    classes = torch.randint(4, (5,))
    logits = term.classify(network.encode(turned(images, classes))).detach().numpy().astype("float64")
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    likelihood = (exponents / exponents.sum(axis=1, keepdims=True))[np.arange(5), classes]
    assert value.item() == pytest.approx(-np.log(likelihood).mean(), rel=1e-5)
    assert len({int(of) for seed in range(9) for of in _drawn(seed)}) == 4


def _drawn(seed):
    torch.manual_seed(seed)
    return torch.randint(4, (5,))


def test_rotations_that_would_show_too_little_are_refused():
    with pytest.raises(InputError, match="too little of 16x40"):
        network_for(RotationPrediction(), vit(dims=2), (1, 16, 40))
    series = build_network(named("GRU"), (8, 40), {}, 0)
    with pytest.raises(InputError, match="slices or volumes"):
        RotationPrediction().start(Beginning(series, input_shape=(8, 40)))
    with pytest.raises(InputError, match="slices or volumes"):
        TransformPrediction().start(Beginning(series, input_shape=(8, 40)))


@pytest.mark.parametrize(("shape", "parameters"), [((1, 33, 40), 6), ((1, 16, 16, 16), 12)])
def test_parameters_of_transforms_are_predicted_on_a_scale_of_variance_one(shape, parameters):
    term = TransformPrediction(degrees=30, scale=0.2, shear=0.1, translation=5)
    network = network_for(term, vit(dims=len(shape) - 1), shape).eval()
    images = images_of(shape, 4)
    torch.manual_seed(7)
    value = term(step_of(network, images, labelled=1))
    torch.manual_seed(7)
    drawn = term.augment.draw(images.shape)
    raw = [drawn["degrees"] / 30, (drawn["scale"] - 1) / 0.2, drawn["shear"] / 0.1, drawn["translation"] / 5]
    wanted = np.sqrt(3) * np.concatenate(raw, axis=1)
    moved = term.augment.apply(images, drawn)
    features = torch.cat([network.encode(images), network.encode(moved)], dim=1)
    expected = np.mean((term.predict(features).detach().numpy() - wanted) ** 2)
    assert wanted.shape == (4, parameters) and not torch.equal(moved, images)
    assert value.item() == pytest.approx(expected, rel=1e-5)
    many = term.standardised(term.augment.draw((20_000, *shape)))
    torch.testing.assert_close(many.mean(dim=0), torch.zeros(parameters), rtol=0, atol=0.03)
    torch.testing.assert_close(many.var(dim=0), torch.ones(parameters), rtol=0, atol=0.03)


def test_transforms_that_are_not_done_are_not_predicted():
    term = TransformPrediction(degrees=0, scale=0, shear=0, translation=3)
    network_for(term, vit(dims=2), (1, 32, 32))
    assert term.predict.out_features == 2


TERMS = [(MaskedAutoencoder, SMALL, vit(dims=2)), (RotationPrediction, {}, RESNET), (TransformPrediction, {}, RESNET)]


@pytest.mark.parametrize(("kind", "arguments", "architecture"), TERMS)
def test_what_is_drawn_follows_from_the_seed_and_bfloat16_is_near(kind, arguments, architecture):
    term, images = kind(**arguments), images_of((1, 32, 32), 4)
    network = network_for(term, architecture, (1, 32, 32)).eval()
    assert term.on_images and not term.sees_unlabelled and not term.on_features
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(term(step_of(network, images, training=False)))
    assert values[0] == values[1] != values[2]
    torch.manual_seed(1)
    each = term.each(step_of(network, images))
    assert each.shape == (4,) and each.mean() == values[0]
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        lower = term(step_of(network, images))
    assert lower.dtype == torch.float32
    torch.testing.assert_close(lower, values[0], rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("kind", "arguments", "architecture"), TERMS[1:])
def test_gradients_reach_encoder_and_layer(kind, arguments, architecture):
    term = kind(**arguments)
    network = network_for(term, architecture, (1, 32, 32)).train()
    term(step_of(network, images_of((1, 32, 32), 4))).backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in [*network.parameters(), *term.parameters()])


def test_the_turn_of_a_shape_is_learned():
    term = RotationPrediction()
    network = network_for(term, RESNET, (1, 32, 32)).train()
    images = images_of((1, 32, 32), 16) * 0.2
    images[:, :, :12] += 1
    optimiser, values = torch.optim.Adam([*network.parameters(), *term.parameters()], lr=3e-3), []
    for number in range(12):
        optimiser.zero_grad()
        torch.manual_seed(number)
        values.append(term(step_of(network, images)))
        values[-1].backward()
        optimiser.step()
    assert values[-1] < values[0] / 3


@pytest.fixture(scope="module")
def lifespan(tmp_path_factory):
    """Scans of 24 people, 24 voxels wide."""
    folder, people = tmp_path_factory.mktemp("lifespan"), make_people("lifespan", 24)
    make_store(folder / "store", people, shape=(24, 24, 24))
    return folder / "store", people


def without_labels(primary, module=SLICE, **changes):
    data = {"labelled": None, "unlabelled": {"cohort": ["lifespan"], "modality": None, "n": None}, "module": module}
    return stage("pretrain", "age", targets=[], objective={"primary": primary}, **data, **changes)


RUNS = {
    "maskedautoencoder": (VIT, without_labels(named("MaskedAutoencoder", **SMALL), VOLUME, epochs=6)),
    "rotationprediction": (RESNET, without_labels(named("RotationPrediction"))),
    "transformprediction": (RESNET, without_labels(named("TransformPrediction"))),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_stage_without_labels_is_scored_and_starts_a_fine_tuning(name, tmp_path, lifespan):
    (network, spec), (store, people), cpu = RUNS[name], lifespan, Settings(torch.device("cpu"))
    spec = spec | {"optimizer": named("AdamW", lr=0.003)}
    line = pretrain_job(tmp_path / "job", roles(people, validation=6, test=8), spec, network)
    folder = pretrain(tmp_path / "job", store, None, tmp_path / "out", cpu)
    assert read_json(folder / "encoder.json")["status"] == "ok", read_json(folder / "encoder.json")["reason"]
    history = pd.read_csv(folder / "history.csv")
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]
    scores = read_json(folder / "scores.json")
    check_json("scores", scores)
    assert scores["targets"] == {} and list(scores["loss"]) == [name]
    assert 0 < scores["loss"][name]["low"] < scores["loss"][name]["value"] < scores["loss"][name]["high"]

    target = roles(make_people("lifespan", 24), 6, 6).assign(person=lambda rows: "other/" + rows["person"])
    tuned = stage("finetune", "age", module=spec["data"]["module"], epochs=1)
    trial = trial_line(tuned, line["id"], architecture=network)
    pack_job(tmp_path / "pack", target, [trial])
    finetune(tmp_path / "pack", store, folder.parent, tmp_path / "models", cpu)
    model = read_json(tmp_path / "models" / trial["id"] / "model.json")
    assert model["status"] == "ok" and model["start"]["id"] == line["id"], model["reason"]


class Spread(Term):
    """A term that compares the scans of a batch, and has no value for one."""

    on_images = True

    def forward(self, step):
        assert len(step.images) > 1 and not step.training
        return step.images.mean(dim=(1, 2, 3)).var()


def test_what_is_hidden_of_the_validation_part_is_alike_in_every_epoch(tmp_path, lifespan):
    spec = without_labels(named("MaskedAutoencoder", **SMALL)) | {"optimizer": named("SGD", lr=0.0)}
    store, people = lifespan
    pretrain_job(tmp_path / "job", roles(people, 6, 8), spec, vit(dims=2))
    folder = pretrain(tmp_path / "job", store, None, tmp_path / "out", Settings(torch.device("cpu")))
    history = pd.read_csv(folder / "history.csv")
    assert history["validation_loss"].nunique() == 1 and history["train_loss"].nunique() == 2


@pytest.mark.parametrize("scans", [8, 17, 1, 0])
def test_a_term_without_values_of_scans_is_scored_by_batches(scans, lifespan):
    store, people = lifespan
    rows, cpu = people.head(scans), torch.device("cpu")
    data = stage("pretrain", "age", module=SLICE)["data"]
    view = Source(Store(store, ["all"]), people["scan_id"].tolist(), cpu).view(data, None)
    network = build_network(RESNET, (1, 24, 24), {}, 0)
    found = scores_without_targets(network, Spread(), rows, view, cpu, Bootstrap(100))
    check_json("scores", {"id": "0" * 12} | found)
    if scans < 2:
        assert found["loss"] == {}
        return
    images = Store(store, ["all"]).gather(rows["scan_id"].tolist()).astype("float32")[..., 11]
    expected = images.mean(axis=(1, 2)).var(ddof=1)
    assert found["loss"]["spread"] == {"value": pytest.approx(expected, rel=1e-4), "low": None, "high": None}


def test_a_term_that_looks_at_a_column_is_scored_with_it(lifespan):
    class Aged(Spread):
        def forward(self, step):
            return step.columns["age"].mean()

    store, people = lifespan
    columns = fit_targets({"age": LABELS["age"]}, ["age"], people)
    data = stage("pretrain", "age", module=SLICE)["data"]
    view = Source(Store(store, ["all"]), people["scan_id"].tolist(), torch.device("cpu")).view(data, None)
    network, rows = build_network(RESNET, (1, 24, 24), {}, 0), people.head(5)
    found = scores_without_targets(network, Aged(), rows, view, torch.device("cpu"), Bootstrap(100), columns)
    expected = (rows["age"].mean() - people["age"].mean()) / columns[0].sd
    assert found["loss"]["aged"]["value"] == pytest.approx(expected, rel=1e-4)


def test_beside_targets_a_pass_of_its_own_leaves_running_statistics_alone():
    for term in (RotationPrediction(), TransformPrediction()):
        network, images = network_for(term, RESNET, (1, 32, 32)).train(), images_of((1, 32, 32), 4)
        before = {name: buffer.clone() for name, buffer in network.named_buffers()}
        term(Step(network, images, [torch.zeros(4)], labelled=4))
        assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
        term(step_of(network, images))
        assert not any(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())


@pytest.mark.parametrize("term", [named("RotationPrediction"), named("Reconstruction", masked=0.5, patch=6)])
def test_beside_supervision_it_also_looks_at_scans_without_labels(term, tmp_path, lifespan):
    store, people = lifespan
    table = roles(people, 6, 6)
    table.loc[4:11, "role"] = "unlabelled"
    beside = stage("finetune", "age", objective={"auxiliary": [term | {"weight": 0.5}]}, module=SLICE, epochs=1)
    trial = trial_line(beside, architecture=named("CAE", dims=2) if "patch" in term["init_args"] else RESNET)
    pack_job(tmp_path / "pack", table, [trial])
    finetune(tmp_path / "pack", store, tmp_path / "none", tmp_path / "models", Settings(torch.device("cpu")))
    folder = tmp_path / "models" / trial["id"]
    assert read_json(folder / "model.json")["status"] == "ok", read_json(folder / "model.json")["reason"]
    assert (pd.read_csv(folder / "history.csv")[f"train_{term['class_path'].lower()}"] > 0).all()
