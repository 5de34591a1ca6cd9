use std::time::Duration;

use shoal::clock;
use shoal::node::Node;
use shoal_kernels::{Dtype, DtypePolicy};
use shoal_mesh::{Client, Encode, ItemResult};
use shoal_protocol::message::Truncate;
use shoal_tests::golden::{self, cosine};
use shoal_tests::serving::{Ground, MODEL, ground};
use shoal_tests::test_model;

const PATIENCE: Duration = Duration::from_secs(60);

async fn start(dtype: DtypePolicy) -> (Node, Ground) {
    let ground = ground(test_model::all_minilm_l6_v2(), dtype);
    let node = Node::start(ground.config.clone()).await.expect("the node starts");
    (node, ground)
}

fn vector_of(item: &ItemResult) -> Vec<f32> {
    let vector = item.vector().unwrap_or_else(|| panic!("{item:?}"));
    vector.as_f32().expect("asked for f32").into_owned()
}

async fn items(client: &Client, texts: &[&str]) -> Vec<ItemResult> {
    let call = Encode::new(MODEL, texts.iter().copied()).truncate(Truncate::Right).no_deadline();
    client.encode(call).await.expect("encoded").items
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_over_quic_get_the_vectors_and_token_counts_of_sentence_transformers() {
    for (dtype, least) in [(DtypePolicy::Exact(Dtype::F32), 0.99999), (DtypePolicy::Auto, 0.9995)] {
        let (node, ground) = start(dtype).await;
        let client = ground.connect(&node).await;
        let cases = golden::minilm();
        let texts: Vec<&str> = cases.iter().map(|(case, _)| case.text.as_str()).collect();
        let answers = items(&client, &texts).await;
        assert_eq!(answers.len(), cases.len());
        for (answer, (case, truth)) in answers.iter().zip(&cases) {
            assert_eq!(answer.tokens_seen() as usize, case.ids.len(), "{:?}", case.note);
            let near = cosine(&vector_of(answer), truth);
            assert!(near >= least, "{dtype}: {near} for {:?}", case.note);
        }
        // The same texts in process and one by one: the same bits, whatever the batch and the link.
        for index in [0, 50, 100, 199] {
            let alone = items(&node.client(), &texts[index..=index]).await;
            assert_eq!(vector_of(&alone[0]), vector_of(&answers[index]), "text {index}");
        }
        node.shutdown(PATIENCE).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_dropped_over_quic_frees_the_nodes_slots() {
    let (node, ground) = start(DtypePolicy::Auto).await;
    let client = ground.connect(&node).await;
    let texts: Vec<String> = (0..20_000).map(|index| format!("{index} {}", "word ".repeat(100))).collect();
    let gauge = async || {
        let status = node.status(false).await;
        (status.devices[0].load.requests, status.devices[0].gauges)
    };
    let until = async |what: &str, holds: fn(u32, u64) -> bool| {
        let deadline = clock::now() + PATIENCE;
        loop {
            let (requests, gauges) = gauge().await;
            if holds(requests, gauges.admitted_bytes.0) {
                return;
            }
            assert!(clock::now() < deadline, "never {what}: {requests} requests, {gauges:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    {
        let mut call = std::pin::pin!(client.encode(Encode::new(MODEL, texts).no_deadline()));
        tokio::select! {
            _ = &mut call => panic!("two million tokens in no time"),
            () = until("in flight", |requests, bytes| requests > 0 && bytes > 0) => {}
        }
    }
    until("free", |requests, bytes| requests == 0 && bytes == 0).await;
    assert!(gauge().await.1.cancelled > 0);
    assert_eq!(items(&client, &["still here"]).await.len(), 1);
}
