"""What is handed to users: the wheel, the source archive, the pins, and the Makefile's choices.

`.ci/wheel` installs the wheel into an empty environment; here is what takes no such minute.
"""

import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINS = sorted((ROOT / ".ci" / "constraints").iterdir())
PACKAGES = ("linvae_jax", "landscape")


def build(kind: str, source: Path, folder: Path) -> Path:
    """The wheel or the sdist of a tree, made as pip has it made, but without isolation."""
    call = f"import hatchling.build as b, sys; print(b.build_{kind}(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", call, folder], cwd=source, capture_output=True, text=True, check=True
    )
    return folder / done.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return zipfile.ZipFile(build("wheel", ROOT, tmp_path_factory.mktemp("wheel")))


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return message_from_bytes(wheel.read(name))


def files_of_packages() -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_wheel_has_the_two_packages_and_nothing_else(wheel):
    info = f"linvae_jax-{PROJECT['project']['version']}.dist-info"
    inside = {name for name in wheel.namelist() if not name.startswith(f"{info}/")}
    assert inside == files_of_packages()
    assert {f"{package}/py.typed" for package in PACKAGES} <= inside
    assert {Path(name).suffix for name in inside} == {".py", ".md", ".typed"}
    assert f"{info}/licenses/LICENSE" in wheel.namelist()


def test_source_archive_has_what_the_wheel_is_made_from_and_no_results(wheel, tmp_path):
    archive = tarfile.open(build("sdist", ROOT, tmp_path))  # noqa: SIM115
    with archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        archive.extractall(tmp_path, filter="data")
    about = {"PKG-INFO", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", ".gitignore"}
    assert names == files_of_packages() | about
    again = zipfile.ZipFile(build("wheel", next(tmp_path.glob("*/")), tmp_path))
    assert {i.filename: i.CRC for i in again.infolist()} == {
        i.filename: i.CRC for i in wheel.infolist()
    }


def test_index_page_says_which_pythons_and_links_to_nothing_that_it_has_not(metadata):
    classifiers = metadata.get_all("Classifier", [])
    pythons = [c.removeprefix("Programming Language :: Python :: ") for c in classifiers]
    assert {p for p in pythons if re.fullmatch(r"3\.\d+", p)} == {
        path.stem.removeprefix("python") for path in PINS
    }
    assert metadata["License-Expression"] == "MIT"
    assert metadata["Description-Content-Type"] == "text/markdown"
    description = metadata.get_payload()
    assert isinstance(description, str)
    assert description.strip().startswith("# linvae-jax")
    assert re.findall(r"\]\((?!https://)", description) == []


def test_installed_metadata_are_those_of_the_tree(metadata):
    """Else the suite would run on a stale installation, whose command may be another."""
    installed = importlib.metadata.metadata("linvae-jax")
    for field in ("Version", "Requires-Python", "Requires-Dist", "Provides-Extra"):
        assert installed.get_all(field) == metadata.get_all(field), field
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="linvae")
    assert callable(command.load())


def pins(path: Path) -> dict[str, str]:
    """Package → version; what is not `name==version` fails, such as an address."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    found = [re.fullmatch(r"([A-Za-z0-9_.-]+)==([0-9][A-Za-z0-9.]*)", line) for line in lines]
    assert all(found), [line for line, match in zip(lines, found, strict=True) if not match]
    return {canonicalize_name(match[1]): match[2] for match in found if match}


def requirements() -> list[Requirement]:
    """All that `make test` installs, and what builds the wheel."""
    project = PROJECT["project"]
    extras = ("data", "cli", "test", "lint")
    lines = [
        *project["dependencies"],
        *(line for extra in extras for line in project["optional-dependencies"][extra]),
        *PROJECT["build-system"]["requires"],
    ]
    return [Requirement(line) for line in lines if not line.startswith("linvae-jax")]


@pytest.mark.parametrize("path", PINS, ids=lambda path: path.stem)
def test_pins_name_every_requirement_at_a_version_that_it_allows(path):
    pinned = pins(path)
    for needed in requirements():
        assert pinned[canonicalize_name(needed.name)] in needed.specifier, needed


def test_the_oldest_jax_that_is_allowed_is_tested():
    oldest = pins(min(PINS))
    for name in ("jax", "jaxlib", "flax"):
        (bound,) = (r.specifier for r in requirements() if r.name == name)
        assert str(bound) == f">={oldest[name]}"


# a Python that writes down what it is asked for; its environments have it as their python
FAKE = """#!/bin/sh
case "$*" in
  *sys.executable*) echo "$0" ;;
  *'version_info[:2]'*) echo {version} ;;
  "-m venv "*) mkdir -p "$3/bin"; echo "version = {version}.5" > "$3/pyvenv.cfg"
               cp "$0" "$3/bin/python"; ln -sf /bin/true "$3/bin/linvae" ;;
  "-m pip "*) echo "{version} $*" >> "$LOG" ;;
esac
"""


class Machine:
    """A folder of Pythons, and `make` that finds them and no other."""

    def __init__(self, folder: Path):
        self.folder, self.log = folder, folder / "log"
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.venv = folder / "venv"
        self.worked = True

    def add(self, name: str, version: str) -> None:
        self.executable(self.bin / name, FAKE.format(version=version))

    @staticmethod
    def executable(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)

    def make(self, *arguments: str) -> tuple[list[str], str]:
        """What pip was asked for, and what was printed, when the environment is made ready."""
        self.log.write_text("")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "PYENV"))}
        for name in ("PINS", "PYTHON", "VENV"):
            environment.pop(name, None)
        environment |= {"PATH": f"{self.bin}:/usr/bin:/bin", "LOG": str(self.log)}
        command = ["make", "smoke", f"VENV={self.venv}", *arguments]  # linvae is `true` there
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
        self.worked = done.returncode == 0
        return self.log.read_text().splitlines(), done.stdout + done.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_make_takes_the_pins_of_the_python_asked_for(machine):
    for version in ("3.12", "3.13"):
        machine.add(f"python{version}", version)
        (asked,), _ = machine.make(f"PYTHON=python{version}")
        assert asked.startswith(f"{version} ")
        assert f"--constraint .ci/constraints/python{version}.txt" in asked


def test_make_without_pins_installs_the_newest_and_says_so(machine):
    for name, version, arguments in (("python3.99", "3.99", ()), ("python3.12", "3.12", ["PINS="])):
        machine.add(name, version)
        (asked,), said = machine.make(f"PYTHON={name}", *arguments)
        assert "--upgrade --upgrade-strategy eager" in asked
        assert "--constraint" not in asked
        assert f"Python {version} without pins: the newest releases are installed" in said


def test_make_remakes_the_environment_of_another_python_or_other_pins(machine):
    machine.add("python3.12", "3.12")
    machine.add("python3.13", "3.13")
    left = machine.venv / "left"
    assert machine.make("PYTHON=python3.12")[0]
    left.touch()
    assert machine.make("PYTHON=python3.12")[0] == []  # it is there
    assert left.exists()
    assert machine.make("PYTHON=python3.12", "PINS=")[0]  # the newest over what was pinned
    assert machine.make("PYTHON=python3.12", "PINS=")[0] == []
    assert machine.make("PYTHON=python3.12")[0]  # and back
    assert left.exists()
    (asked,), _ = machine.make("PYTHON=python3.13")
    assert asked.startswith("3.13 ")
    assert not left.exists()
    (ready,) = machine.venv.glob("ready-*")
    os.utime(ready, (0, 0))  # older than pyproject.toml and the pins
    assert machine.make("PYTHON=python3.13")[0]


def test_make_leaves_a_folder_that_is_no_environment(machine):
    machine.add("python3.12", "3.12")
    machine.venv.mkdir()
    (machine.venv / "mine").touch()
    machine.make("PYTHON=python3.12")
    assert (machine.venv / "mine").exists()


def test_make_finds_what_pyenv_has_but_does_not_show(machine):
    hidden = machine.folder / "hidden"
    hidden.mkdir()
    Machine.executable(hidden / "python3.12", FAKE.format(version="3.12"))
    shim = f'#!/bin/sh\n[ "$PYENV_VERSION" = 3.12.10 ] && exec {hidden}/python3.12 "$@"\nexit 127\n'
    Machine.executable(machine.bin / "python3.12", shim)
    pyenv = '#!/bin/sh\n[ "$*" = "whence python3.12" ] && printf "3.12.10\\n3.12.9\\n"\n'
    Machine.executable(machine.bin / "pyenv", pyenv)
    (asked,), _ = machine.make("PYTHON=python3.12")
    assert asked.startswith("3.12 ")
    assert machine.worked


def test_make_says_which_python_is_missing(machine):
    asked, said = machine.make("PYTHON=python3.98")
    assert asked == []
    assert not machine.worked
    assert "python3.98: no such Python runs here" in said
