//! One scenario from its first process to its verdict.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shoal_mesh::Client;
use tokio::task::JoinSet;

use super::checker::{Checker, Verdict};
use super::cluster::{Cluster, ClusterOptions, ready};
use super::history::{self, HistoryWriter};
use super::load::{Asking, Schedule, TEXTS_MEAN, closed_loop, open_loop};
use super::scenario::Scenario;
use super::stage::Stage;
use super::wire::WireCounters;

/// The golden model that everybody asks for.
const MODEL: &str = "mean";
/// How long a request may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Requests of one client in flight while the machine is measured.
const MEASURE_IN_FLIGHT: u64 = 48;
/// The nodes together may do this share of what the machine can, so that a killed one takes capacity away with it.
const CAP_SHARE: f64 = 0.5;

/// What all runs have in common.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The program with `shoal`'s command line.
    pub program: PathBuf,
    /// Nodes.
    pub nodes: u16,
    /// Clients; each has connections of its own.
    pub clients: u16,
    /// How long requests are made.
    pub duration: Duration,
    /// Decides packets and texts.
    pub seed: u64,
    /// What is asked for, as a share of what all nodes together may do.
    pub load: f64,
}

/// What this machine does when all nodes may work as fast as they can, the clients and the relay beside them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Texts a second.
    pub texts_per_s: f64,
    /// Tokens of a mean text.
    pub tokens_per_text: f64,
}

impl Machine {
    /// The ceiling of each of `nodes`, in tokens a second.
    #[must_use]
    pub fn tokens_per_s_max(&self, nodes: u16) -> u64 {
        (CAP_SHARE * self.texts_per_s * self.tokens_per_text / f64::from(nodes)).ceil() as u64
    }

    /// What all nodes together may do, in texts a second.
    #[must_use]
    pub fn capacity_per_s(&self) -> f64 {
        CAP_SHARE * self.texts_per_s
    }
}

/// A run and what came of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// The scenario.
    pub scenario: String,
    /// For people.
    pub what: String,
    /// Nodes.
    pub nodes: u16,
    /// Seconds of requests.
    pub seconds: f64,
    /// The seed.
    pub seed: u64,
    /// Where the processes ran.
    pub hosts: String,
    /// The machine.
    pub machine: Machine,
    /// Texts asked for in a second.
    pub offered_per_s: f64,
    /// What became of the packets.
    pub wire: WireCounters,
    /// What the checker says.
    pub verdict: Verdict,
}

impl Plan {
    /// The model's directory.
    fn model_dir() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/bert").join(MODEL)
    }

    fn options(&self, tokens_per_s_max: u64, with_slow_model: bool, logs: PathBuf) -> ClusterOptions {
        ClusterOptions {
            program: self.program.clone(),
            nodes: self.nodes,
            spare_seats: 1,
            preload: vec![Self::model_dir()],
            with_slow_model,
            tokens_per_s_max,
            seed: self.seed,
            logs,
        }
    }

    /// Starts the nodes and connects the clients.
    async fn start(&self, options: ClusterOptions) -> io::Result<(Cluster, Vec<Client>)> {
        let mut cluster = Cluster::new(options).await?;
        let lines: Vec<_> = (0..self.nodes).map(|seat| cluster.start_node(seat)).collect::<Result<_, _>>()?;
        for line in lines {
            ready(line).await?;
        }
        let mut clients = Vec::new();
        for client in 0..self.clients {
            let client = cluster.connect(client).await?;
            cluster.complete(&client).await?;
            clients.push(client);
        }
        Ok((cluster, clients))
    }

    fn asking(&self, history: &Path) -> io::Result<Asking> {
        Ok(Asking {
            history: Arc::new(HistoryWriter::create(history)?),
            origin: shoal::clock::now(),
            model: MODEL.to_owned(),
            is_cold: false,
            deadline: DEADLINE,
            seed: self.seed,
        })
    }

    /// What this machine does with as many requests in flight as it likes, for `duration`.
    ///
    /// # Errors
    /// The operating system's, or a node that did not start.
    pub async fn measure_machine(&self, dir: &Path, duration: Duration) -> io::Result<Machine> {
        let (cluster, clients) = self.start(self.options(0, false, dir.join("machine"))).await?;
        let asking = self.asking(&dir.join("machine.jsonl"))?;
        let end = asking.origin + duration;
        let mut flows = JoinSet::new();
        for (client, number) in clients.into_iter().zip(0_u64..) {
            flows.spawn(closed_loop(asking.clone(), client, MEASURE_IN_FLIGHT, number << 32, end));
        }
        let (mut texts, mut tokens) = (0, 0);
        while let Some(flow) = flows.join_next().await {
            let answered = flow.map_err(io::Error::other)??;
            texts += answered.0;
            tokens += answered.1;
        }
        drop(cluster);
        if texts == 0 {
            return Err(io::Error::other("not one text was answered in the measurement"));
        }
        Ok(Machine {
            texts_per_s: texts as f64 / duration.as_secs_f64(),
            tokens_per_text: tokens as f64 / texts as f64,
        })
    }

    /// Runs a scenario, keeps its history in `dir`, and checks it.
    ///
    /// # Errors
    /// When the run itself failed; a broken rule is in the outcome.
    pub async fn run(&self, scenario: &Scenario, machine: Machine, dir: &Path) -> io::Result<Outcome> {
        let options = self.options(
            machine.tokens_per_s_max(self.nodes),
            scenario.needs_slow_model(),
            dir.join(scenario.name),
        );
        let (cluster, clients) = self.start(options).await?;
        let hosts = cluster.hosts().describe();
        let file = dir.join(format!("{}.jsonl", scenario.name));
        let asking = self.asking(&file)?;
        let (origin, history) = (asking.origin, Arc::clone(&asking.history));
        let offered_per_s = self.load * machine.capacity_per_s();
        let mut load = self.spawn_load(&clients, &asking, offered_per_s);
        let mut stage = Stage::new(cluster, self.nodes, clients, asking);
        for (share, action) in &scenario.steps {
            stage.wait_until(origin + self.duration.mul_f64(*share)).await?;
            stage.act(action).await?;
        }
        stage.wait_until(origin + self.duration).await?;
        stage.finish().await?;
        while let Some(client) = load.join_next().await {
            client.map_err(io::Error::other)??;
        }
        let wire = stage.cluster.relay().wire().counters();
        drop(stage);
        history.flush()?;
        let mut checker = Checker::new(self.nodes, machine.capacity_per_s());
        for record in history::read(&file)? {
            checker.handle_record(record?);
        }
        Ok(Outcome {
            scenario: scenario.name.to_owned(),
            what: scenario.what.to_owned(),
            nodes: self.nodes,
            seconds: self.duration.as_secs_f64(),
            seed: self.seed,
            hosts,
            machine,
            offered_per_s,
            wire,
            verdict: checker.finish(),
        })
    }

    /// The clients take turns: together they send one request every so often.
    fn spawn_load(&self, clients: &[Client], asking: &Asking, texts_per_s: f64) -> JoinSet<io::Result<()>> {
        let between = Duration::from_secs_f64(TEXTS_MEAN / texts_per_s);
        let mut load = JoinSet::new();
        for (client, number) in clients.iter().zip(0_u32..) {
            let schedule = Schedule {
                first: asking.origin + between * number,
                period: between * u32::from(self.clients),
                end: asking.origin + self.duration,
                id: u64::from(number),
                stride: u64::from(self.clients),
            };
            load.spawn(open_loop(asking.clone(), client.clone(), schedule));
        }
        load
    }
}
