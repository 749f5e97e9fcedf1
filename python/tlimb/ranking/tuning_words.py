"""A stage's ways to tune in words, for names and tables."""

from tlimb.registry import class_name


def deciding_words(tuning: dict) -> list[str]:
    """What makes another strategy: which weights train, in which order, and what is kept; without its numbers."""
    adapter, only, block = (tuning.get(key) for key in ("adapter", "only", "freeze_up_to"))
    words = [class_name(adapter)] if adapter else []
    words += [f"{only} only"] if only else []
    words += [f"frozen up to {block}"] if block else []
    words += ["head first"] if tuning.get("head_first") else []
    words += ["gradual"] if tuning.get("unfreeze") else []
    words += ["stochnorm"] if tuning.get("stochnorm") else []
    return words + ([tuning["average"]["kind"]] if tuning.get("average") else [])


def tuning_words(tuning: dict) -> list[str]:
    """Everything that a stage sets of its tuning, with its numbers; nothing where it leaves all as usual."""
    adapter, average, unfreeze = (tuning.get(key) for key in ("adapter", "average", "unfreeze"))
    arguments = adapter["init_args"].items() if adapter else []
    words = [" ".join([class_name(adapter), *(f"{name} {value}" for name, value in arguments)])] if adapter else []
    words += [f"{tuning['only']} only"] if tuning.get("only") else []
    words += [f"frozen up to {tuning['freeze_up_to']}"] if tuning.get("freeze_up_to") else []
    words += [f"head first for {tuning['head_first']}"] if tuning.get("head_first") else []
    if isinstance(unfreeze, list):
        words += [f"{of['block']} from epoch {of['epoch']}" for of in unfreeze]
    elif unfreeze:
        words.append(f"a block more every {unfreeze}")
    words += [f"layer decay {tuning['layer_decay']:g}"] if tuning.get("layer_decay") else []
    words += [f"last {tuning['reinitialise']} anew"] if tuning.get("reinitialise") else []
    words += [f"stochnorm {tuning['stochnorm']:g}"] if tuning.get("stochnorm") else []
    if average:
        words.append(f"ema {average['decay']:g}" if average["kind"] == "ema" else f"swa from epoch {average['start']}")
    return words
