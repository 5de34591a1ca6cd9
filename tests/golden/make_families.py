"""Makes the tiny checkpoints in families/ and their golden vectors: every family (layouts of BERT have a script of their own).

    bench/peers/setup.sh
    bench/peers/.venv/bin/python tests/golden/make_families.py [NAME...]
    bench/peers/.venv/bin/python tests/golden/make_families.py --full kernels/snapshots/NAME.json DIR [LAYERS]

The second form makes a checkpoint of a published model's size (or of its width, with fewer layers) in a directory that is
not part of the repository; the test of full sizes reads it where SHOAL_GOLDEN_FULL names it.

The weights are random (seeded) but not small. The vectors come from transformers reading what was just written, or from
a reference of our own where transformers has no code for a model, in f64 (f32 beside it, to tell how far apart two right
implementations may be), one sequence at a time. The format is described in README.md beside this file.
"""

import json
import sys
from pathlib import Path

import torch
import transformers

from families_causal import CAUSAL
from families_encoder import ENCODERS
from layouts import GTE, JINA_V3, NATIVE, NOMIC
from tiny import VOCAB, Variant, make

ROOT = Path(__file__).parent / "families"
POSITIONS = 180
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
SIZES_DISTIL = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48}
ROBERTA = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "layer_norm_eps": 1e-5, "type_vocab_size": 1}


def bert_like(name: str, seed: int, architecture: str, fields: dict, offset: int = 0, current: bool = False,
              sizes: dict = SIZES, **layout) -> Variant:
    """A descendant of BERT; `current` as transformers 5 writes it."""
    config = {
        "architectures": [architecture], "model_type": name, "vocab_size": VOCAB, "max_position_embeddings": POSITIONS,
        "dtype" if current else "torch_dtype": "float16", "transformers_version": "5.0.0" if current else "4.41.0",
    }
    act = {} if name == "distilbert" else {"hidden_act": "gelu"}
    return Variant(name, seed, config | act | sizes | fields, limit=POSITIONS - offset, **layout)


BERT_LIKE = [
    bert_like("bert", 20, "BertModel", {"type_vocab_size": 2, "layer_norm_eps": 1e-12, "position_embedding_type": "absolute"}),
    bert_like("roberta", 21, "RobertaForMaskedLM", ROBERTA, offset=2, prefix="roberta.",
              decoys=("lm_head.dense.weight", "lm_head.bias")),
    bert_like("xlm-roberta", 22, "XLMRobertaModel", ROBERTA, offset=2, current=True),
    bert_like("camembert", 23, "CamembertModel", ROBERTA | {"position_embedding_type": "absolute"}, offset=2,
              sizes=SIZES | {"num_hidden_layers": 1}),
    bert_like("distilbert", 24, "DistilBertForMaskedLM", {"activation": "gelu", "sinusoidal_pos_embds": False},
              sizes=SIZES_DISTIL, prefix="distilbert.", decoys=("vocab_transform.weight", "vocab_projector.bias")),
    bert_like("mpnet", 25, "MPNetForMaskedLM",
              {"pad_token_id": 1, "layer_norm_eps": 1e-5, "relative_attention_num_buckets": 32}, offset=2),
    bert_like("electra", 26, "ElectraForPreTraining",
              {"embedding_size": 24, "type_vocab_size": 2, "summary_type": "first"},
              prefix="electra.", decoys=("discriminator_predictions.dense.weight",)),
]


LAYOUTS = {"NomicBertModel": NOMIC, "NewModel": GTE}


def full(path: str, root: str, layers: str = "") -> None:
    """A checkpoint as large as the published one, with few cases; of so many `layers` where they are told."""
    config = json.loads(Path(path).read_text())
    if layers:
        name = "n_layer" if "n_layer" in config else "num_hidden_layers"
        config[name] = int(layers)
        config |= {"layer_types": config["layer_types"][: int(layers)]} if "layer_types" in config else {}
    architecture = config["architectures"][0]
    layout = JINA_V3 if config.get("position_embedding_type") == "rotary" else LAYOUTS.get(architecture, NATIVE)
    limit = config.get("n_positions", config.get("max_position_embeddings"))
    v = Variant(Path(path).stem, 1, config, layout, limit=limit, norm_mean=0.0 if "Gemma" in architecture else 1.0,
                lengths=(1, 65, 129), samples=8, longest=False)
    Path(root).mkdir(exist_ok=True)
    make(v, Path(root))


def main() -> None:
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if sys.argv[1:2] == ["--full"]:
        full(*sys.argv[2:])
        return
    for v in [*BERT_LIKE, *ENCODERS, *CAUSAL]:
        if not sys.argv[1:] or v.name in sys.argv[1:]:
            make(v, ROOT)


if __name__ == "__main__":
    main()
