//! Round trips, golden bytes and hostile bytes.
