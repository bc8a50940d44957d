"""Every command, target, variable, option, field and file in the README exists; some of the commands are run."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import click
import pytest

from tests.project.test_cli import COMMANDS
from tests.project.test_make import INHERITED
from tests.support.coco_folder import ROOT, jpeg, mixed
from training.config import Config
from training.recipes import override_config

README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"^([a-z]+):.*## ", MAKEFILE, re.MULTILINE))
VARIABLES = set(re.findall(r"^([A-Z_]+) \?=", MAKEFILE, re.MULTILINE))
ELLIPSIS = "…"
TRAINING = "Training"
"""The section whose commands are run, except those that need COCO, a cluster or a cloud (NOT_RUNNABLE)."""
NOT_RUNNABLE = ("/path/to", "://", "HOSTS=", "FILE")


@dataclass(frozen=True)
class ReadmeCommand:
    """A command in the README, with its section; `fenced` is True for a line of a code block."""

    section: str
    text: str
    fenced: bool

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text, comments=True)


def readme_commands(readme: str) -> Iterator[ReadmeCommand]:
    """Yield the commands in code blocks and in inline code."""
    section, fenced = "", False
    for line in readme.replace("\\\n", " ").splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif line.startswith("## ") and not fenced:
            section = line[3:]
        elif fenced:
            if re.match(r"(make|python|pip)\b", line):
                yield ReadmeCommand(section, line, fenced)
        else:
            yield from (
                ReadmeCommand(section, code, fenced) for code in re.findall(r"`((?:make|python -m) [^`]+)`", line)
            )


COMMANDS_IN_README = list(dict.fromkeys(readme_commands(README)))
MAKE_COMMANDS = [command for command in COMMANDS_IN_README if command.text.startswith("make ")]
PACKAGES = ("pipeline", "training", "evaluation", "tests")
PYTHON_COMMANDS = [
    command for command in COMMANDS_IN_README if re.match(rf"python -m ({'|'.join(PACKAGES)})\b", command.text)
]


def make_problem(words: list[str]) -> str | None:
    """Return what does not exist in a make command, or None."""
    for word in words[1:]:
        name, is_variable, value = word.partition("=")
        known = VARIABLES if is_variable else TARGETS
        if name not in known:
            return f"{name}: there is no such {'variable' if is_variable else 'target'}"
        if name == "CONFIG" and not (ROOT / value).is_file():
            return f"{value}: there is no such recipe"
    return None


def expand(command: ReadmeCommand) -> list[list[str]]:
    """Return the Python commands that a make command runs."""
    environment = {name: value for name, value in os.environ.items() if name not in INHERITED}
    made = [word for word in command.words[1:] if ELLIPSIS not in word]
    result = subprocess.run(
        ["make", "-n", "-C", str(ROOT), *made], env=environment, capture_output=True, text=True, check=True
    )
    lines = result.stdout.replace("\\\n", " ").splitlines()
    commands = [command for line in lines for command in re.findall(r"(?:^|; |then )(\S*python -m [^;|]+)", line)]
    return [shlex.split(command.replace('"$@"', "").replace('"$set"', "")) for command in commands]


def python_problem(words: list[str]) -> str | None:
    """Return what does not exist in `python -m MODULE OPTION …`, or None; values of choice options are checked too."""
    module, arguments = words[2], words[3:]
    package = (ROOT / module.replace(".", "/") / "__main__.py").is_file()
    if not package and module not in COMMANDS:
        return f"{module}: there is no such command"
    main = importlib.import_module(f"{module}.__main__" if package else module).main
    context = click.Context(main, info_name=module)
    try:
        values, _, _ = main.make_parser(context).parse_args(list(arguments))
    except click.UsageError as error:
        return f"{module}: {error.format_message()}"
    for parameter in main.params:
        given = values.get(parameter.name)
        if isinstance(parameter.type, click.Choice) and isinstance(given, str) and given not in parameter.type.choices:
            return f"{module}: {parameter.name} is none of {', '.join(parameter.type.choices)}"
        if parameter.name == "overrides":
            override_config(Config(), [value for value in given or [] if ELLIPSIS not in value])
        if parameter.name == "recipe" and given and not (ROOT / given).is_file():
            return f"{given}: there is no such recipe"
    return None


def test_readme_commands_are_found():
    text = (
        "## One\n`make stats` or\n```\nmake train \\\n  NPROC=8  # all\nls\n```\n## Two\n```\npython -m a.b --c\n```\n"
    )
    found = list(readme_commands(text))
    assert [command.section for command in found] == ["One", "One", "Two"]
    assert [command.words for command in found] == [
        ["make", "stats"],
        ["make", "train", "NPROC=8"],
        ["python", "-m", "a.b", "--c"],
    ]
    assert len(MAKE_COMMANDS) > 10
    assert len(PYTHON_COMMANDS) > 4


def test_missing_names_are_reported():
    assert make_problem(["make", "trian"]) == "trian: there is no such target"
    assert make_problem(["make", "train", "NPROCS=8"]) == "NPROCS: there is no such variable"
    assert make_problem(["make", "train", "CONFIG=configs/no.yaml"]) == "configs/no.yaml: there is no such recipe"
    python = ["python", "-m"]
    assert python_problem([*python, "training.trian"]) == "training.trian: there is no such command"
    assert "--confg" in str(python_problem([*python, "training.train", "--confg", "x"]))
    assert "device is none of" in str(python_problem([*python, "training.train", "--device", "gpu"]))
    with pytest.raises(ValueError, match=r"training\.lrr: unknown key; did you mean lr\?"):
        python_problem([*python, "training.train", "--set", "training.lrr=1"])


@pytest.mark.parametrize("command", MAKE_COMMANDS, ids=lambda command: command.text)
def test_make_commands_are_valid(command: ReadmeCommand):
    assert make_problem(command.words) is None
    if (ROOT / ".venv" / "ready").exists():
        for words in expand(command):
            if words[2].startswith(PACKAGES):
                assert python_problem(words) is None


@pytest.mark.parametrize("command", PYTHON_COMMANDS, ids=lambda command: command.text)
def test_python_commands_are_valid(command: ReadmeCommand):
    assert python_problem(command.words) is None


def test_named_files_exist():
    names = set(re.findall(r"(?:configs|pipeline|training|evaluation|tests)/[\w/]+\.(?:py|yaml)\b", README))
    assert names
    assert [name for name in sorted(names) if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", *(f"{name}/README.md" for name in PACKAGES[:3])])
def test_files_named_in_the_map_exist(document: str):
    """Paths from the root, from the document's folder, or a name that follows a path of the same folder."""
    text = (ROOT / document).read_text(encoding="utf-8")
    names = set(re.findall(r"`([\w/]+\.(?:py|yaml))`", text))
    assert names
    folder = (ROOT / document).parent
    missing = [name for name in names if not (ROOT / name).is_file() and not (folder / name).is_file()]
    known = {path.name for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert [name for name in missing if "/" in name or name not in known] == []


def test_every_variable_and_target_of_the_makefile_is_explained():
    table = README.partition("## Variables")[2].partition("\n## ")[0]
    explained = set(re.findall(r"`([A-Z_]+)`", table))
    assert explained >= VARIABLES, f"not in the table: {', '.join(sorted(VARIABLES - explained))}"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, tiny_shards: Path) -> Path:
    """Copy of the project with a tiny dataset in place of the embedded one."""
    if not (ROOT / ".venv" / "ready").exists():
        pytest.skip("the project's own .venv is absent: run make setup")
    copy = tmp_path_factory.mktemp("project")
    for name in ("pipeline", "training", "evaluation", "configs"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "requirements.txt", "requirements-run.txt", "pyproject.toml"):
        shutil.copy2(ROOT / name, copy / name)
    (copy / ".venv").symlink_to(ROOT / ".venv")
    for name in ("train", "val"):
        shutil.copytree(tiny_shards, copy / "shards" / "demo" / name)
    return copy


OWN_DATA = "Your own data"


def own_exports(folder: Path) -> None:
    """Write what CVAT and Label Studio export, as far as the commands of the section read it."""
    for root, subsets in (("cvat", ("Train", "Validation")), ("studio/train", ("",)), ("studio/val", ("",))):
        for subset in subsets:
            content = mixed(12)
            for entry in content["annotations"]:
                for name in ("iscrowd", "area") if subset else ("iscrowd", "num_keypoints"):
                    del entry[name]
                entry["category_id"] = 3
            content["categories"][0] |= {"id": 3, "name": "person" if subset else "Person"}
            pictures = folder / root / "images" / subset
            pictures.mkdir(parents=True)
            for entry in content["images"]:
                (pictures / entry["file_name"]).write_bytes(jpeg(entry["height"], entry["width"], entry["id"]))
                if not subset:
                    entry["file_name"] = f"images\\{entry['file_name']}"
            annotations = folder / root / (f"annotations/person_keypoints_{subset}.json" if subset else "result.json")
            annotations.parent.mkdir(exist_ok=True)
            annotations.write_text(json.dumps(content))


def test_commands_of_the_section_on_own_data_work(project: Path):
    """Build and look at sets of both tools; train and evaluate a small network without published weights."""
    own_exports(project)
    page = [command for command in COMMANDS_IN_README if command.section == OWN_DATA and command.fenced]
    assert len(page) == 7
    small = " RUN=runs/own CONFIG=configs/demo.yaml DEVICE=cpu"
    for command in page:
        text = command.text
        if command.words[1] == "train":
            arguments = "--set training.max_steps=2 --set training.batch_size=2"
            text = re.sub(r" CONFIG=\S+ INIT=\S+", f"{small} ARGS='{arguments}'", text)
        elif command.words[1] == "eval":
            text += small
        result = run(replace(command, text=text), project)
        assert result.returncode == 0, f"{text}\n{result.stderr}"
    assert (project / "shards" / "studio" / "preview.png").is_file()
    assert (project / "shards" / "cvat" / "val" / "manifest.json").is_file()
    assert (project / "runs" / "own" / "eval.json").is_file()


def run(command: ReadmeCommand, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in INHERITED}
    path = f"{ROOT / '.venv' / 'bin'}{os.pathsep}{environment['PATH']}"
    return subprocess.run(
        command.text,
        shell=True,
        cwd=folder,
        env=environment | {"PATH": path, "DEVICE": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_commands_of_the_training_section_work(project: Path):
    """Run the commands of the section in order, in a copy of the project."""
    page = [command for command in COMMANDS_IN_README if command.section == TRAINING and command.fenced]
    here = [command for command in page if not any(mark in command.text for mark in NOT_RUNNABLE)]
    assert here, f"README.md: no section {TRAINING} with commands that run anywhere"
    for command in here:
        result = run(command, project)
        assert result.returncode == 0, f"{command.text}\n{result.stderr}"
    for log in (project / "runs").rglob("metrics.jsonl"):
        assert json.loads(log.read_text().splitlines()[-1])["step"] > 1
