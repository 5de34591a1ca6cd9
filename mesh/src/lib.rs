//! Shoal: placeholder face, replaced by the first slice.
