//! What a link costs: the same calls to the same service that computes nothing, in process and over QUIC on loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::pipeline::AnyError;
use hdrhistogram::Histogram;
use shoal_mesh::{
    Authority, BoxFuture, Client, ConnectOptions, Encode, NetThread, Peer, QuicServer, QuicServerOptions,
    Reply, Service,
};
use shoal_protocol::message::{
    DenseBlock, DenseDtype, End, ItemOutcome, Numerics, Role, ServedBy, TaskRequest, TaskResult, Timings,
};
use shoal_protocol::{DeviceIndex, ErrorCode, Frame, Message, NodeId};
use tokio::runtime::{Builder, Runtime};

/// Rows of one result frame.
const ROWS_MAX: usize = 512;
/// Calls of one link before the other has its turn: both see the same moods of the machine.
const TURN_CALLS: usize = 200;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Measured calls over each link.
    #[arg(long, default_value_t = 10_000)]
    calls: usize,
    /// Unmeasured calls over each link before them.
    #[arg(long, default_value_t = 1000)]
    warmup: usize,
    /// Texts in one call.
    #[arg(long, default_value_t = 1)]
    texts: usize,
    /// Values of one vector.
    #[arg(long, default_value_t = 384)]
    dims: u32,
    /// Threads of the caller's runtime; 1 is a runtime of the calling thread only.
    #[arg(long, default_value_t = 1)]
    client_threads: usize,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Answers every text with zeros at once.
struct Echo {
    dims: u32,
}

impl Echo {
    async fn answer(&self, request: TaskRequest, mut reply: Reply) -> Result<(), shoal_mesh::LinkError> {
        let items = u32::try_from(request.items.len()).unwrap_or(u32::MAX);
        for first in (0..items).step_by(ROWS_MAX) {
            let indices: Vec<_> = (first..items.min(first + ROWS_MAX as u32)).collect();
            let rows = indices.len();
            let outcome = ItemOutcome::Answered { tokens: 16, truncated: false };
            let result = TaskResult {
                outcomes: vec![outcome; rows],
                answers: DenseBlock {
                    dtype: DenseDtype::F32,
                    dims: self.dims,
                    rows: rows as u32,
                    data: vec![0; rows * DenseDtype::F32.row_bytes(self.dims)],
                }
                .into(),
                indices,
            };
            reply.send(Message::TaskResult(result)).await?;
        }
        let end = End {
            request_id: request.request_id,
            items,
            tokens: 16 * u64::from(items),
            served_by: ServedBy {
                node: NodeId::default(),
                device: DeviceIndex(0),
                device_name: "none".to_owned(),
                numerics: Numerics::F32,
            },
            timings: Timings::default(),
        };
        reply.end(Message::End(end)).await
    }
}

impl Service for Echo {
    fn serve(self: Arc<Self>, _: Peer, request: Frame, reply: Reply) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            // An answer that is not delivered shows at the caller, which stops the bench.
            let _told = match request.message {
                Message::TaskRequest(request) => self.answer(request, reply).await,
                _ => reply.fail(ErrorCode::InvalidRequest, "encodes only").await,
            };
        })
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), AnyError> {
    let net = NetThread::start()?;
    let service = Arc::new(Echo { dims: arguments.dims });
    let issuer = Authority::create()?.issuer()?;
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let options = QuicServerOptions::new(addr, issuer.issue(Role::Node, "bench")?);
    let server = QuicServer::bind(options.net(net.net()), service.clone())?;
    let (near, far) = callers_runtime(arguments.client_threads)?.block_on(async {
        let options = ConnectOptions::new([server.local_addr()], issuer.issue(Role::Client, "bench")?);
        let clients = [Client::in_process(service), Client::connect(options).await?];
        measure(arguments, &clients).await
    })?;
    report(arguments, &near, &far);
    Ok(())
}

fn callers_runtime(threads: usize) -> Result<Runtime, AnyError> {
    let mut builder = match threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    Ok(builder.enable_all().build()?)
}

type Latencies = Histogram<u64>;

async fn measure(
    arguments: &Arguments,
    [near, far]: &[Client; 2],
) -> Result<(Latencies, Latencies), AnyError> {
    let mut latencies = (Latencies::new(3)?, Latencies::new(3)?);
    let mut unmeasured = Latencies::new(3)?;
    turn(arguments, near, arguments.warmup, &mut unmeasured).await?;
    turn(arguments, far, arguments.warmup, &mut unmeasured).await?;
    let mut left = arguments.calls;
    while left > 0 {
        let calls = left.min(TURN_CALLS);
        turn(arguments, near, calls, &mut latencies.0).await?;
        turn(arguments, far, calls, &mut latencies.1).await?;
        left -= calls;
    }
    Ok(latencies)
}

async fn turn(
    arguments: &Arguments,
    client: &Client,
    calls: usize,
    latencies: &mut Latencies,
) -> Result<(), AnyError> {
    let texts = vec!["a text of about sixteen tokens, as a search engine is asked all day"; arguments.texts];
    for _ in 0..calls {
        let call = Encode::new("none", texts.iter().copied());
        let start = Instant::now();
        let done = client.encode(call).await?;
        latencies.record(u64::try_from(start.elapsed().as_nanos())?)?;
        if done.items.len() != arguments.texts {
            return Err("items are missing".into());
        }
    }
    Ok(())
}

fn report(arguments: &Arguments, near: &Latencies, far: &Latencies) {
    let at = |latencies: &Latencies, quantile| {
        Duration::from_nanos(latencies.value_at_quantile(quantile)).as_secs_f64() * 1e6
    };
    let added = at(far, 0.5) - at(near, 0.5);
    if arguments.json {
        let row =
            |latencies| serde_json::json!({"p50_us": at(latencies, 0.5), "p99_us": at(latencies, 0.99)});
        let out = serde_json::json!({
            "calls": arguments.calls, "texts": arguments.texts, "dims": arguments.dims,
            "client_threads": arguments.client_threads,
            "in_process": row(near), "quic": row(far), "quic_adds_p50_us": added,
        });
        println!("{out}");
        return;
    }
    println!("link          p50 us    p90 us    p99 us");
    for (name, latencies) in [("in process", near), ("quic", far)] {
        let [p50, p90, p99] = [0.5, 0.9, 0.99].map(|quantile| at(latencies, quantile));
        println!("{name:<11} {p50:>8.1}  {p90:>8.1}  {p99:>8.1}");
    }
    println!("quic adds   {added:>8.1}");
}
