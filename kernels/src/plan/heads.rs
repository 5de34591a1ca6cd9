//! Where the elements of a head lie.

use crate::{
    cpu::HEAD_DIM_MAX,
    cuda::{DisentangledKernel, Distance, KernelError},
    plan::PlanError,
    spec,
};

/// Elements of a head that CUDA's rotation takes at once: eight pairs.
const TURNED_PAIRS: usize = 8;

/// How a stored head of queries, keys or values stands in the heads that the kernels see.
///
/// CPUs take heads as they are. CUDA has attention for some widths and turns eight pairs at once: narrower heads stand in
/// wider ones, filled up with zeros, which add nothing to a score and nothing to what it weighs. Rotation turns an element of
/// the first half with one of the second, so that each half is filled up on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HeadLayout {
    /// Elements in the checkpoint.
    pub(crate) stored: usize,
    /// Elements for the kernels.
    pub(crate) width: usize,
    /// Pairs that are turned together, and the room of each half.
    pairs: usize,
    pairs_room: usize,
}

impl HeadLayout {
    /// So many pairs, filled up for CUDA.
    pub(crate) const fn pairs_room(pairs: usize) -> usize {
        pairs.next_multiple_of(TURNED_PAIRS)
    }

    /// As the checkpoint has it.
    pub(super) fn for_cpu(attention: &spec::Attention) -> Result<Self, PlanError> {
        let head_dim = attention.head_dim;
        if head_dim > HEAD_DIM_MAX || !head_dim.is_multiple_of(2) {
            return Err(PlanError::HeadDim { head_dim, max: HEAD_DIM_MAX });
        }
        Ok(Self { stored: head_dim, width: head_dim, pairs: 0, pairs_room: 0 })
    }

    /// In the narrowest head that CUDA's attention has for it.
    /// `distance` is what scores have to do with distances, `None` where contents are compared with them.
    pub(super) fn for_cuda(
        attention: &spec::Attention,
        distance: Option<Distance>,
    ) -> Result<Self, PlanError> {
        let pairs = attention.rope.map_or(0, |rope| rope.dims / 2);
        let pairs_room = Self::pairs_room(pairs);
        let stored = attention.head_dim;
        let needed = stored + 2 * (pairs_room - pairs);
        let (covered, with) = match distance {
            Some(distance) => (distance.head_dims(), distance.with()),
            None => (DisentangledKernel::HEAD_DIMS, DisentangledKernel::WITH),
        };
        let width = covered.iter().copied().find(|width| *width >= needed);
        let width = width.ok_or(KernelError::HeadDim { head_dim: stored, with, covered })?;
        Ok(Self { stored, width, pairs, pairs_room })
    }

    /// Where a stored element stands.
    pub(crate) fn place(&self, element: usize) -> usize {
        let behind = |halves: usize| halves * (self.pairs_room - self.pairs) + element;
        match element {
            _ if element < self.pairs => element,
            _ if element < 2 * self.pairs => behind(1),
            _ => behind(2),
        }
    }

    /// Elements of a head that are turned, with the room that is filled up.
    pub(crate) fn turned(&self) -> usize {
        2 * self.pairs_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_filled_up_on_their_own() {
        let layout = HeadLayout { stored: 10, width: 32, pairs: 3, pairs_room: 8 };
        let places: Vec<_> = (0..10).map(|element| layout.place(element)).collect();
        assert_eq!(places, [0, 1, 2, 8, 9, 10, 16, 17, 18, 19]);
        assert_eq!(layout.turned(), 16);
        let whole = HeadLayout { stored: 64, width: 64, pairs: 32, pairs_room: 32 };
        assert!((0..64).all(|element| whole.place(element) == element));
    }
}
