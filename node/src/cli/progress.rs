//! Progress for people: bars on a terminal, nothing elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::{is_piped, is_watched, tell};
use crate::store::pull::Progress;

/// Shows a pull.
pub(super) struct PullProgress {
    bar: Option<ProgressBar>,
    watched: bool,
}

impl PullProgress {
    pub(super) fn new() -> Self {
        Self { bar: None, watched: is_watched() }
    }

    fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Progress for PullProgress {
    fn begin(&mut self, what: &str, done: u64, total: u64) {
        self.end();
        if !self.watched {
            return;
        }
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        let style =
            ProgressStyle::with_template("{msg:28} {bar:32} {bytes:>10}/{total_bytes} {bytes_per_sec}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_message(what.to_owned());
        bar.set_position(done);
        self.bar = Some(bar);
    }

    fn advance(&mut self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    fn note(&mut self, message: &str) {
        self.end();
        tell(message);
    }
}

impl Drop for PullProgress {
    fn drop(&mut self) {
        self.end();
    }
}

/// Shows how many texts are done, unless the results scroll by on the same terminal.
pub(super) struct TextsProgress {
    bar: ProgressBar,
}

impl TextsProgress {
    pub(super) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if is_watched() && is_piped() {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        let style = ProgressStyle::with_template("{spinner} {pos} texts, {per_sec}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        Self { bar }
    }

    pub(super) fn advance(&self, texts: u64) {
        self.bar.inc(texts);
    }
}

impl Drop for TextsProgress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
