"""The pages in a real Chromium, at the width of a desktop and of a phone. Needs one on this machine: see chromium()."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import run_program
from made_runs import Studio, make_run, studio, wait_until
from PIL import Image, ImageChops

pytestmark = pytest.mark.slow  # Chromium is no package of Python, and the journey trains
WIDTHS = (1280, 390)
PAGES = ("#/", "#/run?path=a", "#/sample", "#/compare?run=a&run=b", "#/inpaint", "#/start", "#/start?from=a")
SECONDS = 1000  # milliseconds, in which the browser counts


def chromium() -> str:
    """The program; installed by `apt-get install chromium`, or named by CHROMIUM."""
    names = [os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome"]
    found = next((path for path in map(shutil.which, filter(None, names)) if path), None)
    assert found, "these tests need Chromium: apt-get install chromium, or set CHROMIUM to the program"
    return found


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield started
        started.close()


@contextlib.contextmanager
def page_of(browser, one: Studio, width: int = 1280, language: str = "en") -> Iterator:
    """A page that fails the test for an error in a script, and for a request to elsewhere."""
    context = browser.new_context(viewport={"width": width, "height": 900}, locale=language)
    context.set_default_timeout(240 * SECONDS)
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(f"dialog {dialog.message}"))
    page.on(
        "console", lambda message: wrong.append(message.text) if "Content Security Policy" in message.text else None
    )

    def on_request(request) -> None:
        if not request.url.startswith((one.address, "data:", "blob:")):
            wrong.append(f"asks {request.url}")

    page.on("request", on_request)
    yield page
    context.close()
    assert wrong == []


def go(page, one: Studio, name: str) -> None:
    page.goto("about:blank")
    page.goto(one.address + name)
    page.wait_for_selector("[data-ready=yes]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    make_run(root / "a", learning_rate=1e-3)
    make_run(root / "b", learning_rate=1e-4)
    make_run(root / "<img src=x onerror=alert(1)>", job="train", instance="<script>alert(2)</script>")
    (make_run(root / "damaged") / "training_config.yaml").write_text("[")
    (root / "a" / "model_index.json").write_text("{}")
    return root


@pytest.fixture(scope="module")
def running(folder):
    with studio(folder) as one:
        yield one


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("language", ["en", "zh-CN"])
def test_every_page_fits_and_asks_nobody_else(browser, running, width, language):
    with page_of(browser, running, width, language) as page:
        for name in PAGES:
            go(page, running, name)
            page.wait_for_timeout(0.3 * SECONDS)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
            assert page.locator("h1").count() == 1 and page.locator("#problems").count() == 0, name
            small = page.evaluate(
                "[...document.querySelectorAll('button, #nav a')].filter((one) => one.offsetParent !== null"
                " && one.getBoundingClientRect().height < 20).map((one) => one.textContent)"
            )
            assert small == [], name
        assert page.locator("html").get_attribute("lang") == language


def test_names_are_text(browser, running):
    with page_of(browser, running) as page:
        go(page, running, "#/")
        assert page.locator(".run").count() == 4
        assert "<img src=x onerror=alert(1)>" in page.locator(".runs").inner_text()
        for name in (
            "#/run?path=%3Cimg+src%3Dx+onerror%3Dalert%281%29%3E",
            "#/compare?run=a&run=%3Cimg+src%3Dx+onerror%3Dalert%281%29%3E",
        ):
            go(page, running, name)
            page.wait_for_selector(".charts svg")
            assert page.locator("img[src=x]").count() == 0
        go(page, running, "#/run?path=../../etc")
        assert "is not in the studio's folder" in page.locator("#problems").inner_text()


def test_a_run_is_watched_live(browser, running, folder):
    with page_of(browser, running) as page, page_of(browser, running, 390) as phone:
        for one in (page, phone):
            go(one, running, "#/run?path=b")
            one.wait_for_selector(".charts svg")
            assert "step 30" in one.locator(".run-head").inner_text()
        with open(folder / "b" / "logs" / "metrics.jsonl", "a") as file:
            file.write('{"step": 31, "train/loss": 0.015625, "eval/fid": 12.5}\n')
        for one in (page, phone):
            one.wait_for_selector("text=step 31")
            one.wait_for_selector("figcaption:has-text('fid')")
        # Values under the pointer.
        chart = page.locator(".charts svg").first
        chart.scroll_into_view_if_needed()
        box = chart.bounding_box()
        page.mouse.move(box["x"] + box["width"] - 20, box["y"] + box["height"] / 2)
        assert page.locator(".chart-tip").inner_text().splitlines()[0] == "step 31"
        page.mouse.move(0, 0)
        # Images over the steps.
        image, slider = page.locator("img.wide").first, page.locator("input[type=range]")
        last = image.get_attribute("src")
        slider.fill("0")
        assert image.get_attribute("src") != last and page.locator("output").inner_text() == "step 10"
        Image.new("RGB", (32, 32)).save(folder / "b" / "samples" / "step-000031.png")
        wait_until(lambda: slider.get_attribute("max") == "3" or page.wait_for_timeout(200))
        assert page.locator("output").inner_text() == "step 10"  # where it was left
        # A run that ends while it is watched, and a studio that does.
        (folder / "b" / "run_state.json").write_text(
            '{"state": "finished", "total_steps": 31, "images_per_step": 1, "ranks": 1, "process": 1}'
        )
        page.wait_for_selector(".run-head .badge.finished")
        assert "step 31 of 31" in page.locator(".run-head").inner_text()


def test_a_studio_that_ends_is_said_and_found_again(browser, folder):
    one = Studio(folder)
    with page_of(browser, one) as page:
        go(page, one, "#/")
        one.end()
        page.wait_for_selector("#lost:visible")
        port = one.address.rstrip("/").rpartition(":")[2]
        with studio(folder, "--port", port):
            page.wait_for_selector("#lost", state="hidden")
            assert page.locator(".run").count() == 4


def test_the_language_is_kept(browser, running):
    with page_of(browser, running) as page:
        go(page, running, "#/")
        page.click("#language")
        assert page.locator("h1").inner_text() == "训练"
        go(page, running, "#/start")
        assert page.locator("h1").inner_text() == "新训练" and "数据集" in page.locator(".form").inner_text()


def test_train_watch_sample_compare(browser, small_model, tmp_path):
    """The whole journey by clicks alone, first on a desktop, then on a phone."""
    with studio(tmp_path) as one, page_of(browser, one) as page:
        go(page, one, "#/")
        page.click("text=New run >> nth=-1")
        page.wait_for_selector(".problem-list .bad")
        assert page.locator("#start").is_disabled()
        assert "--dataset_name or --train_data_dir" in page.locator(".problem-list").inner_text()
        fill(page, "#run-name", "first")
        settings = {"dataset_name": "digits", "image_size": 8, "channels": 1, "train_batch_size": 32, "num_epochs": 2}
        settings |= {"max_train_steps": 4000, "learning_rate": 1e-3, "save_image_steps": 40, "checkpointing_steps": 40}
        for name, value in settings.items():
            fill(page, f"[name={name}]", str(value))
        page.select_option("[name=use_ema]", "true")
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        fill(page, "[name=model_config_name_or_path]", str(small_model))
        fill(page, "[name=ddpm_num_inference_steps]", "2")
        page.wait_for_selector("#start:enabled")
        assert "use_ema: true" in page.locator(".yaml").inner_text()
        page.click("#plan")
        page.wait_for_selector("h3:has-text('Plan')")
        assert "1,797 images at 8x8" in page.locator(".sticky-side").inner_text()
        page.click("#start")
        # The run's own page follows by itself.
        page.wait_for_selector(".run-head .badge.running")
        page.wait_for_selector(".charts svg")
        wait_until(lambda: list((tmp_path / "first").glob("checkpoint-*")) or page.wait_for_timeout(300), 240)
        page.wait_for_selector("output:has-text('step')")
        page.click("button:has-text('Stop')")
        page.wait_for_selector(".run-head .badge.stopped")
        assert "training" in page.locator("h2:has-text('Log') + pre").inner_text()
        config = tmp_path / "first" / "training_config.yaml"
        config.write_text(config.read_text().replace("max_train_steps: 4000", "max_train_steps: 200"))
        stopped_at = one.get("run", path="first")["step"]
        assert stopped_at < 200
        page.click("button:has-text('Resume')")
        page.wait_for_selector(".run-head .badge.finished")
        found = one.get("run", path="first")
        assert found["step"] == 200 and found["saved"] and found["checkpoints"]

        page.click(".run-head a:has-text('Make images')")
        page.wait_for_selector(".form")
        for name, value in {"num_images": 3, "seed": 7, "num_inference_steps": 2}.items():
            fill(page, f"[name={name}]", str(value))
        page.click("#make")
        page.wait_for_selector(".task[data-state=done]")
        assert page.locator(".task figcaption").all_inner_texts()[2] == "seed 7 · image 2"
        (task,) = one.get("tasks")[:1]
        words = page.locator(".task .command code").inner_text().split()
        assert words[:2] == ["mindone-ddpm", "sample"] and page.locator(".pictures img").count() == 3
        result = run_program(*words[1:], cwd=tmp_path)  # the command shown makes the same images
        assert result.returncode == 0, result.stderr
        for number in range(3):
            assert same(tmp_path / task["images"][number], tmp_path / "samples" / f"{number:05d}.png")

    with studio(tmp_path) as one, page_of(browser, one, 390) as page:  # another studio, another browser
        go(page, one, "#/sample")
        assert page.locator(".task[data-state=done]").count() == 1
        go(page, one, "#/compare")
        models = page.locator(".models .chip").all_inner_texts()
        assert models[0] == "first" and models[-1] == "first/checkpoint-200" and len(models) == 3
        for chip in page.locator(".models .chip").all():
            chip.click()
        page.click("summary:has-text('Options')")
        for name, value in {"num_images": 2, "seed": 7, "num_inference_steps": 2}.items():
            fill(page, f"[name={name}]", str(value))
        page.click("#make")
        wait_until(lambda: page.locator(".group .badge.done").count() == 3 or page.wait_for_timeout(300), 240)
        assert page.locator(".group td img").count() == 6
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        tasks = sorted((task for task in one.get("tasks") if task["group"]), key=lambda task: task["created"])
        assert [task["model"] for task in tasks] == models
        of_run, of_before, of_last = ([tmp_path / name for name in task["images"]] for task in tasks)
        assert same(of_run[0], of_last[0]) and not same(of_run[0], of_before[0])
        assert same(of_run[1], tmp_path / "samples" / "00001.png")  # the noise of (seed 7, image 1)

        page.locator(".group td button").first.click()
        page.wait_for_selector("dialog img")
        page.keyboard.press("Escape")
        inpaint_by_drawing(page, one, tmp_path)


def inpaint_by_drawing(page, one: Studio, folder: Path) -> None:
    """The right half of an image is drawn over; the left half stays."""
    go(page, one, "#/sample")
    page.locator(".task a:has-text('Inpaint')").last.click()
    page.wait_for_selector("canvas[data-loaded=yes]")
    box = page.locator("canvas").bounding_box()
    for share in (0.62, 0.8, 0.97):
        page.mouse.move(box["x"] + share * box["width"], box["y"] + 1)
        page.mouse.down()
        page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] - 1, steps=5)
        page.mouse.up()
    page.locator(".chip", has_text="first").first.click()
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    settings = {"num_images": 1, "num_inference_steps": 4, "jump_length": 2, "jump_n_sample": 2}
    for name, value in settings.items():
        fill(page, f"[name={name}]", str(value))
    page.click("#make")
    page.wait_for_selector(".task[data-state=done]")
    (task,) = (task for task in one.get("tasks") if task["kind"] == "inpaint")
    mask = Image.open(folder / "studio" / task["id"] / "mask.png")
    assert mask.getpixel((100, 256)) == 255 and mask.getpixel((400, 256)) == 0 and set(mask.getdata()) == {0, 255}
    given = Image.open(folder / "studio" / task["id"] / "image.png").convert("L")
    made = Image.open(folder / task["images"][0]).convert("L")
    assert made.size == (8, 8)
    left, right = (0, 0, 4, 8), (4, 0, 8, 8)
    assert max(ImageChops.difference(made.crop(left), given.resize((8, 8)).crop(left)).getdata()) <= 2
    assert max(ImageChops.difference(made.crop(right), given.resize((8, 8)).crop(right)).getdata()) > 10


def fill(page, selector: str, value: str) -> None:
    page.locator(selector).first.fill(value)


def same(one: Path, other: Path) -> bool:
    return Image.open(one).tobytes() == Image.open(other).tobytes()
