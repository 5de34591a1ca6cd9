//! Callers that take their answer too slowly.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Bytes that a caller must take in every window in which it keeps the writer waiting: one byte now and then would
/// hold an answer in memory for days.
const WINDOW_BYTES_MIN: usize = 64 * 1024;

/// A stream whose other end must keep reading. A write fails with [`io::ErrorKind::TimedOut`] when, since it first
/// had to wait, a window has passed in which fewer than [`WINDOW_BYTES_MIN`] were taken.
pub(super) struct PacedStream<S> {
    stream: S,
    window: Duration,
    /// Runs from the first write that has to wait until enough was taken or nothing is left to write.
    window_end: Option<Pin<Box<Sleep>>>,
    /// Bytes taken in it.
    taken: usize,
}

impl<S> PacedStream<S> {
    pub(super) fn new(stream: S, window: Duration) -> Self {
        Self { stream, window, window_end: None, taken: 0 }
    }

    /// What a write came to, held against the pace.
    fn pace(&mut self, wrote: Poll<io::Result<usize>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match wrote {
            Poll::Ready(Ok(bytes)) => {
                self.taken += bytes;
                if self.taken >= WINDOW_BYTES_MIN {
                    self.window_end = None;
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                let (window, taken) = (self.window, &mut self.taken);
                let end = self.window_end.get_or_insert_with(|| {
                    *taken = 0;
                    Box::pin(tokio::time::sleep(window))
                });
                if end.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
        }
        wrote
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PacedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PacedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.pace(wrote, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.pace(wrote, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Asked once everything was written.
        self.window_end = None;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::{Instant, sleep};

    use super::*;

    const WINDOW: Duration = Duration::from_secs(30);

    /// Sends `bytes` to a caller that takes `step` of them every second: when it ended, and how.
    async fn send(bytes: usize, step: usize) -> (Duration, io::Result<()>) {
        let (near, mut far) = duplex(step);
        let mut paced = PacedStream::new(near, WINDOW);
        let start = Instant::now();
        let write = async move {
            let written = paced.write_all(&vec![0; bytes]).await;
            (start.elapsed(), written)
        };
        let read = async {
            let mut buffer = vec![0; step];
            loop {
                sleep(Duration::from_secs(1)).await;
                if far.read(&mut buffer).await.is_ok_and(|read| read == 0) {
                    return;
                }
            }
        };
        let (sent, ()) = tokio::join!(write, read);
        sent
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_takes_nothing_is_cut_off() {
        let (near, _far) = duplex(1024);
        let mut paced = PacedStream::new(near, WINDOW);
        let start = Instant::now();
        let error = paced.write_all(&[0; 4096]).await.expect_err("nobody reads");
        assert_eq!((error.kind(), start.elapsed().as_secs()), (io::ErrorKind::TimedOut, 30));
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_takes_a_little_now_and_then_is_cut_off_too() {
        let (at, sent) = send(WINDOW_BYTES_MIN, 100).await;
        assert_eq!(sent.expect_err("cut").kind(), io::ErrorKind::TimedOut);
        assert_eq!(at.as_secs(), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_keeps_reading_gets_it_all() {
        assert!(send(10 * WINDOW_BYTES_MIN, 4096).await.1.is_ok(), "122,880 bytes in each window");
        assert!(send(20_000, 1000).await.1.is_ok(), "slow, but all there within one");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_between_two_answers_is_not_counted() {
        let (near, mut far) = duplex(1024);
        let mut paced = PacedStream::new(near, WINDOW);
        for _ in 0..3 {
            let mut buffer = [0; 2000];
            let both = tokio::join!(paced.write_all(&[0; 2000]), far.read_exact(&mut buffer));
            assert!(both.0.is_ok() && both.1.is_ok());
            paced.flush().await.expect("written");
            sleep(WINDOW * 2).await;
        }
    }
}
