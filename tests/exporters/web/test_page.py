"""The page of the web app in Chromium: adding images, errors, accessibility."""

import csv

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect

from browsers import ADD_FILES, HOSTILE
from encoding import encode, to_base64


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 900)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible_and_fits_the_screen(visit, photos, written_digits, tmp_path, width, height, scheme):
    page = visit(viewport={"width": width, "height": height}, color_scheme=scheme)
    (tmp_path / "broken.jpg").write_bytes(photos[2].read_bytes()[:5000])
    page.set_input_files("#files", [photos[0], written_digits[0], tmp_path / "broken.jpg"])
    expect(page.locator("[aria-busy]")).to_have_count(0)
    assert Axe().run(page).violations_count == 0, Axe().run(page).generate_report()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_images_are_added_by_file_drop_and_paste(page, photos):
    page.set_input_files("#files", photos[:3])
    expect(page.locator(".bars")).to_have_count(3)
    shown = page.locator(".name").all_inner_texts()
    assert shown == [path.name for path in photos[:3]]  # in their order
    for number, kind in enumerate(("drop", "paste")):
        dropped = [(path.name, to_base64(path.read_bytes())) for path in photos[3 + number : 4 + number]]
        page.evaluate(ADD_FILES, [dropped, kind])
        expect(page.locator(".bars li")).to_have_count(5 * (4 + number))
        assert page.locator(".name").first.inner_text() == photos[3 + number].name  # above the others
    page.evaluate(ADD_FILES, [[], "paste"])
    expect(page.locator("#status[data-state=no_image]")).to_be_visible()
    page.locator("#clear").click()
    expect(page.locator(".image")).to_have_count(0)


def test_camera(page):
    page.locator("#camera").click()
    page.wait_for_selector("#viewfinder[open]")
    expect(page.locator("video")).to_have_js_property("paused", False)
    page.locator("#shoot").click()
    expect(page.locator(".bars li")).to_have_count(5)
    assert page.locator(".name").inner_text() == "camera.png"
    expect(page.locator("#viewfinder")).not_to_be_visible()
    assert page.evaluate("document.querySelector('video').srcObject") is None  # the camera is switched off


def test_the_page_works_with_the_keyboard_alone(page, photos):
    page.on("filechooser", lambda _: None)  # registered early, so that no native dialog opens
    page.keyboard.press("Tab")
    expect(page.locator("#files")).to_be_focused()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files([photos[0], photos[1]])
    expect(page.locator(".bars li")).to_have_count(10)
    expect(page.get_by_role("status")).to_contain_text(photos[1].name)
    focused = []
    for _ in range(6):
        focused.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
        page.keyboard.press("Tab")
    assert focused == ["files", "camera", "save", "clear", "remove quiet", "remove quiet"]
    page.locator(".remove").first.press("Enter")
    expect(page.locator(".image")).to_have_count(1)
    assert page.locator(".name").inner_text() == photos[1].name
    assert page.evaluate("document.activeElement.closest('.image') !== null")
    page.keyboard.press("Enter")
    expect(page.locator(".image")).to_have_count(0)
    assert page.evaluate("document.activeElement.id") == "files"


def test_unreadable_images_are_reported(page, photos, tmp_path):
    whole = photos[0].read_bytes()
    broken = {
        "cut.jpg": whole[:9000],
        "no image.png": b"hello",
        "empty.gif": b"",
        "cut.webp": b"RIFF\xff\xff\0\0WEBP",
    }
    broken["cut.png"] = encode(Image.open(photos[0]), "png")[:-30]
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
    page.set_input_files("#files", [*(tmp_path / name for name in broken), photos[1]])
    expect(page.locator(".bars li")).to_have_count(5)  # the one good image
    expect(page.locator(".refused")).to_have_count(len(broken))
    cards = page.locator(".refused")
    codes = {name: cards.filter(has_text=name).evaluate("card => ({...card.dataset})") for name in broken}
    assert {entry["code"] for entry in codes.values()} == {"unreadable_image"}
    assert {name: entry["reason"] for name, entry in codes.items()} == {
        "cut.jpg": "truncated",
        "cut.png": "truncated",
        "cut.webp": "undecodable",
        "no image.png": "undecodable",
        "empty.gif": "empty",
    }
    with page.expect_download() as download:
        page.locator("#save").click()
    with open(download.value.path(), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["code"] for row in rows] == ["unreadable_image"] * len(broken) + [""]
    assert rows[-1]["index"].isdigit()


def test_names_are_displayed_as_text(page, photos):
    content = photos[0].read_bytes()
    page.evaluate(ADD_FILES, [[[HOSTILE, to_base64(content)]], "drop"])
    expect(page.locator(".bars li")).to_have_count(5)
    text = page.inner_text("body")
    assert text.count(HOSTILE) >= 2  # of the class and of the file
    assert page.locator("img[src=x]").count() == 0
