"""The report in a real browser: no errors, no network, viewer, search, decisions, and use without eyes or mouse.

Chromium runs headless and draws in software. All pages are opened from disk, as people open them.
"""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from results_maker import make_atlas, make_pictures, make_registration, make_results
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

from analysis import cli, gate, tsv
from analysis.layout import Results

AXE = Path(__file__).parents[1] / "vendor" / "axe-core" / "axe.min.js"
HOSTILE = "<img src=x onerror=alert(1)><script>alert(1)</script>"
#: A machine that does much else draws slowly.
PATIENCE_S = 120


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Results:
    results = make_results(tmp_path_factory.mktemp("study") / "results", n_people=14, hostile=HOSTILE)
    table = tsv.read(results.gate)
    is_small = table["included"] == "no"
    table.loc[is_small, "reason"] = HOSTILE
    tsv.write(table, results.gate)
    decided = pd.DataFrame([("sub-0003_ses-01_run-1_FLAIR", "no", "moved")], columns=list(gate.EXCLUSION_COLUMNS))
    tsv.write(decided, results.root.parent / "exclusions.tsv")
    # A lesion of the second scan shown, in its left half.
    scan = results.raw(tsv.read(results.batch("segment", "0001"))["scan_id"][1])
    raw, lesions = nib.load(scan), results.root.parent / "lesions"
    mask = np.zeros(raw.shape, np.uint8)
    mask[12:18, 20:36, 8:16] = 1
    lesions.mkdir()
    nib.save(nib.Nifti1Image(mask, raw.affine), lesions / scan.name)
    make_pictures(results, 2, lesions=lesions)
    make_registration(results, n_pairs=5, hostile=HOSTILE)
    make_atlas(results, hostile=HOSTILE)
    assert cli.main(["report", str(results.root), "--exclusions", str(results.root.parent / "exclusions.tsv")]) == 0
    return results


@pytest.fixture(scope="module")
def downloads(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browser(downloads):
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("Chromium and its driver are not here (Debian packages chromium and chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--use-gl=angle",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
        "--window-size=1300,1600",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    found.set_page_load_timeout(PATIENCE_S)
    found.set_script_timeout(PATIENCE_S)
    yield found
    found.quit()


@pytest.fixture
def open_page(browser, study):
    """Open a page of the report afresh; behind the test nothing was complained of and nothing came from elsewhere."""

    def open_(name: str) -> webdriver.Chrome:
        browser.get("about:blank")
        browser.get(f"{study.report.parent.as_uri()}/{name}")
        return browser

    for kind in ("browser", "performance"):
        browser.get_log(kind)
    yield open_
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    allowed = (study.report.parent.as_uri(), "data:", "blob:", "about:blank")
    assert asked and all(address.startswith(allowed) for address in asked), asked


def wait(browser, condition) -> None:
    WebDriverWait(browser, PATIENCE_S, poll_frequency=0.2).until(condition)


def listed(browser) -> list[list[str]]:
    return browser.execute_script(
        "return [...document.querySelectorAll('#scans tbody tr')].map(row => [...row.cells].map(c => c.textContent))"
    )


def type_in(browser, identity: str, text: str) -> None:
    field = browser.find_element(By.ID, identity)
    field.clear()
    field.send_keys(text)


def violations(browser) -> list[str]:
    browser.execute_script(AXE.read_text(encoding="utf-8"))
    found = browser.execute_async_script(
        "const [done] = arguments, options = {resultTypes: ['violations'], preload: false};"
        "axe.run(options).then(found => done(found.violations))"
    )
    return [f"{rule['id']}: {node['html'][:150]}" for rule in found for node in rule["nodes"]]


def pixels(canvas) -> np.ndarray:
    """RGB of a canvas, made smaller, as (96, 96, 3)."""
    flat = canvas.parent.execute_async_script(
        "const [canvas, done] = arguments, small = document.createElement('canvas').getContext('2d');"
        "small.canvas.width = small.canvas.height = 96;"
        # What was drawn is there until the end of the frame.
        "document.getElementById('planes').dispatchEvent(new Event('change'));"
        "requestAnimationFrame(() => { small.drawImage(canvas, 0, 0, 96, 96);"
        " done([...small.getImageData(0, 0, 96, 96).data]) })",
        canvas,
    )
    return np.reshape(flat, (96, 96, 4))[..., :3]


@pytest.mark.parametrize("name", ["index.html", "scans/sub-0001_ses-01_run-1_T1w.html"])
def test_static_pages_load_and_can_be_read_by_all(open_page, name):
    browser = open_page(name)
    images = "return [...document.images].map(image => image.naturalWidth || image.loading === 'lazy')"
    assert all(browser.execute_script(images))
    assert violations(browser) == []


def test_search_narrows_filters_and_sorts(open_page, study):
    browser = open_page("scans.html")
    rows = tsv.read(study.gate)
    assert len(listed(browser)) == len(rows)
    type_in(browser, "search", "flair SAGITTAL")
    found = listed(browser)
    assert found and all("FLAIR" in row[0] and row[2] == "sagittal" for row in found)
    assert browser.find_element(By.ID, "count").text == f"{len(found)} of {len(rows)} scans"
    type_in(browser, "search", "")
    browser.find_element(By.ID, "search").send_keys(" ")
    Select(browser.find_element(By.ID, "show")).select_by_value("no")
    assert [row[0] for row in listed(browser)] == sorted(rows.query("included == 'no'")["scan_id"])
    assert HOSTILE in [row[-1] for row in listed(browser)]
    assert browser.execute_script("return document.querySelectorAll('#scans img, #scans script').length") == 0
    Select(browser.find_element(By.ID, "show")).select_by_value("all")
    browser.find_element(By.XPATH, "//button[text()='Age (years)']").click()
    ages = [float(row[4]) for row in listed(browser)]
    assert ages == sorted(ages) and len(set(ages)) > 10
    Select(browser.find_element(By.ID, "show")).select_by_value("decided")
    assert [row[8:] for row in listed(browser)] == [["leave out", "moved"]]
    assert violations(browser) == []


def test_the_viewer_shows_a_scan_and_both_sides_move_together(open_page, study):
    shown = list(tsv.read(study.batch("pictures", "0001"))["scan_id"])
    browser = open_page(f"scans.html#{shown[0]}")
    browser.find_element(By.ID, "open-viewer").click()
    viewed = "return document.body.dataset.viewed || document.getElementById('viewer-fault').textContent"
    wait(browser, lambda b: b.execute_script(viewed))
    assert browser.execute_script(viewed) == shown[0]
    canvases = [browser.find_element(By.ID, name) for name in ("input", "synthetic")]
    wait(browser, lambda b: all(pixels(canvas).std() > 20 for canvas in canvases))
    before = [pixels(canvas) for canvas in canvases]
    for picture in before:
        coloured = np.ptp(picture, axis=-1) > 30
        assert coloured.mean() > 0.05  # the segmentation lies over the grey picture
    canvases[0].send_keys(Keys.ARROW_LEFT * 3 + Keys.PAGE_UP * 3 + Keys.ARROW_DOWN * 3)
    place = browser.find_element(By.ID, "place")
    wait(browser, lambda b: all(way in place.text for way in ("left", "back", "up")))
    wait(browser, lambda b: all((pixels(c) != p).any() for c, p in zip(canvases, before, strict=True)))
    assert violations(browser) == []
    lesion = browser.find_element(By.ID, "lesion")
    assert not lesion.is_displayed(), "this scan has none"
    browser.find_element(By.ID, "next").click()
    wait(browser, lambda b: b.execute_script(viewed) == shown[1])

    def red() -> list[int]:
        """Red pixels on the left and on the right of the first plane."""
        picture = pixels(canvases[0]).astype(int)[:48]
        is_red = picture[..., 0] - picture[..., 1:].max(axis=-1) > 90
        return [int(is_red[:, :18].sum()), int(is_red[:, 18:36].sum())]

    wait(browser, lambda b: (seen := red())[0] > 10 > 4 * seen[1])  # the patient's left is on the left
    lesion.click()
    wait(browser, lambda b: sum(red()) < 3)


def test_decisions_are_kept_and_the_gate_reads_what_is_saved(open_page, study, downloads):
    browser = open_page("scans.html#sub-0002_ses-01_run-1_T2w")
    browser.find_element(By.CSS_SELECTOR, "input[value=no]").click()
    browser.find_element(By.ID, "save").click()
    assert browser.find_element(By.ID, "saved").text == "sub-0002_ses-01_run-1_T2w: give a reason first."
    reason = 'says "SPIN ECHO"\nthough it is none'
    browser.find_element(By.ID, "reason").send_keys(reason)
    browser = open_page("scans.html#sub-0002_ses-01_run-1_T2w")
    assert browser.find_element(By.ID, "reason").get_attribute("value") == reason
    assert browser.find_element(By.CSS_SELECTOR, "input[value=no]").is_selected()
    assert "1 decision differs" in browser.find_element(By.ID, "saved").text
    browser.find_element(By.ID, "save").click()
    saved = downloads / "exclusions.tsv"
    wait(browser, lambda b: saved.is_file() and saved.stat().st_size)
    table = tsv.read(study.gate, numbers=["icv_mm3"])
    judged = gate.overrule(table, saved).set_index("scan_id")
    by_person = judged[judged["decided_by"] == "person"]
    assert by_person[["included", "reason"]].to_numpy().tolist() == [
        ["no", 'says "SPIN ECHO" though it is none'],
        ["no", "moved"],
    ]
    # Taken back, the study's own decision is all that is left.
    browser.find_element(By.CSS_SELECTOR, "input[value=gate]").click()
    assert browser.find_element(By.ID, "saved").text == ""


def test_everything_is_reached_by_keyboard(open_page, study):
    scan_id = tsv.read(study.batch("pictures", "0001"))["scan_id"][0]
    browser = open_page(f"scans.html#{scan_id}")
    browser.execute_script("document.querySelector('.skip').focus()")
    said = "const e = document.activeElement; return e.id || e.className || e.textContent"
    reached = [browser.execute_script(said)]
    for _ in range(30):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(browser.execute_script(said))
    wanted = {"skip", "search", "show", "previous", "next", "close", "scan-page", "open-viewer", "reason", "save"}
    assert wanted <= set(reached)
    assert {"Score", "Reason", "wide"} <= set(reached) and scan_id in reached


def test_five_thousand_scans_are_searched_at_once(open_page, study):
    n_scans = 5000
    row = ["", "T1w", "axial", 5.0, 60.0, "F", "segmented", True, False, 0.4, "", False]
    rows = [[f"sub-{number:05d}_ses-01_T1w", *row[1:]] for number in range(n_scans)]
    page = study.report.parent
    for name in ("scans.html", "assets/scans.js", "assets/report.css"):
        (page / "many" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(page / name, page / "many" / name)
    given = (page / "scans.data.js").read_text().removeprefix("window.synthsrScans = ").removesuffix(";\n")
    data = json.loads(given) | {"rows": rows}
    (page / "many" / "scans.data.js").write_text(f"window.synthsrScans = {json.dumps(data)};")
    browser = open_page("many/scans.html")
    assert len(listed(browser)) == 100
    took_ms = browser.execute_script(
        "const field = document.getElementById('search'), start = performance.now();"
        "for (const text of ['sub-0', 'sub-01', 'sub-012']) {"
        " field.value = text; field.dispatchEvent(new Event('input')); }"
        "document.body.offsetHeight; return (performance.now() - start) / 3"
    )
    type_in(browser, "search", "sub-01234")
    assert [row[0] for row in listed(browser)] == ["sub-01234_ses-01_T1w"]
    print(f"{took_ms:.0f} ms a key")
    assert took_ms < 1000
