//! Whole nodes in process, on tiny checkpoints. Where a lane must stall or break, it is the real lane behind a gate.

mod answers;
mod faults;
mod gate;
mod leaving;
mod load;
mod members;
mod placing;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use shoal_kernels::{CpuIsa, Dtype, DtypePolicy};
use shoal_mesh::{Encode, ItemResult};
use shoal_protocol::message::{GaugeSet, Status};

use super::Node;
use crate::actors::backend::{Backend, CpuBackend};
use crate::clock;
use crate::config::{
    DeviceConfig, DeviceKind, GpuConfig, HubConfig, LocalModel, ModelsConfig, NodeConfig, StoreConfig,
    TokenIdsPolicy,
};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn golden() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/bert"))
}

fn config(models: &[(&str, &Path)]) -> NodeConfig {
    let local = models.iter().map(|(name, dir)| LocalModel {
        name: (*name).to_owned(),
        aliases: vec![format!("{name}-alias")],
        dir: dir.to_path_buf(),
    });
    let nowhere = golden().join("nowhere");
    NodeConfig {
        data_dir: nowhere.clone(),
        drain: Duration::from_secs(5),
        http: None,
        quic: None,
        mesh: None,
        notices: None,
        device: DeviceConfig {
            kind: DeviceKind::Cpu,
            dtype: DtypePolicy::Exact(Dtype::F32),
            cpu_isa: None,
            threads: 2,
            tokenizer_threads: 1,
            tokens_per_s_max: None,
            resident_bytes_max: 1 << 30,
            queue_tokens_max: 100_000,
            admitted_bytes_max: 1 << 20,
            batch_target: Duration::from_millis(25),
            batch_tokens_max: 4096,
            batch_sequences_max: 512,
            requests_max: 4096,
            keep_alive: None,
            residency_min: Duration::ZERO,
        },
        gpu: GpuConfig { batch_tokens_max: 4096, ..GpuConfig::default() },
        models: ModelsConfig {
            store: StoreConfig {
                models_dir: nowhere.clone(),
                catalogue_dir: nowhere.clone(),
                local: local.collect(),
                hub: HubConfig {
                    endpoint: "http://127.0.0.1:9".to_owned(),
                    token: None,
                    cache_dir: nowhere,
                    ca_file: None,
                    offline: true,
                },
            },
            preload: Vec::new(),
            pin: Vec::new(),
            token_ids: TokenIdsPolicy::Refuse,
        },
    }
}

/// A node that serves golden checkpoints of these names, preloaded.
fn golden_config(names: &[&str]) -> NodeConfig {
    let dirs: Vec<PathBuf> = names.iter().map(|name| golden().join(name)).collect();
    let models: Vec<(&str, &Path)> =
        names.iter().zip(&dirs).map(|(name, dir)| (*name, dir.as_path())).collect();
    let mut config = config(&models);
    config.models.preload = names.iter().map(|name| (*name).to_owned()).collect();
    config
}

fn cpu() -> Arc<dyn Backend> {
    Arc::new(CpuBackend::new(CpuIsa::detect(), 2))
}

async fn start(config: NodeConfig) -> Node {
    Node::start_on(config, cpu()).await.expect("the node starts")
}

async fn gauges(node: &Node) -> (u32, GaugeSet) {
    let status: Status = node.status(false).await;
    status.devices.first().map_or((0, GaugeSet::default()), |device| (device.load.requests, device.gauges))
}

/// Waits until the node's first device shows what is wanted.
async fn until(node: &Node, what: &str, holds: impl Fn(u32, &GaugeSet) -> bool) {
    let deadline = clock::now() + PATIENCE;
    loop {
        let (requests, gauges) = gauges(node).await;
        if holds(requests, &gauges) {
            return;
        }
        assert!(clock::now() < deadline, "never: {what}; {requests} requests, {gauges:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn f32_of(item: &ItemResult) -> Vec<f32> {
    let vector = item.vector().unwrap_or_else(|| panic!("{item:?}"));
    vector.as_f32().expect("asked for f32").into_owned()
}

async fn vectors(node: &Node, call: Encode) -> Vec<Vec<f32>> {
    let encoded = node.client().encode(call).await.expect("encoded");
    encoded.items.iter().map(f32_of).collect()
}
