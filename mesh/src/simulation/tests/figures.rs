//! How soon everybody knows.

use std::time::Duration;

use super::{CALM, Ground, MemberState, agreed, all_say, complete, seconds, stormy};

/// Nodes of these figures; `shoal-sim --gossip` has them for any number.
const COUNT: u16 = 32;

#[test]
fn joins_changes_and_deaths_are_known_in_time() {
    for (weather, seed) in [(CALM, 1), (stormy(0.05), 2)] {
        let mut ground = Ground::new(COUNT, weather, seed);
        ground.until("everybody sees everybody", seconds(3), complete);
        ground.run(seconds(5));

        ground.join();
        let joined = ground.until("a newcomer can be used from everywhere", seconds(2), |ground| {
            complete(ground) && agreed(ground)
        });
        ground.run(seconds(1));
        ground.hold(3, &["a", "b"]);
        let changed = ground.until("a change is known", Duration::from_millis(500), agreed);

        ground.members.kill(5);
        let doubted = [MemberState::Suspect, MemberState::Down];
        let suspected =
            ground.until("it gets no new work", seconds(4), |ground| all_say(ground, 5, &doubted));
        println!("joined {joined:?}, changed {changed:?}, suspected by all {suspected:?}");
    }
}
