"""``python -m analysis NAME …``: one command per stage and statistic, each usable without Snakemake."""

from __future__ import annotations

import argparse
import importlib
import sys
import traceback
from collections.abc import Sequence

from .errors import SynthSRError, ToolError

#: Command → module. A module offers ``add_arguments(parser)`` and ``run(arguments)``; its docstring's first line is
#: the command's help. Modules import heavy libraries inside ``run``.
COMMANDS = {
    "simulate": "analysis.simulate.command",
    "fetch": "analysis.intake.pacs.command",
    "inventory": "analysis.intake.command",
    "convert": "analysis.intake.convert",
    "deidentify": "analysis.intake.deidentify",
    "synthesise": "analysis.synthesise",
    "segment": "analysis.segment",
    "gate": "analysis.gate",
    "multichannel": "analysis.multichannel",
    "tables": "analysis.tables",
    "arm": "analysis.arm",
    "doctor": "analysis.doctor",
    "status": "analysis.status",
    "ageing": "analysis.statistics.ageing",
    "agreement": "analysis.statistics.agreement",
    "groups": "analysis.statistics.groups",
    "asymmetry": "analysis.statistics.asymmetry",
    "landmarks": "analysis.statistics.landmarks",
    "lesion-map": "analysis.statistics.lesion_map",
    "tbm": "analysis.statistics.tbm",
    "thickness": "analysis.statistics.thickness",
    "harmonise": "analysis.statistics.harmonise",
    "align": "analysis.registration.align",
    "register": "analysis.registration.command",
    "register-cohort": "analysis.registration.cohort",
    "atlas": "analysis.atlas.command",
    "pictures": "analysis.report.scan_pictures",
    "report": "analysis.report.command",
}

#: Exit code of an error that nobody foresaw, of commands that read what names patients.
UNFORESEEN = 70


def build_parser(names: Sequence[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """Parser with the given commands filled in (each costs an import)."""
    parser = argparse.ArgumentParser(prog="python -m analysis", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="NAME")
    for name in names:
        module = importlib.import_module(COMMANDS[name])
        summary = (module.__doc__ or "").strip().splitlines()[0]
        command = commands.add_parser(
            name, help=summary, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a :class:`SynthSRError` becomes a message on stderr and its exit code.

    Of the system's errors only the kind is told: the path in them may name a patient, and messages go to logs. So it is
    with errors that nobody foresaw, where a command reads headers.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    only = [given[0]] if given and given[0] in COMMANDS else list(COMMANDS)
    parsed = build_parser(only).parse_args(given)
    try:
        parsed.run(parsed)
    except SynthSRError as error:
        print(f"python -m analysis {parsed.command}: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        what = f"{type(error).__name__}, {error.strerror or 'no details'}"
        print(
            f"python -m analysis {parsed.command}: {what}; see to rights, space and mounts "
            "(the file is not named, as its path may name a patient)",
            file=sys.stderr,
        )
        return ToolError.exit_code
    except Exception as error:
        if not COMMANDS[parsed.command].startswith("analysis.intake."):
            raise
        traceback.print_tb(error.__traceback__)
        print(
            f"python -m analysis {parsed.command}: {type(error).__name__}, a fault of this program; report the lines "
            "above (what the error says is not told, as it may quote a header)",
            file=sys.stderr,
        )
        return UNFORESEEN
    return 0
