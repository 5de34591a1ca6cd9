//! What is sound as an archive and still refused.

use super::*;

#[test]
fn a_hello_over_its_limits_is_refused() {
    let Message::Hello(hello) = samples().swap_remove(0) else {
        panic!("the first sample");
    };
    let peer_address = Some("1".repeat(ADDRESS_BYTES_MAX + 1));
    refused(Message::Hello(Hello { peer_address, ..hello }));
}

#[test]
fn a_request_over_its_limits_is_refused() {
    let refused = |request: TaskRequest| refused(Message::TaskRequest(request));
    refused(TaskRequest { items: vec![Input::Text(String::new()); REQUEST_ITEMS_MAX + 1], ..request() });
    refused(TaskRequest { items: vec![Input::Text("a".repeat(ITEM_TEXT_BYTES_MAX + 1))], ..request() });
    refused(TaskRequest { decision: vec![0; DECISION_BYTES_MAX + 1], ..request() });
    refused(TaskRequest { model: "m".repeat(1000), ..request() });
    refused(TaskRequest { redirects: REDIRECTS_MAX + 1, ..request() });
    let trace = Some(TraceContext { trace_id: [0; 16], parent_id: [1; 8], flags: 0 });
    refused(TaskRequest { trace, ..request() });
}

#[test]
fn a_failure_names_few_places_and_a_redirect_at_least_one() {
    let refused = |code, named| {
        let alternatives = vec![Alternative { node: NodeId([8; 16]), load: load() }; named];
        let failure = Failure { alternatives, ..Failure::new(code, String::new()) };
        let read = read(&wire(Message::Failure(failure)));
        matches!(read, Err(DecodeError::Limit { kind: Kind::Error, .. }))
    };
    assert!(refused(ErrorCode::Redirect, 0) && !refused(ErrorCode::Redirect, ALTERNATIVES_MAX));
    assert!(refused(ErrorCode::Overloaded, ALTERNATIVES_MAX + 1) && !refused(ErrorCode::Overloaded, 0));
}

#[test]
fn a_result_whose_parts_disagree_is_refused() {
    let refused = |result: TaskResult| refused(Message::TaskResult(result));
    refused(TaskResult { indices: vec![0], ..result() });
    refused(TaskResult { indices: vec![0, u32::MAX], ..result() });
    let dense = |rows, bytes| DenseBlock { dtype: DenseDtype::F16, dims: 2, rows, data: vec![0; bytes] };
    for answers in [
        dense(2, 8).into(),
        dense(1, 3).into(),
        Answers::NONE,
        Answers::Scores(Vec::new()),
        Answers::Scores(vec![1.0; 2]),
        Answers::Scores(vec![f32::NAN]),
    ] {
        refused(TaskResult { answers, ..result() });
    }
}

#[test]
fn rows_that_lie_about_their_ends_are_refused() {
    let refused = |change: fn(&mut Answers)| {
        for mut result in other_results() {
            let sound = result.answers.clone();
            change(&mut result.answers);
            if result.answers != sound {
                refused(Message::TaskResult(result));
            }
        }
    };
    refused(|answers| match answers {
        Answers::Vectors { sparse: Some(sparse), multivector: Some(multivector), .. } => {
            sparse.ends = vec![1];
            multivector.ends = vec![u32::MAX];
        }
        Answers::Spans(block) => block.ends = vec![0],
        Answers::Classes(block) => block.scores.clear(),
        Answers::Chunks(block) => block.places.clear(),
        _ => {}
    });
    refused(|answers| match answers {
        Answers::Vectors { sparse: Some(sparse), .. } => sparse.values.clear(),
        Answers::Spans(block) => block.spans[0].label = 9,
        Answers::Classes(block) => block.labels = vec!["l".repeat(LABEL_BYTES_MAX + 1)],
        Answers::Chunks(block) => block.places[0].start = 99,
        _ => {}
    });
    refused(|answers| match answers {
        Answers::Vectors { multivector: Some(multivector), .. } => multivector.data.push(0),
        Answers::Spans(block) => block.spans[0].start = 99,
        Answers::Classes(block) => block.scores[1] = f32::INFINITY,
        Answers::Chunks(block) => {
            let chunks = CHUNKS_PER_ITEM_MAX + 1;
            block.places = vec![block.places[0]; chunks];
            block.vectors.data = vec![0; chunks];
            block.vectors.ends = vec![chunks as u32];
        }
        _ => {}
    });
    refused(|answers| match answers {
        Answers::Vectors { sparse: Some(sparse), .. } => sparse.ends = vec![2, 2],
        Answers::Spans(block) => {
            block.spans = vec![block.spans[0]; SPANS_PER_ITEM_MAX + 1];
            block.ends = vec![block.spans.len() as u32];
        }
        _ => {}
    });
}

#[test]
fn a_task_over_its_limits_is_refused() {
    let refused = |task: Task| {
        assert!(task.check().is_err(), "{task:?}");
        refused(Message::TaskRequest(TaskRequest { task, ..request() }));
    };
    let encode = EncodeOptions::default;
    refused(EncodeOptions { prompt_name: Some("p".repeat(MODEL_NAME_BYTES_MAX + 1)), ..encode() }.into());
    refused(EncodeOptions { prompt: Some("p".repeat(PROMPT_BYTES_MAX + 1)), ..encode() }.into());
    refused(EncodeOptions { prompt: Some("p".into()), prompt_name: Some("q".into()), ..encode() }.into());
    let chunks = |tokens, overlap| {
        let chunking = Chunking { tokens, overlap, ..Chunking::default() };
        EncodeOptions { chunking: Some(Box::new(chunking)), ..encode() }.into()
    };
    refused(chunks(Some(0), 0));
    refused(chunks(Some(9), 5));
    let score = ScoreOptions::default;
    refused(ScoreOptions { query: "q".repeat(QUERY_BYTES_MAX + 1), ..score() }.into());
    refused(ScoreOptions { instruction: Some("i".repeat(PROMPT_BYTES_MAX + 1)), ..score() }.into());
    let labels = |labels| Task::from(ExtractOptions { labels, ..ExtractOptions::default() });
    let numbered = |count: usize, width: usize| (0..count).map(|n| format!("{n:0width$}")).collect();
    refused(labels(numbered(LABELS_MAX + 1, 1)));
    refused(labels(numbered(1, LABEL_BYTES_MAX + 1)));
    refused(labels(numbered(LABELS_BYTES_MAX / LABEL_BYTES_MAX + 1, LABEL_BYTES_MAX)));
    refused(labels(vec!["a".into(), " ".into()]));
    refused(labels(vec!["a".into(), "b".into(), "a".into()]));
    let asks =
        |hypothesis: String| ExtractOptions { hypothesis: Some(hypothesis), ..ExtractOptions::default() };
    for hypothesis in
        ["no place".to_owned(), "{} and {}".to_owned(), format!("{{}}{}", "h".repeat(PROMPT_BYTES_MAX))]
    {
        refused(asks(hypothesis).into());
    }
    let threshold = Some(f32::NAN);
    refused(ExtractOptions { threshold, ..ExtractOptions::default() }.into());
}

#[test]
fn facts_over_their_limits_are_refused() {
    refused(Message::LoadRequest(LoadRequest { model: "m".repeat(1000), device: DeviceIndex(0) }));
    let facts_of = |change: fn(&mut NodeFacts)| {
        let mut facts = facts();
        change(&mut facts);
        Message::Facts(Box::new(facts))
    };
    refused(facts_of(|facts| facts.peer_addresses = vec!["a:1".into(); FACTS_ADDRESSES_MAX + 1]));
    refused(facts_of(|facts| facts.client_addresses = vec!["a".repeat(ADDRESS_BYTES_MAX + 1)]));
    refused(facts_of(|facts| facts.devices = vec![device_fact(); FACTS_DEVICES_MAX + 1]));
    refused(facts_of(|facts| facts.models = vec![model_fact(); FACTS_MODELS_MAX + 1]));
    refused(facts_of(|facts| facts.models[0].name = "m".repeat(MODEL_NAME_BYTES_MAX + 1)));
    refused(facts_of(|facts| facts.models[0].aliases = vec!["n".into(); FACTS_ALIASES_MAX + 1]));
    refused(Message::FactsDelta(Box::new(FactsDelta { base_version: 4, ..delta() })));
    let entries = vec![version(); FACTS_DIGEST_MAX + 1];
    refused(Message::FactsDigest(FactsDigest { entries, answer: false }));
    let model = "m".repeat(MODEL_NAME_BYTES_MAX + 1);
    refused(Message::LoadProbe(LoadProbe { nonce: 1, device: DeviceIndex(0), model }));
    let members = vec![member(); UPDATE_MEMBERS_MAX + 1];
    refused(Message::MeshUpdate(MeshUpdate { members, ..Default::default() }));
    let loads = vec![node_load(); UPDATE_LOADS_MAX + 1];
    refused(Message::MeshUpdate(MeshUpdate { loads, ..Default::default() }));
}

#[test]
fn certificates_over_their_limits_are_refused() {
    let long = vec![0; CERTIFICATE_BYTES_MAX + 1];
    refused(Message::JoinToken(Box::new(JoinToken { label: "l".repeat(65), ..token() })));
    refused(Message::JoinRequest(Box::new(JoinRequest { csr: long.clone(), ..join_request() })));
    let issuer_address = "a".repeat(ADDRESS_BYTES_MAX + 1);
    let request = JoinRequest { token: JoinToken { issuer_address, ..token() }, ..join_request() };
    refused(Message::JoinRequest(Box::new(request)));
    refused(Message::RenewRequest(RenewRequest { csr: long.clone(), now_unix_s: 0 }));
    refused(Message::JoinGrant(Box::new(JoinGrant { chain: vec![long.clone()], ..grant() })));
    refused(Message::JoinGrant(Box::new(JoinGrant { chain: vec![Vec::new(); 4], ..grant() })));
    refused(Message::JoinGrant(Box::new(JoinGrant { authority: long, ..grant() })));
    refused(Message::JoinGrant(Box::new(JoinGrant { issuers: vec![String::new(); 17], ..grant() })));
    refused(Message::JoinGrant(Box::new(JoinGrant { seeds: vec![String::new(); 17], ..grant() })));
    let seeds = vec!["a".repeat(ADDRESS_BYTES_MAX + 1)];
    refused(Message::JoinGrant(Box::new(JoinGrant { seeds, ..grant() })));
}

#[test]
fn explanations_over_their_limits_are_refused() {
    let explained = |change: fn(&mut Explanation)| {
        let mut explanation = explanation();
        change(&mut explanation);
        Message::Explanation(Box::new(explanation))
    };
    refused(explained(|told| told.attempts = vec![told.attempts[0].clone(); EXPLAINED_ATTEMPTS_MAX + 1]));
    refused(explained(|told| told.attempts[0].model = "m".repeat(MODEL_NAME_BYTES_MAX + 1)));
    refused(explained(|told| told.attempts[0].decision = vec![0; DECISION_BYTES_MAX + 1]));
}
