//! An identity that is kept renewed, or cannot be.

use tokio::time::timeout;

use super::*;
use crate::core::Standing;
use crate::testing::VirtualNet;

/// Three quarters of its life are over.
fn aged(issuer: &Issuer, issuers: &[String]) -> Identity {
    let now = unix_time_s();
    let lease = Lease { from_unix_s: now - 3 * 3600, until_unix_s: now + 3600 };
    let identity = issuer.issue_for(Role::Node, "aged", lease).unwrap();
    identity.with_issuers(issuers.iter().cloned())
}

async fn renewed(live: &LiveIdentity) -> Lease {
    let until = live.current().lease().until_unix_s;
    let changed = async {
        while live.current().lease().until_unix_s == until {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), changed).await.expect("renewed in time");
    live.current().lease()
}

#[tokio::test]
async fn a_member_past_half_of_its_life_is_renewed_by_any_issuer() {
    let ground = ground();
    // The first does not answer as an issuer at all; the second is another issuer than the one that certified it.
    let (dir, _) = issuer_dir(&ground.root);
    let second = listen(dir.path(), 0);
    let store = tempfile::tempdir().unwrap();
    let issuers = ["no port".to_owned(), second.local_addr().to_string()];
    let identity = aged(&ground.issuer, &issuers);
    identity.save(store.path()).unwrap();
    let live = LiveIdentity::from(identity);
    let renewing = Renewing::start(RenewingOptions::new(live.clone(), store.path().to_owned())).unwrap();
    let lease = renewed(&live).await;
    assert!(lease.until_unix_s > unix_time_s() + 80_000);
    let stored = Identity::load(store.path()).unwrap();
    assert_eq!((stored.lease(), stored.node_id()), (lease, live.current().node_id()));
    assert_eq!(stored.issuers(), issuers);
    let mut standing = renewing.standing();
    let good = standing.wait_for(|standing| *standing == Standing::Good);
    timeout(Duration::from_secs(20), good).await.expect("told").expect("the task lives");
}

#[tokio::test]
async fn a_client_renews_its_certificate_while_it_lives() {
    let ground = ground();
    let node = ground.issuer.issue(Role::Node, "node").unwrap();
    let server = crate::QuicServer::bind(
        crate::QuicServerOptions::new(LOOPBACK, node),
        crate::testing::TestService::new(),
    );
    let (server, store) = (server.unwrap(), tempfile::tempdir().unwrap());
    let identity = aged(&ground.issuer, &[ground.addr.to_string()]);
    identity.save(store.path()).unwrap();
    let live = LiveIdentity::from(identity);
    let options = crate::ConnectOptions::new([server.local_addr()], live.clone()).renewed_in(store.path());
    let client = crate::Client::connect(options).await.unwrap();
    let lease = renewed(&live).await;
    assert_eq!(Identity::load(store.path()).unwrap().lease(), lease);
    client.status(false).await.unwrap();
}

#[tokio::test]
async fn an_issuers_own_node_asks_nobody() {
    let root = Authority::create().unwrap();
    let (dir, issuer) = issuer_dir(&root);
    let live = LiveIdentity::from(aged(&issuer, &[]));
    let options = RenewingOptions::new(live.clone(), dir.path().to_owned());
    let own = Issuer::load(dir.path()).unwrap();
    let _renewing = Renewing::start(options.own_issuer(own)).unwrap();
    assert!(renewed(&live).await.until_unix_s > unix_time_s() + 80_000);
}

#[tokio::test(start_paused = true)]
async fn a_member_whose_issuers_are_down_says_so_and_works_on() {
    let issuer = Authority::create().unwrap().issuer().unwrap();
    let net = VirtualNet::new(1, Duration::from_millis(1));
    let live = LiveIdentity::from(aged(&issuer, &["127.0.0.1:9".to_owned(), "127.0.0.1:10".to_owned()]));
    let until_unix_s = live.current().lease().until_unix_s;
    let store = tempfile::tempdir().unwrap();
    let (start, wall) = (tokio::time::Instant::now(), unix_time_s());
    let options = RenewingOptions::new(live.clone(), store.path().to_owned())
        .net(net)
        .clock(Arc::new(move || wall + start.elapsed().as_secs()));
    let renewing = Renewing::start(options).unwrap();
    let mut standing = renewing.standing();
    let mut told = async |count| {
        let is_told =
            |standing: &Standing| *standing == Standing::Unrenewed { failures: count, until_unix_s };
        timeout(Duration::from_secs(120), standing.wait_for(is_told)).await.expect("told").map(drop)
    };
    told(1).await.unwrap();
    told(4).await.expect("it keeps asking");
    assert_eq!(
        live.current().lease().until_unix_s,
        until_unix_s,
        "the certificate is the same and still shown"
    );
}
