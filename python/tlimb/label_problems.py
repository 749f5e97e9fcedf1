"""What is wrong with the labels of a samplesheet, by row and column."""

from tlimb.config import LabelSpec
from tlimb.errors import Problem, nearest
from tlimb.labels import CLASSES, NUMBERS, SEVERAL, Label, class_name, classes_in, is_number, missing, some
from tlimb.samplesheet import Sheet


def label_problems(sheet: Sheet, labels: dict[str, Label], specs: dict[str, LabelSpec]) -> list[Problem]:
    """Labels that are not there, cells that are not what the sweep says of their column, and decimal commas."""
    problems = []
    for name, spec in specs.items():
        if name not in labels:
            message = f"the samplesheet {sheet.path.name} has no such label"
            problems.append(Problem(f"labels.{name}", message, nearest(name, labels)))
            continue
        if spec.kind in NUMBERS and not labels[name].numeric:
            problems += _number_problems(sheet, name, labels[name], spec.kind)
        if spec.kind == "ordinal" and not spec.classes and not labels[name].numeric:
            hint = "list them from the lowest to the highest"
            problems.append(Problem(f"labels.{name}.classes", "missing; nothing says the order of its classes", hint))
        if spec.classes:
            problems += _class_problems(sheet, name, labels[name], spec)
        if spec.kind == "survival":
            problems += _survival_problems(sheet, name, labels, spec.event)
    return problems + _comma_problems(sheet, labels, specs)


def _number_problems(sheet: Sheet, name: str, label: Label, kind: str) -> list[Problem]:
    known = label.values.dropna().drop(label.commas)
    odd = known[~known.map(is_number).astype(bool)]
    reason = f"is no number, and {kind} needs numbers"
    return [Problem(sheet.place(row, name), f"'{cell}' {reason}") for row, cell in odd.items()]


def _class_problems(sheet: Sheet, name: str, label: Label, spec: LabelSpec) -> list[Problem]:
    problems = [
        Problem(f"labels.{name}.classes", f"'{one}' has a '{SEVERAL}', which stands between the classes of a cell")
        for one in spec.classes
        if spec.kind == "multilabel" and SEVERAL in one
    ]
    for row, cell in label.values.dropna().items():
        written = class_name(cell) if label.numeric else cell
        for one in classes_in(written) if spec.kind == "multilabel" else [written]:
            if one not in spec.classes:
                message = f"'{one}' is none of its classes"
                problems.append(Problem(sheet.place(row, name), message, nearest(one, spec.classes)))
    return problems


def _survival_problems(sheet: Sheet, name: str, labels: dict[str, Label], event: str) -> list[Problem]:
    """Times that are not above 0, events that are neither 0 nor 1, and one of the two without the other."""
    if event not in labels:
        message = f"the samplesheet {sheet.path.name} has no column '{event}'"
        return [Problem(f"labels.{name}.event", message, nearest(event, set(labels) - {name}))]
    cells, problems = sheet.frame[[name, event]], []
    known = cells.apply(lambda column: ~missing(column))
    for row, time in cells.loc[known[name], name].items():
        if is_number(time) and float(time) <= 0:
            message = f"'{time}' is no time until something; expected more than 0"
            problems.append(Problem(sheet.place(row, name), message))
    for row, seen in cells.loc[known[event], event].items():
        if not is_number(seen) or float(seen) not in (0, 1):
            message = f"'{seen}' does not say whether the event was seen; expected 1, or 0 if not until '{name}'"
            problems.append(Problem(sheet.place(row, event), message))
    for given, lacking in ((name, event), (event, name)):
        for row in cells.index[known[given] & ~known[lacking]]:
            message = f"empty, though '{given}' is not; expected both or neither"
            problems.append(Problem(sheet.place(row, lacking), message))
    return problems


def _comma_problems(sheet: Sheet, labels: dict[str, Label], specs: dict[str, LabelSpec]) -> list[Problem]:
    """Labels of numbers with a decimal comma, unless the user says that they are classes."""
    problems = []
    for name, label in labels.items():
        if label.commas and not (name in specs and specs[name].kind in CLASSES):
            cells = [f"{sheet.name(row)} '{label.values[row]}'" for row in label.commas]
            hint = f"write {label.values[label.commas[0]].replace(',', '.')}"
            problems.append(Problem(f"{sheet.path.name}, column {name}", f"decimal comma in {some(cells)}", hint))
    return problems
