"""What of a plan an earlier study has already, so that it is not counted again."""

from dataclasses import dataclass, replace

from tlimb.search.ask import Draft, Pool
from tlimb.search.costs import Growth
from tlimb.search.starts import encoder_of
from tlimb.search.study import PASSED_OVER, Asked, Study
from tlimb.search.suggest import Proposal


@dataclass(frozen=True)
class Again:
    """What a search asks for a second time; nothing where there is no earlier study, or it is passed over.

    asked: points of the earlier study that lie in the space. each: trials of a point now. ids: of the trials of those
    points. Pretrainings are known by trials that start from them, as their own ids depend on prepared scans.
    """

    asked: tuple[Asked, ...] = ()
    each: int = 0
    ids: frozenset[str] = frozenset()

    @property
    def trials(self) -> int:
        """How many trials of all rounds are known."""
        return sum(self._of(asked) for asked in self.asked)

    @property
    def epochs(self) -> int:
        """Epochs of the last stage that those have trained."""
        return sum(self._of(asked) * asked.budget for asked in self.asked)

    def _of(self, asked: Asked) -> int:
        return min(len(asked.trials), self.each)

    def new(self, proposal: Proposal) -> Proposal:
        """The first round without what is known."""
        known = [trial for trial in proposal.trials if trial["id"] in self.ids]
        made = _chains({trial["init"] for trial in known}, proposal.pretrainings)
        scored = {(trial["split"], encoder_of(trial)) for trial in known}
        probes = {
            split: [init for init in inits if (split, init) not in scored] for split, inits in proposal.probes.items()
        }
        return replace(
            proposal,
            trials=[trial for trial in proposal.trials if trial["id"] not in self.ids],
            pretrainings=[line for line in proposal.pretrainings if line["id"] not in made],
            probes={split: inits for split, inits in probes.items() if inits},
        )

    def counted(self, proposal: Proposal, growth: Growth) -> tuple[Proposal, Growth]:
        """What is left to be done, in the form of a first round and what more rounds make of it.

        One round is counted trial by trial; of more, those that are known are taken off the sum.
        """
        if not self.asked or growth.rounds == 1:
            return self.new(proposal), growth
        first, total = len(proposal.trials), growth.trials * len(proposal.trials)
        epochs = sum(trial["budget"] for trial in proposal.trials)
        share = max(0.0, 1 - self.trials / total)
        each = growth.pretrainings > 1  # with a pretraining of its own
        pretrainings = proposal.pretrainings if each else self.new(proposal).pretrainings
        return replace(proposal, pretrainings=pretrainings, probes=self.new(proposal).probes), replace(
            growth,
            trials=max(0.0, growth.trials - self.trials / first),
            epochs=max(0.0, growth.epochs - self.epochs / epochs),
            pretrainings=growth.pretrainings * share if each else 1.0,
        )


def asked_again(proposal: Proposal, earlier: Study | None, pool: Pool) -> Again:
    """What a search whose first round is `proposal` has from an earlier study. pool: the points of its space."""
    if earlier is None or proposal.study.reason.startswith(PASSED_OVER):
        return Again()
    asked = [one for one in earlier.asked() if Draft(pool, set()).repeat([one.point])]
    each = max((len(one.trials) for one in proposal.study.rounds[0].points), default=0)
    return Again(tuple(asked), each, frozenset(trial for one in asked for trial in one.trials))


def _chains(inits: set[str], pretrainings: list[dict]) -> set[str]:
    """Pretrainings with those that they start from."""
    parents, found, waiting = {line["id"]: line["parent"] for line in pretrainings}, set(), inits
    while waiting:
        found |= waiting
        waiting = {parents[one] for one in waiting if one in parents} - found
    return found
