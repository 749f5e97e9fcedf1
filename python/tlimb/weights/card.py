"""A model card: what a set of weights is, in words, from the facts that its JSON holds."""

from tlimb import registry


def model_card(facts: dict) -> str:
    """The card, as Markdown, of a finished encoder.json or model.json. Scores stand in files of their own.

    Mitchell et al. (2019), "Model cards for model reporting", FAT*.
    """
    name = facts["architecture"]["class_path"].rpartition(".")[2]
    licence = f"Licence: {facts['licence'] or 'not stated'}."
    sections = [
        f"# {name} {facts['id']}",
        _model(facts),
        f"## Intended use\n\nTo be written by whoever passes the weights on.\n\n{licence}",
        "## Preprocessing\n\n" + _preprocessing(facts),
        "## Training data\n\n" + _data(facts),
        "## Training\n\n" + _training(facts),
    ]
    return "\n\n".join(sections) + "\n"


def _model(facts: dict) -> str:
    reads = "x".join(map(str, facts["input_shape"]))
    millions = facts["parameters"]["total"] / 1e6
    lines = [f"An encoder{' with heads' if facts['targets'] else ''} of {millions:.2f} million parameters."]
    lines.append(f"Input: one image of {reads} (channels first), prepared as below.")
    for name, target in facts["targets"].items():
        lines.append(f"Output `{name}`: {_target(target)}.")
    lines.append(f"Made with tlimb {facts['made_with']['tlimb']}, torch {facts['made_with']['torch']}.")
    return "\n".join(f"- {line}" for line in lines)


def _target(target: dict) -> str:
    classes = ", ".join(target["classes"])
    if target["kind"] == "regression" and "bins" in target:
        return "a quantity, as logits over bins; the prediction is the expected bin centre"
    if target["kind"] == "regression":
        return f"a quantity, standardised: times {target['sd']:.6g} plus {target['mean']:.6g} in its own unit"
    words = {
        "classification": f"logits of the classes {classes}",
        "ordinal": f"logits between the ordered classes {classes}",
        "multilabel": f"a logit for each of {classes}",
        "survival": "a log hazard; higher means sooner",
    }
    return words.get(target["kind"], target["kind"])


def _preprocessing(facts: dict) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in sorted(facts["recipe"].items()))
    arguments = f" {facts['module']['init_args']}" if facts["module"]["init_args"] else ""
    normalise = facts["normalise"]
    lines = [
        f"Recipe: {settings} (fingerprint {facts['fingerprint']}).",
        f"Presented by {facts['module']['class_path']}{arguments}.",
        f"Normalised by {normalise['class_path']}, as fitted on training scans." if normalise else "No normaliser.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _data(facts: dict) -> str:
    about = facts["statistics"]
    seen = about["intensity"]
    lines = [
        f"{about['scans']} scans of {about['persons']} persons; {facts['n']['validation']} scans for validation.",
        f"Intensities as the network sees them: mean {seen['mean']:.3g}, sd {seen['sd']:.3g}.",
    ]
    for name, label in about["labels"].items():
        if "classes" in label:
            text = ", ".join(f"{n} {one}" for one, n in label["classes"].items())
        else:
            text = f"{label['n']} scans, mean {label['mean']:.4g}, sd {label['sd']:.3g}"
            text += f", 90 % of them from {label['low']:.4g} to {label['high']:.4g}"
        lines.append(f"`{name}`: {text}.")
    return "\n".join(f"- {line}" for line in lines)


def _training(facts: dict) -> str:
    architecture, parameters = facts["architecture"], facts["parameters"]
    lines = [
        f"Architecture: {registry.locate('architecture', architecture['class_path'])} {architecture['init_args']}.",
        f"Starts from: {_start(facts['start'])}.",
        f"Best epoch {facts['best_epoch']} of {facts['epochs_run']}, by {facts['monitor']}; seed {facts['seed']}.",
        f"{parameters['trainable']} of {parameters['total']} parameters trained.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _start(start: dict | None) -> str:
    if start is None:
        return "random weights"
    if start["origin"] == "stage":
        return f"the pretrained encoder {start['id']}"
    licence = f", licence {start['licence']}" if start.get("licence") else ", licence not known"
    what = f" ({start['trained_on']})" if start.get("trained_on") else ""
    return f"{start['path']}{what}, digest {start['digest']}{licence}"
