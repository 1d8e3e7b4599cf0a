"""What documents show runs as it stands, and what they point to is there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision

from tcc_fast.config import load_config
from tcc_fast.method.model import TCC

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


CHECKS = """
assert len(found.features) == len(found.cluster) == 5 and found.features.shape[1] == 128
assert distance.shape == (5, 1) and (distance < 1e-3).all()  # they were trained on
assert nearest.kneighbors()[0].min() > 0  # another one than itself
assert "fc.weight" in encoder_weights
assert vit(128)(torch.zeros(2, 3, 32, 32)).shape == (2, 128)
assert P.written == 14 * 10  # r̂ of every batch
assert torch.isfinite(loss)
"""


def test_python_blocks_run_one_after_another(tmp_path: Path) -> None:
    """In a process of their own, as a reader's."""
    page = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    script = tmp_path / "page.py"
    script.write_text("\n".join([*blocks, CHECKS]), encoding="utf-8")
    done = subprocess.run([sys.executable, "-W", "error", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "'acc': 0." in done.stdout
    run = tmp_path / "runs" / "in-python"
    line = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    written = [path.name for path in run.iterdir() if not path.name.startswith(".") and path.is_file()]
    for name in (*line, *written):
        assert re.search(rf"^\|.*`{re.escape(name)}`.*\|", page, re.MULTILINE), f"{name} stands in no table"


@pytest.mark.parametrize("stem", ["7x7", "3x3"])
def test_weights_fit_networks_of_torchvision(stem: str) -> None:
    overrides = ["model.num_clusters=10", "model.backbone=resnet18", f"model.stem={stem}", "model.feature_dim=16"]
    config = load_config("folder", overrides)
    ours = TCC(config.model, config.loss).eval()
    theirs = torchvision.models.resnet18(num_classes=16)
    if stem == "3x3":
        theirs.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        theirs.maxpool = torch.nn.Identity()
    state = ours.state_dict()
    theirs.load_state_dict({key.removeprefix("encoder."): state[key] for key in state if key.startswith("encoder.")})
    views = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(theirs.eval()(views), ours.encoder(views))


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_are_there(page: Path) -> None:
    named = re.findall(
        r"`((?:tcc_fast|pipelines|tools|tests|configs|docs)/[\w./-]+)`", page.read_text(encoding="utf-8")
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tools_that_are_called_are_there(page: Path) -> None:
    called = re.findall(r"\bpython (tools/[\w./-]+)", page.read_text(encoding="utf-8"))
    assert [name for name in called if not (ROOT / name).exists()] == []


PACKAGES = [*(ROOT / "tcc_fast").glob("*/__init__.py"), *(ROOT / "pipelines").rglob("__init__.py")]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.parent.name)
def test_a_package_that_says_what_is_in_it_leaves_nothing_out(package: Path) -> None:
    named = set(re.findall(r"`(\w+\.py)`", package.read_text(encoding="utf-8").split('"""')[1]))
    there = {file.name for file in package.parent.glob("*.py")} - {"__init__.py"}
    assert not named or named == there
