//! What a routing decision costs: 512 nodes with 64 resident models each, as one client sees them.

use std::hint::black_box;
use std::time::{Duration, Instant};

use shoal_mesh::core::{Query, Route, Router, View};
use shoal_protocol::message::{
    DeviceFact, LoadRecord, LoadReply, ModelFact, ModelState, NodeFacts, Numerics, Priority,
};
use shoal_protocol::{Bytes, DeviceIndex, Micros, NodeId};

use crate::pipeline::AnyError;
use crate::stats::{median, quantile};

/// Decisions of one sample: long against the clock's own cost.
const SAMPLE_DECISIONS: u32 = 100;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Nodes in the view.
    #[arg(long, default_value_t = 512)]
    nodes: u64,
    /// Resident models of each.
    #[arg(long, default_value_t = 64)]
    models: u64,
    /// Models in all: each is resident on `nodes * models / names` nodes.
    #[arg(long, default_value_t = 256)]
    names: u64,
    /// Samples of 100 decisions each.
    #[arg(long, default_value_t = 2000)]
    samples: usize,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

fn node(number: u64) -> NodeId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    id[8..].copy_from_slice(&number.to_be_bytes());
    NodeId(id)
}

fn name(number: u64) -> String {
    format!("organisation/model-{number}")
}

fn load(sequence: u16) -> LoadRecord {
    LoadRecord { tokens_per_s: 10_000, free_bytes: 1 << 30, sequence, ..LoadRecord::default() }
}

fn facts(number: u64, arguments: &Arguments) -> NodeFacts {
    let resident = (0..arguments.models).map(|model| ModelFact {
        name: name((number * arguments.models + model) % arguments.names),
        aliases: Vec::new(),
        device: DeviceIndex(0),
        state: ModelState::Ready,
        numerics: Numerics::F32,
        bytes: Bytes(50 << 20),
        load_us: Micros(100_000),
    });
    NodeFacts {
        node: node(number),
        generation: 1,
        version: 1,
        peer_addresses: Vec::new(),
        client_addresses: Vec::new(),
        draining: false,
        devices: vec![DeviceFact {
            device: DeviceIndex(0),
            name: "cpu".to_owned(),
            budget_bytes: Bytes(8 << 30),
            tokens_per_s: 10_000,
        }],
        models: resident.collect(),
    }
}

/// Answers the probes that are out, as the network would.
fn answer(router: &mut Router, view: &mut View, sequence: &mut u16, now: Instant) {
    while let Some(probe) = router.poll_probe() {
        *sequence = sequence.wrapping_add(1);
        let reply = LoadReply {
            nonce: probe.probe.nonce,
            load: load(*sequence),
            model: Some(ModelState::Ready),
            ready_in_us: Micros(0),
        };
        router.handle_reply(view, probe.to, &reply, now);
    }
}

/// Microseconds of one decision, probes and their answers included; sample by sample.
fn measure(arguments: &Arguments, view: &mut View, is_answered: bool) -> Vec<f64> {
    let mut router = Router::new(1);
    let names: Vec<_> = (0..arguments.names).map(name).collect();
    let (mut now, mut sequence) = (Instant::now(), 1);
    let mut at = 0;
    let sample = |_| {
        let start = Instant::now();
        for _ in 0..SAMPLE_DECISIONS {
            at = (at + 7) % names.len();
            now += Duration::from_micros(500);
            let mut query = Query {
                model: &names[at],
                numerics: Numerics::Any,
                tokens: 64,
                texts: 1,
                priority: Priority::Interactive,
                deadline: None,
                excluded: &[],
                waits: None,
            };
            while let Ok(Route::Wait(waiting)) = black_box(router.route(view, &query, now)) {
                query.waits = Some(waiting);
                if is_answered {
                    answer(&mut router, view, &mut sequence, now);
                } else {
                    now = waiting.until;
                    router.handle_timeout(now);
                }
            }
        }
        start.elapsed().as_secs_f64() * 1e6 / f64::from(SAMPLE_DECISIONS)
    };
    (0..arguments.samples).map(sample).collect()
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), AnyError> {
    let (mut view, now) = (View::default(), Instant::now());
    for number in 0..arguments.nodes {
        if !view.handle_facts(&facts(number, arguments), now) {
            return Err("the view takes no more nodes".into());
        }
        view.handle_load(node(number), &load(1), now);
    }
    let measured = [("probes answered", true), ("probes lost", false)]
        .map(|(name, is_answered)| (name, measure(arguments, &mut view, is_answered)));
    if arguments.json {
        let row = |(name, us): &(&str, Vec<f64>)| serde_json::json!({"case": name, "p50_us": median(us), "p99_us": quantile(us, 0.99)});
        let cases: Vec<_> = measured.iter().map(row).collect();
        let out = serde_json::json!({
            "nodes": arguments.nodes, "models": arguments.models, "names": arguments.names,
            "decisions": arguments.samples * SAMPLE_DECISIONS as usize, "cases": cases,
        });
        println!("{out}");
        return Ok(());
    }
    println!("{} nodes x {} of {} models", arguments.nodes, arguments.models, arguments.names);
    println!("decision            p50 us    p99 us  (of samples of {SAMPLE_DECISIONS})");
    for (name, us) in &measured {
        println!("{name:<17} {:>8.2}  {:>8.2}", median(us), quantile(us, 0.99));
    }
    Ok(())
}
