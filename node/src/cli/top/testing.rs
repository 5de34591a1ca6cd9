//! Nodes as they would tell of themselves.

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2Serializer};
use shoal_protocol::message::{
    DeviceStatus, GaugeSet, LoadRecord, MemberState, MemberStatus, ModelState, ModelStatus, Numerics,
    StageHistogram, Status,
};
use shoal_protocol::{Bytes, DeviceIndex, Micros, NodeId};

use crate::cli::census::{Census, Heard};

/// A node that answered `requests` requests for model `m`, each in 1 ms.
pub(super) fn node(key: u8, generation: u64, requests: u64) -> Heard {
    let id = NodeId([key; 16]);
    let mut total = Histogram::<u64>::new_with_bounds(1, 3_600_000_000, 2).unwrap();
    total.record_n(1_000, requests).unwrap();
    let mut v2 = Vec::new();
    V2Serializer::new().serialize(&total, &mut v2).unwrap();
    let device = DeviceStatus {
        device: DeviceIndex(0),
        name: "cpu avx2".into(),
        reason: String::new(),
        is_up: true,
        lanes: 2,
        threads: 2,
        load: LoadRecord { tokens_per_s: 9_000, queue_tokens: u64::from(key) * 100, ..LoadRecord::default() },
        gauges: GaugeSet::default(),
    };
    let status = Status {
        node: id,
        generation,
        software: "shoal".into(),
        uptime_us: Micros(0),
        draining: false,
        ready: true,
        warnings: Vec::new(),
        devices: vec![device],
        models: vec![model("m", requests)],
        histograms: vec![StageHistogram {
            model: "m".into(),
            operation: "encode".into(),
            stage: "total".into(),
            v2,
        }],
        members: Vec::new(),
    };
    Heard { member: member(key, MemberState::Alive), status: Ok(status) }
}

pub(super) fn member(key: u8, state: MemberState) -> MemberStatus {
    MemberStatus {
        node: NodeId([key; 16]),
        generation: 1,
        address: format!("10.0.0.{key}:7102"),
        state,
        draining: false,
        models_ready: 1,
    }
}

fn model(name: &str, requests: u64) -> ModelStatus {
    ModelStatus {
        name: name.into(),
        aliases: Vec::new(),
        state: ModelState::Ready,
        bytes: Bytes(45_000_000),
        device: Some(DeviceIndex(0)),
        pinned: false,
        numerics: Numerics::F32,
        tokens_max: 256,
        dims: 384,
        matryoshka: false,
        pooling: "mean".into(),
        dtype: "f32".into(),
        placed: String::new(),
        error: None,
        requests,
        tokens: requests * 10,
    }
}

/// What the first of them heard of all.
pub(super) fn census(heard: impl IntoIterator<Item = Heard>) -> Census {
    let heard: Vec<_> = heard.into_iter().collect();
    Census { entry: heard[0].member.node, heard }
}
