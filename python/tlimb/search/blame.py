"""Which variants of a space bring a problem that only their combination shows."""

from tlimb.errors import Problem
from tlimb.files import canonical_json
from tlimb.search.points import Space

LEAVE_OUT = "leave such points out by search.unless"
FEW = 3
"""Variants that are named together; of more the point is as hard to read as the problem."""


def blamed(space: Space, told: list[tuple[dict, Problem]], avoidable: bool) -> list[Problem]:
    """Each problem once, its place led by the variants that all points with it share.

    told: (point, problem). avoidable: whether other points are fine, so that `unless` could leave these out.
    """
    sharing: dict[Problem, list[dict]] = {}
    for point, problem in told:
        sharing.setdefault(problem, []).append(point)
    problems = []
    for problem, points in sharing.items():
        places = _places(space, points) if avoidable else []
        if 0 < len(places) <= FEW:
            hint = f"{problem.hint}, or {LEAVE_OUT}" if problem.hint else LEAVE_OUT
            problem = Problem(f"{' with '.join(places)}: {problem.where}", problem.message, hint)
        problems.append(problem)
    return problems


def _places(space: Space, points: list[dict]) -> list[str]:
    """The places of the variants, of keys that offer more than one, that all points have in common."""
    shared = {key: canonical_json(value) for key, value in points[0].items() if key in space.keys}
    for point in points[1:]:
        shared = {key: text for key, text in shared.items() if key in point and canonical_json(point[key]) == text}
    draw = space.locate(points[0]) or {}
    offered = [space.choices[key] for key in space.keys if key in shared and len(space.choices[key].options) > 1]
    return [f"{choice.place}[{draw[choice.address]}]" for choice in offered if choice.address in draw]
