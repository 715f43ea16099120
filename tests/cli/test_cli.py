"""The command line: exit statuses, messages, no tracebacks."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import cast

import pytest
from typer.testing import CliRunner, Result

from benchmark.cli import wording
from benchmark.cli.main import app, main
from benchmark.cli.progress import describe_task
from benchmark.plan import tasks

GOOD = """\
name: tiny
datasets: [{name: digits, n: 20}]
targets: [nearest-mean]
defenses: [identity]
attacks: [{name: fgsm, eps: 0.1}]
threats: [black-box]
"""


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    path = tmp_path / "grid.yaml"
    path.write_text(GOOD)
    return path


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> str:
    """Run the command, expect exit status 2 and a message on one screen; return the message."""
    monkeypatch.setattr(sys, "argv", ["bench", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_info:
        main()
    message = capsys.readouterr().err
    assert exit_info.value.code == 2
    assert "Traceback" not in message
    assert message.count("\n") < 24
    return message


@pytest.fixture
def command(grid: Path, constructed: Path, tmp_path: Path) -> list[object]:
    folders = ["--store", tmp_path / "store", "--out", tmp_path / "out"]
    return ["run", "--grid", grid, "--plugin", constructed, *folders]


def test_help_is_quick_to_import() -> None:
    heavy = "('torch', 'pandas', 'pydantic')"
    code = f"import benchmark.cli.main, sys; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_run_prints_its_table_and_where_its_files_are(command: list[object], tmp_path: Path) -> None:
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    output = " ".join(result.output.split())
    assert "training classifiers (1), crafting images (1)" in output
    assert "| fgsm ε 0.1 |" in " ".join(result.output.split())
    assert str(tmp_path / "out" / "records.csv") in result.output
    report = tmp_path / "out" / "report.html"
    assert f"report, to open in a browser: {report}" in result.output
    assert "data:image/png" in report.read_text(encoding="utf-8")
    again = invoke(*command)
    assert "nothing to train, craft or score" in " ".join(again.output.split())
    written = report.stat().st_mtime_ns
    invoke(*command)
    assert report.stat().st_mtime_ns == written
    os.utime(report, ns=(1, 1))  # older than the run's files
    invoke(*command)
    assert report.stat().st_mtime_ns > written


def test_a_failed_cell_gives_status_1_and_the_reason(command: list[object], grid: Path) -> None:
    grid.write_text(GOOD.replace("[identity]", "[identity, raises]"))
    result = invoke(*command)
    assert result.exit_code == 1
    assert "out of purifier fluid" in result.output
    assert "1 ok, 1 failed" in result.output


def test_a_dry_run_prints_the_plan_and_writes_nothing(command: list[object], tmp_path: Path) -> None:
    result = invoke(*command, "--dry-run")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[:2] == ["1 cell", "  digits, nearest-mean, black-box: 1 cell, 20 images per cell"]
    assert "  training nearest-mean" in lines
    assert "  crafting images: 1 task (fgsm)" in lines
    assert any(line.startswith("time: about ") and " on 1 core" in line for line in lines)
    assert not (tmp_path / "out").exists()
    invoke(*command)
    after = invoke(*command, "--dry-run").output
    assert "to do: 0 tasks" in after
    assert "nothing to train" in after
    assert "time: only that of writing the tables and the report" in after


ELSEWHERE = """
from benchmark.api.dataset import Dataset, dataset
from benchmark.errors import MissingImagesError, UserError
from benchmark.plugins.plugin import Config


@dataset("elsewhere")
class Elsewhere(Dataset[Config]):
    image_shape, class_names, source, validation_size, test_size = (1, 8, 8), ("a", "b"), None, 5, 70

    def download(self):
        raise UserError("elsewhere: no images here, and no network")

    def prepare(self):
        raise MissingImagesError("elsewhere: no images here")

    def load_train(self):
        raise NotImplementedError

    load_test = fingerprint = load_train
"""


def test_missing_images_stop_only_the_cells_that_need_them(
    command: list[object],
    grid: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE)
    grid.write_text(GOOD.replace("[{name: digits, n: 20}]", "[{name: digits, n: 20}, elsewhere]"))
    both = [*command, "--plugin", tmp_path / "elsewhere.py"]
    assert "no images here, and no network" in refused(capsys, monkeypatch, *both)
    output = invoke(*both, "--dry-run").output  # downloads nothing
    assert "2 cells" in output
    assert "images not found, so the published numbers of images are used: elsewhere" in output
    assert "elsewhere, nearest-mean, black-box: 1 cell, 70 images per cell" in output
    assert "training nearest-mean (2 times)" in output
    assert invoke(*both, "--only", "dataset=digits").exit_code == 0
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE.replace("raise MissingImagesError", "raise UserError"))
    assert "elsewhere: no images here" in refused(capsys, monkeypatch, *both, "--dry-run")  # damaged
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE)
    assert "no images here, and no network" in refused(
        capsys, monkeypatch, *both, "--only", "dataset=nowhere"
    )


def test_only_keeps_the_named_cells(command: list[object], grid: Path, tmp_path: Path) -> None:
    grid.write_text(GOOD.replace("[identity]", "[identity, median]"))
    assert invoke(*command, "--only", "defense=median").exit_code == 0
    records = (tmp_path / "out" / "records.csv").read_text()
    assert ",median," in records
    assert ",identity," not in records


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (["--only", "defense"], "COLUMN=VALUE"),
        (["--only", "defence=median"], "did you mean 'defense'"),
        (["--only", "defense=identiti"], "did you mean 'identity'"),
        (
            ["--only", "defense=identity", "--only", "defense=medain"],
            "no cell of the grid has defense 'medain'",
        ),
        (["--device", "abacus"], "use auto, cpu, cuda or cuda:N"),
    ],
)
def test_bad_options_are_refused(capsys, monkeypatch, command, extra, expected) -> None:
    assert expected in refused(capsys, monkeypatch, *command, *extra)


def test_an_unwritable_out_is_refused_before_anything_runs(capsys, monkeypatch, command, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    command[command.index("--out") + 1] = tmp_path / "file" / "below"
    assert "cannot be written" in refused(capsys, monkeypatch, *command)
    assert not list((tmp_path / "store").glob("*/*/*"))


def test_a_plugin_file_with_a_syntax_error_names_file_and_line(capsys, monkeypatch, grid, tmp_path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("x = 1\ndef oops(:\n")
    message = refused(capsys, monkeypatch, "run", "--grid", grid, "--plugin", broken)
    assert f"{broken}:2: not valid Python" in message


def test_the_message_on_missing_images_names_files_and_folder(
    capsys, monkeypatch, command, grid, tmp_path
) -> None:
    from torchvision.datasets import MNIST

    def no_network(self) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr(MNIST, "download", no_network)
    grid.write_text(GOOD.replace("digits", "mnist"))
    message = refused(capsys, monkeypatch, *command, "--data", tmp_path)
    assert "train-images-idx3-ubyte" in message
    assert str(tmp_path / "MNIST" / "raw") in message


def test_more_images_than_the_data_set_has_are_refused(capsys, monkeypatch, command, grid) -> None:
    grid.write_text(GOOD.replace("n: 20", "n: 20000"))
    assert "500 test images" in refused(capsys, monkeypatch, *command)


def test_list_and_show_cover_all_kinds() -> None:
    listed = invoke("list").output
    for name in ("digits", "mnist-c", "ape-gan", "pgd", "white-box", "quick"):
        assert name in listed
    assert "median" not in invoke("list", "attacks").output
    shown = invoke("show", "ape-gan").output
    assert "generator_updates = 2" in shown
    assert "Shen et al. 2017" not in shown or "paper" in shown
    assert "datasets:" in invoke("show", "quick").output
    shown = invoke("show", "white-box").output
    assert "lower bound" in shown
    assert "`eot`: draws of a random defense" in shown
    assert "eot = 10  (≥ 1)" in shown


BOUNDED = """
from typing import Literal

from benchmark.api import Config, Defense, defense, infer


class BoundedConfig(Config):
    size: int = infer(3, ge=1, lt=9, multiple_of=2)
    share: float | None = infer(None, gt=0, le=1)
    word: str = infer("blur", min_length=2, max_length=5)
    mode: Literal["one", "two", 3] = infer("one")
    free: bool = infer(True)


@defense("bounded")
class Bounded(Defense[BoundedConfig]):
    def purify(self, x, noise):
        return x
"""


def test_show_prints_bounds_and_choices_as_text(tmp_path: Path) -> None:
    plugin = tmp_path / "bounded.py"
    plugin.write_text(BOUNDED)
    assert invoke("show", "bounded", "--plugin", plugin).output.splitlines()[-5:] == [
        "  size = 3  (≥ 1, < 9, a multiple of 2)",
        "  share = null  (> 0, ≤ 1)",
        "  word = blur  (length ≥ 2, length ≤ 5)",
        "  mode = one  (one, two or 3)",
        "  free = true",
    ]


def test_show_suggests_near_names(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "did you mean 'ape-gan'" in refused(capsys, monkeypatch, "show", "apegan")
    assert "`bench list` shows all names" in refused(capsys, monkeypatch, "show", "zzzz")


def test_every_kind_of_task_has_words() -> None:
    external = tasks.ExternalImages(shard=cast(tasks.Shard, None), images="0", origin="another tool")
    assert describe_task(external) == "reading the images from another tool"
    assert wording.KINDS.keys() == {kind.kind for kind in tasks.TASK_TYPES}
    assert [wording.count_of(count, "torch thread") for count in (1, 2)] == [
        "1 torch thread",
        "2 torch threads",
    ]


def test_tables_prints_the_tables_of_a_run(command: list[object], tmp_path: Path) -> None:
    invoke(*command)
    assert invoke("tables", tmp_path / "out").output == (tmp_path / "out" / "tables.md").read_text()


def test_tables_and_report_are_made_from_a_run(command: list[object], constructed, tmp_path: Path) -> None:
    invoke(*command)
    out = tmp_path / "out"
    printed = invoke("tables", out, "--format", "csv", "--table", "clean").output
    assert printed.splitlines()[1].startswith("digits,nearest-mean,20,clean")
    page = tmp_path / "pages" / "one.html"
    made = invoke("report", out, "--out", page, "--store", tmp_path / "store", "--plugin", constructed)
    assert str(page) in made.output
    assert page.read_text(encoding="utf-8") == (out / "report.html").read_text(encoding="utf-8")


def test_only_reads_numbers_and_aliases(command: list[object], grid: Path) -> None:
    result = invoke(*command, "--only", "eps=0.10", "--only", "threat=unaware")
    assert result.exit_code == 0, result.output


def test_tables_of_another_csv_is_refused(capsys, monkeypatch, tmp_path) -> None:
    (tmp_path / "records.csv").write_text("a,b\n1,2\n")
    assert "is not the records.csv of a run" in refused(capsys, monkeypatch, "tables", tmp_path)


def test_tables_of_no_run_is_refused(capsys, monkeypatch, tmp_path) -> None:
    assert "no run in" in refused(capsys, monkeypatch, "tables", tmp_path)


def test_doctor_finds_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    good = invoke("doctor", "--store", tmp_path / "store")
    assert good.exit_code == 0, good.output
    (tmp_path / "file").write_text("")
    bad = invoke("doctor", "--store", tmp_path / "file" / "store")
    assert bad.exit_code == 1
    assert "BAD  store" in bad.output


def test_a_new_defense_needs_only_its_plugin_file(command: list[object], grid: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "darker.py"
    plugin.write_text(
        textwrap.dedent(
            """
            from benchmark.plugins.plugin import Config, infer
            from benchmark.api.defense import Defense, defense

            class DarkerConfig(Config):
                factor: float = infer(0.5, gt=0, le=1)

            @defense("darker")
            class Darker(Defense[DarkerConfig]):
                def purify(self, x, noise):
                    return x * self.config.factor
            """
        )
    )
    grid.write_text(GOOD.replace("[identity]", "[{name: darker, factor: 0.9}]"))
    result = invoke(*command, "--plugin", plugin)
    assert result.exit_code == 0, result.output
    assert "darker" in result.output
