//! Each cloud against a local server that speaks as its metadata service does, and the pure halves in virtual time.

mod server;

use std::time::{Duration, Instant};

use super::*;
use crate::clock;
use crate::config::NoticesConfig;
use server::{MetadataServer, Reply, Request};

const S: Duration = Duration::from_secs(1);
/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn watch(source: NoticeSource) -> (Watch, Instant) {
    let now = clock::now();
    (Watch::new(source, Pace::default(), now), now)
}

fn answer(status: u16, body: &str) -> Result<Answer, String> {
    Ok(Answer { status, etag: Some("a1".to_owned()), body: body.to_owned() })
}

/// Asks until it rests, and gives the paths; `answers` knows what each gets.
fn round(
    watch: &mut Watch,
    now: Instant,
    mut answers: impl FnMut(&Ask) -> Result<Answer, String>,
) -> Vec<String> {
    let mut paths = Vec::new();
    while let Some(ask) = watch.poll_ask(now) {
        let answer = answers(&ask);
        // What an error does shows in the questions that follow.
        let _ = watch.handle_answer(answer, now);
        paths.push(ask.path);
    }
    paths
}

#[test]
fn aws_is_asked_for_a_token_first_and_again_when_it_is_over() {
    let (mut watch, start) = watch(NoticeSource::Aws);
    let (token, action, rebalance) = (
        "/latest/api/token",
        "/latest/meta-data/spot/instance-action",
        "/latest/meta-data/events/recommendations/rebalance",
    );
    let none = |ask: &Ask| if ask.is_put { answer(200, "t") } else { answer(404, "") };
    assert_eq!(round(&mut watch, start, none), [token, action, rebalance]);
    assert_eq!(watch.poll_timeout(), Some((start + 5 * S, "ask the metadata service")));
    assert_eq!(round(&mut watch, start + 5 * S, none), [action, rebalance], "the token is kept");
    let later = start + 3 * 3600 * S;
    assert_eq!(round(&mut watch, later, none), [token, action, rebalance], "half of its six hours are over");
    // Revoked early: one more token, and not one for each refusal.
    let mut refused = 0;
    let revoked = |ask: &Ask| {
        if ask.is_put {
            return answer(200, "u");
        }
        refused += 1;
        if refused == 1 { answer(401, "") } else { none(ask) }
    };
    assert_eq!(round(&mut watch, later + 5 * S, revoked), [action, token, action, rebalance]);
    let never = |ask: &Ask| if ask.is_put { answer(200, "v") } else { answer(401, "") };
    assert_eq!(round(&mut watch, later + 10 * S, never), [action, token, action]);
    assert!(watch.poll_timeout().is_some_and(|(due, _)| due == later + 11 * S), "then it rests");
}

#[test]
fn a_service_that_fails_is_asked_again_and_not_in_a_tight_loop() {
    for source in [NoticeSource::Aws, NoticeSource::Gcp, NoticeSource::Azure] {
        let bad = [
            answer(503, "busy"),
            answer(200, ""),
            answer(200, "{\"Events\": 3"),
            answer(500, &"x".repeat(10_000)),
            answer(404, ""),
            Err("timed out".to_owned()),
        ];
        let (mut watch, start) = watch(source);
        let mut asked = 0;
        let mut now = start;
        while let Some((due, _)) = watch.poll_timeout().filter(|(due, _)| *due < start + 600 * S) {
            now = now.max(due);
            round(&mut watch, now, |_| {
                asked += 1;
                bad[asked % bad.len()].clone()
            });
            assert_eq!(watch.poll_notice(), None);
        }
        assert!((70..400).contains(&asked), "{source:?}: {asked} questions in ten minutes");
    }
}

#[test]
fn a_recommendation_is_told_once_and_an_action_ends_the_watch() {
    let (mut watch, start) = watch(NoticeSource::Aws);
    let answers = |ask: &Ask| match ask.path.rsplit('/').next() {
        Some("token") => answer(200, "t"),
        Some("rebalance") => answer(200, r#"{"noticeTime": "2020-10-27T08:22:00Z"}"#),
        _ => answer(404, ""),
    };
    round(&mut watch, start, answers);
    assert!(matches!(watch.poll_notice(), Some(Notice::AtRisk(words)) if words.contains("2020-10-27T08:22")));
    round(&mut watch, start + 5 * S, answers);
    assert_eq!(watch.poll_notice(), None);
    let action = r#"{"action": "terminate", "time": "2017-09-18T08:22:00Z"}"#;
    round(&mut watch, start + 10 * S, |_| answer(200, action));
    let told = Notice::Leave("AWS will terminate this instance at 2017-09-18T08:22:00Z".to_owned());
    assert_eq!((watch.poll_notice(), watch.poll_timeout()), (Some(told), None));
}

#[test]
fn azure_events_of_other_machines_and_short_freezes_are_none() {
    let events = |of: &str, kind: &str| {
        let event = format!(
            r#"{{"EventId":"e","EventType":"{kind}","ResourceType":"VirtualMachine","Resources":[{of}],
            "EventStatus":"Scheduled","NotBefore":"Mon, 19 Sep 2016 18:29:47 GMT","EventSource":"Platform"}}"#
        );
        format!(r#"{{"DocumentIncarnation":1,"Events":[{event}]}}"#)
    };
    let told = |document: String| {
        let (mut watch, now) = watch(NoticeSource::Azure);
        let name = |ask: &Ask| ask.path.contains("/compute/name");
        round(&mut watch, now, |ask| answer(200, if name(ask) { "vm_0" } else { &document }));
        watch.poll_notice()
    };
    assert_eq!(told(events("\"vm_1\"", "Preempt")), None);
    assert_eq!(told(events("\"vm_0\"", "Freeze")), None);
    assert_eq!(told(r#"{"DocumentIncarnation":2,"Events":[]}"#.to_owned()), None);
    for (of, kind) in [("\"vm_1\",\"VM_0\"", "Preempt"), ("", "Terminate"), ("\"vm_0\"", "Reboot")] {
        assert!(matches!(told(events(of, kind)), Some(Notice::Leave(words)) if words.contains(kind)), "{of}");
    }
}

/// As fast as a test may ask.
fn hasty() -> Pace {
    let ms = Duration::from_millis;
    Pace { poll: ms(5), wait: ms(300), rest_min: ms(1), rest_max: ms(20) }
}

async fn next(source: NoticeSource, server: &MetadataServer) -> (Watcher, Notice) {
    let config = NoticesConfig { source, base_url: server.url() };
    let mut watcher = Watcher::start_at(&config, hasty()).expect("a thread");
    let notice = tokio::time::timeout(PATIENCE, watcher.next()).await.expect("told");
    (watcher, notice)
}

/// Busy, nonsense, cut short, slow and silent: what a service may do before it answers.
fn trouble(number: usize) -> Option<Reply> {
    Some(match number {
        0 => Reply::text(503, "busy"),
        1 => Reply::text(200, "\u{fffd} not what was asked for \u{0}"),
        2 => Reply::Raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{".to_owned()),
        3 => Reply::Raw("garbage\r\n\r\n".to_owned()),
        4 => Reply::Silence,
        5 => Reply::text(403, "forbidden"),
        _ => return None,
    })
}

#[tokio::test]
async fn aws_tells_a_node_through_all_troubles() {
    let mut token = 0;
    let mut actions = 0;
    let mut troubles = 0;
    let server = MetadataServer::start(move |request: &Request| {
        if let Some(trouble) = trouble(troubles) {
            troubles += 1;
            return trouble;
        }
        if request.line.starts_with("PUT /latest/api/token ") {
            assert_eq!(request.header("x-aws-ec2-metadata-token-ttl-seconds"), Some("21600"));
            token += 1;
            return Reply::text(200, &format!("token-{token}"));
        }
        if request.header("x-aws-ec2-metadata-token") != Some(&format!("token-{token}")) {
            return Reply::text(401, "");
        }
        if request.line.starts_with("GET /latest/meta-data/events/recommendations/rebalance ") {
            return Reply::text(404, "");
        }
        assert!(request.line.starts_with("GET /latest/meta-data/spot/instance-action "), "{}", request.line);
        actions += 1;
        match actions {
            1 | 2 => Reply::text(404, ""),
            3 => {
                token += 1; // every token of before is over
                Reply::text(401, "")
            }
            _ => Reply::text(200, r#"{"action": "stop", "time": "2017-09-18T08:22:00Z"}"#),
        }
    });
    let (_watcher, notice) = next(NoticeSource::Aws, &server).await;
    assert_eq!(notice, Notice::Leave("AWS will stop this instance at 2017-09-18T08:22:00Z".to_owned()));
}

#[tokio::test]
async fn google_is_asked_with_a_request_that_hangs_until_the_value_changes() {
    let mut asked = 0;
    let mut troubles = 0;
    let server = MetadataServer::start(move |request: &Request| {
        assert_eq!(request.header("metadata-flavor"), Some("Google"));
        if let Some(trouble) = trouble(troubles) {
            troubles += 1;
            return trouble;
        }
        asked += 1;
        let path = "GET /computeMetadata/v1/instance/preempted";
        let (query, reply) = match asked {
            1 => (" ", Reply::tagged("FALSE\n", "e1")),
            2 => ("?wait_for_change=true&timeout_sec=60&last_etag=e1 ", Reply::tagged("FALSE", "e2")),
            _ => ("?wait_for_change=true&timeout_sec=60&last_etag=e2 ", Reply::tagged("TRUE", "e3")),
        };
        assert!(request.line.starts_with(&format!("{path}{query}")), "{}", request.line);
        reply
    });
    let (_watcher, notice) = next(NoticeSource::Gcp, &server).await;
    assert_eq!(notice, Notice::Leave("Google Cloud preempts this instance".to_owned()));
}

#[tokio::test]
async fn azure_tells_its_events() {
    let mut troubles = 0;
    let mut asked = 0;
    let server = MetadataServer::start(move |request: &Request| {
        assert_eq!(request.header("metadata"), Some("true"));
        // A name is whatever it answers, so the troubles wait until it is told.
        if request.line.starts_with("GET /metadata/instance/compute/name?api-version=2021-02-01&format=text ")
        {
            return Reply::text(200, "vm_0");
        }
        assert!(request.line.starts_with("GET /metadata/scheduledevents?api-version=2020-07-01 "));
        asked += 1;
        if asked > 2
            && let Some(trouble) = trouble(troubles)
        {
            troubles += 1;
            return trouble;
        }
        let event = r#"{"EventId":"e","EventType":"Preempt","Resources":["vm_0"],"EventStatus":"Scheduled",
            "NotBefore":"Mon, 19 Sep 2016 18:29:47 GMT"}"#;
        let events = if asked > 10 { event } else { "" };
        Reply::text(200, &format!(r#"{{"DocumentIncarnation":1,"Events":[{events}]}}"#))
    });
    let (_watcher, notice) = next(NoticeSource::Azure, &server).await;
    assert!(matches!(notice, Notice::Leave(words) if words.contains("Preempt")));
}

#[tokio::test]
async fn a_watcher_that_is_dropped_asks_no_more() {
    let (asked, mut questions) = tokio::sync::mpsc::channel(16);
    let server = MetadataServer::start(move |_: &Request| {
        // Full: the test has seen enough.
        let _ = asked.try_send(());
        Reply::text(503, "")
    });
    let config = NoticesConfig { source: NoticeSource::Gcp, base_url: server.url() };
    let watcher = Watcher::start_at(&config, hasty()).expect("a thread");
    questions.recv().await.expect("asked");
    drop(watcher);
    // The server ends with its thread, which ends when nobody connects any more and it is told so.
    server.stop();
    while questions.recv().await.is_some() {}
}
