//! Counts the allocations of a node in its steady state, in a process of its own. Prints those of one call with short
//! and of one call with long texts (as ids of equal number), and their tokens.
#![expect(clippy::print_stdout, reason = "the counts are read by a test")]

use std::alloc::System;

use shoal::node::Node;
use shoal_kernels::{Dtype, DtypePolicy};
use shoal_mesh::{Client, Encode};
use shoal_protocol::message::Input;
use shoal_tests::golden::tiny_bert_dir;
use shoal_tests::serving::{MODEL, ground};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static COUNTING: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Texts of a call.
const TEXTS: usize = 40;
/// Tokens of each.
const LENGTHS: [usize; 2] = [4, 44];
/// Calls before the counted ones: buffers grow to their sizes.
const WARM_UP: usize = 200;
/// Counted calls; the least of them is free of what grows once.
const COUNTED: usize = 50;

async fn allocations(client: &Client, length: usize) -> usize {
    let text = Input::TokenIds([2, 100, 101, 102].repeat(length / 4));
    let call = async || {
        let before = COUNTING.stats();
        let encoded = client.encode(Encode::inputs(MODEL, vec![text.clone(); TEXTS])).await;
        let encoded = encoded.expect("encoded");
        assert_eq!(encoded.tokens as usize, TEXTS * length);
        let after = COUNTING.stats();
        after.allocations + after.reallocations - before.allocations - before.reallocations
    };
    for _ in 0..WARM_UP {
        call().await;
    }
    let mut least = usize::MAX;
    for _ in 0..COUNTED {
        least = least.min(call().await);
    }
    least
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let ground = ground(&tiny_bert_dir("mean"), DtypePolicy::Exact(Dtype::F32));
    let node = Node::start(ground.config.clone()).await.expect("the node starts");
    let client = node.client();
    // The longest first, so that nothing has to grow later.
    let long = allocations(&client, LENGTHS[1]).await;
    let short = allocations(&client, LENGTHS[0]).await;
    println!("{short} {long} {}", TEXTS * (LENGTHS[1] - LENGTHS[0]));
}
