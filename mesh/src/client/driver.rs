//! Drives one call: the shell around `core::Call`.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures_util::stream::{BoxStream, Stream, StreamExt};
use shoal_protocol::message::Input;
use shoal_protocol::{Frame, Message};
use tokio::runtime::Handle;
use tokio::time::Sleep;

use super::api::Inner;
use super::encode::Progress;
use crate::core::{AttemptFailure, AttemptKey, Call, CancelReason, ClientError, ItemResult, Submit, Summary};
use crate::link::{BoxFuture, Exchange};

/// Time as the caller's runtime tells it: virtual under a paused clock.
pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// What an attempt's future comes back with.
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
pub struct EncodeStream {
    client: Arc<Inner>,
    call: Call,
    inputs: BoxStream<'static, Input>,
    total: Option<u64>,
    progress: Option<Progress>,
    reported: u64,
    flights: Vec<Flight>,
    timer: Option<Pin<Box<Sleep>>>,
    over: bool,
}

impl EncodeStream {
    pub(super) fn new(
        client: Arc<Inner>,
        call: Call,
        inputs: BoxStream<'static, Input>,
        total: Option<u64>,
        progress: Option<Progress>,
    ) -> Self {
        Self {
            client,
            call,
            inputs,
            total,
            progress,
            reported: 0,
            flights: Vec::new(),
            timer: None,
            over: false,
        }
    }

    /// What the whole call took, once the stream has ended without an error.
    #[must_use]
    pub fn summary(&self) -> Option<&Summary> {
        self.call.poll_outcome()?.ok()
    }

    /// Items answered, and items given so far.
    #[must_use]
    pub fn items(&self) -> (u64, u64) {
        self.call.items()
    }

    /// Takes the input that is there. The input is the application's and may use the client itself: nothing is locked
    /// while it is asked.
    fn take_input(&mut self, cx: &mut Context<'_>) {
        while self.call.wants_input() {
            match self.inputs.poll_next_unpin(cx) {
                Poll::Ready(Some(input)) => self.call.handle_input(input, &self.client.shared()),
                Poll::Ready(None) => {
                    self.call.handle_input_end();
                    self.total = Some(self.call.items().1);
                }
                Poll::Pending => return self.call.handle_input_pause(),
            }
        }
    }

    /// Drops what is cancelled, sends what is due.
    fn advance(&mut self, now: Instant) {
        let client = self.client.clone();
        let mut shared = client.shared();
        while let Some((key, reason)) = self.call.poll_cancel() {
            let flying = self.flights.iter().position(|flight| flight.key == key);
            if let Some(flight) = flying.map(|at| self.flights.swap_remove(at)) {
                tracing::debug!(part = key.part, attempt = key.attempt, ?reason, "attempt cancelled");
                if let (CancelReason::Silent, Some(connection)) = (reason, flight.connection) {
                    client.suspect(connection);
                }
            }
        }
        while let Some(Submit { key, request }) = self.call.poll_submit(&mut shared, now) {
            let client = self.client.clone();
            let event = Box::pin(async move {
                match client.send(Frame::from(Message::EncodeRequest(request))).await {
                    Ok(exchange) => Event::Sent(exchange),
                    Err(failure) => Event::Failed(failure),
                }
            });
            self.flights.push(Flight { key, connection: None, event });
        }
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
            let mut shared = client.shared();
            match event {
                Event::Sent(exchange) => {
                    flight.connection = exchange.connection();
                    flight.event = read(exchange);
                    self.call.handle_sent(key, now());
                }
                Event::Frame(exchange, message) => {
                    if message.kind().is_terminal() {
                        self.flights.swap_remove(next);
                    } else {
                        flight.event = read(exchange);
                    }
                    self.call.handle_frame(key, message, &mut shared, now());
                }
                Event::Failed(failure) => {
                    tracing::debug!(part = key.part, attempt = key.attempt, ?failure, "attempt failed");
                    self.flights.swap_remove(next);
                    self.call.handle_failed(key, failure, &mut shared, now());
                }
            }
        }
        heard
    }

    /// Waits for the machine's next moment; ready once it was told that it passed.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((at, _reason)) = self.call.poll_timeout() else {
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
        let client = self.client.clone();
        self.call.handle_timeout(&mut client.shared(), now());
        Poll::Ready(())
    }

    fn report(&mut self) {
        let (answered, _) = self.call.items();
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

impl Stream for EncodeStream {
    type Item = Result<(u64, ItemResult), ClientError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.over {
            return Poll::Ready(None);
        }
        if Handle::try_current().is_err() {
            this.over = true;
            return Poll::Ready(Some(Err(ClientError::NoRuntime)));
        }
        loop {
            if let Some(item) = this.call.poll_item() {
                return Poll::Ready(Some(Ok(item)));
            }
            if let Some(outcome) = this.call.poll_outcome() {
                let error = outcome.err().cloned();
                this.over = true;
                this.flights.clear();
                return Poll::Ready(error.map(Err));
            }
            this.take_input(cx);
            this.advance(now());
            if this.listen(cx) {
                this.report();
                continue;
            }
            if this.call.poll_outcome().is_none() {
                ready!(this.wait(cx));
            }
        }
    }
}
