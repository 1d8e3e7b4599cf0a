"""The wheel and the source distribution: complete, and working away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.conftest import TINY

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel built from it."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    return folder


def test_configs_and_pipelines_travel_as_real_files(dist: Path) -> None:
    (wheel,), (source,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"tcc_fast/configs/{path.name}" for path in (ROOT / "configs").glob("*.yaml")}
    expected |= {f"tcc_fast/pipelines/{path.name}" for path in (ROOT / "pipelines").glob("*.py")}
    assert expected <= names
    assert not [name for name in names if name.startswith(("pipelines/", "configs/", "tests/", "tools/"))]
    with tarfile.open(source) as archive:
        inside = {member.name.partition("/")[2] for member in archive if not member.isdir()}
    assert {"LICENSE", "pyproject.toml", "tcc_fast/configs/digits.yaml"} <= inside


def test_the_wheel_works_elsewhere_beside_a_foreign_pipelines_package(dist: Path, tmp_path: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # that would find this tree
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--python", str(python)]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(wheel)], env=own, check=True)
    # The dependencies come from this environment, without its own tcc_fast: a .pth file adds no further ones.
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    home = tmp_path / "home"
    (home / "pipelines").mkdir(parents=True)
    (home / "pipelines" / "__init__.py").write_text("raise RuntimeError('a foreign package was imported')\n")

    def run(*command: str) -> str:
        finished = subprocess.run(command, cwd=home, env=own, capture_output=True, text=True)
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    where = run(str(python), "-c", "import tcc_fast.pipelines as p; print(p.__file__)").strip()
    assert Path(where).is_relative_to(environment)
    script = str(environment / "bin" / "tcc-fast")
    assert "1797 images" in run(script, "convert", "digits")
    run(str(python), "-m", "tcc_fast", "train", "--config", "digits", *TINY, "train.epochs=1", "start.method=none")
    assert "TCC (argmax π)" in run(script, "eval", "--ckpt", "latest")
