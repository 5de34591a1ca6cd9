//! What one look shows, as lines: the busiest first, cut to the room that there is.

use std::cmp::Reverse;
use std::fmt::Write as _;

use super::watch::{Rates, Watch};
use crate::cli::census::{Census, Heard};
use crate::cli::models::megabytes;
use crate::cli::output::{millis, table_lines};
use crate::cli::status::{device_name, state_of};

/// Columns and rows of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) columns: usize,
    pub(super) rows: usize,
}

impl Room {
    /// Of an output that is no terminal.
    pub(super) const UNBOUNDED: Self = Self { columns: usize::MAX, rows: usize::MAX };
}

/// Digits of a node's id that tell it from the others of a mesh: two among 4096 are alike once in 500 meshes.
const NODE_DIGITS: usize = 8;

const NODES: [&str; 9] =
    ["NODE", "STATE", "DEVICE", "SPEED", "TOKENS/S", "QUEUE", "WAIT", "RUNNING", "MODELS"];
const MODELS: [&str; 5] = ["HOT MODEL", "REQUESTS/S", "TOKENS/S", "MEMORY", "AT"];
const STAGES: [&str; 7] = ["MODEL", "STAGE", "REQUESTS", "P50", "P99", "P99.9", "MAX"];

/// The picture of a look that `watch` has taken in.
pub(super) fn lines(census: &Census, watch: &Watch, room: Room) -> Vec<String> {
    let models = by_rate(census, watch);
    let tables = [
        table_lines(&NODES, &node_rows(census, watch)),
        table_lines(&MODELS, &model_rows(census, watch, &models)),
        table_lines(&STAGES, &stage_rows(watch, &models)),
    ];
    let mut lines = vec![headline(census, watch)];
    // An empty line before each table.
    let rows = room.rows.saturating_sub(lines.len() + tables.len());
    for (table, share) in tables.iter().zip(shares(&tables, rows)) {
        lines.push(String::new());
        lines.extend(cut(table, share));
    }
    lines.iter().map(|line| line.chars().take(room.columns).collect()).collect()
}

/// The rows of each table: as many as it has, or an equal share of what smaller ones leave.
fn shares<const N: usize>(tables: &[Vec<String>; N], rows: usize) -> [usize; N] {
    let mut by_size: [usize; N] = std::array::from_fn(|index| index);
    by_size.sort_by_key(|index| tables[*index].len());
    let (mut shares, mut left) = ([0; N], rows);
    for (done, index) in by_size.into_iter().enumerate() {
        shares[index] = tables[index].len().min(left / (N - done));
        left -= shares[index];
    }
    shares
}

/// The first lines of a table, and how many there would be more.
fn cut(table: &[String], rows: usize) -> Vec<String> {
    if table.len() <= rows {
        return table.to_vec();
    }
    let kept = rows.saturating_sub(1);
    let mut shown = table[..kept].to_vec();
    if rows > 0 {
        shown.push(format!("… {} more", table.len() - kept));
    }
    shown
}

fn headline(census: &Census, watch: &Watch) -> String {
    let nodes = census.heard.len();
    let mut line = format!("{nodes} {}", if nodes == 1 { "node" } else { "nodes" });
    let unheard = census.heard.iter().filter(|heard| heard.status.is_err()).count();
    if unheard > 0 {
        write!(line, " ({unheard} not heard)").expect("a string takes everything");
    }
    if let Some(Rates { requests_per_s, tokens_per_s }) = watch.rates(None, None) {
        write!(line, ", {requests_per_s:.0} requests/s, {tokens_per_s:.0} tokens/s")
            .expect("a string takes everything");
    }
    let of = match watch.window() {
        Some(window) => format!("of the last {:.0} s", window.as_secs_f64()),
        None => "since the nodes' start".to_owned(),
    };
    format!("{line}; latencies {of}")
}

/// The longest queue first; those that say nothing last.
fn node_rows(census: &Census, watch: &Watch) -> Vec<Vec<String>> {
    let queue = |heard: &Heard| {
        let devices = heard.status.as_ref().ok().map(|status| &status.devices);
        devices.map(|devices| devices.iter().map(|device| device.load.queue_tokens).sum::<u64>())
    };
    let mut heard: Vec<_> = census.heard.iter().collect();
    heard.sort_by_key(|heard| (Reverse(queue(heard)), heard.member.node));
    let mut rows = Vec::new();
    for heard in heard {
        let mut id = heard.member.node.to_string();
        id.truncate(NODE_DIGITS);
        let own = vec![id, state_of(heard)];
        match &heard.status {
            Err(why) => rows.push([own, vec![format!("({why})")]].concat()),
            Ok(status) => rows.extend(status.devices.iter().map(|device| {
                let done = watch.rates(Some(status.node), None);
                let cells = vec![
                    device_name(device),
                    device.load.tokens_per_s.to_string(),
                    done.map_or_else(String::new, |rates| format!("{:.0}", rates.tokens_per_s)),
                    device.load.queue_tokens.to_string(),
                    millis(device.load.wait_us),
                    device.load.running.to_string(),
                    megabytes(device.gauges.resident_bytes.0),
                ];
                [own.clone(), cells].concat()
            })),
        }
    }
    rows
}

/// The models in memory, the one with the most tokens a second first.
fn by_rate<'a>(census: &'a Census, watch: &Watch) -> Vec<(&'a str, Rates)> {
    let hot = census.hot_models().into_keys();
    let mut models: Vec<_> =
        hot.map(|model| (model, watch.rates(None, Some(model)).unwrap_or_default())).collect();
    models.sort_by(|a, b| b.1.tokens_per_s.total_cmp(&a.1.tokens_per_s).then(a.0.cmp(b.0)));
    models
}

fn model_rows(census: &Census, watch: &Watch, models: &[(&str, Rates)]) -> Vec<Vec<String>> {
    let mut hot = census.hot_models();
    let has_rates = watch.window().is_some();
    let rate = |per_s: f64| if has_rates { format!("{per_s:.0}") } else { String::new() };
    let rows = models.iter().map(|(model, rates)| {
        let places = hot.remove(model).unwrap_or_default();
        let bytes = places.iter().map(|(_, model)| model.bytes.0).sum();
        let at = places.iter().map(|(node, _)| node.to_string()[..NODE_DIGITS].to_owned());
        let name = (*model).to_owned();
        let at = at.collect::<Vec<_>>().join(" ");
        vec![name, rate(rates.requests_per_s), rate(rates.tokens_per_s), megabytes(bytes), at]
    });
    rows.collect()
}

fn stage_rows(watch: &Watch, models: &[(&str, Rates)]) -> Vec<Vec<String>> {
    let latencies = watch.latencies();
    let mut rows = Vec::new();
    for (model, _) in models {
        rows.extend(latencies.of(model).map(|(stage, histogram)| {
            let mut row = vec![(*model).to_owned(), stage.name.clone(), histogram.len().to_string()];
            row.extend([0.5, 0.99, 0.999].map(|quantile| millis(histogram.value_at_quantile(quantile))));
            row.push(millis(histogram.max()));
            row
        }));
    }
    rows
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shoal_protocol::message::MemberState;

    use super::super::testing::{census, member, node};
    use super::*;

    fn two_looks() -> (Census, Watch) {
        let (mut watch, start) = (Watch::default(), crate::clock::now());
        watch.handle_look(&census([node(1, 1, 100), node(2, 1, 500)]), start);
        let down = Heard { member: member(3, MemberState::Down), status: Err("it is down".into()) };
        let second = census([node(1, 1, 140), node(2, 1, 520), down]);
        watch.handle_look(&second, start + Duration::from_secs(2));
        (second, watch)
    }

    #[test]
    fn the_busiest_are_first_and_the_dead_are_last() {
        let (census, watch) = two_looks();
        let lines = lines(&census, &watch, Room::UNBOUNDED);
        assert_eq!(lines[0], "3 nodes (1 not heard), 30 requests/s, 300 tokens/s; latencies of the last 2 s");
        let first_words: Vec<_> =
            lines[3..6].iter().map(|line| line.split_whitespace().take(2).collect::<Vec<_>>()).collect();
        assert_eq!(first_words, [["02020202", "ready"], ["01010101", "ready"], ["03030303", "down"]]);
        let model = lines.iter().find(|line| line.starts_with("m ")).expect("the model");
        assert!(model.contains("90.0 MB") && model.contains("01010101 02020202"), "{model}");
        let total = lines.last().expect("a stage");
        let cells: Vec<_> = total.split_whitespace().collect();
        assert_eq!(cells[..5], ["m", "total", "60", "1.00", "ms"], "the window's requests of both nodes");
    }

    #[test]
    fn no_terminal_is_too_small() {
        let (census, watch) = two_looks();
        let whole = lines(&census, &watch, Room::UNBOUNDED);
        for rows in 0..whole.len() + 3 {
            let shown = lines(&census, &watch, Room { columns: 20, rows });
            assert!(shown.len() <= rows.max(4), "{rows} rows: {shown:#?}");
            assert!(shown.iter().all(|line| line.chars().count() <= 20));
        }
        let shown = lines(&census, &watch, Room { columns: 200, rows: whole.len() });
        assert_eq!(shown, whole);
        let tight = lines(&census, &watch, Room { columns: 200, rows: whole.len() - 1 });
        assert!(tight.iter().any(|line| line.starts_with("… ")), "{tight:#?}");
    }
}
