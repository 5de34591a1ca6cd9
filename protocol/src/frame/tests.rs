//! Round trips, golden bytes and hostile bytes.

mod limits;

use std::fmt::Write as _;

use proptest::prelude::*;

use super::{Frame, Message, decode, encode};
use crate::code::ErrorCode;
use crate::header::{Header, Kind};
use crate::ids::{DeviceIndex, NodeId, Place, RequestId};
use crate::limits::*;
use crate::message::*;
use crate::trace::TraceContext;
use crate::units::{Bytes, Micros, Tokens};
use crate::wire::{DecodeError, EncodeError, WIRE_VERSION};

/// The committed wire form of [`samples`]: one line a frame, in hexadecimal.
const GOLDEN: &str = include_str!("../../golden/v1.txt");

fn request() -> EncodeRequest {
    EncodeRequest {
        request_id: RequestId::new(7),
        part: 1,
        attempt: 2,
        to: Some(Place { node: NodeId([8; 16]), device: DeviceIndex(1) }),
        redirects: 1,
        model: "all-minilm-l6-v2".into(),
        items: vec![Input::Text("héllo".into()), Input::Text(String::new()), Input::TokenIds(vec![101, 102])],
        options: EncodeOptions { dims: Some(128), prompt_name: Some("query".into()), ..Default::default() },
        deadline_us: Some(Micros(30_000_000)),
        priority: Priority::Bulk,
        decision: vec![1, 2, 3],
        trace: Some(TraceContext { trace_id: [0x4b; 16], parent_id: [0xf0; 8], flags: 1 }),
    }
}

fn result() -> EncodeResult {
    let failed =
        ItemOutcome::Failed { code: ErrorCode::TooLong, message: "too long".into(), tokens: 300, limit: 256 };
    EncodeResult {
        indices: vec![0, 2],
        outcomes: vec![ItemOutcome::Encoded { tokens: 5, truncated: true }, failed],
        dense: DenseBlock { dtype: DenseDtype::F16, dims: 2, rows: 1, data: vec![0, 60, 0, 188] },
    }
}

fn served_by() -> ServedBy {
    ServedBy {
        node: NodeId([9; 16]),
        device: DeviceIndex(1),
        device_name: "cpu avx512-bf16".into(),
        numerics: Numerics::Bits16,
    }
}

fn load() -> LoadRecord {
    LoadRecord {
        queue_tokens: 1,
        batches_done: 2,
        wait_us: 3,
        free_bytes: 4,
        shed_level: 1,
        ..Default::default()
    }
}

fn status() -> Status {
    let device = DeviceStatus {
        device: DeviceIndex(0),
        name: "cpu avx2".into(),
        reason: "no better instruction set".into(),
        lanes: 2,
        threads: 2,
        load: load(),
        gauges: GaugeSet { queue_tokens_max: Tokens(9), admitted_bytes_max: Bytes(8), ..Default::default() },
    };
    let model = ModelStatus {
        name: "m".into(),
        aliases: vec!["n".into()],
        state: ModelState::Failed,
        bytes: Bytes(0),
        device: None,
        pinned: false,
        numerics: Numerics::F32,
        tokens_max: 256,
        dims: 384,
        matryoshka: true,
        pooling: "mean".into(),
        dtype: "f32".into(),
        error: Some("config.json: not found".into()),
        requests: 1,
        tokens: 2,
    };
    Status {
        node: NodeId([9; 16]),
        generation: 3,
        software: "shoal".into(),
        uptime_us: Micros(4),
        draining: false,
        ready: true,
        warnings: vec!["no issuer renews".into()],
        devices: vec![device],
        models: vec![model],
        histograms: vec![StageHistogram {
            model: "m".into(),
            operation: "encode".into(),
            stage: "queue".into(),
            v2: vec![1],
        }],
        members: vec![MemberStatus {
            node: NodeId([9; 16]),
            generation: 3,
            address: "10.0.0.1:7102".into(),
            state: MemberState::Suspect,
            draining: false,
            models_ready: 2,
        }],
    }
}

fn model_fact() -> ModelFact {
    ModelFact {
        name: "m".into(),
        aliases: vec!["n".into()],
        device: DeviceIndex(1),
        state: ModelState::Ready,
        numerics: Numerics::Bits16,
        bytes: Bytes(45_000_000),
        load_us: Micros(60_000),
    }
}

fn device_fact() -> DeviceFact {
    DeviceFact {
        device: DeviceIndex(1),
        name: "cpu avx2".into(),
        budget_bytes: Bytes(1 << 30),
        tokens_per_s: 9_000,
    }
}

fn version() -> FactsVersion {
    FactsVersion { node: NodeId([9; 16]), generation: 3, version: 4 }
}

fn facts() -> NodeFacts {
    NodeFacts {
        node: NodeId([9; 16]),
        generation: 3,
        version: 4,
        peer_addresses: vec!["10.0.0.1:7000".into()],
        client_addresses: vec!["10.0.0.1:7001".into()],
        draining: false,
        devices: vec![device_fact()],
        models: vec![model_fact()],
    }
}

fn delta() -> FactsDelta {
    FactsDelta {
        node: NodeId([9; 16]),
        generation: 3,
        base_version: 3,
        version: 4,
        draining: Some(true),
        devices_set: vec![device_fact()],
        devices_unset: vec![DeviceIndex(0)],
        models_set: vec![model_fact()],
        models_unset: vec![ModelFactKey { name: "gone".into(), device: DeviceIndex(0) }],
    }
}

fn token() -> JoinToken {
    JoinToken {
        authority: [1; 32],
        issuer: NodeId([9; 16]),
        issuer_address: "10.0.0.1:7001".into(),
        role: Role::Node,
        label: "spot".into(),
        issued_at_unix_s: 1_000,
        expires_at_unix_s: 1_600,
        uses_max: 3,
        nonce: [2; 16],
        mac: [3; 32],
    }
}

fn join_request() -> JoinRequest {
    JoinRequest { token: token(), role: Role::Node, csr: vec![48, 0], now_unix_s: 1_001 }
}

fn grant() -> JoinGrant {
    JoinGrant {
        chain: vec![vec![48, 1], vec![48, 2]],
        authority: vec![48, 3],
        issuers: vec!["10.0.0.1:7001".into()],
        seeds: vec!["10.0.0.1:7002".into()],
        now_unix_s: 1_002,
    }
}

fn member() -> MemberLife {
    MemberLife { node: NodeId([9; 16]), generation: 3, state: MemberState::Suspect }
}

fn node_load() -> NodeLoad {
    NodeLoad { node: NodeId([9; 16]), load: load(), age_us: Micros(900_000) }
}

fn explanation() -> Explanation {
    let attempt = AttemptRecord {
        part: 1,
        attempt: 2,
        model: "m".into(),
        items: 3,
        device: DeviceIndex(1),
        ended_ago_us: Micros(4),
        failure: Some(ErrorCode::Redirect),
        timings: Timings { total_us: Micros(99), ..Default::default() },
        decision: vec![1, 2, 3],
    };
    Explanation { node: NodeId([9; 16]), attempts: vec![attempt] }
}

/// One frame of each kind.
fn samples() -> Vec<Message> {
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        node: NodeId([9; 16]),
        generation: 1,
        software: "shoal".into(),
        peer_address: Some("10.0.0.1:7102".into()),
    };
    let timings = Timings { tokenize_us: Micros(17), total_us: Micros(99), ..Default::default() };
    let beacon = Beacon { phase: Phase::Loading, queue_tokens: 512, batches_done: 3, eta_us: Micros(1000) };
    let end = End { request_id: RequestId::new(7), items: 3, tokens: 7, served_by: served_by(), timings };
    let failure = Failure {
        code: ErrorCode::Overloaded,
        message: "queue full".into(),
        retry_after_us: Some(Micros(250_000)),
        alternatives: vec![Alternative { node: NodeId([8; 16]), load: load() }],
    };
    vec![
        Message::Hello(hello),
        Message::EncodeRequest(request()),
        Message::EncodeResult(result()),
        Message::Beacon(beacon),
        Message::End(end),
        Message::Failure(failure),
        Message::Load(load()),
        Message::StatusRequest(StatusRequest { histograms: true }),
        Message::Status(Box::new(status())),
        Message::Facts(Box::new(facts())),
        Message::FactsDelta(Box::new(delta())),
        Message::FactsDigest(FactsDigest { entries: vec![version()], answer: false }),
        Message::FactsPull(FactsPull { have: version() }),
        Message::LoadProbe(LoadProbe { nonce: 5, device: DeviceIndex(1), model: "m".into() }),
        Message::LoadReply(LoadReply {
            nonce: 5,
            load: load(),
            model: Some(ModelState::Loading),
            ready_in_us: Micros(70_000),
        }),
        Message::JoinToken(Box::new(token())),
        Message::JoinRequest(Box::new(join_request())),
        Message::RenewRequest(RenewRequest { csr: vec![48], now_unix_s: 1_001 }),
        Message::JoinGrant(Box::new(grant())),
        Message::JoinRefusal(JoinRefusal {
            reason: RefusalReason::Exhausted,
            message: "used up".into(),
            now_unix_s: 1_002,
        }),
        Message::LoadRequest(LoadRequest { model: "m".into(), device: DeviceIndex(1) }),
        Message::MeshUpdate(MeshUpdate { members: vec![member()], loads: vec![node_load()], settled: true }),
        Message::ExplainRequest(ExplainRequest { request_id: RequestId::new(7) }),
        Message::Explanation(Box::new(explanation())),
        Message::DrainRequest(DrainRequest { grace_us: Some(Micros(5_000_000)) }),
    ]
}

fn wire(message: Message) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&message.into(), WIRE_VERSION, &mut out).unwrap();
    out
}

/// Splits a frame's bytes as a reader of the stream does.
fn read(bytes: &[u8]) -> Result<Frame, DecodeError> {
    let (header, body) = bytes.split_first_chunk::<{ Header::BYTES }>().unwrap();
    decode(&Header::decode(header)?, body)
}

#[test]
fn every_kind_has_a_sample_and_comes_back() {
    let samples = samples();
    let kinds: Vec<Kind> = samples.iter().map(Message::kind).collect();
    assert_eq!(kinds, Kind::ALL);
    for message in samples {
        assert_eq!(read(&wire(message.clone())).unwrap(), message.into());
    }
}

/// A change of these bytes is a change of the protocol: raise `WIRE_VERSION`, keep the old layout as `previous`,
/// and commit a new file beside this one.
#[test]
fn golden_bytes_of_version_1() {
    let mut now = String::new();
    for message in samples() {
        write!(now, "{:?} ", message.kind()).unwrap();
        wire(message).iter().for_each(|byte| write!(now, "{byte:02x}").unwrap());
        now.push('\n');
    }
    assert_eq!(now, GOLDEN, "the wire form changed; it is now:\n{now}");
}

#[track_caller]
fn refused(message: Message) {
    let kind = message.kind();
    let read = read(&wire(message));
    assert!(matches!(&read, Err(DecodeError::Limit { kind: at, .. }) if *at == kind), "{read:?}");
}

#[test]
fn a_token_does_not_tell_its_secret_to_a_log() {
    let told = format!("{:?}", token());
    assert!(told.contains("spot") && !told.contains("mac") && !told.contains("nonce"), "{told}");
}

#[test]
fn a_body_of_another_length_or_version_is_refused() {
    let bytes = wire(Message::EncodeRequest(request()));
    assert!(matches!(read(&bytes[..bytes.len() - 1]), Err(DecodeError::Length { .. })));
    let (header, body) = bytes.split_first_chunk::<{ Header::BYTES }>().unwrap();
    let newer = Header { schema: WIRE_VERSION + 1, ..Header::decode(header).unwrap() };
    assert!(matches!(decode(&newer, body), Err(DecodeError::Schema { .. })));
}

#[test]
fn a_frame_over_its_limit_is_not_sent() {
    let text = Input::Text("a".repeat(ITEM_TEXT_BYTES_MAX));
    let message = Message::EncodeRequest(EncodeRequest { items: vec![text; 5], ..request() });
    let mut out = vec![1];
    assert!(matches!(encode(&message.into(), WIRE_VERSION, &mut out), Err(EncodeError::TooLarge { .. })));
    assert_eq!(out, [1], "nothing was written");
}

#[test]
fn dense_rows_have_the_bytes_that_their_type_needs() {
    let bytes = |dtype: DenseDtype| dtype.row_bytes(9);
    assert_eq!(bytes(DenseDtype::F32), 36);
    assert_eq!(bytes(DenseDtype::F16), 18);
    assert_eq!(bytes(DenseDtype::I8), 9);
    assert_eq!(bytes(DenseDtype::U8), 9);
    assert_eq!(bytes(DenseDtype::Bits), 2);
}

proptest! {
    /// Whatever arrives, reading it returns: it never panics, and it never accepts what breaks a limit.
    #[test]
    fn damaged_frames_never_panic(
        sample in 0..Kind::ALL.len(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = wire(samples().swap_remove(sample));
        let body = bytes.len() - Header::BYTES;
        for (at, value) in damage {
            bytes[Header::BYTES + at.index(body)] = value;
        }
        if let Ok(frame) = read(&bytes) {
            prop_assert!(encode(&frame, WIRE_VERSION, &mut Vec::new()).is_ok());
        }
    }

    #[test]
    fn random_bodies_never_panic(kind in 0..Kind::ALL.len(), body in prop::collection::vec(any::<u8>(), 0..512)) {
        let length = u32::try_from(body.len()).unwrap();
        let header = Header { kind: Kind::ALL[kind], schema: WIRE_VERSION, length, hops: 0 };
        let _ = decode(&header, &body);
    }

    #[test]
    fn random_headers_never_panic(bytes in any::<[u8; Header::BYTES]>()) {
        prop_assert!(Header::decode(&bytes).is_err(), "the check makes an accidental header improbable");
    }
}
