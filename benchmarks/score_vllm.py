"""The vLLM side of the scoring benchmark: a child that runs in vLLM's own environment, without Assay (see score.py --vllm-python).

Pooling runner, prefix caching on, and the cache emptied before each scoring; rewards are the raw outputs of the head.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from score_child import serve, watched

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # scoring in this process, whose memory is watched
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",  # every core computes, as for the other ways
    "OMP_NUM_THREADS": str(os.cpu_count() or 1),
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}


def prepare(work: Path, dtype: str) -> Mapping[str, Callable[..., Any]]:
    os.environ.update(ENVIRONMENT)
    import torch
    from vllm import LLM, PoolingParams

    model = LLM(
        model=str(work / "artifact"),
        runner="pooling",
        dtype=dtype,
        max_model_len=1536,
        enable_prefix_caching=True,
        seed=0,
        disable_log_stats=True,
    )
    workloads: dict[str, list[str]] = json.loads((work / "texts.json").read_text())
    raw = PoolingParams(task="classify", use_activation=False)

    def score(workload: str, setting: int | None = None) -> dict[str, Any]:
        """setting: there is none to choose; vLLM schedules by itself."""
        if not model.reset_prefix_cache():
            raise RuntimeError("the prefix cache could not be emptied")
        outputs: list[Any] = []

        def run() -> list[float]:
            outputs.extend(model.encode(workloads[workload], pooling_task="classify", pooling_params=raw, use_tqdm=False))
            return [float(output.outputs.data.flatten()[0]) for output in outputs]

        figures = watched(run)
        computed = sum(len(output.prompt_token_ids) - output.num_cached_tokens for output in outputs)
        return {**figures, "computed_tokens": computed}

    return {"score": score, "about": lambda: {"vllm": __import__("vllm").__version__, "threads": torch.get_num_threads()}}


if __name__ == "__main__":
    sys.exit(serve(lambda: prepare(Path(sys.argv[1]), sys.argv[2])))
