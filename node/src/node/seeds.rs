//! The members from which a node starts: told to newcomers, and kept for its own next start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use shoal_mesh::{Identity, MemberSeen, MeshState};
use shoal_protocol::limits::JOIN_SEEDS_MAX;
use shoal_protocol::message::MemberState;
use tokio::sync::watch;

/// Between two writes: while a mesh starts, each of its members is news.
const KEEP_PERIOD: Duration = Duration::from_secs(1);

/// What a newcomer is told: this node, and others that are there.
pub(super) fn with_own(own: SocketAddr, mesh: &MeshState) -> Vec<String> {
    std::iter::once(own.to_string()).chain(others(mesh)).take(JOIN_SEEDS_MAX).collect()
}

/// Keeps them in the identity's directory. A node that lost sight of all keeps those that it saw last.
pub(super) async fn keep(mut state: watch::Receiver<Arc<MeshState>>, dir: PathBuf, mut kept: Vec<String>) {
    loop {
        let found = state.wait_for(|mesh| is_news(&others(mesh), &kept)).await;
        let Ok(seeds) = found.map(|mesh| others(&mesh)) else {
            return;
        };
        if let Err(error) = Identity::save_seeds(&dir, &seeds) {
            tracing::warn!(%error, "the members are not on disk for the next start");
        }
        kept = seeds;
        tokio::time::sleep(KEEP_PERIOD).await;
    }
}

fn is_news(seeds: &[String], kept: &[String]) -> bool {
    !seeds.is_empty() && seeds != kept
}

/// The oldest lives first: who has been there for long will be there later.
fn others(mesh: &MeshState) -> Vec<String> {
    let mut alive: Vec<&MemberSeen> =
        mesh.members.iter().filter(|seen| seen.state == MemberState::Alive).collect();
    alive.sort_by_key(|seen| seen.life.generation);
    alive.into_iter().take(JOIN_SEEDS_MAX).map(|seen| seen.address.to_string()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use shoal_mesh::Life;
    use shoal_protocol::NodeId;

    use super::*;

    fn seen(number: u8, generation: u64, state: MemberState) -> MemberSeen {
        let life = Life { node: NodeId([number; 16]), generation };
        MemberSeen { life, address: SocketAddr::from(([10, 0, 0, number], 7002)), state }
    }

    fn mesh(members: Vec<MemberSeen>) -> MeshState {
        let life = Life { node: NodeId([9; 16]), generation: 1 };
        MeshState { life, members, facts: BTreeMap::new(), loads: BTreeMap::new() }
    }

    #[test]
    fn a_newcomer_is_told_this_node_and_the_oldest_that_live() {
        let members = vec![
            seen(1, 30, MemberState::Alive),
            seen(2, 10, MemberState::Alive),
            seen(3, 5, MemberState::Down),
            seen(4, 6, MemberState::Suspect),
        ];
        let own = SocketAddr::from(([10, 0, 0, 9], 7002));
        assert_eq!(with_own(own, &mesh(members)), ["10.0.0.9:7002", "10.0.0.2:7002", "10.0.0.1:7002"]);
        let many = (1..=200).map(|number| seen(number, 1, MemberState::Alive)).collect();
        assert_eq!(with_own(own, &mesh(many)).len(), JOIN_SEEDS_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn members_are_kept_for_the_next_start_and_not_forgotten_when_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("seeds");
        let (told, state) = watch::channel(Arc::new(mesh(Vec::new())));
        let keeping = tokio::task::LocalSet::new();
        let kept = vec!["10.0.0.7:7002".to_owned()];
        keeping.spawn_local(keep(state, dir.path().to_owned(), kept));
        let settle = async |mesh: MeshState| {
            told.send_replace(Arc::new(mesh));
            keeping.run_until(tokio::time::sleep(2 * KEEP_PERIOD)).await;
            std::fs::read_to_string(&file).unwrap_or_default()
        };
        assert_eq!(settle(mesh(Vec::new())).await, "", "alone: nothing to keep");
        assert_eq!(settle(mesh(vec![seen(1, 1, MemberState::Alive)])).await, "10.0.0.1:7002\n");
        assert_eq!(settle(mesh(vec![seen(1, 1, MemberState::Down)])).await, "10.0.0.1:7002\n");
        assert_eq!(settle(mesh(vec![seen(2, 1, MemberState::Alive)])).await, "10.0.0.2:7002\n");
    }
}
