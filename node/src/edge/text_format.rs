//! The text forms of metrics: Prometheus 0.0.4 and OpenMetrics 1.0, which differ in the names of counters' families
//! and in the end marker.

use std::fmt::Write as _;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Families of metrics, one after the other.
pub(super) struct Writer {
    out: String,
    open_metrics: bool,
}

impl Writer {
    pub(super) fn new(open_metrics: bool) -> Self {
        Self { out: String::with_capacity(16 << 10), open_metrics }
    }

    /// Begins a family. `name` is without the `_total` of a counter's samples.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let (kind, suffix) = match kind {
            Kind::Counter if self.open_metrics => ("counter", ""),
            Kind::Counter => ("counter", "_total"),
            Kind::Gauge => ("gauge", ""),
            Kind::Histogram => ("histogram", ""),
        };
        self.line(format_args!("# HELP {name}{suffix} {help}"));
        self.line(format_args!("# TYPE {name}{suffix} {kind}"));
    }

    pub(super) fn sample(&mut self, name: &str, suffix: &str, labels: &[(&str, &str)], value: f64) {
        self.out.push_str(name);
        self.out.push_str(suffix);
        self.labels(labels, None);
        self.line(format_args!(" {value}"));
    }

    /// A classic histogram: `buckets` are the counts between `bounds` and above the last.
    pub(super) fn histogram(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        bounds: &[f64],
        buckets: &[u64],
        sum: f64,
    ) {
        let mut total = 0;
        for (index, count) in buckets.iter().enumerate() {
            total += count;
            let bound = bounds.get(index).map_or("+Inf".to_owned(), f64::to_string);
            self.out.push_str(name);
            self.out.push_str("_bucket");
            self.labels(labels, Some(&bound));
            self.line(format_args!(" {total}"));
        }
        self.sample(name, "_count", labels, total as f64);
        self.sample(name, "_sum", labels, sum);
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        if self.open_metrics {
            self.out.push_str("# EOF\n");
        }
        self.out.into_bytes()
    }

    fn labels(&mut self, labels: &[(&str, &str)], bound: Option<&str>) {
        let mut open = '{';
        for (name, value) in labels.iter().copied().chain(bound.map(|bound| ("le", bound))) {
            self.out.push(open);
            self.out.push_str(name);
            self.out.push_str("=\"");
            for character in value.chars() {
                match character {
                    '\\' => self.out.push_str("\\\\"),
                    '"' => self.out.push_str("\\\""),
                    '\n' => self.out.push_str("\\n"),
                    other => self.out.push(other),
                }
            }
            self.out.push('"');
            open = ',';
        }
        if open == ',' {
            self.out.push('}');
        }
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a String does not fail.
        let _ = self.out.write_fmt(text);
        self.out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_forms_differ_where_they_must() {
        let text = |open_metrics| {
            let mut out = Writer::new(open_metrics);
            out.family("x", Kind::Counter, "Help.");
            out.sample("x", "_total", &[("model", "a\"b\\c\nd")], 2.0);
            out.histogram("h", &[], &[0.5], &[1, 2], 3.25);
            String::from_utf8(out.finish()).unwrap()
        };
        let histogram = "h_bucket{le=\"0.5\"} 1\nh_bucket{le=\"+Inf\"} 3\nh_count 3\nh_sum 3.25\n";
        let sample = r#"x_total{model="a\"b\\c\nd"} 2"#;
        assert_eq!(
            text(false),
            format!("# HELP x_total Help.\n# TYPE x_total counter\n{sample}\n{histogram}")
        );
        assert_eq!(text(true), format!("# HELP x Help.\n# TYPE x counter\n{sample}\n{histogram}# EOF\n"));
    }
}
