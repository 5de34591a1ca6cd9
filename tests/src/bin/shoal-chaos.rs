//! Chaos on real processes: `shoal-chaos --scenario all --seconds 30`. Prints the report of every run whose outcome is in
//! the output directory, so that a long series can be made in several calls.
#![expect(clippy::print_stdout, reason = "the report is data")]
#![expect(clippy::print_stderr, reason = "a command line of its own")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use shoal_tests::chaos::{Hosts, Machine, Outcome, Plan, Report, Scenario, Targets, can_freeze};
use tokio::signal::unix::{SignalKind, signal};

/// How long the machine is measured.
const MEASURE: Duration = Duration::from_secs(5);

#[derive(Debug, Parser)]
#[command(
    about = "Kills, stops, cuts off and drains real nodes under load, and checks what their clients saw"
)]
struct Arguments {
    /// What happens: names of scenarios, or all.
    #[arg(long, value_delimiter = ',', default_value = "all")]
    scenario: Vec<String>,
    /// Print the scenarios and end.
    #[arg(long)]
    list: bool,
    /// Seconds of requests in each scenario.
    #[arg(long, default_value_t = 30.0)]
    seconds: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(3..=8))]
    nodes: u16,
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    clients: u16,
    /// What is asked for, as a share of what all nodes together may do.
    #[arg(long, default_value_t = 0.6)]
    load: f64,
    /// The program; by default the one that was built beside this one.
    #[arg(long)]
    shoal: Option<PathBuf>,
    /// Where histories and outcomes are kept.
    #[arg(long, default_value = "target/chaos")]
    out: PathBuf,
    /// Measure the machine although its figure is in the output directory.
    #[arg(long)]
    measure: bool,
    /// Run nothing, and print the report of what is in the output directory.
    #[arg(long)]
    report: bool,
    /// Put under the report's title: the machine, the commit, the command.
    #[arg(long, default_value = "")]
    heading: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        for scenario in Scenario::all(arguments.nodes) {
            println!("{:14} {}", scenario.name, scenario.what);
        }
        return ExitCode::SUCCESS;
    }
    // Nodes die with the thread that started them: this one.
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let ended = runtime.block_on(async {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            ended = series(&arguments) => ended,
            // What runs is dropped, and takes its processes and hosts with it.
            _ = interrupt.recv() => Err(io::Error::new(io::ErrorKind::Interrupted, "interrupted")),
            _ = terminate.recv() => Err(io::Error::new(io::ErrorKind::Interrupted, "terminated")),
        }
    });
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => failed(&error),
    }
}

fn failed(error: &io::Error) -> ExitCode {
    eprintln!("shoal-chaos: {error}");
    ExitCode::from(2)
}

/// Runs what is asked for and prints the report; whether everything ran and is good.
async fn series(arguments: &Arguments) -> io::Result<bool> {
    fs::create_dir_all(&arguments.out)?;
    let mut skipped = Vec::new();
    if !arguments.report {
        skipped = run_all(arguments).await?;
    }
    let outcomes = outcomes(arguments)?;
    let heading = &arguments.heading;
    let report = Report { outcomes: &outcomes, targets: Targets::OURS, heading, skipped: &skipped };
    fs::write(arguments.out.join("chaos.md"), report.to_string())?;
    println!("{report}");
    let good = outcomes.iter().all(|outcome| Targets::OURS.missed(outcome).is_empty());
    Ok(good && skipped.is_empty())
}

/// Gives the scenarios that have no outcome, and why.
async fn run_all(arguments: &Arguments) -> io::Result<Vec<(String, String)>> {
    let scenarios = chosen(arguments)?;
    let plan = Plan {
        program: arguments.shoal.clone().map_or_else(beside, Ok)?,
        nodes: arguments.nodes,
        clients: arguments.clients,
        duration: Duration::from_secs_f64(arguments.seconds),
        seed: arguments.seed,
        load: arguments.load,
    };
    let machine = machine(arguments, &plan).await?;
    eprintln!("this machine: {:.0} texts/s", machine.texts_per_s);
    let mut skipped = Vec::new();
    for scenario in scenarios {
        if let Some(why) = impossible(&scenario) {
            eprintln!("{}: NOT RUN: {why}", scenario.name);
            skipped.push((scenario.name.to_owned(), why));
            continue;
        }
        eprintln!("{}: {}", scenario.name, scenario.what);
        let outcome = match plan.run(&scenario, machine, &arguments.out).await {
            Ok(outcome) => outcome,
            Err(error) => {
                eprintln!("{}: FAILED: {error}", scenario.name);
                skipped.push((scenario.name.to_owned(), error.to_string()));
                continue;
            }
        };
        fs::write(kept(arguments, &scenario), serde_json::to_vec(&outcome)?)?;
        for missed in Targets::OURS.missed(&outcome) {
            eprintln!("{}: {missed}", scenario.name);
        }
    }
    Ok(skipped)
}

fn chosen(arguments: &Arguments) -> io::Result<Vec<Scenario>> {
    let mut all = Scenario::all(arguments.nodes);
    let unknown =
        |name: &&String| *name != "all" && !all.iter().any(|scenario| scenario.name == name.as_str());
    if let Some(name) = arguments.scenario.iter().find(unknown) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("no scenario `{name}`: see --list")));
    }
    if !arguments.scenario.iter().any(|name| name == "all") {
        all.retain(|scenario| arguments.scenario.iter().any(|name| name == scenario.name));
    }
    Ok(all)
}

/// Why a scenario cannot be run here.
fn impossible(scenario: &Scenario) -> Option<String> {
    if scenario.needs_freezer() && !can_freeze() {
        return Some("single threads cannot be stopped here: no version 1 freezer control group".to_owned());
    }
    let hosts = scenario.needs_links().then(|| Hosts::new(1))?;
    (!hosts.has_links()).then(|| hosts.describe())
}

/// The program that cargo built beside this one.
fn beside() -> io::Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name("shoal-cli");
    if program.is_file() {
        return Ok(program);
    }
    let message =
        format!("{} is not built: build shoal-cli too, or name one with --shoal", program.display());
    Err(io::Error::new(io::ErrorKind::NotFound, message))
}

/// Measured once for all runs of a series.
async fn machine(arguments: &Arguments, plan: &Plan) -> io::Result<Machine> {
    let file = arguments.out.join("machine");
    if let (false, Ok(kept)) = (arguments.measure, fs::read(&file)) {
        return Ok(serde_json::from_slice(&kept)?);
    }
    let machine = plan.measure_machine(&arguments.out, MEASURE).await?;
    fs::write(&file, serde_json::to_vec(&machine)?)?;
    Ok(machine)
}

fn kept(arguments: &Arguments, scenario: &Scenario) -> PathBuf {
    arguments.out.join(format!("{}.json", scenario.name))
}

/// All outcomes that are there, in the order of the scenarios.
fn outcomes(arguments: &Arguments) -> io::Result<Vec<Outcome>> {
    let there = Scenario::all(arguments.nodes).into_iter().map(|scenario| kept(arguments, &scenario));
    there
        .filter(|file| Path::is_file(file))
        .map(|file| Ok(serde_json::from_slice(&fs::read(file)?)?))
        .collect()
}
