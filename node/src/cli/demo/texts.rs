//! What the demo encodes: real sentences, in groups that a good model keeps together.

/// The sentences that are searched.
pub(super) const CORPUS: [&str; 24] = [
    "The ferry to the islands leaves every morning at half past seven.",
    "Heavy snow closed the mountain pass for three days.",
    "Our train was delayed because a signal had failed near the border.",
    "You can rent bicycles right outside the central station.",
    "Knead the dough until it is smooth, then let it rise for an hour.",
    "A pinch of salt brings out the sweetness of ripe tomatoes.",
    "She simmered the beans slowly with garlic, bay leaves and olive oil.",
    "The bakery on the corner sells out of rye bread before noon.",
    "The telescope recorded a faint galaxy that formed soon after the first stars.",
    "Jupiter's largest moon hides an ocean beneath its crust of ice.",
    "A solar eclipse happens when the moon passes between the sun and the earth.",
    "The probe sent back its first images of the comet's surface.",
    "The compiler rejects programs in which two threads may write the same memory.",
    "An index makes the query fast, but every insert has to maintain it.",
    "They traced the outage to a certificate that had expired overnight.",
    "The cache evicts whatever has gone unused for the longest time.",
    "The nurse checked his pulse and adjusted the drip.",
    "Regular walking lowers blood pressure in most adults.",
    "The vaccine has to be kept cold until it is used.",
    "Her doctor advised more sleep and less coffee.",
    "The orchestra tuned while the audience found its seats.",
    "He learned the cello late, and practised every evening.",
    "The choir's recording was made in a small stone chapel.",
    "Their new album mixes jazz harmonies with street drumming.",
];

/// What is searched for.
pub(super) const QUERIES: [&str; 4] = [
    "How do I get to the coast by boat?",
    "baking bread at home",
    "Why did the server go down?",
    "watching the night sky",
];

/// A text that differs from every other one with the same `index` below 552: two sentences of the corpus.
pub(super) fn pair(index: usize) -> String {
    let first = index % CORPUS.len();
    let step = 1 + (index / CORPUS.len()) % (CORPUS.len() - 1);
    let second = (first + step) % CORPUS.len();
    format!("{} {}", CORPUS[first], CORPUS[second])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn pairs_are_distinct() {
        let count = CORPUS.len() * (CORPUS.len() - 1);
        let pairs: BTreeSet<_> = (0..count).map(pair).collect();
        assert_eq!(pairs.len(), count);
    }
}
