"""The rules of config/series_rules.yaml: contrast from physics first, evidence kept, nothing of free text told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import dicom_maker as maker
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.errors import ConfigurationError
from analysis.intake import geometry
from analysis.intake.classify import RULES, Protocol, Rules, Verdict

RULES_READ = Rules()
SAID = yaml.safe_dump(yaml.safe_load(RULES.read_text(encoding="utf-8")))
STACK = geometry.measure([maker.ORIENTATIONS["ax"]] * 20, maker.positions(20, 6.0))
SE, GR, IR = ("SE",), ("GR",), ("SE", "IR")


def judge(stack: geometry.Stack | None = STACK, *, rules: Rules = RULES_READ, **protocol: object) -> Verdict:
    made = Protocol(**{"modality": "MR", **protocol})
    return rules.judge(made, stack, rows=32, columns=32, in_plane_mm=(7.0, 7.0), n_images=20)


@pytest.mark.parametrize(
    ("protocol", "contrast"),
    [
        # Spin echoes, by their times.
        ({"scanning_sequence": SE, "tr_ms": 500, "te_ms": 12}, "T1w"),
        ({"scanning_sequence": SE, "tr_ms": 4500, "te_ms": 100}, "T2w"),
        ({"scanning_sequence": SE, "tr_ms": 2500, "te_ms": 20}, "PDw"),
        ({"scanning_sequence": SE, "tr_ms": 3200, "te_ms": 400}, "T2w"),  # SPACE, CUBE
        ({"scanning_sequence": SE, "tr_ms": 2500, "te_ms": 50, "text": "t2 tse"}, "T2w"),  # times do not tell
        ({"scanning_sequence": SE, "tr_ms": 1300, "te_ms": 15, "text": "t1 se"}, "T1w"),
        # Inversions.
        ({"scanning_sequence": IR, "tr_ms": 9000, "te_ms": 120, "ti_ms": 2500}, "FLAIR"),
        ({"scanning_sequence": IR, "tr_ms": 9000, "te_ms": 120}, "FLAIR"),
        ({"scanning_sequence": IR, "tr_ms": 5000, "te_ms": 340, "ti_ms": 1600}, "FLAIR"),  # three dimensions, 3 T
        ({"scanning_sequence": IR, "tr_ms": 2000, "te_ms": 20, "ti_ms": 800}, "T1w"),  # T1 FLAIR
        ({"scanning_sequence": IR, "tr_ms": 4000, "te_ms": 60, "ti_ms": 150}, "other"),  # STIR
        # Gradient echoes.
        ({"scanning_sequence": ("GR", "IR"), "tr_ms": 2300, "te_ms": 3, "ti_ms": 900}, "T1w"),
        ({"scanning_sequence": GR, "tr_ms": 6.5, "te_ms": 2.9, "flip_degrees": 9}, "T1w"),
        ({"scanning_sequence": GR, "tr_ms": 300, "te_ms": 2.5, "flip_degrees": 80}, "T1w"),
        ({"scanning_sequence": GR, "tr_ms": 700, "te_ms": 20}, "T2starw"),
        ({"scanning_sequence": GR, "tr_ms": 6, "te_ms": 3, "sequence_variant": ("SS",), "flip_degrees": 50}, "other"),
        ({"scanning_sequence": GR, "tr_ms": 28, "te_ms": 20, "text": "t2_swi_tra"}, "SWI"),
        ({"scanning_sequence": GR, "tr_ms": 28, "te_ms": 20, "image_type": ("ORIGINAL", "SWI")}, "SWI"),
        ({"scanning_sequence": GR, "tr_ms": 23, "te_ms": 4, "is_angiography": True}, "MRA"),
        ({"scanning_sequence": GR, "tr_ms": 23, "te_ms": 4, "sequence_name": "*fi3d1_ns"}, "MRA"),
        ({"scanning_sequence": GR, "tr_ms": 23, "te_ms": 4, "text": "3d tof multislab"}, "MRA"),
        # Echo-planar and what is read from text alone.
        ({"scanning_sequence": ("EP",), "b_value": 1000.0}, "DWI"),
        ({"scanning_sequence": ("EP",), "sequence_name": "*ep_b1000#1"}, "DWI"),
        ({"scanning_sequence": ("EP",), "text": "ep2d_bold_rest"}, "bold"),
        ({"scanning_sequence": ("EP",), "text": "ep2d_perf"}, "perfusion"),
        ({"text": "T1 MPRAGE sag".lower()}, "T1w"),
        ({"text": "ax t2 flair"}, "FLAIR"),
        ({"text": "mystery"}, "other"),
        # CT, and what no scan is.
        ({"modality": "CT"}, "ct"),
        ({"modality": "CT", "text": "topogram 0.6"}, "localizer"),
        ({"modality": "CT", "image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, "localizer"),
        ({"text": "3 plane loc"}, "localizer"),
        ({"image_type": ("DERIVED", "PRIMARY", "MPR")}, "derived"),
        ({"sop_class": "1.2.840.10008.5.1.4.1.1.7"}, "screenshot"),
        ({"modality": "OT", "sop_class": "1.2.840.10008.5.1.4.1.1.7.4"}, "screenshot"),
        ({"modality": "SR"}, "other"),
    ],
)
def test_contrast(protocol: dict, contrast: str) -> None:
    verdict = judge(**protocol)
    assert verdict.contrast == contrast
    assert verdict.evidence
    is_kept = contrast in ("T1w", "T2w", "FLAIR", "PDw", "ct")
    assert (verdict.reason == "") is is_kept, verdict


@pytest.mark.parametrize(
    ("protocol", "given"),
    [
        ({"agent": "gadovist 7.5 ml"}, "yes"),
        ({"agent": "none"}, "no"),
        ({"agent": "no contrast"}, "no"),
        ({"agent": "n/a"}, "no"),
        ({"agent": "-"}, "n/a"),
        ({"agent": "gadovist", "text": "t1 pre"}, "yes"),  # the element before the text
        ({"text": "t1_se_tra_km"}, "yes"),
        ({"text": "ax t1 +c"}, "yes"),
        ({"text": "ax t1 post gad"}, "yes"),
        ({"text": "t1 pre contrast"}, "no"),
        ({"text": "ct head without contrast"}, "no"),
        ({"text": "t1 mprage"}, "n/a"),
    ],
)
def test_contrast_agent(protocol: dict, given: str) -> None:
    verdict = judge(scanning_sequence=SE, tr_ms=500, te_ms=12, **protocol)
    assert (verdict.contrast, verdict.contrast_agent) == ("T1w", given)


def test_evidence_tells_rule_values_and_disagreement() -> None:
    told = judge(scanning_sequence=SE, tr_ms=4500, te_ms=100, text="t1 se").evidence
    assert told == "spin echo, long times (tr_ms 4500, te_ms 100), against T1 by text (text 't1')"


@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789 _-+*", max_size=40), agent=st.text(max_size=20))
def test_free_text_is_never_told(text: str, agent: str) -> None:
    verdict = judge(text=f"erika mustermann {text}", agent=f"4711 {agent}", sequence_name="mustermann")
    published = f"{verdict.contrast} {verdict.reason} {verdict.evidence} {verdict.contrast_agent}"
    assert "muster" not in published and "4711" not in published and "erika" not in published
    for quoted in published.split("'")[1::2]:
        assert all(part in SAID for part in quoted.split())


def test_first_rule_decides_and_geometry_comes_last() -> None:
    narrow = replace(STACK, n_slices=9, missing_slices=2)
    assert judge(narrow, text="t1").reason == "9 slices, fewer than 10"
    assert judge(replace(STACK, n_volumes=2, missing_slices=2), text="t1").reason.startswith("more than three")
    assert judge(None, text="t1").contrast == "derived"


def changed(tmp_path: Path, change: object) -> Path:
    content = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    change(content)
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_rules_of_ones_own(tmp_path: Path) -> None:
    rule = {"name": "ours", "when": {"text": r"\bkopf\b"}, "contrast": "other", "reason": "told by {n_slices} slices"}
    rules = Rules(changed(tmp_path, lambda content: content["kinds"].insert(0, rule)))
    assert judge(rules=rules, text="kopf t1").reason == "told by 20 slices"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content.pop("faults"), "expected the lists"),
        (lambda content: content["faults"][0]["when"].update(n_slyces="2.."), "there is no n_slyces"),
        (lambda content: content["faults"][0].update(reason="{text}"), "cannot quote"),
        (lambda content: content["faults"][0]["when"].update(n_slices="2-5"), "is no range"),
        (lambda content: content["kinds"][0].update(when={"text": "t1.*"}), "wildcard"),
        (lambda content: content["kinds"][0].update(when={"text": "(t1"}), "kinds"),
        (lambda content: content["kinds"][0].update(when={"burned_in": [True]}), "quotes"),
        (lambda content: content["kinds"][0].update(wen={}), "expected name, when"),
        (lambda content: content["kinds"][0].pop("reason"), "expected name, when"),
    ],
)
def test_mistakes_in_rules_are_named(tmp_path: Path, change: object, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Rules(changed(tmp_path, change))


@settings(max_examples=60, deadline=None)
@given(
    angles=st.tuples(*[st.floats(-0.6, 0.6)] * 3),
    spacing_mm=st.floats(0.5, 8.0),
    tilt_degrees=st.floats(0.0, 30.0),
    seed=st.integers(0, 100),
)
def test_geometry_of_turned_and_tilted_stacks(
    angles: tuple[float, ...], spacing_mm: float, tilt_degrees: float, seed: int
) -> None:
    turn = np.eye(3)
    for axis, angle in enumerate(angles):
        one, other = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[[one, one, other, other], [one, other, one, other]] = (
            np.cos(angle),
            -np.sin(angle),
            np.sin(angle),
            np.cos(angle),
        )
        turn = turn @ step
    row, column, normal = turn.T
    way = normal * np.cos(np.radians(tilt_degrees)) + column * np.sin(np.radians(tilt_degrees))
    along_mm = spacing_mm / np.cos(np.radians(tilt_degrees))
    order = np.random.default_rng(seed).permutation(20)
    stack = geometry.measure([[*row, *column]] * 20, [way * along_mm * index for index in order])
    assert stack.spacing_mm == pytest.approx(spacing_mm, rel=1e-6)
    assert stack.tilt_degrees == pytest.approx(tilt_degrees, abs=1e-3)
    assert stack.oblique_degrees == pytest.approx(np.degrees(np.arccos(np.abs(normal).max())), abs=1e-3)
    assert (stack.n_slices, stack.missing_slices, stack.duplicate_slices, stack.is_even) == (20, 0, 0, True)
