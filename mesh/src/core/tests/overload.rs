//! Calls that everybody refuses for want of room.

use shoal_protocol::message::LoadRecord;

use super::rules::{READY, client, hint, refuse, spec, start, submit};
use super::*;
use crate::core::fleet::{load, node};

/// Two nodes that both say that they refuse.
fn crowded() -> (ClientCore, Instant) {
    let (mut core, now) = client(&[READY, READY]);
    for number in 0..2 {
        core.handle_load(node(number), &LoadRecord { shed_level: 2, ..load(2, 500) }, now);
    }
    (core, now)
}

#[test]
fn nobody_is_asked_at_once_who_is_known_to_refuse() {
    let (mut core, mut now) = crowded();
    let call = start(&mut core, spec(now), now);
    let first = submit(&mut core, call, &mut now);
    refuse(&mut core, call, first.key, hint(ErrorCode::Overloaded), now);
    assert!(core.poll_submit(call, now).is_none());
    let (at, _) = core.poll_timeout(call).expect("the hint");
    assert!(at >= now + Duration::from_millis(50) && at < now + Duration::from_millis(100));
    let other = if first.to.node == node(0) { 1 } else { 0 };
    core.handle_load(node(other), &load(3, 0), now);
    now = at;
    let second = submit(&mut core, call, &mut now);
    refuse(&mut core, call, second.key, hint(ErrorCode::Overloaded), now);
    let third = (0..2).find_map(|_| core.poll_submit(call, now));
    assert_eq!(third.is_some(), second.to.node != node(other), "only the other one has room");
}

/// However many wait and however short the hints: what they ask again is bounded in time.
#[test]
fn callers_that_wait_come_again_ten_times_a_second_in_all() {
    const CALLS: usize = 200;
    let (mut core, mut now) = crowded();
    let mut calls = Vec::new();
    for _ in 0..CALLS {
        let call = start(&mut core, spec(now), now);
        let sent = submit(&mut core, call, &mut now);
        refuse(&mut core, call, sent.key, hint(ErrorCode::Overloaded), now);
        calls.push(call);
    }
    let (begin, mut again) = (now, 0);
    while now < begin + Duration::from_secs(10) {
        let timeouts = calls.iter().filter_map(|call| Some((core.poll_timeout(*call)?.0, *call)));
        let (at, call) = timeouts.min().expect("all wait");
        now = now.max(at);
        core.handle_timeout(call, now);
        if let Some(sent) = core.poll_submit(call, now) {
            again += 1;
            refuse(&mut core, call, sent.key, hint(ErrorCode::Overloaded), now);
        }
    }
    assert!((90..=111).contains(&again), "{again}: ten were saved up, and there were ten seconds");
    assert!(calls.iter().all(|call| core.poll_outcome(*call).is_none()), "their deadlines are far");
    let deadline = now + Duration::from_millis(150);
    let tight = CallSpec { deadline: Some(deadline), ..spec(now) };
    let call = start(&mut core, tight, now);
    let sent = submit(&mut core, call, &mut now);
    refuse(&mut core, call, sent.key, hint(ErrorCode::Overloaded), now);
    while let Some((at, _)) = core.poll_timeout(call) {
        now = now.max(at);
        core.handle_timeout(call, now);
        if let Some(sent) = core.poll_submit(call, now) {
            refuse(&mut core, call, sent.key, hint(ErrorCode::Overloaded), now);
        }
    }
    assert!(now < deadline, "told before its deadline that there is no point in waiting");
    let error = core.poll_outcome(call).expect("over").expect_err("refused");
    assert_eq!((error.code(), error.retry_after()), (ErrorCode::Overloaded, Some(Duration::from_millis(50))));
}
