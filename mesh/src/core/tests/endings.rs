//! How a call ends half-way, and how its input may come: a part at a time, or a text now and then.

use super::*;

fn call(deadline: Option<Duration>) -> (Call, Shared, Instant) {
    let start = origin();
    let spec = CallSpec {
        request_id: RequestId::new(1),
        model: "m".to_owned(),
        options: EncodeOptions::default(),
        priority: Priority::Bulk,
        deadline: deadline.map(|after| start + after),
        when_overloaded: WhenOverloaded::Fail,
        seed: 1,
        trace: None,
    };
    (Call::new(spec, start), Shared::default(), start)
}

fn text(number: usize) -> Input {
    Input::Text(format!("{number} {}", "x".repeat(4000)))
}

/// Three parts under way, of which the second has all its answers and the first lacks its last one.
fn with_a_gap(call: &mut Call, shared: &mut Shared, now: Instant) -> u64 {
    (0..60).for_each(|number| call.handle_input(text(number), shared));
    call.handle_input_end();
    let sent: Vec<_> = std::iter::from_fn(|| call.poll_submit(shared, now)).collect();
    assert!(sent.len() >= 3, "{} parts", sent.len());
    for (submit, missing) in sent.iter().zip([1, 0]) {
        let rows: Vec<u32> = (0..submit.request.items.len() as u32 - missing).collect();
        call.handle_frame(submit.key, Message::EncodeResult(result(&submit.request, &rows)), shared, now);
    }
    sent[0].request.items.len() as u64 - 1
}

#[test]
fn what_was_answered_before_the_failure_is_given_first() {
    let (mut call, mut shared, now) = call(None);
    let answered = with_a_gap(&mut call, &mut shared, now);
    assert_eq!(call.poll_item().map(|(index, _)| index), Some(0));
    let key = AttemptKey { part: 2, attempt: 0 };
    call.handle_frame(key, refusal(ErrorCode::Overloaded, None), &mut shared, now);
    assert_eq!(call.poll_outcome(), None, "there is something to take");
    let given: Vec<_> = std::iter::from_fn(|| call.poll_item()).map(|(index, _)| index).collect();
    assert_eq!(given, (1..answered).collect::<Vec<_>>());
    assert!(matches!(call.poll_outcome(), Some(Err(error)) if error.code() == ErrorCode::Overloaded));
    let cancelled: Vec<_> = std::iter::from_fn(|| call.poll_cancel()).collect();
    assert!(cancelled.len() >= 2, "nothing is left under way: {cancelled:?}");
    assert_eq!((call.wants_input(), call.poll_timeout()), (false, None));
}

#[test]
fn a_passed_deadline_tells_how_many_are_given() {
    let after = Duration::from_secs(1);
    let (mut call, mut shared, now) = call(Some(after));
    let answered = with_a_gap(&mut call, &mut shared, now);
    call.handle_timeout(&mut shared, now + after);
    assert_eq!(std::iter::from_fn(|| call.poll_item()).count() as u64, answered);
    assert_eq!(call.poll_outcome(), Some(Err(&ClientError::DeadlineExceeded { answered })));
}

#[test]
fn a_paused_input_is_sent_once_nothing_else_is_under_way() {
    let (mut call, mut shared, now) = call(None);
    call.handle_input_pause();
    assert!(call.poll_submit(&mut shared, now).is_none(), "there is nothing to send");
    call.handle_input(text(0), &shared);
    assert!(call.poll_submit(&mut shared, now).is_none(), "another may follow");
    call.handle_input_pause();
    let first = call.poll_submit(&mut shared, now).expect("nothing follows now");
    for number in 1..3 {
        call.handle_input(text(number), &shared);
        call.handle_input_pause();
    }
    assert!(call.poll_submit(&mut shared, now).is_none(), "the first is under way");
    call.handle_frame(first.key, Message::EncodeResult(result(&first.request, &[0])), &mut shared, now);
    call.handle_frame(first.key, end(&first.request), &mut shared, now);
    call.handle_input_pause();
    let second = call.poll_submit(&mut shared, now).expect("sent together");
    assert_eq!((second.key.part, second.request.items.len()), (1, 2));
}
