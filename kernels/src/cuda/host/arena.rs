//! Which bytes of a block of memory are taken. Pure.

use std::collections::BTreeMap;

/// Regions start on whole multiples: what a device's copies and loads ask for, and more than a cache line.
const ALIGNMENT: u64 = 256;

/// Free stretches of `0..budget_bytes`, kept apart from one another by what is taken.
#[derive(Debug)]
pub(super) struct Arena {
    budget_bytes: u64,
    /// By first byte, as long as it says; no two touch.
    free: BTreeMap<u64, u64>,
}

/// Bytes that are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) start: u64,
    pub(super) bytes: u64,
}

impl Arena {
    /// The budget is cut to whole multiples of the alignment.
    pub(super) fn new(budget_bytes: u64) -> Self {
        let budget_bytes = budget_bytes / ALIGNMENT * ALIGNMENT;
        let free = (budget_bytes > 0).then_some((0, budget_bytes)).into_iter().collect();
        Self { budget_bytes, free }
    }

    pub(super) fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    pub(super) fn free_bytes(&self) -> u64 {
        self.free.values().sum()
    }

    /// The largest free stretch.
    pub(super) fn largest_bytes(&self) -> u64 {
        self.free.values().copied().max().unwrap_or(0)
    }

    /// Takes the smallest stretch that holds so many bytes, the first of equals: models of different sizes come and go, and
    /// large stretches are what a later one needs.
    pub(super) fn take(&mut self, bytes: u64) -> Option<Region> {
        let bytes = bytes.max(1).checked_next_multiple_of(ALIGNMENT)?;
        let fitting = self.free.iter().filter(|(_, held)| **held >= bytes);
        let (&start, &held) = fitting.min_by_key(|(start, held)| (**held, **start))?;
        self.free.remove(&start);
        if held > bytes {
            self.free.insert(start + bytes, held - bytes);
        }
        Some(Region { start, bytes })
    }

    /// Gives a region back, and joins what is free around it.
    pub(super) fn give_back(&mut self, Region { mut start, mut bytes }: Region) {
        if let Some((&before, &held)) = self.free.range(..start).next_back()
            && before + held == start
        {
            self.free.remove(&before);
            (start, bytes) = (before, held + bytes);
        }
        if let Some(held) = self.free.remove(&(start + bytes)) {
            bytes += held;
        }
        self.free.insert(start, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_budget_is_hard_and_the_smallest_room_is_taken_first() {
        let mut arena = Arena::new(1024 + 255);
        assert_eq!(arena.budget_bytes(), 1024);
        let regions: Vec<_> = (0..4).map(|_| arena.take(200).expect("room")).collect();
        assert_eq!(regions.iter().map(|region| region.start).collect::<Vec<_>>(), [0, 256, 512, 768]);
        assert_eq!((arena.take(1), arena.free_bytes()), (None, 0));
        arena.give_back(regions[0]);
        arena.give_back(regions[1]);
        arena.give_back(regions[3]);
        assert_eq!((arena.free_bytes(), arena.largest_bytes()), (768, 512));
        assert_eq!(arena.take(100).expect("room").start, 768, "and not of the larger stretch");
        assert_eq!(arena.take(u64::MAX), None);
    }

    proptest! {
        /// Regions never meet, and all that is given back can be had again in one piece.
        #[test]
        fn regions_are_apart(steps in prop::collection::vec((any::<bool>(), 0u64..9000), 1..200)) {
            let mut arena = Arena::new(64 << 10);
            let mut held: Vec<Region> = Vec::new();
            for (takes, number) in steps {
                if takes {
                    held.extend(arena.take(number));
                } else if !held.is_empty() {
                    arena.give_back(held.swap_remove(number as usize % held.len()));
                }
                let taken: u64 = held.iter().map(|region| region.bytes).sum();
                prop_assert_eq!(taken + arena.free_bytes(), 64 << 10);
                let mut sorted = held.clone();
                sorted.sort_by_key(|region| region.start);
                prop_assert!(sorted.windows(2).all(|pair| pair[0].start + pair[0].bytes <= pair[1].start));
            }
            held.into_iter().for_each(|region| arena.give_back(region));
            prop_assert_eq!(arena.largest_bytes(), 64 << 10);
        }
    }
}
