"""The page of a run: whole, closed in itself, the same every time, and no name in it does anything."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.artifacts.helpers import context
from tests.report.browser import Browser, browser
from tests.report.runs import CHINESE, CLASSES, QUOTE, SCRIPT, finished_run, typed, with_masks
from weaksam_cli.cli.summary import sum_up
from weaksam_cli.console import Console, Mode
from weaksam_cli.report.panels import photo_uri

_ADDRESSES = ("src", "href", "xlink:href", "srcset", "action", "poster", "data")
_SECTIONS = {
    "pipeline", "classes", "images", "figure4", "recall", "sizes", "training", "figures", "failures", "recipes",
}  # fmt: skip


class Page(HTMLParser):
    """Tags, identifiers, addresses and text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.events: list[str] = []
        self.words: list[str] = []
        self.keys: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.ids += [value or ""] if name == "id" else []
            self.keys += [value or ""] if name == "data-key" else []
            self.addresses += [value or ""] if name in _ADDRESSES else []
            self.events += [name] if name.startswith("on") else []

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("WEAKSAM_WEIGHTS", "")
        yield finished_run(folder)


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    typed("report", "--run-dir", run)
    return Page(run / "report.html")


def written(run: Path, place: Path, *more: str) -> Page:
    typed("report", "--run-dir", run, "-o", place / "page.html", *more)
    return Page(place / "page.html")


def test_all_sections_are_there(page: Page) -> None:
    assert set(page.ids) >= _SECTIONS
    for word in (
        "Most confident",
        "Worst against the truth",
        "Proposals (few)",
        "Pseudo ground truth",
        "Retrained",
    ):
        assert word in page.text
    assert "<i>no reason</i>" in page.text  # a failure, as its receipt has it
    assert "This run is not finished" not in page.text
    assert len(page.source.encode()) < 5_000_000


def test_nothing_is_loaded_and_all_links_lead_somewhere(page: Page) -> None:
    assert len(page.ids) == len(set(page.ids))
    for address in page.addresses:
        assert address.startswith("data:") or address.removeprefix("#") in page.ids, address
    assert "http:" not in page.source and "https:" not in page.source and "url(" not in page.source


def test_names_are_text(page: Page) -> None:
    assert not page.events
    assert page.tags.count("script") == 1 and "img" not in page.tags and "b>bold" not in page.tags
    for name in CLASSES:
        assert name in page.text
    assert "49" not in page.text.partition("猫")[2][:12]  # the template does not look into names
    assert "train/<b>bold & 'x'.jpg" in page.keys
    assert SCRIPT not in page.source and QUOTE not in page.source and CHINESE in page.source


def test_the_same_run_gives_the_same_bytes(run: Path, page: Page, tmp_path: Path) -> None:
    assert written(run, tmp_path).source == page.source


def test_only_our_own_page_is_replaced(run: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from weaksam_cli.cli.app import app

    written(run, tmp_path)
    written(run, tmp_path)
    (tmp_path / "page.html").write_text("<!doctype html><title>mine</title>")
    arguments = ["report", "--run-dir", str(run), "-o", str(tmp_path / "page.html")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and "which weaksam did not write" in result.output
    assert CliRunner().invoke(app, [*arguments, "--overwrite"]).exit_code == 0


def test_a_run_that_is_not_finished(run: Path, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    shutil.copytree(run, begun, copy_function=shutil.copy2)
    for name in ("pgt", "retrain", "eval", "proposals@few"):
        shutil.rmtree(begun / name)
    (begun / "proposals" / "test.h5").write_bytes(b"cut")
    (begun / "cam" / "test.h5.receipt.json").write_text("{")
    (begun / "retrain").mkdir()
    (begun / "retrain" / "metrics.json").write_text('{"iteration": "<b>"}\n[]')
    (begun / "eval").mkdir()
    (begun / "eval" / "train.json").write_text('{"metrics": [{"stage": 1}]}')
    found = written(begun, tmp_path)
    assert "This run is not finished. Still to be made: pgt/train.json, retrain/detections/" in found.text
    assert "WSOD" in found.text and "figure4" not in found.ids and "recall" not in found.ids
    assert "damaged" in found.text
    assert "metrics.json: is no metrics.json of a training" in found.text
    assert "metrics[0].stage" in found.text


def test_labels_alone(run: Path, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    (begun / "labels").mkdir(parents=True)
    for path in (run / "labels").iterdir():
        shutil.copy2(path, begun / "labels")
    found = written(begun, tmp_path)
    assert "Some images" in found.text and "Image and truth" in found.text


def test_without_truth_and_without_images(run: Path, tmp_path: Path) -> None:
    """The annotations are gone, and so are some images: the page says so and shows what there is."""
    folder = tmp_path / "set"
    shutil.copytree(run.parents[1] / "set", folder)
    source = json.loads((run / "labels" / "source.json").read_text())
    for part in source["splits"].values():
        for name in ("path", "image_root", "images"):
            part[name] = part[name] and part[name].replace(str(run.parents[1] / "set"), str(folder))
    copy = tmp_path / "run"
    shutil.copytree(run, copy, copy_function=shutil.copy2)
    (copy / "labels" / "source.json").write_text(json.dumps(source))
    shutil.rmtree(copy / "eval")
    for path in (folder / "annotations").iterdir():
        content = json.loads(path.read_text())
        for entry in content["annotations"]:
            del entry["bbox"], entry["segmentation"]
        path.write_text(json.dumps(content))
    next((folder / "images" / "test").iterdir()).unlink()
    found = written(copy, tmp_path)
    assert "Worst against the truth" not in found.text and "Image and truth" not in found.text
    assert "so train has no ground truth" in found.text and "cannot be read" in found.text.replace(
        "changed", ""
    )
    assert "Most confident" in found.text and "Top-1" in found.text


def test_what_all_says_in_the_end(run: Path, page: Page) -> None:
    out = io.StringIO()
    sum_up(context(run, dataset="marks", console=Console(Mode.HUMAN, out, io.StringIO())))
    lines = out.getvalue().splitlines()
    assert lines[1].startswith(
        "what was found (Retrained; detections: the best 2 an image, as many as pseudo boxes;"
    )
    assert [line.split()[-4:] for line in lines[4:6]] == [["3", "6", "2", "0.85"], ["3", "6", "2", "0.37"]]
    assert [line.partition(":")[0] for line in lines[-4:]] == ["time", "see it", "detections", "new images"]
    assert (run / "report.html").read_text() == page.source


def test_figures_of_each_class(run: Path) -> None:
    text = typed("eval", "--dataset", "marks", "--run-dir", run, "--split", "test", "--per-class")
    assert re.search(r"retrain +VOC AP50 +mist +\d", text)
    header = next(line for line in text.splitlines() if line.startswith("class  "))
    assert "wsod VOC AP50" in header and "retrain VOC AP50" in header
    assert re.search(r"^猫 .* 100.0 %", text, re.MULTILINE)


@pytest.mark.parametrize(("most", "side"), [(60_000, 560), (3_000, 240), (10, 96)])
def test_photographs_are_of_bounded_size(most: int, side: int) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1200, 900, 3), np.uint8)
    size = len(photo_uri(noise, most))
    assert size < max(most * 1.4, 8_000)


# ---------------------------------------------------------------- masks
@pytest.fixture(scope="module")
def outlined(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_masks(run, tmp_path_factory.mktemp("outlined") / "run")


def test_a_page_with_masks(page: Page, outlined: Path, tmp_path: Path) -> None:
    """Of detections, pseudo labels and the truth; the paper's Figure 4 in three columns."""
    found = written(outlined, tmp_path)
    assert 'class="mask"' not in page.source and "Top-1 and this run" in page.text
    assert "Top-1, Adaptive, Pseudo instance labels" in found.text
    assert re.search(r"Pseudo instance labels: 12 masks, \d+ % of them on an object", found.text)
    panels = re.findall(r'<figure class="panel">.*?</figure>', found.source)
    shown = {title: [item for item in panels if f"<b>{title}</b>" in item] for title in (
        "Image and truth", "Pseudo ground truth", "Retrained", "WSOD", "Top-1", "Adaptive", "Pseudo instance labels",
    )}  # fmt: skip
    have = {title: {item.count("<path") > 0 for item in items} for title, items in shown.items()}
    assert have == {
        "Image and truth": {True}, "Pseudo ground truth": {True}, "Retrained": {True}, "WSOD": {False},
        "Top-1": {False}, "Adaptive": {False}, "Pseudo instance labels": {True},
    }  # fmt: skip
    paths = re.findall(r'<path class="mask" d="(M[-\d Mlz]+)"', found.source)
    assert max(map(len, paths)) < 1000 and any(path.count("M") == 2 for path in paths), "holes are left out"
    assert written(outlined, tmp_path).source == found.source


def test_figure_4_of_the_paper_as_a_sheet(outlined: Path, tmp_path: Path) -> None:
    """Three rows of pseudo instance labels, one of other artifacts, and of these with a threshold."""

    def size(name: str, *more: str) -> tuple[int, int]:
        typed("inspect", outlined / name, "--first", "3", "--draw", tmp_path / "a.png", *more)
        with Image.open(tmp_path / "a.png") as image:
            return image.size

    width, height = size("retrain/detections/train.json")
    across = (width - 8) // 2
    assert size("pgt/train.json") == (3 * across + 16, 3 * ((height - 8) // 2) + 16)
    assert size("pgt/train.json", "--score", "0.1") == (width, height)
    text = typed("inspect", outlined / "pgt" / "train.json", "--first", "1")
    assert re.search(r"score +mask pixels", text)
    assert re.search(r"class +boxes +masks", typed("inspect", outlined / "pgt" / "train.json"))
    (outlined / "wsod/detections/train.json").rename(tmp_path / "gone.json")
    try:
        assert size("pgt/train.json") == (width, height)
    finally:
        (tmp_path / "gone.json").rename(outlined / "wsod/detections/train.json")


# ---------------------------------------------------------------- in a browser
@pytest.fixture(scope="module")
def opened(run: Path, page: Page, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert page.ids
    with browser(tmp_path_factory.mktemp("profile")) as found:
        if found is None:
            pytest.skip("no Chromium with its driver (Debian: chromium-driver)")
        found.screen(1280, 900)
        found.open(run / "report.html")
        yield found


def test_every_image_loads_and_nothing_complains(opened: Browser) -> None:
    loaded = opened.wait_for(
        "Promise.all([...document.querySelectorAll('image')].map((item) => {"
        "const image = new Image(); image.src = item.getAttribute('href');"
        "return image.decode().then(() => image.naturalWidth); }))"
    )
    assert isinstance(loaded, list) and len(loaded) > 10 and min(loaded) > 8
    drawn = "return [...document.querySelectorAll('use')].every((item) => item.getBBox().width > 100)"
    assert opened.run(drawn)
    assert opened.complaints() == []


def test_filters(opened: Browser) -> None:
    shown = "return [...document.querySelectorAll('.card:not([hidden])')].map((card) => card.dataset.classes.trim())"
    choose = (
        "const box = document.getElementById(arguments[0]); box.value = arguments[1];"
        "box.dispatchEvent(new Event('change'));"
    )
    everything = opened.run(shown)
    opened.run(choose, "class", "1")
    assert 0 < len(opened.run(shown)) < len(everything) and set(opened.run(shown)) == {"1"}
    assert "shown" in opened.run("return document.getElementById('said').textContent")
    opened.run(choose, "split", "nowhere")
    opened.run(choose, "class", "")
    opened.run(choose, "split", "")
    assert opened.run(shown) == everything
    opened.run("document.querySelector('[data-pick=\"2\"]').click()")
    assert set(opened.run(shown)) == {"2"}
    opened.run(choose, "class", "")
    slide = (
        "const most = document.getElementById('most'); most.value = arguments[0]; most.dispatchEvent(new Event('input'));"
        "return document.querySelectorAll('.box.off').length"
    )
    assert opened.run(slide, 8) == 0 < opened.run(slide, 0.4)


def test_keyboard_and_the_larger_picture(opened: Browser) -> None:
    opened.run("document.querySelector('.zoom').focus()")
    opened.press("Enter")
    opened.run("document.activeElement.click()") if not opened.run("return large.open") else None
    assert opened.run("return large.open && large.querySelectorAll('svg use').length") == 1
    opened.press("Escape")
    opened.run("large.close()")
    reachable = "select, input, button, summary, a, .scroll"
    assert opened.run(
        f"return [...document.querySelectorAll('{reachable}')].every((item) => item.tabIndex >= 0)"
    )


def test_a_table_is_sorted(opened: Browser) -> None:
    click = (
        "document.querySelectorAll('table.sorted th button')[1].click();"
        "return [...document.querySelectorAll('table.sorted tbody tr')].map((row) => Number(row.children[1].textContent))"
    )
    falling, rising = opened.run(click), opened.run(click)
    assert falling == sorted(falling, reverse=True) and rising == sorted(rising)


def test_light_and_dark(opened: Browser) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    choose = "theme.value = arguments[0]; theme.dispatchEvent(new Event('change')); " + ground
    light, dark = opened.run(choose, "light"), opened.run(choose, "dark")
    assert light != dark
    opened.run(choose, "auto")
    for prefers, colour in ((True, dark), (False, light)):
        opened.screen(1280, 900, dark=prefers)
        assert opened.run(ground) == colour


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_no_page_is_wider_than_its_screen(opened: Browser, width: int) -> None:
    opened.screen(width, 844)
    assert opened.run("return document.documentElement.scrollWidth") == width
    assert (
        opened.run(
            "return Math.min(...[...document.querySelectorAll('.panel svg')].map((item) => item.clientWidth))"
        )
        > 80
    )


def test_the_policy_names_the_script_that_is_there(page: Page) -> None:
    assert re.search(r"default-src 'none'; img-src data:; .*script-src 'sha256-[\w+/]{43}='", page.source)
