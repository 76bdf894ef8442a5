"""Write tiny artifacts of many architectures and kinds of rotary positions, with the rewards that Assay gives, for `read.py`.

    python .ci/older_readers/write.py DIRECTORY

Run in Assay's own environment; `read.py` runs where transformers 4.51 is.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import transformers as T
from transformers import AutoModel

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from assay.models.backbone import Backbone  # noqa: E402
from assay.models.published.adopt import adopt  # noqa: E402
from assay.models.published.checkpoints import Reading  # noqa: E402
from assay.models.reward_model import RewardModel, new_head  # noqa: E402
from assay.models.saved.artifact import save_artifact  # noqa: E402
from assay.records import Completion  # noqa: E402
from assay.scorers.load import load  # noqa: E402
from tiny import CHATML, save_tiny_encoder, tiny_config, tiny_renderer  # noqa: E402

LONG = "It is four, not five. Put it in water and tell me a story. " * 6
PAIRS = [("How do I boil an egg?", "Put it in water."), ("What is two and two?", "five"), ("Please tell me a story.", LONG)]
ROPES = {
    "default": {"rope_type": "default", "rope_theta": 500000.0},
    "linear": {"rope_type": "linear", "rope_theta": 20000.0, "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 20000.0, "factor": 2.0},
    "yarn": {"rope_type": "yarn", "rope_theta": 20000.0, "factor": 4.0, "original_max_position_embeddings": 512},
    "yarn extended": {"rope_type": "yarn", "rope_theta": 20000.0, "factor": 4.0, "original_max_position_embeddings": 128},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [2.0, 3.0, 4.0, 5.0],
        "original_max_position_embeddings": 256,
    },
}


def configs() -> dict[str, object]:
    """Name -> a configuration that transformers 4.51 has too."""
    shared = {**tiny_config("llama").to_dict()}
    for name in ("architectures", "model_type", "transformers_version", "rope_parameters", "dtype"):
        shared.pop(name, None)
    found: dict[str, object] = {
        f"llama, rope {name}": T.LlamaConfig(**shared, rope_parameters=rope) for name, rope in ROPES.items()
    }
    theta = {"rope_type": "default", "rope_theta": 300000.0}
    simple = {
        "qwen2": T.Qwen2Config,
        "qwen3": T.Qwen3Config,
        "mistral": T.MistralConfig,
        "gemma": T.GemmaConfig,
        "gemma2": T.Gemma2Config,
        "starcoder2": T.Starcoder2Config,
    }
    for name, kind in simple.items():
        found[name] = kind(**shared, rope_parameters=dict(theta))
    partial = {**theta, "partial_rotary_factor": 0.5}
    found["glm"] = T.GlmConfig(**shared, rope_parameters=dict(partial))
    found["nemotron"] = T.NemotronConfig(**shared, rope_parameters=dict(partial))
    found["phi"] = T.PhiConfig(**shared, rope_parameters=dict(partial))
    found["stablelm"] = T.StableLmConfig(**shared, rope_parameters=dict(partial))
    found["phi3, longrope"] = T.Phi3Config(**shared, rope_parameters={**ROPES["longrope"]}, original_max_position_embeddings=256)
    found["gpt_neox"] = T.GPTNeoXConfig(**shared, rope_parameters={**partial, "partial_rotary_factor": 0.25})
    found["opt"] = T.OPTConfig(**shared, ffn_dim=64, word_embed_proj_dim=32)
    found["gpt2"] = T.GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=4, n_positions=512, initializer_range=0.2)
    return found


def main(folder: Path) -> None:
    T.logging.disable_progress_bar()
    T.logging.set_verbosity_error()
    expected = {}
    completions = [Completion(messages=question, response=answer) for question, answer in PAIRS]
    for number, (name, config) in enumerate(configs().items()):
        torch.manual_seed(number)
        backbone = Backbone(AutoModel.from_config(config, attn_implementation="eager").eval())
        model, path = RewardModel(backbone, new_head(backbone.hidden_size, seed=number)), folder / f"decoder-{number}"
        save_artifact(model, tiny_renderer(CHATML, max_length=512), path, {"title": name})
        expected[path.name] = {
            "name": name,
            "form": "chat",
            "rewards": load(path, dtype="float32").score(completions).value.tolist(),
        }
    for number, kind in enumerate(("deberta-v2", "roberta", "bert", "modernbert")):
        source, path = save_tiny_encoder(folder / f"encoder-source-{number}", kind), folder / f"encoder-{number}"
        adopt(source, path, Reading(), name=kind)
        expected[path.name] = {
            "name": kind,
            "form": "pair",
            "rewards": load(path, dtype="float32").score(completions).value.tolist(),
        }
    (folder / "expected.json").write_text(json.dumps({"pairs": PAIRS, "artifacts": expected}, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
