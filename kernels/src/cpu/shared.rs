//! Handing one buffer to several threads that write different parts of it.

use std::marker::PhantomData;

/// A mutable slice whose disjoint parts are written by the threads of one fork.
#[derive(Clone, Copy)]
pub(crate) struct SharedMut<'a, T> {
    start: *mut T,
    len: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: it is a `&mut [T]` whose users promise, at each access, that no two threads touch one element.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), borrow: PhantomData }
    }

    /// The address of element `index`, which may be one past the end.
    ///
    /// # Panics
    /// When `index` lies further out.
    pub(crate) fn at(self, index: usize) -> *mut T {
        assert!(index <= self.len);
        // SAFETY: inside of the slice or one past its end.
        unsafe { self.start.add(index) }
    }

    /// A part of the slice.
    ///
    /// # Safety
    /// No other thread touches `start..start + len` while the part is in use.
    ///
    /// # Panics
    /// When the part is not inside of the slice.
    pub(crate) unsafe fn part(self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start <= self.len && len <= self.len - start);
        // SAFETY: inside of the borrowed slice; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
