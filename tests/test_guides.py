"""The guides beside the code: what they link to and name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GUIDES = sorted(
    path.relative_to(ROOT)
    for folder in ("", "lightning_compress", "recipes", "tests")
    for path in ((ROOT / folder).rglob("README.md") if folder else [ROOT / "README.md"])
)


def link_targets(text: str) -> list[str]:
    """What links and pictures point to, in Markdown and in HTML."""
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    return found + re.findall(r'(?:src|href)="([^"]+)"', text)


@pytest.mark.parametrize("guide", GUIDES, ids=str)
def test_every_relative_link_leads_to_a_file(guide):
    text = (ROOT / guide).read_text()
    local = [target for target in link_targets(text) if not target.startswith(("http", "#"))]
    missing = [
        target for target in local if not (ROOT / guide).parent.joinpath(target.split("#")[0]).exists()
    ]
    assert missing == []


@pytest.mark.parametrize("guide", GUIDES, ids=str)
def test_every_path_that_is_named_exists(guide):
    text = re.sub(r"```.*?```", "", (ROOT / guide).read_text(), flags=re.DOTALL)
    named = re.findall(r"`([\w./-]+/[\w./-]*\.(?:py|yaml|c|h|md|toml))`", text)
    places = [ROOT, (ROOT / guide).parent, ROOT / "lightning_compress"]
    missing = [name for name in named if not any((place / name).exists() for place in places)]
    assert missing == []


def test_the_guides_are_where_the_readme_says():
    assert {"README.md", "lightning_compress/README.md", "lightning_compress/dkm/README.md"} <= set(
        map(str, GUIDES)
    )
    text = (ROOT / "README.md").read_text()
    for guide in ("lightning_compress/README.md", "lightning_compress/dkm/README.md", "recipes/README.md"):
        assert guide in link_targets(text)


def test_every_area_is_described_in_the_guide_to_the_code():
    text = (ROOT / "lightning_compress" / "README.md").read_text()
    areas = {path.parent.name for path in (ROOT / "lightning_compress").glob("*/__init__.py")}
    assert {area for area in areas if f"{area}/" not in text} == set()
