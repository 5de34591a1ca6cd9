//! What came of all runs, for people: markdown.

use std::fmt::{self, Write};
use std::time::Duration;

use super::checker::{Latencies, latencies};
use super::history::Unrouted;
use super::run::Outcome;

/// What a mesh has to reach.
#[derive(Clone, Copy, Debug)]
pub struct Targets {
    /// p99 from the moment at which a node was taken to the answer of another.
    pub failover_p99: Duration,
    /// From then until the rest does all that it can.
    pub recovery: Duration,
    /// From a node's death until nobody who had talked to it sends it anything.
    pub unrouted: Duration,
}

impl Targets {
    /// Those that the project has set itself.
    pub const OURS: Self = Self {
        failover_p99: Duration::from_secs(1),
        recovery: Duration::from_secs(5),
        unrouted: Duration::from_secs(1),
    };

    /// What a run missed, in words.
    #[must_use]
    pub fn missed(&self, outcome: &Outcome) -> Vec<String> {
        let verdict = &outcome.verdict;
        let mut missed = Vec::new();
        if verdict.violations > 0 {
            missed.push(format!("{} broken rules", verdict.violations));
        }
        let failover_us = verdict.failover.value_at_quantile(0.99);
        if !verdict.failover.is_empty() && failover_us as u128 > self.failover_p99.as_micros() {
            missed.push(format!("failover p99 {}", millis(failover_us)));
        }
        let unrouted =
            verdict.unrouted.iter().filter(|unrouted| unrouted.after_us as u128 > self.unrouted.as_micros());
        missed.extend(
            unrouted.map(|unrouted| format!("{} and asked for {}", unrouted.what, millis(unrouted.after_us))),
        );
        for recovery in &verdict.recoveries {
            let target_us = self.recovery.as_micros() as u64;
            match recovery.after_us {
                Some(after_us) if after_us > target_us => {
                    missed.push(format!("recovery after {}", millis(after_us)));
                }
                // What was not watched for so long says nothing.
                None if recovery.watched_us > target_us + 1_000_000 => {
                    missed.push(format!("no recovery within {}", millis(recovery.watched_us)));
                }
                _ => {}
            }
        }
        missed
    }
}

/// All runs.
#[derive(Debug)]
pub struct Report<'a> {
    /// In the order of the table.
    pub outcomes: &'a [Outcome],
    /// What they are held against.
    pub targets: Targets,
    /// Under the title: machine, commit, command.
    pub heading: &'a str,
    /// Scenarios that were not run, and why.
    pub skipped: &'a [(String, String)],
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Chaos on real processes\n\n{}\n", self.heading)?;
        self.setting(f)?;
        self.table(f)?;
        self.totals(f)?;
        for outcome in self.outcomes {
            section(f, outcome)?;
        }
        Ok(())
    }
}

impl Report<'_> {
    fn setting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.outcomes.first() else { return writeln!(f, "No run.\n") };
        let machine = first.machine;
        writeln!(
            f,
            "{} nodes (`shoal serve`, one compute thread each), hosts: {}. Every packet goes through a relay in user \
             space. Uncapped, this machine answers {:.0} texts/s (of {:.1} tokens) with the clients and the relay on \
             it; the nodes are capped (`device.tokens_per_s_max`) to half of that together: {:.0} texts/s, of which \
             {:.0} texts/s are asked for, open loop, 1 to 4 texts a request.\n",
            first.nodes,
            first.hosts,
            machine.texts_per_s,
            machine.tokens_per_text,
            machine.capacity_per_s(),
            first.offered_per_s,
        )?;
        writeln!(
            f,
            "Latency counts from when a request was due. Failover: of requests that were in flight when a node was \
             taken and needed more than one attempt, from that moment to the answer. Detour: of requests that were \
             sent there after it, from sending to the answer. Recovery: until no later second (before the next event) \
             is below 90 % of what is asked for and possible. Unrouted: from a node's SIGKILL until the last attempt \
             for it begins at a client that had talked to it. Targets: failover p99 < {}, recovery < {}, unrouted < {}, \
             0 lost, 0 duplicated.\n",
            millis(self.targets.failover_p99.as_micros() as u64),
            millis(self.targets.recovery.as_micros() as u64),
            millis(self.targets.unrouted.as_micros() as u64),
        )
    }

    fn table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| scenario | requests | lost | twice | p50 | p99 | p99.9 | max | failovers | p50 | p99 | max | detours | p99 \
             | recovery | unrouted | verdict |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|"
        )?;
        for outcome in self.outcomes {
            let verdict = &outcome.verdict;
            let latency = |quantile| millis(verdict.latency.value_at_quantile(quantile));
            let missed = self.targets.missed(outcome);
            writeln!(
                f,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                outcome.scenario,
                verdict.asked,
                verdict.lost,
                verdict.duplicated,
                latency(0.5),
                latency(0.99),
                latency(0.999),
                millis(verdict.latency.max()),
                spread(&verdict.failover),
                detours(&verdict.detour),
                recoveries(outcome),
                unrouted(outcome),
                if missed.is_empty() { "good".to_owned() } else { missed.join("; ") },
            )?;
        }
        for (scenario, why) in self.skipped {
            writeln!(f, "\n**Not run: {scenario}**: {why}")?;
        }
        Ok(())
    }

    fn totals(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut latency, mut failover, mut detour) = (latencies(), latencies(), latencies());
        let (mut asked, mut lost, mut duplicated, mut compared) = (0, 0, 0, 0);
        for verdict in self.outcomes.iter().map(|outcome| &outcome.verdict) {
            asked += verdict.asked;
            lost += verdict.lost;
            duplicated += verdict.duplicated;
            compared += verdict.compared;
            // The bounds are the same everywhere.
            let _ = latency.add(&verdict.latency);
            let _ = failover.add(&verdict.failover);
            let _ = detour.add(&verdict.detour);
        }
        writeln!(
            f,
            "\nIn all: {asked} requests, {lost} lost, {duplicated} duplicated; {compared} vectors of a text that was \
             asked for before, all compared to the bit. Failovers: {}. Detours: {}.\n",
            all(&failover),
            all(&detour),
        )?;
        writeln!(f, "Latency of all answered requests:\n\n```text\n{}```", bars(&latency))
    }
}

fn section(f: &mut fmt::Formatter<'_>, outcome: &Outcome) -> fmt::Result {
    let verdict = &outcome.verdict;
    writeln!(
        f,
        "\n## {}\n\n{} ({} s, seed {}).",
        outcome.scenario,
        capital(&outcome.what),
        outcome.seconds,
        outcome.seed
    )?;
    let wire = outcome.wire;
    writeln!(
        f,
        "{} of {} requests answered, {} of them after more than one attempt. {} packets: {} lost, {} cut, {} doubled.\n",
        verdict.answered, verdict.asked, verdict.retried, wire.packets, wire.lost, wire.cut, wire.duplicated,
    )?;
    if !verdict.cold.is_empty() {
        let (count, max) = (verdict.cold.len(), millis(verdict.cold.max()));
        writeln!(
            f,
            "- {count} requests waited for a load, the longest for {max} with the load that was begun anew"
        )?;
    }
    for (code, count) in &verdict.failed {
        writeln!(f, "- {count} failed: `{code}`")?;
    }
    for told in &verdict.told {
        writeln!(f, "- **broken rule**: {told}")?;
    }
    for event in &verdict.events {
        writeln!(f, "- {}: {} ({} serve)", seconds(event.at_us), event.what, event.serving)?;
    }
    for recovery in &verdict.recoveries {
        let after =
            recovery.after_us.map_or_else(|| "not".to_owned(), |after| format!("after {}", millis(after)));
        writeln!(
            f,
            "- recovered {after} from \"{}\" (watched for {})",
            recovery.what,
            seconds(recovery.watched_us)
        )?;
    }
    for Unrouted { what, clients, after_us, watched_us } in &verdict.unrouted {
        writeln!(
            f,
            "- {clients} clients let go within {} after \"{what}\" (watched for {})",
            millis(*after_us),
            seconds(*watched_us)
        )?;
    }
    let per_second: Vec<_> = verdict.per_second.iter().map(u64::to_string).collect();
    writeln!(f, "\nTexts answered in each second: {}", per_second.join(" "))?;
    writeln!(f, "\n```text\n{}```", bars(&verdict.latency))
}

fn spread(latencies: &Latencies) -> String {
    if latencies.is_empty() {
        return "0 | | | ".to_owned();
    }
    let at = |quantile| millis(latencies.value_at_quantile(quantile));
    format!("{} | {} | {} | {}", latencies.len(), at(0.5), at(0.99), millis(latencies.max()))
}

fn all(latencies: &Latencies) -> String {
    let at = |quantile| millis(latencies.value_at_quantile(quantile));
    format!("{}, p50 {}, p99 {}, max {}", latencies.len(), at(0.5), at(0.99), millis(latencies.max()))
}

fn detours(latencies: &Latencies) -> String {
    if latencies.is_empty() {
        return "0 | ".to_owned();
    }
    format!("{} | {}", latencies.len(), millis(latencies.value_at_quantile(0.99)))
}

/// The longest one.
fn recoveries(outcome: &Outcome) -> String {
    let recoveries = &outcome.verdict.recoveries;
    let after: Option<Vec<u64>> = recoveries.iter().map(|recovery| recovery.after_us).collect();
    match after {
        Some(after) => after.into_iter().max().map(millis).unwrap_or_default(),
        None => "none".to_owned(),
    }
}

/// The longest one.
fn unrouted(outcome: &Outcome) -> String {
    outcome.verdict.unrouted.iter().map(|unrouted| unrouted.after_us).max().map(millis).unwrap_or_default()
}

/// A histogram by doubling bounds.
fn bars(latencies: &Latencies) -> String {
    let mut bars = String::new();
    let mut from_us = 0;
    for step in latencies.iter_log(128, 2.0) {
        let (to_us, count) = (step.value_iterated_to() + 1, step.count_since_last_iteration());
        if count > 0 {
            let share = count as f64 / latencies.len().max(1) as f64;
            let bar = "#".repeat((60.0 * share).ceil() as usize);
            // Writing to a string cannot fail.
            let _ = writeln!(bars, "{:>9} .. {:>9} {count:>9} {bar}", millis(from_us), millis(to_us));
        }
        from_us = to_us;
    }
    bars
}

fn millis(micros: u64) -> String {
    match micros {
        0..10_000 => format!("{:.1} ms", micros as f64 / 1e3),
        _ => format!("{:.0} ms", micros as f64 / 1e3),
    }
}

fn seconds(micros: u64) -> String {
    format!("{:.2} s", micros as f64 / 1e6)
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
