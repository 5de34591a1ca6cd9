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
