"""Write the pages in docs and README.md from their templates in docs/templates and from stored results.

Every figure in a page is an expression over what commands wrote: the files in ``benchmarks/results`` and the table of
``docs/results/tuning.md``. A figure that no command stores is in ``benchmarks/results/typed.yaml``, with its command.
Sentences on results are made from the verdicts, so that they follow a new run; one that interprets figures stands
behind ``require``.

    python benchmarks/render_pages.py                          # write all pages
    python benchmarks/render_pages.py --check                  # show what would change, exit status 1 if anything would
    python benchmarks/render_pages.py --take runs/reference    # take the results of a finished sweep, then write all
"""

from __future__ import annotations

import argparse
import difflib
import runpy
import statistics
import sys
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pages import adapted, controls, datasets, experiment, gpu, labels, reference, selection, speed, transfers, wording
from pages.experiment import Experiment
from pages.markdown import wrapped
from pages.stored import ROOT, Stored
from pages.taking import take

from hessgnn.errors import DataError
from hessgnn.runtime.files import write_text

DOCS, RESULTS = ROOT / "docs", ROOT / "benchmarks" / "results"
SUFFIX = ".md.j2"


class Pages:
    """All pages that have a template.

    Parameters
    ----------
    docs
        Folder of ``templates`` and, in ``results``, of the pages that commands wrote.
    results
        Folder of JSON files.
    """

    def __init__(self, docs: Path = DOCS, results: Path = RESULTS) -> None:
        self.docs = docs
        self.stored = Stored(results, docs / "results")
        self._environment = Environment(
            loader=FileSystemLoader(docs / "templates"),
            undefined=StrictUndefined,
            keep_trailing_newline=True,
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,
            extensions=["jinja2.ext.do"],
        )
        self._environment.globals.update(self._helpers())
        self._environment.filters.update(span=wording.span, word=wording.word, median=statistics.median)

    def names(self) -> list[str]:
        """Templates, without their ending: ``README`` or the path of a page in docs."""
        return sorted(name.removesuffix(SUFFIX) for name in self._environment.list_templates())

    def path(self, name: str) -> Path:
        """Where a page lies."""
        return (self.docs.parent if name == "README" else self.docs) / f"{name}.md"

    def render(self, name: str) -> str:
        """The text of a page.

        Raises
        ------
        DataError
            When a result is missing, or a sentence is no longer true.
        """
        return wrapped(self._environment.get_template(name + SUFFIX).render())

    def differences(self) -> str:
        """What writing the pages would change, as a unified diff; empty if nothing."""
        found = []
        for name in self.names():
            path = self.path(name)
            before = path.read_text(encoding="utf-8") if path.exists() else ""
            lines = (text.splitlines(keepends=True) for text in (before, self.render(name)))
            found += difflib.unified_diff(*lines, f"{name}.md", f"{name}.md, rendered")
        return "".join(found)

    def write(self) -> None:
        """Write all pages; none is touched when one of them cannot be rendered."""
        texts = {self.path(name): self.render(name) for name in self.names()}
        for path, text in texts.items():
            write_text(path, text)

    def taken(self, name: str) -> Experiment | None:
        """A sweep whose results were taken, or ``None`` as long as there is none."""
        stored = f"{name}-leaderboard"
        return Experiment.of(self.stored.json(stored)) if self.stored.has(stored) else None

    def _helpers(self) -> dict[str, Any]:
        """What templates may call: readers of results by their own names, other functions by their module."""
        own = [getattr(self.stored, name) for name in ("json", "has", "names", "typed", "settings", "rows")]
        own += [wording.require, wording.joined, floor_plan, zip, self.taken]
        modules = (
            adapted,
            controls,
            datasets,
            experiment,
            gpu,
            labels,
            reference,
            selection,
            speed,
            statistics,
            transfers,
        )
        return {
            **{helper.__name__: helper for helper in own},
            **{module.__name__.rpartition(".")[2]: module for module in modules},
            "ARCHITECTURES": wording.ARCHITECTURES,
        }


def floor_plan() -> str:
    """The rooms of the package and what each imports from, as the architecture test sees them."""
    plan = runpy.run_path(str(ROOT / "tests" / "test_architecture.py"))["floor_plan"]
    return str(plan(sizes=False))


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if a page would change")
    parser.add_argument(
        "--take",
        type=Path,
        metavar="RUN",
        help="a finished sweep, runs/reference or runs/quickstart; or a study: runs/labels, finetune or transfer",
    )
    options = parser.parse_args()
    try:
        if options.take is not None:
            for path in take(options.take, DOCS / "results", RESULTS):
                print(path.relative_to(ROOT))
        if not options.check:
            Pages().write()
            return 0
        found = Pages().differences()
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(found, end="")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
