"""The `assay` command: a table of words. A word's module is imported when it is called, so that `assay --help` loads no torch."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NamedTuple

# Read when OpenMP is loaded: without it some process starts run pointwise operations many times slower. Torch comes first, since
# scikit-learn brings an OpenMP of its own: the one that is loaded second finds the process bound to one core, and stays on it.
# With OMP_NUM_THREADS given, several processes may share the machine: binding would put them all on the first cores. And where
# torch was loaded before, only the second runtime would read it, and torch's threads would be left on its one core.
if "OMP_NUM_THREADS" not in os.environ and "torch" not in sys.modules:
    os.environ.setdefault("OMP_PROC_BIND", "true")

from assay.console import is_launched, print_error, print_lines
from assay.errors import AssayError
from assay.rubrics.shipped import names_local_judge
from assay.run_files import holds_artifact, holds_checkpoint, may_be_hub_id


class Command(NamedTuple):
    """help: a line of `assay --help`. module: below assay.commands, with `Config` and `run(config) -> exit status`. needs_torch:
    whatever it is given; else torch is loaded where a word of the command line is a directory with a model."""

    help: str
    module: str
    needs_torch: bool = False


COMMANDS: dict[str, dict[str, Command]] = {
    "": {
        "demo": Command("build a reward model, break it with a biased labeller, find it out, repair it", "demo.run", True),
        "train": Command("preference pairs and an instruct model in, a calibrated reward model out", "train", True),
        "score": Command("rewards for a file of completions of any size", "score"),
        "evaluate": Command("accuracy beside baselines, on pairs, labelled steps or published suites", "evaluate"),
        "search": Command("better answers of a policy at work, led by a model's rewards for their steps", "search"),
        "compare": Command("two or more scorers on the same pairs: is the new one worse, anywhere", "compare"),
        "report": Command("one page of all that was found out about a run", "report"),
        "serve": Command("rewards over HTTP, in the forms that trainers and engines speak", "serve"),
        "swap": Command("change the models of a running service", "swap"),
    },
    "audit": {
        "all": Command("a verdict for each way in which a reward model fails, on one page", "audit.all"),
        "probe": Command("which worthless edits raise the reward", "audit.probe"),
        "judge": Command("what a judge goes by beside the answers, and what an answer can tell it", "audit.judge"),
        "drift": Command("is new text still like the training data", "audit.drift", True),
        "watch": Command("signs of reward hacking in a policy's run, at the rate of healthy runs", "audit.watch"),
        "attribute": Command("how much of the margins length, format, tone and openings explain", "audit.attribute"),
        "best-of-n": Command("what choosing by the reward gains in gold, and where gold peaks", "audit.best_of_n"),
        "verify": Command("do the files, plain transformers and an engine give the same rewards", "audit.verify", True),
    },
    "rl": {
        "train": Command("a policy against a reward model, with gold and its own past beside", "rl.train", True),
        "preflight": Command("will this reward model work for this policy, by the policy's own answers", "rl.preflight"),
        "refresh": Command("a policy, and its reward model trained anew on what it says", "rl.refresh", True),
        "curves": Command("gold and reward against the distance that policies went", "rl.curves"),
    },
    "model": {
        "adopt": Command("make an artifact of another's reward model", "model.adopt", True),
        "calibrate": Command("fit what a margin says of the probability to be right", "model.calibrate"),
        "posterior": Command("how sure the pairs make a model's head: a std of rewards", "model.posterior"),
        "ensemble": Command("join reward models: mean less a penalty on their disagreement", "model.ensemble", True),
        "average": Command("average the weights of models of one base into one", "model.average", True),
        "export": Command("take one member out of an ensemble", "model.export", True),
        "rescale": Command("bring a model to another's scale, to replace it under the same KL coefficient", "model.rescale", True),
    },
    "data": {
        "check": Command("read preference pairs, count them, and say what is wrong with them", "data.check"),
        "label": Command("prompts or pairs in, labelled pairs out: a policy answers, a judge compares", "data.label"),
        "curve": Command("what doubling the data would bring, with an interval", "data.curve", True),
        "label-steps": Command(
            "solutions in, labelled steps out: by roll-outs with a verifier, a judge, or both", "data.label_steps"
        ),
        "world": Command("made problems with exact labels: steps, or pairs with critiques", "data.world"),
        "rubric": Command("fit a rubric's weights to preferences, or write it in another form", "data.rubric"),
    },
}
PIPE_CLOSED = 141  # exit status of a program that SIGPIPE ends
GROUPS = {
    "": "",
    "audit": "can it be trusted",
    "rl": "a policy against a reward model",
    "model": "what is done to a saved model",
    "data": "preferences and labelled steps",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it did what was asked, 1 when some rows have no reward, 2 for a mistake, 3 for a failure.

    `audit verify` gives 4 when a check of the certificate does not hold, 3 when the files are damaged; `compare` 5 when the
    second scorer is significantly worse than the first; `audit probe` 6 when an edit that is worth nothing raises the reward;
    `rl preflight` 6 when a check fails; `audit watch` 6 when a run's alarm rang; `audit all` 7 when a verdict is a failure;
    `audit judge` 8 when a judge is biased or an answer can tell it what to say; `rl refresh` 5 when it stops since the new model
    is worse, 9 when it waits for labels. 141 when whoever read the output closed it before the end.
    """
    try:
        try:
            return _main(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            sys.stdout.flush()  # what is still buffered would meet a closed pipe after the last handler
    except BrokenPipeError:
        return _reader_has_gone()
    except SystemExit as ended:  # rich ends the process by itself
        if isinstance(ended.__context__, BrokenPipeError):
            return _reader_has_gone()
        raise


def _main(words: list[str]) -> int:
    group = words.pop(0) if words and words[0] in COMMANDS and words[0] else ""
    if not words or words[0] in ("-h", "--help"):
        print_lines(help_lines(group))
        return 0
    name = words.pop(0)
    command = COMMANDS[group].get(name)
    if command is None:
        print_error(f"there is no command {' '.join(filter(None, (group, name)))!r}: see assay {group} --help".replace("  ", " "))
        return 2
    if is_launched() and name != "train":
        print_error("torchrun is for assay train: run this command in one process")
        return 2
    return _run(f"assay {group} {name}".replace("  ", " "), command, words)


def _names_model(word: str) -> bool:
    return holds_artifact(word) or holds_checkpoint(word) or may_be_hub_id(word)


def _run(prog: str, command: Command, words: Sequence[str]) -> int:
    if (
        command.needs_torch
        or any(_names_model(word) or _names_model(word.partition("#")[0]) for word in words)
        or ("--judge-url" not in words and any(names_local_judge(word) for word in words))
    ):
        _load_torch()
    import tyro

    module = import_module(f"assay.commands.{command.module}")
    try:
        config = tyro.cli(module.Config, prog=prog, args=list(words), config=_flags())
        return int(module.run(config))
    except ValueError as error:
        print_error(str(error))
        return 2
    except BrokenPipeError:
        raise
    except (AssayError, OSError) as error:
        print_error(str(error), label="failed")
        return 3


def _reader_has_gone() -> int:
    """Whoever read the output (head, less) has closed it: nothing more is printed.

    The signal SIGPIPE, which would do the same, stays off: a server must outlive clients that close their connections.
    """
    devnull = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(devnull, stream.fileno())  # else Python flushes it once more at its end, and complains
    os.close(devnull)
    return PIPE_CLOSED


def help_lines(group: str = "") -> list[str]:
    """What `assay --help` prints, and `assay GROUP --help`."""
    shown = COMMANDS if not group else {group: COMMANDS[group]}
    width = max(len(f"{group} {name}") for group, commands in COMMANDS.items() for name in commands) + 2
    begin = "" if group else " Begin with your data: assay data check pairs.jsonl"
    lines = [f"assay: reward models you can trust.{begin}", ""]
    for key, commands in shown.items():
        lines += [f"{key}: {GROUPS[key]}"] if key else []
        lines += [f"  {f'{key} {name}'.strip():<{width}}{command.help}" for name, command in commands.items()]
        lines += [] if key else [""]  # the groups stand close, so that all fit a screen
    return [*lines, "assay COMMAND --help says more of one."]


def _load_torch() -> None:
    """Torch before everything that brings an OpenMP of its own; transformers says nothing that is not asked for."""
    keep_freed_memory()
    import torch  # noqa: F401
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def keep_freed_memory() -> None:
    """Let the C library keep freed blocks rather than hand them back and fault them in again (8-27% faster in bfloat16)."""
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):  # glibc only
            library.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
            library.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def _flags() -> tuple[object, ...]:
    import tyro

    return (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone, tyro.conf.OmitArgPrefixes)


if __name__ == "__main__":
    sys.exit(main())
