use std::process::Command;

/// From the client's call to its answer, with every queue, thread and frame between.
#[test]
fn no_token_allocates_in_the_steady_state() {
    let output = Command::new(env!("CARGO_BIN_EXE_count-allocations")).output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let counts: Vec<i64> = text.split_whitespace().map(|count| count.parse().expect("a count")).collect();
    let [short, long, tokens] = counts[..] else {
        panic!("{text}{}", String::from_utf8_lossy(&output.stderr));
    };
    assert!(tokens >= 1000 && short > 0, "{text}");
    // A buffer that doubles is a few reallocations, and a longer call may be cut into one more batch; a single
    // allocation per token would be all of `tokens`.
    assert!(long - short < tokens / 20, "{tokens} further tokens took {} allocations: {text}", long - short);
}
