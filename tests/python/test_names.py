"""What candidates are called where they differ in how they are tuned, in what they start from, or are not trained."""

import pytest

from tlimb.config import Tuning, read_sweep
from tlimb.ranking.names import candidate_names, settings_of, strategy_of
from tlimb.ranking.starts import published_notes
from tlimb.ranking.tuning_words import tuning_words
from tlimb.search.space import grid


def names_of(document, variants: list[dict]) -> list[tuple[str, str]]:
    """(name, strategy) of the candidate of each variant of the last stage."""
    document["search"] = {"seeds": [0], "space": {"stages.finetune": variants}}
    trials = {str(i): {"spec": spec, "init": "e"} for i, spec in enumerate(grid(read_sweep(document)))}
    names = candidate_names(trials)
    return [(names[key], strategy_of(trial)) for key, trial in trials.items()]


def test_a_way_to_tune_is_named_by_what_it_does(document):
    ways = [
        {"tuning": {}},
        {"tuning": {"average": {"kind": "ema"}}},
        {"tuning": {"adapter": {"class_path": "LoRA", "init_args": {"rank": 8}}}},
        {"tuning": {"freeze_up_to": "layer3", "layer_decay": 0.5}},
    ]
    assert names_of(document, ways) == [
        ("full", "full"),
        ("full, ema 0.999", "full + ema"),
        ("full, LoRA rank 8", "full + LoRA"),
        ("full, frozen up to layer3 + layer decay 0.5", "full + frozen up to layer3"),
    ]


def test_heads_are_named_by_their_form_and_their_bins(document):
    document["stages"][1]["targets"] = "age"
    heads = [{}, {"age": {"class_path": "MLPHead"}}, {"age": {"bins": {"low": 20.0, "high": 90.0, "width": 5.0}}}]
    names = [name for name, _ in names_of(document, [{"heads": one} for one in heads])]
    assert len(set(names)) == 3 and "MLPHead" in names[1] and "width 5" in names[2]


@pytest.mark.parametrize(
    ("tuning", "words"),
    [
        ({"head_first": 2, "only": "bias"}, ["bias only", "head first for 2"]),
        ({"unfreeze": 3, "reinitialise": 1}, ["a block more every 3", "last 1 anew"]),
        ({"unfreeze": [{"epoch": 2, "block": "layer4"}]}, ["layer4 from epoch 2"]),
        ({"average": {"kind": "swa", "start": 5}}, ["swa from epoch 5"]),
        ({}, []),
    ],
)
def test_every_setting_of_tuning_has_its_words(tuning, words):
    assert tuning_words(Tuning.model_validate(tuning).model_dump()) == words


def test_a_network_that_is_fitted_has_no_settings_of_training(document):
    document["architecture"] = {"class_path": "LinearBaseline"}
    document["search"] = {"seeds": [0], "space": {}}
    (spec,) = grid(read_sweep(document))
    found = settings_of({"spec": spec, "init": ""})
    assert found["strategy",] == "fitted"
    assert not any(path[-1] in ("epochs", "batch_size", "lr", "tuning") for path in found)


def test_weights_of_which_nothing_is_known_are_told_once_and_tlimbs_own_not_at_all():
    start = {"origin": "file", "path": "r18.pth", "trained_on": "ResNet of torchvision or timm", "licence": None}
    own = {"origin": "file", "path": "encoder", "id": "0" * 12}
    (note,) = published_notes([{"start": start}, {"start": dict(start)}, {"start": own}, {"start": None}, {}])
    assert note.startswith("Some candidates start from the weights r18.pth (ResNet of torchvision or timm), licence not known")
