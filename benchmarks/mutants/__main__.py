"""Do the tests notice?

    python -m benchmarks.mutants --room curation/sds,trainers/weclip --json mutants.json

A table a room (benchmarks/mutants/tables/) holds one-line changes of the code. Each is made in a forked child of one
warm process, never in the working tree, and the tests that run the changed line are run until one fails. Metrics, per
room and over `all`: `killed`, the share of the changes that a test noticed, those left out of which the table explains
why nothing can; `mutants`, `survived`, `explained`, their numbers. A row whose old text is not in its file exactly once
is an error; `--prune` takes such rows out of the tables and ends.
"""

import argparse
import json
import random
import sys
from pathlib import Path

from benchmarks.common import Options, Record
from benchmarks.mutants import reach
from benchmarks.mutants.child import warm
from benchmarks.mutants.run import Memory, Outcome, run_room
from benchmarks.mutants.table import ROOT, Mutant, Room, chosen_rooms, errors, load_room, prune


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mutants", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--room", default="all", help="rooms, or folders of rooms, with commas (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", dest="json_path", help="result file")
    parser.add_argument("--jobs", type=int, default=1, help="children at a time (default: 1)")
    parser.add_argument("--only", default="", metavar="ID,ID", help="these mutants alone")
    parser.add_argument("--sample", type=int, metavar="N", help="N mutants of each room, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0, help="of --sample (default: 0)")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "mutants", metavar="DIR", help="maps, outcomes")
    parser.add_argument("--prune", action="store_true", help="drop rows that no longer fit the code, and end")
    parser.add_argument("--fresh", action="store_true", help="run again what an earlier run has decided")
    given = parser.parse_args(argv)
    if given.json_path is None and not given.prune:
        parser.error("the following arguments are required: --json")
    return given


def picked(room: Room, only: list[str], sample: int | None, seed: int) -> list[Mutant]:
    """The mutants of a room that are asked for, in the order of its table."""
    found = [mutant for mutant in room.mutants if not only or mutant.id in only]
    if sample is None or sample >= len(found):
        return found
    chosen = set(random.Random(f"{seed}:{room.name}").sample(range(len(found)), sample))
    return [mutant for i, mutant in enumerate(found) if i in chosen]


def metrics(outcomes: list[Outcome]) -> dict[str, float]:
    """Counts, and the share killed of those that can be."""
    counts = {word: sum(o.word == word for o in outcomes) for word in ("killed", "survived", "explained")}
    judged = counts["killed"] + counts["survived"]
    share = counts["killed"] / judged if judged else 1.0
    return {
        "killed": share,
        "mutants": len(outcomes),
        "survived": counts["survived"],
        "explained": counts["explained"],
    }


def main(argv: list[str] | None = None) -> int:
    given = parse(argv)
    if given.prune:
        for name in chosen_rooms(given.room.split(",")):
            _say(f"{name}: {', '.join(prune(name)) or 'no row dropped'}")
        return 0
    rooms = [load_room(name) for name in chosen_rooms(given.room.split(","))]
    if faults := errors(rooms):
        print("\n".join(faults), file=sys.stderr)
        return 1
    only = [word for word in given.only.split(",") if word]
    wanted = {room.name: picked(room, only, given.sample, given.seed) for room in rooms}
    rooms = [room for room in rooms if wanted[room.name]]
    warm(name for room in rooms for name in room.warm)
    record = Record(Options("mutants", None, None, (given.seed,), "small", given.json_path))
    memory = Memory(given.cache, fresh=given.fresh)
    found: dict[str, dict[str, Outcome]] = {}
    for room in rooms:
        known = reach.load(room.all_tests, given.cache, given.jobs, _say)
        found[room.name] = run_room(room, wanted[room.name], known, memory, given.jobs, _say)
        record.add(room.name, given.seed, metrics(list(found[room.name].values())))
    record.add("all", given.seed, metrics([o for outcomes in found.values() for o in outcomes.values()]))
    for name, outcomes in found.items():
        for word in ("survived", "explained"):
            for id, outcome in outcomes.items():
                if outcome.word == word:
                    print(f"{word}: {name}: {id} {outcome.by}".rstrip())
    result = record.finish()
    each = {name: {id: vars(o) for id, o in outcomes.items()} for name, outcomes in found.items()}
    given.json_path.write_text(json.dumps({**result, "mutants": each}, indent=1) + "\n")
    return 0


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
