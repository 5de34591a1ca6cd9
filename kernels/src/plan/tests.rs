//! Published configurations printed as spec and plan, and what a device refuses.

use super::*;
use crate::{
    dtype::DtypePolicy,
    families,
    spec::{EncoderSpec, Head, LayerPattern, Pooling as SpecPooling},
};

fn spec(config: &str) -> EncoderSpec {
    let config = serde_json::from_str(config).expect("a published configuration is JSON");
    families::spec(&config, Head::pooled(SpecPooling::Mean, true))
        .expect("a published configuration is covered")
}

/// Spec and plan as printed, against the committed text; a difference prints the new text to be committed instead.
fn assert_snapshot(name: &str, config: &str, isa: CpuIsa, expected: &str) {
    let spec = spec(config);
    let plan = Plan::for_cpu(&spec, isa, DtypePolicy::Auto).expect("the set covers the model");
    let printed = format!("{spec}{plan}");
    assert!(printed == expected, "snapshots/{name}.txt differs; new:\n{printed}");
}

macro_rules! snapshots {
    ($($test:ident: $name:literal on $isa:ident,)*) => {$(
        #[test]
        fn $test() {
            let config = include_str!(concat!("../../snapshots/", $name, ".json"));
            let expected = include_str!(concat!("../../snapshots/", $name, ".txt"));
            assert_snapshot($name, config, CpuIsa::$isa, expected);
        }
    )*};
}

snapshots! {
    all_minilm_l6_v2: "all-minilm-l6-v2" on Avx512Bf16,
    bge_small_en_v1_5: "bge-small-en-v1.5" on Avx512,
    e5_base_v2: "e5-base-v2" on Avx2,
    gte_base: "gte-base" on Portable,
    all_mpnet_base_v2: "all-mpnet-base-v2" on Avx512Bf16,
    multilingual_e5_base: "multilingual-e5-base" on Avx512Bf16,
    distilbert_base_uncased: "distilbert-base-uncased" on Avx2,
    electra_small_discriminator: "electra-small-discriminator" on Avx512,
    modernbert_base: "modernbert-base" on Avx512Bf16,
    nomic_embed_text_v1_5: "nomic-embed-text-v1.5" on Avx512Bf16,
    gte_multilingual_base: "gte-multilingual-base" on Avx512,
    jina_embeddings_v2_base_en: "jina-embeddings-v2-base-en" on Avx2,
    jina_embeddings_v3: "jina-embeddings-v3" on Avx512Bf16,
    qwen3_embedding_0_6b: "qwen3-embedding-0.6b" on Avx512Bf16,
    gte_qwen2_1_5b_instruct: "gte-qwen2-1.5b-instruct" on Avx512,
    e5_mistral_7b_instruct: "e5-mistral-7b-instruct" on Avx512Fp16,
    llama_3_2_1b: "llama-3.2-1b" on Portable,
    embeddinggemma_300m: "embeddinggemma-300m" on Avx512Bf16,
    eurobert_210m: "eurobert-210m" on Avx2,
    deberta_v3_base: "deberta-v3-base" on Avx512Bf16,
}

const MINILM: &str = include_str!("../../snapshots/all-minilm-l6-v2.json");

#[test]
fn a_format_without_kernels_is_refused_by_name() {
    let refusal = |isa, dtype| {
        let error = Plan::for_cpu(&spec(MINILM), isa, DtypePolicy::Exact(dtype));
        error.expect_err("no kernels").to_string()
    };
    assert_eq!(
        refusal(CpuIsa::Avx512Bf16, Dtype::I8),
        "cpu avx512-bf16 has no int8 kernels; it has f32, bf16"
    );
    assert_eq!(refusal(CpuIsa::Portable, Dtype::Bf16), "cpu portable has no bf16 kernels; it has f32");
}

#[test]
fn an_exact_format_is_taken_where_it_is_covered() {
    for isa in CpuIsa::ALL {
        for dtype in Dtype::ALL.into_iter().filter(|dtype| isa.supports(*dtype)) {
            let plan = Plan::for_cpu(&spec(MINILM), isa, DtypePolicy::Exact(dtype)).expect("covered");
            assert_eq!((plan.target, plan.dtype()), (Target::Cpu(isa), dtype));
        }
    }
}

#[test]
fn an_odd_head_is_refused() {
    let mut spec = spec(MINILM);
    let mut layer = spec.layer(0).clone();
    layer.attention.head_dim = 33;
    spec.layers = LayerPattern::Uniform { count: 1, layer };
    let error = Plan::for_cpu(&spec, CpuIsa::Portable, DtypePolicy::Auto).expect_err("no kernel");
    assert_eq!(error, PlanError::HeadDim { head_dim: 33, max: crate::cpu::HEAD_DIM_MAX });
}

#[test]
fn the_workspace_is_the_sum_of_the_buffers() {
    let plan = Plan::for_cpu(&spec(MINILM), CpuIsa::Portable, DtypePolicy::Auto).expect("covered");
    // The feed-forward network's buffer lies over those of attention.
    assert_eq!(plan.workspace_bytes(10), 10 * 4 * (384 + 1536));
}

#[test]
fn no_step_overwrites_what_a_later_one_reads() {
    let [e5, modernbert] = [
        include_str!("../../snapshots/e5-base-v2.json"),
        include_str!("../../snapshots/modernbert-base.json"),
    ];
    for config in [MINILM, e5, modernbert] {
        let plan = Plan::for_cpu(&spec(config), CpuIsa::Portable, DtypePolicy::Auto).expect("covered");
        let room = |buffer: Buffer| {
            let start = plan.starts[buffer as usize];
            start..start + plan.widths[buffer as usize]
        };
        for layer in &plan.layers {
            for (index, step) in layer.steps.iter().enumerate() {
                let written = room(step.writes());
                for other in Buffer::ALL.into_iter().filter(|other| *other != step.writes()) {
                    let lives = layer.is_live(other, index);
                    let overlaps = room(other).start < written.end && written.start < room(other).end;
                    assert!(!(lives && overlaps), "{step:?} writes into {other:?}");
                }
            }
        }
    }
}
