//! How a call ends half-way, and how its input may come: a part at a time, or a text now and then.

use super::*;

fn call(deadline: Option<Duration>) -> (ClientCore, CallId, Instant) {
    let start = origin();
    let spec = CallSpec {
        request_id: RequestId::new(1),
        model: "m".to_owned(),
        task: Task::default(),
        priority: Priority::Bulk,
        deadline: deadline.map(|after| start + after),
        when_overloaded: WhenOverloaded::Fail,
        seed: 1,
        trace: None,
    };
    let mut core = ClientCore::new(View::of_entry(NodeId::default()), 1);
    let call = core.start_call(spec, start);
    (core, call, start)
}

fn text(number: usize) -> Input {
    Input::Text(format!("{number} {}", "x".repeat(4000)))
}

/// Three parts under way, of which the second has all its answers and the first lacks its last one.
fn with_a_gap(core: &mut ClientCore, call: CallId, now: Instant) -> u64 {
    (0..60).for_each(|number| core.handle_input(call, text(number)));
    core.handle_input_end(call);
    let sent: Vec<_> = std::iter::from_fn(|| core.poll_submit(call, now)).collect();
    assert!(sent.len() >= 3, "{} parts", sent.len());
    for (submit, missing) in sent.iter().zip([1, 0]) {
        let rows: Vec<u32> = (0..submit.request.items.len() as u32 - missing).collect();
        core.handle_frame(call, submit.key, Message::TaskResult(result(&submit.request, &rows)), now);
    }
    sent[0].request.items.len() as u64 - 1
}

#[test]
fn what_was_answered_before_the_failure_is_given_first() {
    let (mut core, call, now) = call(None);
    let answered = with_a_gap(&mut core, call, now);
    assert_eq!(core.poll_item(call).map(|(index, _)| index), Some(0));
    let key = AttemptKey { part: 2, attempt: 0 };
    core.handle_frame(call, key, refusal(ErrorCode::Overloaded, None), now);
    assert_eq!(core.poll_outcome(call), None, "there is something to take");
    let given: Vec<_> = std::iter::from_fn(|| core.poll_item(call)).map(|(index, _)| index).collect();
    assert_eq!(given, (1..answered).collect::<Vec<_>>());
    assert!(matches!(core.poll_outcome(call), Some(Err(error)) if error.code() == ErrorCode::Overloaded));
    let cancelled: Vec<_> = std::iter::from_fn(|| core.poll_cancel(call)).collect();
    assert!(cancelled.len() >= 2, "nothing is left under way: {cancelled:?}");
    assert_eq!((core.wants_input(call), core.poll_timeout(call)), (false, None));
}

#[test]
fn a_passed_deadline_tells_how_many_are_given() {
    let after = Duration::from_secs(1);
    let (mut core, call, now) = call(Some(after));
    let answered = with_a_gap(&mut core, call, now);
    core.handle_timeout(call, now + after);
    assert_eq!(std::iter::from_fn(|| core.poll_item(call)).count() as u64, answered);
    assert_eq!(core.poll_outcome(call), Some(Err(&ClientError::DeadlineExceeded { answered })));
}

#[test]
fn a_paused_input_is_sent_once_nothing_else_is_under_way() {
    let (mut core, call, now) = call(None);
    core.handle_input_pause(call);
    assert!(core.poll_submit(call, now).is_none(), "there is nothing to send");
    core.handle_input(call, text(0));
    assert!(core.poll_submit(call, now).is_none(), "another may follow");
    core.handle_input_pause(call);
    let first = core.poll_submit(call, now).expect("nothing follows now");
    for number in 1..3 {
        core.handle_input(call, text(number));
        core.handle_input_pause(call);
    }
    assert!(core.poll_submit(call, now).is_none(), "the first is under way");
    core.handle_frame(call, first.key, Message::TaskResult(result(&first.request, &[0])), now);
    core.handle_frame(call, first.key, end(&first.request), now);
    core.handle_input_pause(call);
    let second = core.poll_submit(call, now).expect("sent together");
    assert_eq!((second.key.part, second.request.items.len()), (1, 2));
}
