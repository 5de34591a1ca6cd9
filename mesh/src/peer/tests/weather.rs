//! Loss, distance and partitions.

use std::time::Duration;

use super::ground::{Ground, address};
use super::ms;
use crate::core::MemberState;

#[tokio::test(start_paused = true)]
async fn they_find_each_other_through_loss_and_distance() {
    for seed in 10..14 {
        let mut ground = Ground::new(seed, ms(25));
        ground.net.lose(5);
        ground.start(5);
        ground.all_alive(ms(5000)).await;
        // Quiet for a minute: nobody is held for dead who is not.
        let watched = ground.node(0).state();
        let minute = tokio::time::timeout(Duration::from_secs(60), async {
            let mut watched = watched;
            let down =
                watched.wait_for(|mesh| mesh.members.iter().any(|seen| seen.state == MemberState::Down));
            down.await.map(|mesh| mesh.members.clone())
        });
        assert!(minute.await.is_err(), "seed {seed}: a false alarm");
        ground.all_alive(ms(5000)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_partition_of_ten_seconds_heals() {
    for seed in 20..23 {
        let mut ground = Ground::new(seed, ms(1));
        ground.start(8);
        ground.all_alive(ms(2000)).await;
        let half: Vec<_> = (0..4).map(address).collect();
        ground.net.cut_off(&half);
        let down = |mesh: &crate::peer::MeshState| {
            mesh.members.iter().filter(|seen| seen.state == MemberState::Down).count() >= 4
        };
        ground.everybody("the other half is down", ms(9000), down).await;
        tokio::time::sleep(ms(1000)).await;
        ground.net.cut_off(&[]);
        ground.all_alive(ms(5000)).await;
        ground.linked(7, ms(5000)).await;
    }
}
