"""Command ``synthsr``: predict, segment, strip, thicken, head, generate, priors, train, weights."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ConfigurationError, DataError, SynthSRError
from .threads import wait_asleep

if TYPE_CHECKING:
    from .weights.registry import Entry

# Heavy libraries are imported inside the commands, so that --help answers at once.


def _add_network_arguments(parser: argparse.ArgumentParser, default_weights: str) -> None:
    parser.add_argument("input", type=Path, metavar="IN", help="scan (NIfTI or MGZ), or a folder of scans")
    parser.add_argument("output", type=Path, metavar="OUT", help="output file, or folder if IN is a folder")
    parser.add_argument("--ct", action="store_true", help="input is CT in Hounsfield units: clip to 0–80 first")
    parser.add_argument("--no-flip", dest="flip", action="store_false", help="one pass, without the mirrored one")
    parser.add_argument(
        "--weights", default=default_weights, metavar="NAME_OR_PATH", help="weights (default: %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 … (default: a GPU if there is one)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument(
        "--bfloat16", dest="arithmetic", action="store_const", const="bfloat16", default="float32",
        help="quicker where the processor has it; volumes differ by up to 0.2 %% with the shipped weights, with "
        "published ones by an unknown amount",
    )  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    """Parser of the whole command line."""
    parser = argparse.ArgumentParser(prog="synthsr", description="SynthSR: any clinical brain scan to a 1 mm T1.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    predict = commands.add_parser("predict", help="synthetic 1 mm T1 of any scan")
    _add_network_arguments(predict, "synthsr")
    predict.add_argument(
        "--also", type=Path, action="append", default=[], metavar="SCAN",
        help="another scan of the session, aligned by its header, for weights that take several; repeat it in the "
        "order of channels; a folder with the same names if IN is one",
    )  # fmt: skip
    predict.set_defaults(run=_predict)

    segment = commands.add_parser("segment", help="whole-brain segmentation and volumes of any scan")
    _add_network_arguments(segment, "segmentation")
    segment.add_argument("--volumes", type=Path, metavar="TSV", help="table of volumes in mm³, one row per structure")
    segment.set_defaults(run=_segment)

    strip = commands.add_parser("strip", help="the scan without skull and scalp, on its own grid")
    _add_network_arguments(strip, "segmentation")
    strip.add_argument("--mask", type=Path, metavar="MASK", help="write the mask too: file, or folder if IN is one")
    strip.add_argument(
        "--border-mm", type=float, default=1.0, metavar="MM",
        help="how far outside the brain to cut (default: %(default)g); more takes in more fluid",
    )  # fmt: skip
    strip.set_defaults(run=_strip)

    thicken = commands.add_parser("thicken", help="a 1 mm scan as it would be in thick slices, for experiments")
    thicken.add_argument("input", type=Path, metavar="IN", help="scan (NIfTI or MGZ), or a folder of scans")
    thicken.add_argument("output", type=Path, metavar="OUT", help="output file, or folder if IN is a folder")
    thicken.add_argument("--spacing-mm", type=float, required=True, metavar="MM", help="distance of the slices")
    thicken.add_argument("--orientation", required=True, choices=("sagittal", "coronal", "axial"), help="of the slices")
    thicken.set_defaults(run=_thicken)

    head = commands.add_parser("head", help="whole-head label map of a T1 scan: the two are a pair to train on")
    head.add_argument("t1", type=Path, metavar="T1", help="T1 scan with skull and skin (NIfTI or MGZ)")
    head.add_argument("output", type=Path, metavar="OUT", help="label map to write, on the T1's RAS grid of 1 mm")
    head.add_argument("--brain", type=Path, metavar="DSEG", help="segmentation to keep (default: the project's own)")
    head.add_argument("--names", type=Path, metavar="TSV", help="its look-up table, columns index and name")
    head.add_argument(
        "--weights", default="segmentation", metavar="NAME_OR_PATH", help="weights (default: %(default)s)"
    )
    head.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 … (default: a GPU if there is one)")
    head.add_argument("--threads", type=int, help="CPU threads (default: all)")
    head.set_defaults(run=_head)

    generate = commands.add_parser("generate", help="synthetic scans from a label map, for looking at")
    generate.add_argument("labels", type=Path, metavar="LABELS", help="label map of 1 mm, or a folder of them")
    generate.add_argument("output", type=Path, metavar="OUT", help="folder for the images")
    generate.add_argument("--number", type=int, default=4, help="images to make (default: %(default)s)")
    generate.add_argument("--seed", type=int, default=1, help="same seed, same images (default: %(default)s)")
    generate.add_argument(
        "--preset", default="clinical", help="clinical, synthsr-2021, synthsr-2023, synthseg, tutorial"
    )
    generate.set_defaults(run=_generate)

    priors = commands.add_parser("priors", help="intensity priors of a known protocol, for the generator")
    priors.add_argument("scans", type=Path, metavar="SCANS", help="folder of scans of the protocol")
    priors.add_argument(
        "labels", type=Path, metavar="LABELS", help="folder of their label maps, named alike or with _dseg added"
    )
    priors.add_argument("output", type=Path, metavar="OUT", help="table, .tsv")
    priors.set_defaults(run=_priors)

    train = commands.add_parser("train", help="train the networks of a configuration; resumes where it stopped")
    train.add_argument("config", type=Path, metavar="CONFIG", help="YAML, such as config/train.yaml")
    # Not "run": set_defaults uses that name.
    train.add_argument("--run", dest="folder", type=Path, metavar="DIR", help="folder of the run, instead of CONFIG's")
    train.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 … (default: all GPUs if there are any)")
    train.add_argument(
        "--processes", type=int, metavar="N", help="processes that share each step, one GPU each (default: all GPUs)"
    )
    train.add_argument("--threads", type=int, help="CPU threads of all processes together (default: all)")
    train.set_defaults(run=_train)

    weights = commands.add_parser("weights", help="list, verify, fetch and import weights")
    actions = weights.add_subparsers(dest="action", required=True, metavar="ACTION")
    list_ = actions.add_parser("list", help="registered weights and whether they are here")
    list_.set_defaults(run=_list_weights)
    verify = actions.add_parser("verify", help="check files against their registered SHA-256")
    verify.add_argument("names", nargs="*", metavar="NAME", help="default: all that are here")
    verify.set_defaults(run=_verify_weights)
    fetch = actions.add_parser("fetch", help="bring registered weights into the resources folder; resumes")
    fetch.add_argument("name", metavar="NAME")
    fetch.add_argument("--mirror", metavar="FOLDER_OR_URL", help="take the file from here, for sites without internet")
    fetch.set_defaults(run=_fetch_weights)
    for action in (list_, verify, fetch):
        action.add_argument("--registry", type=Path, metavar="TSV", help="another table than the package's own")
    import_ = actions.add_parser("import", help="published Keras weights (.h5) into this project's format")
    import_.add_argument("source", type=Path, metavar="FILE.h5")
    import_.add_argument("output", type=Path, metavar="OUT", help="target, .safetensors")
    import_.add_argument(
        "--low-field", action="store_true", help="FILE.h5 is the published model of a low-field T1 and T2"
    )
    import_.set_defaults(run=_import_weights)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; a :class:`SynthSRError` becomes a message on stderr and its exit code."""
    parsed = build_parser().parse_args(arguments)
    try:
        parsed.run(parsed)
    except SynthSRError as error:
        print(f"synthsr {parsed.command}: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _jobs(source: Path, output: Path, suffix: str) -> list[tuple[Path, Path]]:
    """Pairs of input and output: one file to one file, or a folder to a folder with the inputs' names."""
    from . import io

    inputs = io.list_images(source)
    if not source.is_dir():
        if output.is_dir():
            raise ConfigurationError(f"{output}: is a folder; give the name of the output file")
        if not output.name.lower().endswith(io.SUFFIXES):
            raise ConfigurationError(f"{output}: name the output with one of {', '.join(io.SUFFIXES)}")
        if (output.resolve().parent, io.stem(output)) == (source.resolve().parent, io.stem(source)):
            raise ConfigurationError(f"{output}: is named as the input; give another, so that nothing is overwritten")
        return [(source, output)]
    if output.exists() and not output.is_dir():
        raise ConfigurationError(f"{output}: is a file; give a folder, as the input is one")
    if output.resolve() == source.resolve():
        raise ConfigurationError(f"{output}: is the input folder; give another, so that no input is overwritten")
    stems = [io.stem(path) for path in inputs]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise DataError(f"{source}: several images are called {', '.join(twice)}; rename or move one")
    return [(path, output / f"{stem}{suffix}.nii.gz") for path, stem in zip(inputs, stems, strict=True)]


def _for_each(jobs: list[tuple[Path, Path]], work: Callable[[Path, Path], None]) -> None:
    """Work through all jobs; a scan that cannot be used is reported and the rest goes on."""
    from .progress import say, tracked

    failed: list[str] = []
    for source, target in tracked(jobs, what="scans", total=len(jobs)):
        try:
            work(source, target)
            say(f"{source} -> {target}")
        except DataError as error:
            if len(jobs) == 1:
                raise
            failed.append(str(error))
            print(f"left out: {error}", file=sys.stderr)
    if failed:
        raise DataError(f"{len(failed)} of {len(jobs)} scans left out, for the reasons above; the others are done")


def _predict(arguments: argparse.Namespace) -> None:
    wait_asleep()
    from . import inference
    from .predict import Predictor

    jobs = _jobs(arguments.input, arguments.output, "_synthsr")
    also = _also(arguments.input, arguments.also)
    inference.prepare_process(arguments.threads)
    predictor = Predictor.load(arguments.weights, arguments.device, arithmetic=arguments.arithmetic)

    def work(source: Path, target: Path) -> None:
        predictor(source, target, also=also[source], ct=arguments.ct, flip=arguments.flip)

    _for_each(jobs, work)


def _also(source: Path, also: list[Path]) -> dict[Path, list[Path]]:
    """Further scans of each input: those of the same name in each folder, or ``also`` itself for a single file."""
    from . import io

    if not source.is_dir():
        folders = [str(path) for path in also if path.is_dir()]
        if folders:
            raise ConfigurationError(f"--also {folders[0]}: is a folder; give a scan, as the input is one")
        return {source: also}
    found: dict[Path, list[Path]] = {path: [] for path in io.list_images(source)}
    for folder in also:
        if not folder.is_dir():
            raise ConfigurationError(f"--also {folder}: is no folder; give one, as the input is one")
        there = {io.stem(path): path for path in io.list_images(folder)}
        missing = [path.name for path in found if io.stem(path) not in there]
        if missing:
            raise DataError(f"{folder}: lacks {', '.join(missing)}; its scans are to be named as those of {source}")
        for path, scans in found.items():
            scans.append(there[io.stem(path)])
    return found


def _segment(arguments: argparse.Namespace) -> None:
    wait_asleep()
    from . import inference
    from .segment import Segmenter, write_volumes

    jobs = _jobs(arguments.input, arguments.output, "_dseg")
    inference.prepare_process(arguments.threads)
    segmenter = Segmenter.load(arguments.weights, arguments.device, arithmetic=arguments.arithmetic)
    volumes: dict[str, dict[str, float]] = {}

    def work(source: Path, target: Path) -> None:
        volumes[source.name] = segmenter(source, target, ct=arguments.ct, flip=arguments.flip)

    try:
        _for_each(jobs, work)
    finally:
        if arguments.volumes and volumes:
            write_volumes(volumes, arguments.volumes)


def _strip(arguments: argparse.Namespace) -> None:
    wait_asleep()
    from . import inference, io
    from .segment import Segmenter
    from .strip import require_border, strip

    jobs = _jobs(arguments.input, arguments.output, "_brain")
    masks: dict[Path, Path] = {}
    if arguments.mask is not None:
        masks = dict(_jobs(arguments.input, arguments.mask, "_mask"))
        taken = {(path.resolve().parent, io.stem(path)) for _, path in jobs}
        if any((path.resolve().parent, io.stem(path)) in taken for path in masks.values()):
            raise ConfigurationError(f"--mask {arguments.mask}: is named as the output; give another")
    require_border(arguments.border_mm)
    inference.prepare_process(arguments.threads)
    segmenter = Segmenter.load(arguments.weights, arguments.device, arithmetic=arguments.arithmetic)
    segmenter.require_distance()

    def work(source: Path, target: Path) -> None:
        strip(
            segmenter, source, target, mask_target=masks.get(source), border_mm=arguments.border_mm,
            ct=arguments.ct, flip=arguments.flip,
        )  # fmt: skip

    _for_each(jobs, work)


def _thicken(arguments: argparse.Namespace) -> None:
    from . import io
    from .thicken import thicken

    def work(source: Path, target: Path) -> None:
        thick, grid = thicken(*io.load(source), spacing_mm=arguments.spacing_mm, orientation=arguments.orientation)
        io.save(thick, grid, target)

    _for_each(_jobs(arguments.input, arguments.output, f"_{arguments.spacing_mm:g}mm"), work)


def _head(arguments: argparse.Namespace) -> None:
    wait_asleep()
    from . import inference
    from .heads import label_head
    from .segment import Segmenter

    if arguments.names and not arguments.brain:
        raise ConfigurationError("--names: is the look-up table of --brain; give both")
    if arguments.t1.is_dir():
        raise ConfigurationError(f"{arguments.t1}: is a folder; give one T1 scan")
    ((source, target),) = _jobs(arguments.t1, arguments.output, "_dseg")
    inference.prepare_process(arguments.threads)
    segmenter = Segmenter.load(arguments.weights, arguments.device)
    label_head(source, target, segmenter=segmenter, brain=arguments.brain, names=arguments.names)
    print(f"{source} -> {target}")


def _generate(arguments: argparse.Namespace) -> None:
    from .generate import generate

    number, seed, preset = arguments.number, arguments.seed, arguments.preset
    for path in generate(arguments.labels, arguments.output, number=number, seed=seed, preset=preset):
        print(path)


def _priors(arguments: argparse.Namespace) -> None:
    from .generator.priors import estimate_from_files, write_priors

    write_priors(estimate_from_files(arguments.scans, arguments.labels), arguments.output)
    print(arguments.output)


def _train(arguments: argparse.Namespace) -> None:
    from dataclasses import replace

    from . import inference
    from .train import read_config, train
    from .train.devices import count_processes

    inference.prepare_process(arguments.threads)
    config = read_config(arguments.config)
    if arguments.folder is not None:
        config = replace(config, run=arguments.folder)
    device = inference.choose_device(arguments.device)
    for path in train(config, device=device, processes=count_processes(device, arguments.processes)):
        print(path)


def _list_weights(arguments: argparse.Namespace) -> None:
    from .weights.registry import registered

    for entry in registered(arguments.registry).values():
        here = "here" if entry.path.is_file() else "not fetched"
        print("\t".join([entry.name, entry.version, here, entry.licence, entry.sha256, entry.purpose]))


def _verify_weights(arguments: argparse.Namespace) -> None:
    from .weights.registry import is_sound, registered

    entries = registered(arguments.registry)
    named = [_entry(entries, name) for name in arguments.names]
    damaged = []
    for entry in named or [entry for entry in entries.values() if entry.path.is_file()]:
        sound = is_sound(entry)
        print(f"{entry.name}\t{'sound' if sound else 'damaged or missing'}\t{entry.path}")
        damaged += [] if sound else [entry.name]
    if damaged:
        raise DataError(f"{', '.join(damaged)}: not what the registry says; fetch them again")


def _fetch_weights(arguments: argparse.Namespace) -> None:
    from .weights.registry import fetch, registered

    print(fetch(_entry(registered(arguments.registry), arguments.name), arguments.mirror))


def _entry(entries: dict[str, Entry], name: str) -> Entry:
    if name not in entries:
        raise ConfigurationError(f"{name}: not registered; there are {', '.join(entries)}")
    return entries[name]


def _import_weights(arguments: argparse.Namespace) -> None:
    from .weights.keras import import_keras

    config = import_keras(arguments.source, arguments.output, low_field=arguments.low_field)
    if (config.in_channels, config.residual) == (2, None):
        print("If this is the published model of a low-field T1 and T2, import it with --low-field", file=sys.stderr)
    print(f"{arguments.source} -> {arguments.output}")


if __name__ == "__main__":
    sys.exit(main())
