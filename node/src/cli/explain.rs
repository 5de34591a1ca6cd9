//! `shoal explain`: why a request ran where it did, from the decision record that travelled with it.

use std::time::Duration;

use serde_json::{Value, json};
use shoal_mesh::core::{Candidate, Decision, Source};
use shoal_protocol::RequestId;
use shoal_protocol::message::{AttemptRecord, Explanation, MemberStatus, Timings};

use super::args::ExplainArgs;
use super::census::{ask, member_of};
use super::exit::{Exit, Stop};
use super::output::{Output, millis, tell};
use super::runtime::run_interruptible;
use super::status::model_state_name;
use super::target::connect;
use crate::metrics::{STAGES, stage_values};

/// The schema of `--json`.
const VERSION: u32 = 1;

pub(super) fn run(args: &ExplainArgs) -> Result<Exit, Stop> {
    let (told, unheard) = run_interruptible(gather(args))?;
    if told.is_empty() {
        return Err(nobody_remembers(args.request_id, &unheard));
    }
    for why in &unheard {
        tell(&format!("shoal: not heard: {why}"));
    }
    let mut output = Output::new();
    if args.json {
        output.json(&to_json(args.request_id, &told))?;
    } else {
        told.iter().try_for_each(|explanation| print(&mut output, explanation))?;
    }
    output.flush()?;
    Ok(Exit::Ok)
}

/// What the members in question remember, and who of them said nothing.
async fn gather(args: &ExplainArgs) -> Result<(Vec<Explanation>, Vec<String>), Stop> {
    let client = connect(&args.mesh).await?;
    let entry = client.status(false).await?;
    let mut members = vec![member_of(&entry)];
    members.extend(entry.members.into_iter().filter(|member| member.node != entry.node));
    let asked = whom_to_ask(args.request_id, args.all, members)?;
    let answers = ask(&client, &asked, async |client, node| client.explain_at(node, args.request_id).await);
    let (mut told, mut unheard) = (Vec::new(), Vec::new());
    for (member, answer) in asked.iter().zip(answers.await) {
        match answer {
            Ok(explanation) if explanation.attempts.is_empty() => {}
            Ok(explanation) => told.push(explanation),
            Err(why) => unheard.push(format!("node {}: {why}", member.node)),
        }
    }
    Ok((told, unheard))
}

/// The node that the id names; all of them where it names none, or where all are wanted.
fn whom_to_ask(id: RequestId, all: bool, mut members: Vec<MemberStatus>) -> Result<Vec<MemberStatus>, Stop> {
    if all || !id.is_answered() {
        return Ok(members);
    }
    members.retain(|member| id.is_answered_by(member.node));
    if members.is_empty() {
        let message = format!(
            "the node that answered request {id} is not in this mesh any more, and its memory of it with it; --all asks \
             the others for attempts that failed with them"
        );
        return Err(Stop::new(Exit::Unavailable, message));
    }
    Ok(members)
}

fn nobody_remembers(id: RequestId, unheard: &[String]) -> Stop {
    if unheard.is_empty() {
        let message = format!(
            "no attempt of request {id} is remembered: the id is wrong, or {} attempts came after it",
            crate::decisions::ATTEMPTS_KEPT_MAX
        );
        return Stop::new(Exit::Input, message);
    }
    Stop::new(
        Exit::Unavailable,
        format!("who may remember request {id} was not heard: {}", unheard.join("; ")),
    )
}

fn print(output: &mut Output, explanation: &Explanation) -> Result<(), Stop> {
    output.line(&format!("node {}", explanation.node))?;
    for attempt in &explanation.attempts {
        output.line("")?;
        output.line(&headline(attempt))?;
        output.line(&format!("  time   {}", times(&attempt.timings)))?;
        match Decision::decode(&attempt.decision) {
            Ok(decision) => print_decision(output, &decision)?,
            Err(_) if attempt.decision.is_empty() => output.line("  why    the caller sent no reasons")?,
            Err(error) => output.line(&format!("  why    {error}"))?,
        }
    }
    Ok(())
}

fn headline(attempt: &AttemptRecord) -> String {
    let AttemptRecord { part, attempt: number, items, model, device, .. } = attempt;
    let noun = if *items == 1 { "text" } else { "texts" };
    let outcome = attempt.failure.map_or("answered", |code| code.as_str());
    let ago = Duration::from_millis(attempt.ended_ago_us.0 / 1000);
    format!(
        "part {part}, attempt {number}: {items} {noun} for {model} on device {}: {outcome}, {} ago",
        device.0,
        humantime::format_duration(ago)
    )
}

/// The stages that took time, and the total.
fn times(timings: &Timings) -> String {
    let stages = stages_of(timings).filter(|(name, us)| *us > 0 || *name == "total");
    stages.map(|(name, us)| format!("{name} {}", millis(us))).collect::<Vec<_>>().join(", ")
}

fn stages_of(timings: &Timings) -> impl Iterator<Item = (&'static str, u64)> {
    STAGES.into_iter().zip(stage_values(timings))
}

/// The candidates with what each would have cost; the first was chosen.
fn print_decision(output: &mut Output, decision: &Decision) -> Result<(), Stop> {
    output.line(&format!("  why    {}", decision.reason.as_str()))?;
    if decision.candidates.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = decision
        .candidates
        .iter()
        .enumerate()
        .map(|(index, candidate)| {
            let Candidate { place, state, requests, estimate, .. } = candidate;
            let chosen = if index == 0 { "  ->" } else { "" };
            let mut row = vec![chosen.to_owned(), place.node.to_string(), place.device.0.to_string()];
            row.extend([model_state_name(*state).to_owned(), known(candidate), requests.to_string()]);
            row.extend(
                [estimate.wait_us, estimate.exec_us, estimate.cold_us, estimate.net_us, estimate.risk_us]
                    .map(millis),
            );
            row.push(millis(estimate.total_us()));
            row
        })
        .collect();
    let header = [
        "",
        "NODE",
        "DEVICE",
        "MODEL",
        "LOAD KNOWN",
        "REQUESTS",
        "WAIT",
        "RUN",
        "LOAD",
        "NETWORK",
        "RISK",
        "TOTAL",
    ];
    output.table(&header, &rows)
}

fn known(candidate: &Candidate) -> String {
    match candidate.source {
        Source::Facts => "no".to_owned(),
        Source::Gossip => format!("gossip, {} ms old", candidate.age_ms),
        Source::Probe => format!("asked, {} ms old", candidate.age_ms),
    }
}

fn source_name(source: Source) -> &'static str {
    match source {
        Source::Facts => "facts",
        Source::Gossip => "gossip",
        Source::Probe => "probe",
    }
}

fn to_json(id: RequestId, told: &[Explanation]) -> Value {
    let nodes: Vec<_> = told
        .iter()
        .map(|explanation| {
            let attempts: Vec<_> = explanation.attempts.iter().map(attempt_to_json).collect();
            json!({ "node": explanation.node.to_string(), "attempts": attempts })
        })
        .collect();
    json!({ "version": VERSION, "request_id": id.to_string(), "nodes": nodes })
}

/// `decision` is null where the caller sent none that can be read.
fn attempt_to_json(attempt: &AttemptRecord) -> Value {
    let timings: serde_json::Map<_, _> =
        stages_of(&attempt.timings).map(|(name, us)| (format!("{name}_us"), us.into())).collect();
    json!({
        "part": attempt.part,
        "attempt": attempt.attempt,
        "model": attempt.model,
        "items": attempt.items,
        "device": attempt.device.0,
        "ended_ago_us": attempt.ended_ago_us.0,
        "outcome": attempt.failure.map_or("answered", |code| code.as_str()),
        "timings": timings,
        "decision": Decision::decode(&attempt.decision).ok().as_ref().map(decision_to_json),
    })
}

fn decision_to_json(decision: &Decision) -> Value {
    let candidates: Vec<_> = decision
        .candidates
        .iter()
        .map(|candidate| {
            let estimate = &candidate.estimate;
            json!({
                "node": candidate.place.node.to_string(),
                "device": candidate.place.device.0,
                "model_state": model_state_name(candidate.state),
                "load_known_by": source_name(candidate.source),
                "load_age_ms": candidate.age_ms,
                "requests": candidate.requests,
                "wait_us": estimate.wait_us,
                "exec_us": estimate.exec_us,
                "cold_us": estimate.cold_us,
                "net_us": estimate.net_us,
                "risk_us": estimate.risk_us,
                "total_us": estimate.total_us(),
            })
        })
        .collect();
    json!({
        "reason": decision.reason.as_str(),
        "candidates": candidates,
    })
}

#[cfg(test)]
mod tests {
    use shoal_protocol::NodeId;
    use shoal_protocol::message::MemberState;

    use super::*;

    fn member(key: u8) -> MemberStatus {
        MemberStatus {
            node: NodeId([key; 16]),
            generation: 1,
            address: String::new(),
            state: MemberState::Alive,
            draining: false,
            models_ready: 0,
        }
    }

    #[test]
    fn the_node_that_the_id_names_is_asked_and_everybody_where_it_names_none() {
        let asked = |id, all| {
            let members = whom_to_ask(id, all, vec![member(1), member(2)]);
            members.map(|members| members.iter().map(|member| member.node.0[0]).collect::<Vec<_>>())
        };
        let id = RequestId::new(9);
        assert_eq!(asked(id.answered_by(NodeId([2; 16])), false).unwrap(), [2]);
        assert_eq!(asked(id.answered_by(NodeId([2; 16])), true).unwrap(), [1, 2]);
        assert_eq!(asked(id, false).unwrap(), [1, 2], "it names nobody: it failed, or is in flight");
        let gone = asked(id.answered_by(NodeId([3; 16])), false).unwrap_err();
        assert_eq!(gone.exit, Exit::Unavailable);
    }

    #[test]
    fn an_unknown_request_is_wrong_input_unless_somebody_was_not_heard() {
        let id = RequestId::new(9);
        assert_eq!(nobody_remembers(id, &[]).exit, Exit::Input);
        let stop = nobody_remembers(id, &["node 01: it is down".to_owned()]);
        assert!(stop.exit == Exit::Unavailable && stop.message.contains("node 01"), "{}", stop.message);
    }
}
