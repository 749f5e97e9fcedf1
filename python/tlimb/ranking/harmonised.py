"""What harmonising frozen features over sites changed on test people, for the networks that were looked at.

`harmonised` of ranking.json, empty where nobody asked: [{"candidate", "name", "trial": id} and what EXPLAIN measured:
"status", "reason", "column", "keeping", "unharmonised", "n", "test", "site", as `tlimb.explain.write` has them], in the
order of candidates. Nothing is chosen by it.
"""

from tlimb.files import read_json
from tlimb.ranking.results import Results


def harmonised(results: Results, selected: list[dict]) -> list[dict]:
    """The key `harmonised` of ranking.json; see above."""
    found = []
    for row in selected:
        for trial in row["trials"] if results.explanations else ():
            path = results.explanations / trial["id"] / "explain.json"
            measured = read_json(path).get("harmonised") if path.exists() else None
            if measured:
                found.append({"candidate": row["candidate"], "name": row["name"], "trial": trial["id"]} | measured)
    return found
