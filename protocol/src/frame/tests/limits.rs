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
    let refused = |request: EncodeRequest| refused(Message::EncodeRequest(request));
    refused(EncodeRequest { items: vec![Input::Text(String::new()); REQUEST_ITEMS_MAX + 1], ..request() });
    refused(EncodeRequest { items: vec![Input::Text("a".repeat(ITEM_TEXT_BYTES_MAX + 1))], ..request() });
    refused(EncodeRequest { decision: vec![0; DECISION_BYTES_MAX + 1], ..request() });
    refused(EncodeRequest { model: "m".repeat(1000), ..request() });
    refused(EncodeRequest { redirects: REDIRECTS_MAX + 1, ..request() });
    let trace = Some(TraceContext { trace_id: [0; 16], parent_id: [1; 8], flags: 0 });
    refused(EncodeRequest { trace, ..request() });
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
    let refused = |result: EncodeResult| refused(Message::EncodeResult(result));
    refused(EncodeResult { indices: vec![0], ..result() });
    refused(EncodeResult { indices: vec![0, u32::MAX], ..result() });
    refused(EncodeResult { dense: DenseBlock { rows: 2, ..result().dense }, ..result() });
    refused(EncodeResult { dense: DenseBlock { data: vec![0; 3], ..result().dense }, ..result() });
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
