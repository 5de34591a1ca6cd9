"""Encoders with rotations or ALiBi in place of a position table, in the forms in which they are published."""

from layouts import GTE, JINA_V3, JINA_V3_ADAPTED, NOMIC
from tiny import VOCAB, Variant

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
TRANSFORMERS_4 = {"torch_dtype": "float16", "transformers_version": "4.41.0", "vocab_size": VOCAB}
TRANSFORMERS_5 = {"dtype": "float16", "transformers_version": "5.0.0", "vocab_size": VOCAB}

# The first of every three layers sees everything, the others 8 tokens to each side.
MODERNBERT = TRANSFORMERS_4 | SIZES | {
    "architectures": ["ModernBertForMaskedLM"], "model_type": "modernbert", "num_hidden_layers": 4,
    "intermediate_size": 32, "max_position_embeddings": 8192, "hidden_activation": "gelu", "norm_eps": 1e-5,
    "norm_bias": False, "attention_bias": False, "mlp_bias": False, "global_attn_every_n_layers": 3,
    "local_attention": 16, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0,
    "position_embedding_type": "absolute", "layer_norm_eps": 1e-5, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2,
}
MODERNBERT_5 = TRANSFORMERS_5 | SIZES | {
    "architectures": ["ModernBertModel"], "model_type": "modernbert", "num_hidden_layers": 3,
    "intermediate_size": 32, "max_position_embeddings": 8192, "hidden_activation": "gelu", "norm_eps": 1e-5,
    "norm_bias": True, "attention_bias": True, "mlp_bias": True, "local_attention": 32,
    "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    "rope_parameters": {
        "full_attention": {"rope_theta": 50000.0, "rope_type": "default"},
        "sliding_attention": {"rope_theta": 5000.0, "rope_type": "default"},
    },
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2,
}

NOMIC_BERT = TRANSFORMERS_4 | {
    "architectures": ["NomicBertModel"], "model_type": "nomic_bert",
    "auto_map": {"AutoConfig": "nomic-ai/nomic-bert-2048--configuration_hf_nomic_bert.NomicBertConfig",
                 "AutoModel": "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"},
    "activation_function": "swiglu", "attn_pdrop": 0.0, "causal": False, "n_embd": 32, "n_head": 2, "n_inner": 48,
    "n_layer": 2, "n_positions": 8192, "max_trained_positions": 2048, "layer_norm_epsilon": 1e-12,
    "mlp_fc1_bias": False, "mlp_fc2_bias": False, "qkv_proj_bias": False, "parallel_block": False, "prenorm": False,
    "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None, "rotary_scaling_factor": None, "scale_attn_weights": True,
    "type_vocab_size": 2, "use_rms_norm": False,
}
NOMIC_BERT_5 = TRANSFORMERS_5 | SIZES | {
    "architectures": ["NomicBertModel"], "model_type": "nomic_bert", "hidden_act": "silu",
    "layer_norm_eps": 1e-12, "max_position_embeddings": 2048, "type_vocab_size": 2, "head_dim": 16,
    "rope_parameters": {"rope_theta": 1000.0, "rope_type": "default"},
}

GTE_NEW = TRANSFORMERS_4 | SIZES | {
    "architectures": ["NewModel"], "model_type": "new",
    "auto_map": {"AutoConfig": "configuration.NewConfig", "AutoModel": "modeling.NewModel"},
    "hidden_act": "gelu", "layer_norm_eps": 1e-12, "layer_norm_type": "layer_norm", "logn_attention_clip1": False,
    "logn_attention_scale": False, "max_position_embeddings": 8192, "pack_qkv": True, "pad_token_id": 1,
    "position_embedding_type": "rope", "rope_scaling": {"factor": 8.0, "type": "ntk"}, "rope_theta": 20000,
    "type_vocab_size": 1, "unpad_inputs": False, "use_memory_efficient_attention": False,
}
GTE_5 = TRANSFORMERS_5 | SIZES | {
    "architectures": ["GteModel"], "model_type": "gte", "hidden_act": "gelu", "layer_norm_eps": 1e-12,
    "max_position_embeddings": 8192, "rope_parameters": {"rope_theta": 160000.0, "rope_type": "default"},
    "type_vocab_size": 0,
}

# Three heads: between the powers of two that slopes are made for.
JINA_V2 = TRANSFORMERS_4 | SIZES | {
    "architectures": ["JinaBertForMaskedLM"], "model_type": "bert", "hidden_size": 48, "num_attention_heads": 3,
    "auto_map": {"AutoConfig": "jinaai/jina-bert-implementation--configuration_bert.JinaBertConfig",
                 "AutoModel": "jinaai/jina-bert-implementation--modeling_bert.JinaBertModel"},
    "attn_implementation": None, "emb_pooler": "mean", "feed_forward_type": "geglu", "hidden_act": "gelu",
    "layer_norm_eps": 1e-12, "max_position_embeddings": 8192, "position_embedding_type": "alibi", "type_vocab_size": 2,
}

JINA_V3_FLASH = TRANSFORMERS_4 | SIZES | {
    "architectures": ["XLMRobertaModel"], "model_type": "xlm-roberta",
    "auto_map": {"AutoConfig": "jinaai/xlm-roberta-flash-implementation--configuration_xlm_roberta.XLMRobertaFlashConfig",
                 "AutoModel": "jinaai/xlm-roberta-flash-implementation--modeling_xlm_roberta.XLMRobertaModel"},
    "emb_pooler": "mean", "hidden_act": "gelu", "layer_norm_eps": 1e-5, "max_position_embeddings": 8194,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "position_embedding_type": "rotary",
    "rotary_emb_base": 20000.0, "type_vocab_size": 1, "use_flash_attn": True,
}

# As jina-embeddings-v3 was published, with adapters that no task asks for.
JINA_V3_LORA = JINA_V3_FLASH | {
    "auto_map": {"AutoConfig": "jinaai/xlm-roberta-flash-implementation--configuration_xlm_roberta.XLMRobertaFlashConfig",
                 "AutoModel": "jinaai/xlm-roberta-flash-implementation--modeling_lora.XLMRobertaLoRA"},
    "num_hidden_layers": 1, "lora_adaptations": ["retrieval.query", "retrieval.passage"], "lora_rank": 4,
}
LORA = "roberta.encoder.layers.0.mixer.Wqkv.parametrizations.weight.0.lora_"

# As microsoft/deberta-v3-* are published: no architecture is named.
DEBERTA_V3 = SIZES | {
    "model_type": "deberta-v2", "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "initializer_range": 0.02, "max_position_embeddings": 512, "relative_attention": True, "position_buckets": 256,
    "norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": "p2c|c2p", "layer_norm_eps": 1e-7,
    "max_relative_positions": -1, "position_biased_input": False, "type_vocab_size": 0, "vocab_size": VOCAB,
}
# What DeBERTa-v3 leaves out: projections of their own for positions, a table of positions, segments.
DEBERTA_V2 = TRANSFORMERS_5 | SIZES | {
    "architectures": ["DebertaV2Model"], "model_type": "deberta-v2", "hidden_act": "gelu", "layer_norm_eps": 1e-7,
    "max_position_embeddings": 180, "relative_attention": True, "position_buckets": 16, "norm_rel_ebd": "none",
    "share_att_key": False, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": 60, "position_biased_input": True,
    "type_vocab_size": 2, "pad_token_id": 0, "legacy": True,
}

ENCODERS = [
    Variant("modernbert", 31, MODERNBERT, prefix="model.", decoys=("head.dense.weight", "decoder.bias")),
    Variant("modernbert-current", 32, MODERNBERT_5, pooling="cls"),
    Variant("nomic-bert", 33, NOMIC_BERT, NOMIC),
    Variant("nomic-bert-current", 34, NOMIC_BERT_5, limit=2048, pooling="mean"),
    Variant("gte-new", 35, GTE_NEW, GTE, prefix="new.", decoys=("classifier.weight",)),
    Variant("gte-current", 36, GTE_5, pooling="cls"),
    Variant("jina-bert", 37, JINA_V2),
    Variant("jina-v3", 38, JINA_V3_FLASH, JINA_V3, limit=8194, prefix="roberta."),
    Variant("jina-v3-adapted", 39, JINA_V3_LORA, JINA_V3_ADAPTED, limit=8194, prefix="roberta.",
            decoys=(f"{LORA}A", f"{LORA}B"), longest=False),
    Variant("deberta-v3", 61, DEBERTA_V3, limit=512, prefix="deberta.",
            decoys=("deberta.embeddings.position_embeddings.weight", "lm_predictions.lm_head.dense.weight")),
    Variant("deberta-v2", 62, DEBERTA_V2, limit=180),
    Variant("deberta-v2-c2p", 63, DEBERTA_V2 | {"pos_att_type": ["c2p"], "position_biased_input": False,
                                                "num_hidden_layers": 1}, limit=180),
]
