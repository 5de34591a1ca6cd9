//! Zeroed buffers on cache-line boundaries.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// A cache line, and the widest vector.
const ALIGN_BYTES: usize = 64;

/// A zeroed buffer of plain data that starts on a cache line.
pub(crate) struct AlignedBuf<T> {
    start: NonNull<T>,
    len: usize,
}

// SAFETY: the buffer owns plain data and hands out references by the rules of a Vec.
unsafe impl<T: Send> Send for AlignedBuf<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for AlignedBuf<T> {}

impl<T: bytemuck::Pod> AlignedBuf<T> {
    /// `len` zeros.
    pub(crate) fn zeroed(len: usize) -> Self {
        let Some(layout) = Self::layout(len) else {
            return Self { start: NonNull::dangling(), len: 0 };
        };
        // SAFETY: the layout has a size above 0; zeros are valid for plain data.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start.cast()) else { handle_alloc_error(layout) };
        Self { start, len }
    }

    /// Makes room for `len` elements; what was inside is lost when it has to grow.
    pub(crate) fn reserve(&mut self, len: usize) {
        if self.len < len {
            *self = Self::zeroed(len);
        }
    }
}

impl<T> AlignedBuf<T> {
    /// None for nothing.
    fn layout(len: usize) -> Option<Layout> {
        let layout = Layout::array::<T>(len).and_then(|array| array.align_to(ALIGN_BYTES));
        let layout = layout.expect("a buffer that is asked for fits the address space");
        (layout.size() > 0).then_some(layout)
    }

    /// The heap that the buffer holds.
    pub(crate) fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }
}

impl<T> Drop for AlignedBuf<T> {
    fn drop(&mut self) {
        if let Some(layout) = Self::layout(self.len) {
            // SAFETY: allocated by `zeroed` with this layout, and not used after.
            unsafe { dealloc(self.start.as_ptr().cast(), layout) }
        }
    }
}

impl<T> Deref for AlignedBuf<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `len` initialised elements; dangling and aligned when there are none.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for AlignedBuf<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zeroed_aligned_and_grow() {
        let mut buffer = AlignedBuf::<f32>::zeroed(3);
        assert_eq!((&*buffer, buffer.bytes()), (&[0.0; 3][..], 12));
        buffer[2] = 1.0;
        buffer.reserve(2);
        assert_eq!(buffer.len(), 3);
        buffer.reserve(5);
        assert_eq!(&*buffer, &[0.0; 5]);
        assert_eq!(buffer.as_ptr() as usize % ALIGN_BYTES, 0);
        assert!(AlignedBuf::<u32>::zeroed(0).is_empty());
    }
}
