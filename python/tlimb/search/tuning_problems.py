"""Ways to tune that make no sense together."""

from tlimb.errors import Problem

SETTINGS = ("freeze_up_to", "head_first", "unfreeze", "only", "adapter", "reinitialise", "stochnorm")
NOTHING = dict.fromkeys(SETTINGS) | {"head_first": 0, "reinitialise": 0}
"""What these settings are where they do nothing; each needs an encoder that was pretrained and may change."""


def tuning_problems(tuning: dict, strategy: str, where: str, epochs: int | None = None) -> list[Problem]:
    """What is wrong with a stage's `tuning` under its `strategy`. where: its JSON path; epochs: those of the stage."""
    used = [name for name, nothing in NOTHING.items() if tuning[name] != nothing]
    problems = [Problem(f"{where}.{name}", _why(strategy), "leave it out") for name in used if _why(strategy)]
    if strategy in ("frozen", "direct") and tuning["layer_decay"] is not None:
        problems.append(Problem(f"{where}.layer_decay", _why(strategy), "leave it out"))
    if strategy == "direct" and tuning["average"] is not None:
        problems.append(Problem(f"{where}.average", _why(strategy), "leave it out"))
    if not problems:
        problems = _pair_problems(tuning, where)
    return problems + _epoch_problems(tuning, where, epochs)


def _why(strategy: str) -> str:
    """Why a strategy leaves nothing to tune of a pretrained encoder; empty where it does not."""
    return {
        "scratch": "a training from scratch has no pretrained encoder to keep parts of",
        "frozen": "with strategy 'frozen' the whole encoder stays as it is",
        "direct": "with strategy 'direct' nothing trains",
    }.get(strategy, "")


def _pair_problems(tuning: dict, where: str) -> list[Problem]:
    problems = []
    listed = isinstance(tuning["unfreeze"], list)
    if tuning["only"] is not None and tuning["adapter"] is not None:
        message = "an adapter leaves the encoder's own weights as they are"
        problems.append(Problem(f"{where}.only", message, "leave out one of `only` and `adapter`"))
    if tuning["head_first"] and tuning["unfreeze"] is not None:
        message = "unfreezing begins with the heads alone"
        hint = "a list in `unfreeze` says in which epoch the first block follows"
        problems.append(Problem(f"{where}.head_first", message, hint))
    if tuning["freeze_up_to"] is not None and listed:
        message = "the blocks of `unfreeze` say already what stays frozen"
        problems.append(Problem(f"{where}.freeze_up_to", message, "leave it out"))
    for name in ("adapter", "only"):
        if tuning[name] is not None and tuning["reinitialise"]:
            message = f"`{name}` would keep the blocks that start anew fixed at random values"
            problems.append(Problem(f"{where}.reinitialise", message, f"leave out one of `{name}` and `reinitialise`"))
    if tuning["only"] == "bias" and tuning["stochnorm"] is not None:
        message = "with `only` \"bias\" batch norms keep their running statistics, and choose nothing"
        problems.append(Problem(f"{where}.stochnorm", message, "leave out one of `only` and `stochnorm`"))
    return problems


def _epoch_problems(tuning: dict, where: str, epochs: int | None) -> list[Problem]:
    """Epochs in which something would begin, in order and within the stage's."""
    problems = []
    listed = tuning["unfreeze"] if isinstance(tuning["unfreeze"], list) else []
    if isinstance(tuning["unfreeze"], int) and epochs is not None and tuning["unfreeze"] >= epochs:
        message = f"the first block would train from epoch {tuning['unfreeze'] + 1} on; the stage has {epochs}"
        problems.append(Problem(f"{where}.unfreeze", message))
    if tuning["unfreeze"] == []:
        problems.append(Problem(f"{where}.unfreeze", "an empty list", "strategy 'frozen' trains the heads alone"))
    for place in range(1, len(listed)):
        if listed[place]["epoch"] <= listed[place - 1]["epoch"]:
            problems.append(Problem(f"{where}.unfreeze[{place}].epoch", "expected a later epoch than the one before"))
    begins = {f"unfreeze[{place}].epoch": of["epoch"] for place, of in enumerate(listed)}
    begins |= {"head_first": tuning["head_first"] + 1} if tuning["head_first"] else {}
    average = tuning["average"]
    begins |= {"average.start": average["start"]} if average is not None else {}
    for key, epoch in begins.items():
        if epochs is not None and epoch > epochs:
            problems.append(Problem(f"{where}.{key}", f"the stage has {epochs} epochs, and this begins with {epoch}"))
    if average is not None and average["kind"] == "ema" and average["start"] != 1:
        message = "is of 'swa'; 'ema' begins with the first step"
        problems.append(Problem(f"{where}.average.start", message, "leave it out"))
    return problems
