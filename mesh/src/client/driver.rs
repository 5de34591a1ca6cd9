//! Drives one call: the shell around `core::ClientCore`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures_util::stream::{BoxStream, Stream, StreamExt};
use shoal_protocol::message::Input;
use shoal_protocol::{Message, RequestId};
use tokio::runtime::Handle;
use tokio::time::Sleep;

use super::api::Inner;
use super::call::Progress;
use crate::core::{
    AttemptFailure, AttemptKey, CallId, CancelReason, ClientError, ItemResult, Submit, Summary,
};
use crate::link::{BoxFuture, Exchange, now};

/// What an attempt's future comes back with.
#[expect(clippy::large_enum_variant, reason = "moved once, at once: a box would be an allocation a frame")]
enum Event {
    Sent(Exchange),
    Frame(Exchange, Message),
    Failed(AttemptFailure),
}

/// An attempt that is out. Dropping it cancels the attempt at the node.
struct Flight {
    key: AttemptKey,
    /// The connection that carries it, once it was sent.
    connection: Option<usize>,
    event: BoxFuture<'static, Event>,
}

/// The results of a call in input order: `(index, result)` for every text; if the call fails, for those before the
/// first text without one, then one error and nothing after it. Memory is bounded whatever the length of the call;
/// dropping the stream cancels what is left.
///
/// The call proceeds only while the stream is polled.
#[must_use = "a call proceeds only while its stream is polled"]
pub struct AnswerStream {
    client: Arc<Inner>,
    call: CallId,
    request_id: RequestId,
    inputs: BoxStream<'static, Input>,
    total: Option<u64>,
    progress: Option<Progress>,
    reported: u64,
    flights: Vec<Flight>,
    timer: Option<Pin<Box<Sleep>>>,
    /// Once the call is over: what it took, if it answered every item, and how far it came.
    over: Option<(Option<Summary>, (u64, u64))>,
}

impl AnswerStream {
    pub(super) fn new(
        client: Arc<Inner>,
        (call, request_id): (CallId, RequestId),
        inputs: BoxStream<'static, Input>,
        total: Option<u64>,
        progress: Option<Progress>,
    ) -> Self {
        Self {
            client,
            call,
            request_id,
            inputs,
            total,
            progress,
            reported: 0,
            flights: Vec::new(),
            timer: None,
            over: None,
        }
    }

    /// What the whole call took, once the stream has ended without an error.
    #[must_use]
    pub fn summary(&self) -> Option<&Summary> {
        self.over.as_ref()?.0.as_ref()
    }

    /// The request, also where it fails. Once the call has ended well, [`summary`](Self::summary) has the same with the node
    /// that answered last.
    #[must_use]
    pub fn request_id(&self) -> RequestId {
        self.request_id
    }

    /// Items answered, and items given so far.
    #[must_use]
    pub fn items(&self) -> (u64, u64) {
        self.over.as_ref().map_or_else(|| self.client.core().items(self.call), |(_, items)| *items)
    }

    /// Takes the input that is there. The input is the application's and may use the client itself: nothing is locked
    /// while it is asked.
    fn take_input(&mut self, cx: &mut Context<'_>) {
        let client = self.client.clone();
        while client.core().wants_input(self.call) {
            let input = self.inputs.poll_next_unpin(cx);
            let mut core = client.core();
            match input {
                Poll::Ready(Some(input)) => core.handle_input(self.call, input),
                Poll::Ready(None) => {
                    core.handle_input_end(self.call);
                    self.total = Some(core.items(self.call).1);
                }
                Poll::Pending => return core.handle_input_pause(self.call),
            }
        }
    }

    /// Drops what is cancelled, sends what is due. Whether a probe was answered at once.
    fn advance(&mut self, now: Instant) -> bool {
        let client = self.client.clone();
        let mut core = client.core();
        while let Some((key, reason)) = core.poll_cancel(self.call) {
            let flying = self.flights.iter().position(|flight| flight.key == key);
            if let Some(flight) = flying.map(|at| self.flights.swap_remove(at)) {
                tracing::debug!(part = key.part, attempt = key.attempt, ?reason, "attempt cancelled");
                if let (CancelReason::Silent, Some(connection)) = (reason, flight.connection) {
                    client.suspect(connection);
                }
            }
        }
        while let Some(Submit { key, to, request }) = core.poll_submit(self.call, now) {
            let client = self.client.clone();
            let event = Box::pin(async move {
                match client.send(to, Message::TaskRequest(request).into()).await {
                    Ok(exchange) => Event::Sent(exchange),
                    Err(failure) => Event::Failed(failure),
                }
            });
            self.flights.push(Flight { key, connection: None, event });
        }
        let probes: Vec<_> = std::iter::from_fn(|| core.poll_probe(now)).collect();
        drop(core);
        probes.into_iter().filter(|probe| client.probe(probe)).count() > 0
    }

    /// Feeds what the attempts have to say; whether there was anything.
    fn listen(&mut self, cx: &mut Context<'_>) -> bool {
        let (client, mut heard) = (self.client.clone(), false);
        let mut next = 0;
        while let Some(flight) = self.flights.get_mut(next) {
            let Poll::Ready(event) = flight.event.as_mut().poll(cx) else {
                next += 1;
                continue;
            };
            heard = true;
            let key = flight.key;
            let mut core = client.core();
            match event {
                Event::Sent(exchange) => {
                    flight.connection = exchange.connection();
                    flight.event = read(exchange);
                    core.handle_sent(self.call, key, now());
                }
                Event::Frame(exchange, message) => {
                    if message.kind().is_terminal() {
                        self.flights.swap_remove(next);
                    } else {
                        flight.event = read(exchange);
                    }
                    core.handle_frame(self.call, key, message, now());
                }
                Event::Failed(failure) => {
                    tracing::debug!(part = key.part, attempt = key.attempt, ?failure, "attempt failed");
                    self.flights.swap_remove(next);
                    core.handle_failed(self.call, key, failure, now());
                }
            }
        }
        heard
    }

    /// Waits for the machine's next moment; ready once it was told that it passed.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((at, _reason)) = self.client.core().poll_timeout(self.call) else {
            return Poll::Pending;
        };
        let at = tokio::time::Instant::from_std(at);
        let timer = match &mut self.timer {
            Some(timer) => {
                if timer.deadline() != at {
                    timer.as_mut().reset(at);
                }
                timer
            }
            None => self.timer.insert(Box::pin(tokio::time::sleep_until(at))),
        };
        ready!(timer.as_mut().poll(cx));
        self.client.core().handle_timeout(self.call, now());
        Poll::Ready(())
    }

    fn outcome(&self) -> Option<Result<Summary, ClientError>> {
        let core = self.client.core();
        let outcome = core.poll_outcome(self.call)?;
        Some(outcome.cloned().map_err(Clone::clone))
    }

    /// The call is over: what is still out is dropped, and with it cancelled.
    fn end(&mut self, summary: Option<Summary>) {
        let items = self.items();
        self.over = Some((summary, items));
        self.flights.clear();
        self.client.shared.end_call(self.call);
    }

    fn report(&mut self) {
        let (answered, _) = self.items();
        if let Some(progress) = &mut self.progress
            && answered > self.reported
        {
            self.reported = answered;
            progress(answered, self.total);
        }
    }
}

/// Reads the next frame of an attempt.
fn read(mut exchange: Exchange) -> BoxFuture<'static, Event> {
    Box::pin(async move {
        match exchange.read().await {
            Ok(frame) => Event::Frame(exchange, frame.message),
            Err(error) => Event::Failed(error.into()),
        }
    })
}

impl Stream for AnswerStream {
    type Item = Result<(u64, ItemResult), ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.over.is_some() {
            return Poll::Ready(None);
        }
        if Handle::try_current().is_err() {
            this.end(None);
            return Poll::Ready(Some(Err(ClientError::NoRuntime)));
        }
        // Before anything is looked at: news may come on another thread meanwhile.
        this.client.shared.wait(this.call, cx.waker());
        loop {
            if let Some(item) = this.client.core().poll_item(this.call) {
                return Poll::Ready(Some(Ok(item)));
            }
            if let Some(outcome) = this.outcome() {
                let (summary, error) = match outcome {
                    Ok(summary) => (Some(summary), None),
                    Err(error) => (None, Some(error)),
                };
                this.end(summary);
                return Poll::Ready(error.map(Err));
            }
            this.take_input(cx);
            let answered = this.advance(now());
            if this.listen(cx) || answered {
                this.report();
                continue;
            }
            if this.outcome().is_none() {
                ready!(this.wait(cx));
            }
        }
    }
}

impl Drop for AnswerStream {
    fn drop(&mut self) {
        self.client.shared.end_call(self.call);
    }
}
