//! Frames of every kind.

use super::*;

pub(super) fn encode_task() -> Task {
    EncodeOptions { dims: Some(128), prompt_name: Some("query".into()), ..Default::default() }.into()
}

pub(super) fn request() -> TaskRequest {
    TaskRequest {
        request_id: RequestId::new(7),
        part: 1,
        attempt: 2,
        to: Some(Place { node: NodeId([8; 16]), device: DeviceIndex(1) }),
        redirects: 1,
        model: "all-minilm-l6-v2".into(),
        items: vec![Input::Text("héllo".into()), Input::Text(String::new()), Input::TokenIds(vec![101, 102])],
        task: encode_task(),
        deadline_us: Some(Micros(30_000_000)),
        priority: Priority::Bulk,
        decision: vec![1, 2, 3],
        trace: Some(TraceContext { trace_id: [0x4b; 16], parent_id: [0xf0; 8], flags: 1 }),
    }
}

pub(super) fn result() -> TaskResult {
    let failed =
        ItemOutcome::Failed { code: ErrorCode::TooLong, message: "too long".into(), tokens: 300, limit: 256 };
    TaskResult {
        indices: vec![0, 2],
        outcomes: vec![ItemOutcome::Answered { tokens: 5, truncated: true }, failed],
        answers: DenseBlock { dtype: DenseDtype::F16, dims: 2, rows: 1, data: vec![0, 60, 0, 188] }.into(),
    }
}

/// A request for each of the other tasks.
pub(super) fn other_requests() -> impl Iterator<Item = TaskRequest> {
    let score = ScoreOptions {
        query: "who?".into(),
        raw: true,
        instruction: Some("find it".into()),
        truncate: Truncate::Right,
        numerics: Numerics::F32,
    };
    let extract = ExtractOptions {
        labels: vec!["person".into(), "a, b".into()],
        hypothesis: Some("It is about {}.".into()),
        multi_label: true,
        nested: true,
        threshold: Some(0.5),
        truncate: Truncate::Left,
        ..ExtractOptions::default()
    };
    let encode = EncodeOptions {
        outputs: VectorSet { sparse: true, multivector: true, ..VectorSet::DENSE },
        input_type: Some(InputType::Document),
        chunking: Some(Box::new(Chunking { pooling: ChunkPooling::Late, tokens: Some(256), overlap: 32 })),
        prompt: Some("query: ".into()),
        ..EncodeOptions::default()
    };
    [score.into(), extract.into(), encode.into()].into_iter().map(|task| TaskRequest { task, ..request() })
}

/// A result with each of the other answers.
pub(super) fn other_results() -> impl Iterator<Item = TaskResult> {
    let spans = SpanBlock {
        labels: vec!["person".into()],
        ends: vec![1],
        spans: vec![Span { start: 0, end: 5, label: 0, score: 0.75 }],
    };
    let vectors = Answers::Vectors {
        dense: Some(DenseBlock { dtype: DenseDtype::I8, dims: 1, rows: 1, data: vec![7] }),
        sparse: Some(Box::new(SparseBlock { ends: vec![2], indices: vec![3, 9], values: vec![0.5, 1.5] })),
        multivector: Some(Box::new(MultivectorBlock {
            dtype: DenseDtype::U8,
            dims: 2,
            ends: vec![2],
            data: vec![1, 2, 3, 4],
        })),
    };
    let classes = ClassBlock { labels: vec!["spam".into(), "ham".into()], scores: vec![0.25, 0.75] };
    let chunks = ChunkBlock {
        vectors: MultivectorBlock { dtype: DenseDtype::I8, dims: 1, ends: vec![2], data: vec![5, 6] },
        places: vec![ChunkPlace { start: 0, end: 4 }, ChunkPlace { start: 3, end: 9 }],
    };
    let chunks = Answers::Chunks(Box::new(chunks));
    [Answers::Scores(vec![-1.5]), Answers::Spans(spans), Answers::Classes(classes), vectors, chunks]
        .into_iter()
        .map(|answers| TaskResult { answers, ..result() })
}

/// What the samples, one of each kind, do not show.
pub(super) fn more_samples() -> Vec<Message> {
    let requests = other_requests().map(Message::TaskRequest);
    requests.chain(other_results().map(Message::TaskResult)).collect()
}

pub(super) fn served_by() -> ServedBy {
    ServedBy {
        node: NodeId([9; 16]),
        device: DeviceIndex(1),
        device_name: "cpu avx512-bf16".into(),
        numerics: Numerics::Bits16,
    }
}

pub(super) fn load() -> LoadRecord {
    LoadRecord {
        queue_tokens: 1,
        batches_done: 2,
        wait_us: 3,
        free_bytes: 4,
        shed_level: 1,
        ..Default::default()
    }
}

pub(super) fn status() -> Status {
    let device = DeviceStatus {
        device: DeviceIndex(0),
        name: "cpu avx2".into(),
        reason: "no better instruction set".into(),
        is_up: true,
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
        placed: "as configured".into(),
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

pub(super) fn model_fact() -> ModelFact {
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

pub(super) fn device_fact() -> DeviceFact {
    DeviceFact {
        device: DeviceIndex(1),
        name: "cpu avx2".into(),
        budget_bytes: Bytes(1 << 30),
        tokens_per_s: 9_000,
    }
}

pub(super) fn version() -> FactsVersion {
    FactsVersion { node: NodeId([9; 16]), generation: 3, version: 4 }
}

pub(super) fn facts() -> NodeFacts {
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

pub(super) fn delta() -> FactsDelta {
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

pub(super) fn token() -> JoinToken {
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

pub(super) fn join_request() -> JoinRequest {
    JoinRequest { token: token(), role: Role::Node, csr: vec![48, 0], now_unix_s: 1_001 }
}

pub(super) fn grant() -> JoinGrant {
    JoinGrant {
        chain: vec![vec![48, 1], vec![48, 2]],
        authority: vec![48, 3],
        issuers: vec!["10.0.0.1:7001".into()],
        seeds: vec!["10.0.0.1:7002".into()],
        now_unix_s: 1_002,
    }
}

pub(super) fn member() -> MemberLife {
    MemberLife { node: NodeId([9; 16]), generation: 3, state: MemberState::Suspect }
}

pub(super) fn node_load() -> NodeLoad {
    NodeLoad { node: NodeId([9; 16]), load: load(), age_us: Micros(900_000) }
}

pub(super) fn explanation() -> Explanation {
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
pub(super) fn samples() -> Vec<Message> {
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
        Message::TaskRequest(request()),
        Message::TaskResult(result()),
        Message::Beacon(beacon),
        Message::End(end),
        Message::Failure(failure),
        Message::Load(load()),
        Message::StatusRequest(StatusRequest { histograms: true, to: None }),
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
        Message::ExplainRequest(ExplainRequest { request_id: RequestId::new(7), to: Some(NodeId([8; 16])) }),
        Message::Explanation(Box::new(explanation())),
        Message::DrainRequest(DrainRequest { grace_us: Some(Micros(5_000_000)) }),
    ]
}
