//! What the callers want, and when: an open loop, which does not wait for answers.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::SmallRng;
use shoal_mesh::simulation::exponential;
use shoal_protocol::message::Input;

use super::chance::Weighted;
use super::scenario::Scenario;

/// A kind of request.
#[derive(Clone, Copy, Debug)]
struct Shape {
    weight: f64,
    items: u16,
    tokens: u16,
}

/// Mostly queries, some passages, few documents, and now and then a batch of passages.
const MIX: [Shape; 4] = [
    Shape { weight: 0.60, items: 1, tokens: 24 },
    Shape { weight: 0.30, items: 1, tokens: 96 },
    Shape { weight: 0.08, items: 1, tokens: 384 },
    Shape { weight: 0.02, items: 16, tokens: 64 },
];

/// Tokens of a request, on average, where texts are `scale` times as long.
pub(super) fn tokens_mean(scale: u16) -> f64 {
    let weights: f64 = MIX.iter().map(|shape| shape.weight).sum();
    let tokens = |shape: &Shape| shape.weight * f64::from(shape.items) * f64::from(shape.tokens);
    f64::from(scale) * MIX.iter().map(tokens).sum::<f64>() / weights
}

/// One request of the application.
pub(super) struct Wanted {
    pub(super) model: u16,
    /// Which of the shapes, of [`Workload::SHAPES`].
    pub(super) shape: usize,
    /// The first token of the item at `n` is `n`.
    pub(super) items: Vec<Input>,
}

/// Poisson arrivals at a number of clients, models by Zipf's law.
#[derive(Clone, Debug)]
pub(super) struct Workload {
    gap: Duration,
    models: Weighted,
    shapes: Weighted,
    text_scale: u16,
}

impl Workload {
    /// How many shapes there are.
    pub(super) const SHAPES: usize = MIX.len();

    /// A shape, for people.
    pub(super) fn shape_name(shape: usize) -> String {
        let Shape { items, tokens, .. } = MIX[shape];
        format!("{items} x {tokens} tokens")
    }

    /// That of a scenario: its requests over all clients.
    pub(super) fn new(scenario: &Scenario) -> Self {
        Self {
            gap: Duration::from_secs_f64(f64::from(scenario.clients) / scenario.rate_per_s),
            models: Weighted::zipf(scenario.models, scenario.zipf),
            text_scale: scenario.text_scale,
            shapes: Weighted::new(MIX.iter().map(|shape| shape.weight)),
        }
    }

    /// Time until a client's next request.
    pub(super) fn gap(&self, chance: &mut SmallRng) -> Duration {
        exponential(chance, self.gap)
    }

    pub(super) fn request(&self, chance: &mut SmallRng) -> Wanted {
        let drawn = self.shapes.draw(chance);
        let shape = MIX[drawn];
        let item = |number| {
            let mean = shape.tokens.saturating_mul(self.text_scale);
            let tokens = chance.random_range(mean / 2..=mean.saturating_add(mean / 2));
            let mut ids = vec![0; usize::from(tokens)];
            ids[0] = u32::from(number);
            Input::TokenIds(ids)
        };
        let items = (0..shape.items).map(item).collect();
        Wanted { model: self.models.draw(chance) as u16, shape: drawn, items }
    }

    /// A model, by how often it is asked for.
    pub(super) fn model(&self, chance: &mut SmallRng) -> u16 {
        self.models.draw(chance) as u16
    }
}
