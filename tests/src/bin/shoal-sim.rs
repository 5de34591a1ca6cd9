//! Long runs of the simulated mesh: `shoal-sim --minutes 10 --seeds 10`. Prints a line a run, and for a run that broke a
//! rule what it broke and the command that repeats it.
#![expect(clippy::print_stdout, reason = "the table is data")]
#![expect(clippy::print_stderr, reason = "a command line of its own")]

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use shoal_tests::sim::{GossipFigures, Policy, Report, Scenario, World};

/// Hundreds of views that grow in turn are what an allocator is slow at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(about = "Runs the mesh's machines in virtual time")]
struct Arguments {
    /// First seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seeds, counted up from the first.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    #[arg(long, default_value_t = 32)]
    nodes: u16,
    #[arg(long, default_value_t = 32)]
    clients: u16,
    #[arg(long, default_value_t = 64)]
    models: u16,
    /// How steeply the models' popularity falls.
    #[arg(long, default_value_t = 1.0)]
    zipf: f64,
    /// How many times longer texts are than usual.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    text_scale: u16,
    /// Virtual minutes.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Requests per second in all, instead of a load.
    #[arg(long)]
    rate: Option<f64>,
    /// Share of what all nodes can do together.
    #[arg(long, default_value_t = 0.7)]
    load: f64,
    /// Who chooses; all of them unless named.
    #[arg(long)]
    policy: Vec<String>,
    /// Nodes do not tell their load unasked.
    #[arg(long)]
    no_load_gossip: bool,
    /// Every load probe is lost.
    #[arg(long)]
    no_probes: bool,
    /// Only members and no requests: how soon all of them know, and what each sends.
    #[arg(long)]
    gossip: bool,
    /// A bad day: packets are lost, and half of the nodes suffer something.
    #[arg(long)]
    storm: bool,
    /// A node is killed every ten seconds and comes back nine later: how soon clients leave it.
    #[arg(long)]
    kills: bool,
    /// Where the time went, beside what the best choice at each moment would have cost.
    #[arg(long)]
    why: bool,
}

impl Arguments {
    fn scenario(&self, seed: u64, policy: Policy) -> Scenario {
        let scenario = Scenario {
            seed,
            policy,
            nodes: self.nodes,
            clients: self.clients,
            models: self.models,
            zipf: self.zipf,
            text_scale: self.text_scale,
            load_gossip: !self.no_load_gossip,
            loses_probes: self.no_probes,
            asks_why: self.why,
            duration: Duration::from_secs_f64(60.0 * self.minutes),
            ..Scenario::usual(seed)
        };
        let loaded = match self.rate {
            Some(rate_per_s) => Scenario { rate_per_s, ..scenario },
            None => scenario.at_load(self.load),
        };
        let struck = if self.kills { loaded.with_kills() } else { loaded };
        if self.storm { struck.stormy() } else { struck }
    }

    fn replay(&self, report: &Report) -> String {
        let rate = match self.rate {
            Some(rate) => format!("--rate {rate}"),
            None => format!("--load {}", self.load),
        };
        format!(
            "shoal-sim --seed {} --nodes {} --clients {} --models {} --zipf {} --text-scale {} --minutes {} {rate} --policy {}{}{}{}{}",
            report.seed,
            self.nodes,
            self.clients,
            self.models,
            self.zipf,
            self.text_scale,
            self.minutes,
            report.policy.as_str(),
            if self.no_load_gossip { " --no-load-gossip" } else { "" },
            if self.no_probes { " --no-probes" } else { "" },
            if self.storm { " --storm" } else { "" },
            if self.kills { " --kills" } else { "" },
        )
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let is_chosen = |policy: &Policy| {
        arguments.policy.is_empty() || arguments.policy.iter().any(|name| name == policy.as_str())
    };
    let policies: Vec<_> = Policy::ALL.into_iter().filter(is_chosen).collect();
    let mut code = ExitCode::SUCCESS;
    if arguments.gossip {
        println!("{}", GossipFigures::COLUMNS);
        println!("{}", GossipFigures::measure(arguments.nodes, arguments.seed));
        return code;
    }
    println!("{}", Report::COLUMNS);
    for seed in arguments.seed..arguments.seed.saturating_add(arguments.seeds) {
        for policy in &policies {
            let report = World::new(arguments.scenario(seed, *policy)).run();
            println!("{report}");
            if arguments.kills {
                println!("{}", report.unrouted);
            }
            if let Some(why) = &report.why {
                println!("{why}");
            }
            for violation in &report.violations {
                code = ExitCode::FAILURE;
                eprintln!("  at {:?}: {}", violation.at, violation.what);
            }
            if !report.violations.is_empty() {
                eprintln!("  repeat it with: {}", arguments.replay(&report));
            }
        }
    }
    code
}
