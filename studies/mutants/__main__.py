"""`make mutants`: changes one line of the harness, and checks that a test of its place fails.

A sample of such mutants is tried, and each is a row of `results/studies/mutants.csv`. The sample is spread
over the files. It depends only on the seed and on the text of the lines. An interrupted run continues:
mutants in the table are not tried again, unless `--again` asks for it. For each survivor a person writes the
column `judgement`: `equivalent`, `matters` or `covered elsewhere`, with the reason.

mutmut 3 and cosmic-ray do not serve here. mutmut leaves out decorated functions and everything outside of
functions, and so all properties and all thresholds of flags, and it takes `attacks/pgd.py` for a module
`attacks.pgd`. cosmic-ray changes the files of the working tree, has one test command for all files, changes
numbers by one only, which shows nothing of a threshold of 0.01, and starts Python and its libraries anew for
each mutant.
"""

from __future__ import annotations

import argparse
import csv
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path
from queue import Empty, SimpleQueue

from benchmark.files.tables import Row, unescape_formula, write_csv
from benchmark.storage.keys import digest
from studies import REPOSITORY
from studies.mutants.mutations import Mutant, mutants_of, parses
from studies.mutants.places import PLACES, Place
from studies.mutants.trials import Copy, Trial

TABLE = REPOSITORY / "results" / "studies" / "mutants.csv"
COLUMNS = (
    *("area", "path", "scope", "line", "kind", "before", "after", "outcome", "test", "judgement", "key"),
)
_SAMPLE = 330

Job = tuple[Place, Mutant]


def main() -> None:
    """Try the mutants that the command line asks for, and print the share of each area that was noticed."""
    arguments = _arguments()
    places = [place for place in PLACES if _asked(place, arguments.only)]
    all_jobs = {mutant.key: (place, mutant) for place in PLACES for mutant in _mutants(place)}
    table = _Table(all_jobs)
    jobs = [job for job in all_jobs.values() if job[0] in places]
    chosen = jobs if arguments.sample == "all" else sample(jobs, int(arguments.sample), arguments.seed)
    again = {"survived"} if arguments.again else set()
    due = [job for job in chosen if table.outcome(job) in {None, *again}]
    due += [job for job in jobs if table.outcome(job) in again and job not in due]
    print(f"{len(chosen)} mutants, {len(due)} to try", flush=True)
    _try(due, table, arguments.workers)
    table.print_summary()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sample", default=_SAMPLE, help="number of mutants over all files, or `all`")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], help="areas, or parts of paths")
    parser.add_argument("--again", action="store_true", help="try the survivors of the table once more")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args()


def _asked(place: Place, only: Sequence[str]) -> bool:
    return not only or place.area in only or any(part in place.path for part in only)


def _mutants(place: Place) -> list[Mutant]:
    return mutants_of(place.path, (REPOSITORY / place.path).read_text(encoding="utf-8"))


def sample(jobs: Iterable[Job], count: int, seed: int) -> list[Job]:
    """`count` of the jobs, as equally often from each file as possible.

    Which ones depends on the seed and on their keys, so that a change of one line changes no other choice.
    """
    by_file: dict[str, list[Job]] = {}
    for job in sorted(jobs, key=lambda job: digest([seed, job[1].key])):
        by_file.setdefault(job[0].path, []).append(job)
    turns = zip_longest(*(by_file[path] for path in sorted(by_file)))
    valid = (job for turn in turns for job in turn if job is not None and _is_valid(job[1]))
    return [job for job, _ in zip(valid, range(count), strict=False)]


def _is_valid(mutant: Mutant) -> bool:
    return parses(mutant.apply((REPOSITORY / mutant.path).read_text(encoding="utf-8")))


def _try(due: Sequence[Job], table: _Table, workers: int) -> None:
    """Try the mutants in copies of the repository, one for each worker."""
    queue, problems = SimpleQueue[Job](), SimpleQueue[BaseException]()
    order = {place.path: number for number, place in enumerate(PLACES)}
    for job in sorted(due, key=lambda job: order[job[0].path]):
        queue.put(job)

    def work(folder: Path) -> None:
        try:
            with Copy(REPOSITORY, folder) as copy:
                while problems.empty():
                    place, mutant = queue.get_nowait()
                    table.add(place, mutant, _trial(copy, place, mutant))
        except Empty:
            pass
        except BaseException as error:
            problems.put(error)
            raise

    with tempfile.TemporaryDirectory() as name:
        threads = [
            threading.Thread(target=work, args=(Path(name) / str(number),))
            for number in range(min(workers, len(due)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if not problems.empty():
        raise SystemExit(f"stopped: {problems.get()}")


def _trial(copy: Copy, place: Place, mutant: Mutant) -> Trial:
    trial = copy.try_mutant(mutant, place.tests)
    return trial if trial.seen or not place.slower else copy.try_mutant(mutant, place.slower)


class _Table:
    """The table of mutants that were tried; it is written after each trial."""

    def __init__(self, jobs: dict[str, Job]) -> None:
        self._lock, self._rows = threading.Lock(), dict[str, Row]()
        if TABLE.is_file():
            with TABLE.open(newline="", encoding="utf-8") as file:
                for line in csv.DictReader(file):
                    row: Row = {name: unescape_formula(text) for name, text in line.items()}
                    if row["key"] in jobs:  # else its line has changed since
                        self._rows[row["key"]] = row | {"line": jobs[row["key"]][1].line}

    def outcome(self, job: Job) -> str | None:
        row = self._rows.get(job[1].key)
        return None if row is None else str(row["outcome"])

    def add(self, place: Place, mutant: Mutant, trial: Trial) -> None:
        """Enter a trial; the judgement of a mutant that survives once more stays."""
        with self._lock:
            earlier = self._rows.get(mutant.key, {}).get("judgement", "")
            row = {
                name: getattr(mutant, name) for name in ("path", "scope", "line", "kind", "before", "after")
            }
            row |= {"area": place.area, "outcome": trial.outcome, "test": trial.test, "key": mutant.key}
            self._rows[mutant.key] = row | {"judgement": "" if trial.seen else earlier}
            order = {known.path: number for number, known in enumerate(PLACES)}
            rows = sorted(self._rows.values(), key=lambda r: (order[r["path"]], int(r["line"]), r["key"]))
            write_csv(TABLE, COLUMNS, rows)
            if not trial.seen:
                print(
                    f"survived: {mutant.path}:{mutant.line}\n  {mutant.before}\n  {mutant.after}", flush=True
                )

    def print_summary(self) -> None:
        """Print the share of mutants that were noticed, by area, and what is not judged yet."""
        areas = dict.fromkeys(place.area for place in PLACES)
        tried = Counter(str(row["area"]) for row in self._rows.values())
        survivors = [row for row in self._rows.values() if row["outcome"] == "survived"]
        for area in [area for area in areas if tried[area]]:
            left = sum(row["area"] == area for row in survivors)
            print(f"{area:12} {tried[area] - left:4} of {tried[area]:4}, {left} survived")
        total, seen = len(self._rows), len(self._rows) - len(survivors)
        equivalent = sum(str(row["judgement"]).startswith("equivalent") for row in survivors)
        if total:
            print(f"{seen} of {total} ({seen / total:.1%}); {equivalent} of the survivors are equivalent")
        unjudged = [row for row in survivors if not row["judgement"]]
        if unjudged:
            print(f"{len(unjudged)} survivors in {TABLE.relative_to(REPOSITORY)} have no judgement")


if __name__ == "__main__":
    main()
