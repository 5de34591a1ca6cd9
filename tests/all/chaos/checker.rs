//! The checker sees what it is for: every rule is broken once, on purpose.

use shoal_tests::chaos::{Asked, Checker, Ended, Event, HistoryWriter, Record, Verdict, read};

const SECOND_US: u64 = 1_000_000;

fn asked(id: u64, at_us: u64) -> Record {
    Record::Asked(Asked {
        id,
        intended_us: at_us,
        sent_us: at_us,
        deadline_us: at_us + 10 * SECOND_US,
        model: "mean".to_owned(),
        is_cold: false,
        texts: vec![7, 1000 + id],
    })
}

/// Both vectors, as they should be.
fn answer(id: u64, at_us: u64) -> Ended {
    Ended {
        id,
        at_us,
        items: vec![(0, 77), (1, 100 + id)],
        node: "a".to_owned(),
        device: "cpu".to_owned(),
        ..Ended::default()
    }
}

fn event(at_us: u64, takes: bool, serving: u16) -> Record {
    Record::Event(Event { at_us, what: "something".to_owned(), takes, serving })
}

fn verdict(records: impl IntoIterator<Item = Record>) -> Verdict {
    let mut checker = Checker::new(2, 1000.0);
    records.into_iter().for_each(|record| checker.handle_record(record));
    checker.finish()
}

/// One request that ended like this.
fn of(ended: Ended) -> Verdict {
    verdict([asked(1, 0), Record::Ended(ended)])
}

#[test]
fn a_good_history_breaks_no_rule() {
    let requests = (0..10).flat_map(|id| [asked(id, id), Record::Ended(answer(id, id + 5000))]);
    let verdict = verdict(requests);
    assert_eq!((verdict.violations, verdict.answered, verdict.lost, verdict.duplicated), (0, 10, 0, 0));
    assert_eq!(verdict.compared, 9, "text 7 was seen ten times");
    assert_eq!(verdict.latency.len(), 10);
}

#[test]
fn a_request_without_an_outcome_is_lost() {
    let verdict = verdict([asked(1, 0), asked(2, 0), Record::Ended(answer(2, 5))]);
    assert_eq!((verdict.lost, verdict.violations, verdict.answered), (1, 1, 1));
    assert!(verdict.told[0].contains("request 1 has no outcome"), "{:?}", verdict.told);
}

#[test]
fn two_outcomes_are_one_too_many() {
    let twice = verdict([asked(1, 0), Record::Ended(answer(1, 5)), Record::Ended(answer(1, 6))]);
    assert_eq!((twice.duplicated, twice.violations), (1, 1));
    let unasked = verdict([Record::Ended(answer(1, 5))]);
    assert_eq!(unasked.violations, 1);
    let asked_twice = verdict([asked(1, 0), Record::Ended(answer(1, 5)), asked(1, 6)]);
    assert_eq!(asked_twice.violations, 1, "ids are unique");
}

#[test]
fn every_text_has_one_vector() {
    let twice = of(Ended { items: vec![(0, 77), (1, 101), (1, 101)], ..answer(1, 5) });
    assert_eq!((twice.duplicated, twice.violations, twice.lost), (1, 1, 0));
    let missing = of(Ended { items: vec![(1, 101)], ..answer(1, 5) });
    assert_eq!((missing.lost, missing.answered), (1, 0));
    let unasked = of(Ended { items: vec![(0, 77), (1, 101), (2, 5)], ..answer(1, 5) });
    assert_eq!(unasked.violations, 1);
}

#[test]
fn an_outcome_comes_by_its_deadline() {
    assert_eq!(of(answer(1, 10 * SECOND_US)).violations, 0);
    assert_eq!(of(answer(1, 11 * SECOND_US)).violations, 1);
}

#[test]
fn a_failure_is_a_loss_while_a_node_could_serve() {
    let error = Some(("unavailable".to_owned(), "gave up".to_owned()));
    let failed = Record::Ended(Ended { error, items: Vec::new(), ..answer(1, 2 * SECOND_US) });
    assert_eq!(verdict([asked(1, 1), failed.clone()]).lost, 1);
    let dark = verdict([event(0, true, 0), asked(1, 1), failed.clone()]);
    assert_eq!((dark.lost, dark.violations, dark.failed["unavailable"]), (0, 0, 1));
    let came_back = [event(0, true, 0), asked(1, 1), event(SECOND_US, false, 1), failed];
    assert_eq!(verdict(came_back).lost, 1, "it had until its deadline");
}

#[test]
fn equal_texts_have_equal_bits_on_equal_devices() {
    let other =
        |device: &str| Ended { items: vec![(0, 78), (1, 102)], device: device.to_owned(), ..answer(2, 6) };
    let with = |other| verdict([asked(1, 0), Record::Ended(answer(1, 5)), asked(2, 0), Record::Ended(other)]);
    assert_eq!(with(other("cpu")).violations, 1);
    assert_eq!(with(other("another cpu")).violations, 0);
}

#[test]
fn failover_counts_from_the_kill_and_detours_from_sending() {
    let retried = |id, at_us| Record::Ended(Ended { retries: 1, ..answer(id, at_us) });
    let verdict = verdict([
        asked(1, 0),
        asked(2, 0),
        event(SECOND_US, true, 1),
        Record::Ended(answer(2, SECOND_US + 100)),
        retried(1, SECOND_US + 400_000),
        asked(3, SECOND_US + 100_000),
        retried(3, SECOND_US + 600_000),
        // Nothing happened to a node that this one could have been sent to.
        asked(4, 20 * SECOND_US),
        retried(4, 21 * SECOND_US),
    ]);
    let only = |latencies: &shoal_tests::chaos::Latencies| (latencies.len(), latencies.max() / 1000);
    assert_eq!(only(&verdict.failover), (1, 400));
    assert_eq!(only(&verdict.detour), (1, 500));
    assert_eq!(verdict.retried, 3);
}

/// 100 requests of two texts a second for ten seconds; from `dip` on for `length` none is answered before its end.
fn with_dip(dip_us: u64, length_us: u64) -> Verdict {
    let request = |id: u64| {
        let at_us = id * SECOND_US / 100;
        let in_dip = (dip_us..dip_us + length_us).contains(&at_us);
        [asked(id, at_us), Record::Ended(answer(id, if in_dip { dip_us + length_us } else { at_us + 1000 }))]
    };
    let event = [event(dip_us, true, 1)];
    verdict(event.into_iter().chain((0..1000).flat_map(request)))
}

#[test]
fn recovery_lasts_until_no_later_second_is_low() {
    // What is made up for within the same second is no loss of goodput.
    for (length_us, between_s) in [(0, 0.0..0.2), (SECOND_US / 2, 0.0..0.2), (3 * SECOND_US, 2.0..2.3)] {
        let verdict = with_dip(2 * SECOND_US, length_us);
        let [recovery] = verdict.recoveries.as_slice() else { panic!("{:?}", verdict.recoveries) };
        let after_s = recovery.after_us.expect("it recovers") as f64 / 1e6;
        assert!(between_s.contains(&after_s), "{after_s} s after a dip of {length_us} us");
    }
    let never = with_dip(2 * SECOND_US, 60 * SECOND_US);
    assert_eq!(never.recoveries[0].after_us, None);
    assert!(never.violations > 0, "and its answers come after their deadlines");
}

#[test]
fn what_can_be_answered_is_what_the_rest_can() {
    // 200 texts a second are asked for, of a mesh of two that can do 240; one is taken, and 120 go on.
    let request = |id: u64| {
        let at_us = id * SECOND_US / 100;
        let answered_us =
            if at_us < 2 * SECOND_US { at_us } else { 2 * SECOND_US + (at_us - 2 * SECOND_US) * 2 };
        [asked(id, at_us), Record::Ended(answer(id, answered_us))]
    };
    let mut checker = Checker::new(2, 240.0);
    let taken = [event(2 * SECOND_US, true, 1)];
    taken.into_iter().chain((0..1000).flat_map(request)).for_each(|record| checker.handle_record(record));
    let recovery = checker.finish().recoveries.remove(0);
    assert!(recovery.after_us.is_none(), "100 a second are below 90 % of 120: {recovery:?}");
    let mut checker = Checker::new(2, 200.0);
    [event(2 * SECOND_US, true, 1)]
        .into_iter()
        .chain((0..1000).flat_map(request))
        .for_each(|record| checker.handle_record(record));
    assert!(checker.finish().recoveries[0].after_us.is_some(), "and are all of 100");
}

#[test]
fn a_history_is_read_as_it_was_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("history.jsonl");
    let records = [asked(1, 5), event(6, true, 1), Record::Ended(answer(1, 7))];
    let writer = HistoryWriter::create(&file).expect("a file");
    records.iter().for_each(|record| writer.write(record).expect("room"));
    writer.flush().expect("room");
    let read_back: Vec<_> = read(&file).expect("a file").map(|record| record.expect("a record")).collect();
    assert_eq!(read_back, records);
    std::fs::write(&file, "{\"is\":\"asked\"").expect("room");
    assert!(read(&file).expect("a file").next().expect("a line").is_err(), "torn");
}
