//! What the tests of several machines share.

use std::time::Instant;

/// Where a virtual clock starts. Only differences to it matter.
#[expect(clippy::disallowed_methods, reason = "an Instant cannot be made otherwise; tests only add to it")]
pub(super) fn origin() -> Instant {
    Instant::now()
}
