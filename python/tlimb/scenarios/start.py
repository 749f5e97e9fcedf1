"""What a training starts from: the encoder of the stage before, published weights, or nothing."""

from pathlib import Path

from torch import Tensor, nn

from tlimb.architectures.network import Network
from tlimb.architectures.weights import load_weights, select
from tlimb.errors import InputError, Problem, nearest
from tlimb.scenarios.job import Pretrained
from tlimb.search.named_files import content_digest
from tlimb.weights.checkpoint import read_checkpoint
from tlimb.weights.match import Match, Report, best_match, copy_matched, fitting_parts, match, require_share
from tlimb.weights.names import is_map_file, read_pairs, translated
from tlimb.weights.ready_maps import READY_MAPS


def starts_from(stage: dict, encoder: Pretrained | None) -> str:
    """ "nothing", "stage" (an encoder of tlimb: of the stage before or of a published folder) or "file" (weights that
    others made)."""
    if stage["strategy"] == "scratch":
        return "nothing"
    if encoder is not None:
        return "stage"
    return "nothing" if _path(stage) is None else "file"


def load_start(network: Network, stage: dict, encoder: Pretrained | None, files: dict[str, Path]) -> dict | None:
    """Load what a stage starts from; what model.json says of it, None where it starts from nothing.

    files: path as the sweep writes it -> where it lies now. Prints a report. Raises InputError for weights that do not
    fit; nothing is copied then.
    """
    origin = starts_from(stage, encoder)
    if origin == "nothing":
        return None
    if origin == "file":
        return _load_file(network, stage, files)
    facts = {"origin": "stage", "id": encoder.facts["id"]}
    if stage["weights"] is None:
        print(f"{encoder.file}: {load_weights(network.encoder, encoder.encoder_weights(), str(encoder.file))}")
    else:
        report = _load_part(network, stage, encoder.encoder_weights(), files, str(encoder.file))
        facts |= {"part": stage["weights"]["part"], "report": report.facts()}
    if _path(stage) is not None:
        facts |= {"origin": "file", "path": _path(stage), "map": None, "digest": content_digest(files[_path(stage)])}
        facts |= {"licence": encoder.facts.get("licence")}
    if stage["strategy"] == "direct":
        for name in stage["targets"]:
            load_weights(network.head(name), encoder.head_weights(name), f"{encoder.folder}, head {name}")
    return facts


def _load_file(network: Network, stage: dict, files: dict[str, Path]) -> dict:
    """Load weights that others made."""
    path, asked = _path(stage), stage["weights"]
    heads = stage["targets"] if stage["strategy"] == "direct" else ()
    report = _load_part(network, stage, read_checkpoint(files[path], path), files, path, heads)
    ready = READY_MAPS.get(report.map)
    if ready is not None:
        print(f"{path}: taken for {ready.title}" + (f"; {ready.note}" if ready.note else ""))
    print(f"{path}: how the scans behind it were prepared is not known; nothing can be checked")
    return {
        "origin": "file",
        "path": path,
        "map": report.map if asked["map"] is None else asked["map"],
        "digest": content_digest(files[path]),
        "part": asked["part"],
        "report": report.facts(),
        "licence": (ready.licence or None) if ready else None,
        "trained_on": ready.title if ready else None,
    }


def _load_part(
    network: Network, stage: dict, tensors: dict[str, Tensor], files: dict[str, Path], source: str, needed=()
) -> Report:
    """Copy what matches of some tensors into the part that the stage names, where it is enough, and print the report.

    What the sweep's map calls ``heads.<target>.<name>`` goes into that head. An encoder that never trains must be given
    whole, and so must the heads `needed`.
    """
    asked, part = stage["weights"], _part(network.encoder, stage)
    if asked["map"] is not None:
        where = f"stages.{stage['name']}.weights.map"
        pairs = read_pairs(asked["map"], where, files[asked["map"]] if is_map_file(asked["map"]) else None)
        tensors = {new: tensors[old] for new, old in translated(tensors, pairs, source).items()}
    for_heads = {name: tensor for name, tensor in tensors.items() if asked["map"] and name.startswith("heads.")}
    tensors = {name: tensor for name, tensor in tensors.items() if name not in for_heads}
    matched = _match(part, tensors, asked["map"])
    print(f"{source}: {matched.report}")
    _require_enough(matched, network.encoder, stage, tensors, source)
    heads = _matched_heads(network, for_heads, source)
    lacking = [Problem(source, f"the map fills no head of '{name}'") for name in needed if name not in heads]
    if lacking:
        raise InputError(lacking)
    copy_matched(part, matched)
    for name, found in heads.items():
        copy_matched(network.head(name), found)
    return matched.report


def _require_enough(matched: Match, encoder: nn.Module, stage: dict, tensors: dict[str, Tensor], source: str) -> None:
    """That the weights fill what the stage asks for, and all of an encoder that never trains. Raises InputError."""
    asked, others, why = stage["weights"], {}, ""
    minimum, what = asked["minimum"], "the encoder" if asked["part"] is None else f"the encoder's {asked['part']}"
    if _never_trains(stage):
        minimum, why = 1.0, f"with strategy '{stage['strategy']}' all must match, for what is missing would stay random"
    elif matched.report.share < minimum:
        others = fitting_parts(encoder, lambda module: _match(module, tensors, asked["map"]))
    require_share(matched, minimum, source, what, others, why)


def _match(part: nn.Module, tensors: dict[str, Tensor], written: str | dict | None) -> Match:
    """A part of the encoder met with the tensors, whose names are translated already where the sweep gives a map."""
    if written is None:
        return best_match(part, tensors)
    return match(part, tensors, map_name=written if isinstance(written, str) and written in READY_MAPS else None)


def _matched_heads(network: Network, tensors: dict[str, Tensor], source: str) -> dict[str, Match]:
    """Heads with the tensors that are theirs, whole. Raises InputError for an unknown head or one that lacks a part."""
    found = {}
    for name in dict.fromkeys(key.split(".")[1] for key in tensors):
        if name not in network.names:
            message = f"the map names the head '{name}', which this stage has not"
            raise InputError([Problem(source, message, nearest(name, network.names))])
        found[name] = match(network.head(name), select(tensors, f"heads.{name}."))
        print(f"{source}, head {name}: {found[name].report}")
        require_share(found[name], 1.0, source, f"the head {name}", {})
    return found


def _part(encoder: nn.Module, stage: dict) -> nn.Module:
    """The submodule that the weights are for. Raises InputError where there is none of that name, or where the rest of
    the encoder would never train."""
    name, where = stage["weights"]["part"], f"stages.{stage['name']}.weights.part"
    if name is None:
        return encoder
    if _never_trains(stage):
        message = f"with strategy '{stage['strategy']}' all of the encoder but '{name}' would stay random"
        raise InputError([Problem(where, message, "expected strategy 'full'")])
    known = {one for one, module in encoder.named_modules() if one}
    if name not in known:
        message = f"the encoder has no part '{name}'"
        raise InputError([Problem(where, message, nearest(name, known))])
    return encoder.get_submodule(name)


def _never_trains(stage: dict) -> bool:
    """Whether the encoder stays as it is loaded."""
    return stage["strategy"] in ("frozen", "direct")


def _path(stage: dict) -> str | None:
    return None if stage["weights"] is None else stage["weights"]["path"]
