"""What the last stage of a trial starts from: an encoder of a stage before, or published weights."""

from tlimb.files import digest


def published_start(spec: dict) -> dict | None:
    """The encoder from published weights that the last stage of a trial starts from: all that decides what it makes of
    a scan before anything is trained; None where the stage starts from another stage or from nothing.

    {"id", "stage": name, "architecture", "weights": as in the stage, "data": its "module", "normalise", "dataset",
    "hooks", "recipe"}; `id` follows from the rest and from what the files hold.
    """
    stage = spec["stages"][-1]
    weights = stage.get("weights")
    if weights is None or weights["path"] is None:
        return None
    data = {name: stage["data"][name] for name in ("module", "normalise", "dataset", "hooks", "recipe")}
    facts = {"stage": stage["name"], "architecture": spec["architecture"], "weights": weights, "data": data}
    return {"id": digest(facts)} | facts


def encoder_of(trial: dict) -> str:
    """The id of the encoder that a trial starts from, of a pretraining or of published weights; empty for neither."""
    start = None if trial["init"] else published_start(trial["spec"])
    return start["id"] if start else trial["init"]
