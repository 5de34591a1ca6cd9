//! A small node: encodes a text into a few numbers that depend on every byte of it, and does what some texts ask.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use shoal_protocol::message::{
    Alternative, Beacon, DenseBlock, DenseDtype, End, Failure, Input, ItemOutcome, LoadProbe, LoadRecord,
    LoadReply, ModelState, Numerics, Phase, ServedBy, Status, TaskRequest, TaskResult, Timings,
};
use shoal_protocol::{DeviceIndex, ErrorCode, Frame, Message, Micros, NodeId};
use tokio::sync::watch;

use crate::link::{BoxFuture, LinkError, Peer, Reply, Service};
use crate::peer::MeshState;

pub(crate) const DIMS: usize = 8;
/// Items of one result frame.
const ROWS_MAX: usize = 64;

/// The vector of a text: what the client must get back, bit for bit.
pub(crate) fn vector(text: &str) -> Vec<f32> {
    let mut state = 0xcbf2_9ce4_8422_2325_u64;
    (0..DIMS)
        .map(|_| {
            for byte in text.bytes() {
                state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
            state = state.rotate_left(17).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (state >> 40) as f32 / 1e6
        })
        .collect()
}

/// What the node does with a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    #[default]
    Work,
    /// Beacons for ever, no result.
    Stall,
    /// Answers the first half and drops the reply.
    HalfThenDrop,
    /// Answers everything and drops the reply without an end.
    NoEnd,
    /// Overloaded, with a hint of 50 ms.
    Overloaded,
    /// Beacons until the mood is `Work` again, then works.
    Hold,
    /// Panics.
    Panic,
    /// One frame, then silence.
    Silence,
    /// Another node would be sooner.
    Redirect(NodeId),
}

pub(crate) struct TestService {
    pub(crate) node: NodeId,
    /// What it knows of its mesh, if it is in one.
    pub(crate) mesh: OnceLock<watch::Receiver<Arc<MeshState>>>,
    /// What it answers to probes.
    pub(crate) wait_us: AtomicU64,
    pub(crate) probes: AtomicUsize,
    /// Requests being served: what a dropped call must bring back to zero.
    pub(crate) serving: watch::Sender<usize>,
    pub(crate) mood: watch::Sender<Mood>,
    pub(crate) requests: AtomicUsize,
    pub(crate) cancelled: AtomicUsize,
}

impl TestService {
    pub(crate) fn new() -> Arc<Self> {
        Self::of(NodeId([9; 16]))
    }

    pub(crate) fn of(node: NodeId) -> Arc<Self> {
        Arc::new(Self {
            node,
            mesh: OnceLock::new(),
            wait_us: AtomicU64::new(0),
            probes: AtomicUsize::new(0),
            serving: watch::Sender::new(0),
            mood: watch::Sender::new(Mood::Work),
            requests: AtomicUsize::new(0),
            cancelled: AtomicUsize::new(0),
        })
    }

    /// Waits until exactly `count` requests are being served.
    pub(crate) async fn serving_is(&self, count: usize) {
        let mut serving = self.serving.subscribe();
        let reached = serving.wait_for(|now| *now == count);
        tokio::time::timeout(Duration::from_secs(10), reached)
            .await
            .expect("the gauge gets there")
            .expect("the service lives");
    }

    async fn work(&self, request: TaskRequest, mut reply: Reply) -> Result<(), LinkError> {
        if *self.mood.borrow() == Mood::Hold {
            let mut mood = self.mood.subscribe();
            while *mood.borrow() == Mood::Hold {
                reply.send(beacon()).await?;
                // Either the mood changed or the next beacon is due.
                let _due = tokio::time::timeout(Duration::from_millis(100), mood.changed()).await;
            }
        }
        let mood = *self.mood.borrow();
        if !matches!(mood, Mood::Work | Mood::HalfThenDrop | Mood::NoEnd) {
            return self.misbehave(mood, reply).await;
        }
        let (half, no_end) = (mood == Mood::HalfThenDrop, mood == Mood::NoEnd);
        let indexed: Vec<_> = (0..).zip(&request.items).collect();
        for (number, rows) in indexed.chunks(ROWS_MAX).enumerate() {
            if half && number * ROWS_MAX * 2 >= indexed.len() {
                self.mood.send_replace(Mood::Work);
                return Ok(());
            }
            reply.send(Message::TaskResult(result(rows))).await?;
        }
        if no_end {
            return Ok(());
        }
        let tokens = request.items.iter().map(|item| item.bytes() as u64 / 4 + 2).sum();
        let end = End {
            request_id: request.request_id.answered_by(self.node),
            items: request.items.len() as u32,
            tokens,
            served_by: ServedBy {
                node: self.node,
                device: DeviceIndex(0),
                device_name: "test".to_owned(),
                numerics: Numerics::F32,
            },
            timings: Timings::default(),
        };
        reply.end(Message::End(end)).await
    }

    async fn misbehave(&self, mood: Mood, mut reply: Reply) -> Result<(), LinkError> {
        let cancelled = reply.cancelled();
        tokio::pin!(cancelled);
        match mood {
            Mood::Panic => {
                self.mood.send_replace(Mood::Work);
                panic!("asked to");
            }
            Mood::Overloaded => {
                let failure = Failure {
                    retry_after_us: Some(Micros(50_000)),
                    ..Failure::new(ErrorCode::Overloaded, "no room".to_owned())
                };
                reply.end(Message::Failure(failure)).await
            }
            Mood::Redirect(node) => {
                let alternatives = vec![Alternative { node, load: LoadRecord::default() }];
                let failure = Failure::new(ErrorCode::Redirect, "sooner there".to_owned());
                reply.end(Message::Failure(Failure { alternatives, ..failure })).await
            }
            Mood::Silence => {
                self.mood.send_replace(Mood::Work);
                reply.send(beacon()).await?;
                cancelled.await;
                self.cancelled.fetch_add(1, Ordering::SeqCst);
                Err(LinkError::Gone)
            }
            _ => loop {
                reply.send(beacon()).await?;
                tokio::select! {
                    () = &mut cancelled => {
                        self.cancelled.fetch_add(1, Ordering::SeqCst);
                        return Err(LinkError::Gone);
                    }
                    () = tokio::time::sleep(Duration::from_millis(100)) => {}
                }
            },
        }
    }
}

fn beacon() -> Message {
    Message::Beacon(Beacon { phase: Phase::Queued, queue_tokens: 1, batches_done: 1, eta_us: Micros(1000) })
}

fn result(rows: &[(u32, &Input)]) -> TaskResult {
    let mut dense = DenseBlock { dtype: DenseDtype::F32, dims: DIMS as u32, ..DenseBlock::default() };
    let outcomes = rows.iter().map(|(_, input)| match input {
        Input::Text(text) if text == "too long" => ItemOutcome::Failed {
            code: ErrorCode::TooLong,
            message: "300 tokens".to_owned(),
            tokens: 300,
            limit: 256,
        },
        Input::Text(text) => {
            dense.rows += 1;
            dense.data.extend(vector(text).iter().flat_map(|value| value.to_le_bytes()));
            ItemOutcome::Answered { tokens: text.len() as u32 / 4 + 2, truncated: false }
        }
        Input::TokenIds(_) => ItemOutcome::Failed {
            code: ErrorCode::InvalidRequest,
            message: "texts only".to_owned(),
            tokens: 0,
            limit: 0,
        },
    });
    let outcomes = outcomes.collect();
    TaskResult { indices: rows.iter().map(|(index, _)| *index).collect(), outcomes, answers: dense.into() }
}

/// Counts a request for as long as it is being served.
struct Serving<'a>(&'a TestService);

impl<'a> Serving<'a> {
    fn new(service: &'a TestService) -> Self {
        service.serving.send_modify(|count| *count += 1);
        Self(service)
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.0.serving.send_modify(|count| *count -= 1);
    }
}

impl Service for TestService {
    fn probe(&self, probe: &LoadProbe) -> Option<LoadReply> {
        let sequence = self.probes.fetch_add(1, Ordering::SeqCst) as u16 + 1;
        let wait_us = self.wait_us.load(Ordering::SeqCst);
        let (device, tokens_per_s) = (probe.device, 10_000);
        let load = LoadRecord { device, wait_us, tokens_per_s, sequence, ..LoadRecord::default() };
        let model = Some(ModelState::Ready);
        (device == DeviceIndex(0)).then_some(LoadReply {
            nonce: probe.nonce,
            load,
            model,
            ready_in_us: Micros(0),
        })
    }

    fn mesh(&self) -> Option<watch::Receiver<Arc<MeshState>>> {
        self.mesh.get().cloned()
    }

    fn serve(self: Arc<Self>, _peer: Peer, request: Frame, reply: Reply) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let _serving = Serving::new(&self);
            self.requests.fetch_add(1, Ordering::SeqCst);
            // Gone callers are what some tests are about.
            let _told = match request.message {
                Message::TaskRequest(request) => self.work(request, reply).await,
                Message::StatusRequest(_) => {
                    let status = Status {
                        node: self.node,
                        generation: 1,
                        software: "test".to_owned(),
                        uptime_us: Micros(1),
                        draining: false,
                        ready: true,
                        warnings: Vec::new(),
                        devices: Vec::new(),
                        models: Vec::new(),
                        histograms: Vec::new(),
                        members: Vec::new(),
                    };
                    reply.end(Message::Status(Box::new(status))).await
                }
                _ => reply.fail(ErrorCode::InvalidRequest, "not served").await,
            };
        })
    }
}
