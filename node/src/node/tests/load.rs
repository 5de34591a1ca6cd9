use shoal_protocol::message::ModelState;
use tokio::task::JoinSet;

use super::*;

fn resident(status: &Status) -> Vec<&str> {
    let ready = status.models.iter().filter(|model| model.state == ModelState::Ready);
    ready.map(|model| model.name.as_str()).collect()
}

/// Bytes of each model alone, as measured by a node with room for it.
async fn bytes_of(model: &str) -> u64 {
    let node = start(golden_config(&[model])).await;
    let (_, gauges) = gauges(&node).await;
    gauges.resident_bytes.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_models_share_a_budget_for_one_without_a_failure() {
    let models = ["mean", "sharded-current"];
    let (first, second) = (bytes_of(models[0]).await, bytes_of(models[1]).await);
    let mut config = golden_config(&models);
    config.models.preload.clear();
    // Either fits, with the margin that the estimate needs; both do not.
    config.device.resident_bytes_max = first.max(second) + first.min(second) / 2;
    config.device.residency_min = Duration::from_millis(50);
    let budget = config.device.resident_bytes_max;
    let node = start(config).await;
    let mut calls = JoinSet::new();
    for caller in 0..4 {
        let (client, model) = (node.client(), models[caller % 2]);
        calls.spawn(async move {
            for round in 0..15 {
                let texts = (0..20).map(|index| format!("caller {caller} round {round} text {index}"));
                let encoded = client.encode(Encode::new(model, texts).no_deadline()).await;
                assert_eq!(encoded.expect("never a failure").items.len(), 20);
            }
        });
    }
    while let Some(call) = calls.join_next().await {
        call.expect("every call was answered");
        let (_, gauges) = gauges(&node).await;
        assert!(gauges.resident_bytes.0 <= budget, "{gauges:?}");
    }
    let (_, gauges) = gauges(&node).await;
    assert!(gauges.evictions >= 1 && gauges.loads >= 2, "{gauges:?}");
    assert_eq!(resident(&node.status(false).await).len(), 1);
}

#[tokio::test]
async fn an_idle_model_is_unloaded_and_comes_back() {
    let mut config = golden_config(&["mean"]);
    config.device.keep_alive = Some(Duration::from_millis(100));
    let node = start(config).await;
    until(&node, "unloaded", |_, gauges| gauges.resident_bytes.0 == 0).await;
    assert!(resident(&node.status(false).await).is_empty());
    assert_eq!(vectors(&node, Encode::new("mean", ["a"])).await.len(), 1);
}

#[tokio::test]
async fn a_pinned_model_stays() {
    let mut config = golden_config(&["mean", "sharded-current"]);
    config.models.pin = vec!["mean-alias".to_owned()];
    config.device.keep_alive = Some(Duration::from_millis(100));
    let node = start(config).await;
    until(&node, "the other is unloaded", |_, gauges| gauges.evictions == 1).await;
    assert_eq!(resident(&node.status(false).await), ["mean"]);
}

/// That batches keep to the ceiling is tested on the core's virtual clock. Here it must reach the core, which then
/// never claims more, however fast or busy the machine is.
#[tokio::test]
async fn the_configured_ceiling_reaches_the_device() {
    let mut config = golden_config(&["mean"]);
    config.device.tokens_per_s_max = Some(2000);
    let node = start(config).await;
    let status = node.status(false).await;
    let speed = status.devices[0].load.tokens_per_s;
    assert!((1..=2000).contains(&speed), "{speed}: the self-test alone runs at many times the ceiling");
}

#[tokio::test]
async fn a_model_is_loaded_once_for_many_callers() {
    let mut config = golden_config(&["mean"]);
    config.models.preload.clear();
    let node = start(config).await;
    let mut calls = JoinSet::new();
    for _ in 0..32 {
        let client = node.client();
        calls.spawn(async move { client.encode(Encode::new("mean", ["a text"])).await });
    }
    let mut answers = Vec::new();
    while let Some(call) = calls.join_next().await {
        answers.push(f32_of(&call.expect("no panic").expect("encoded").items[0]));
    }
    assert!(answers.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(gauges(&node).await.1.loads, 1);
}
