//! The node's part in routing, driven: told of the mesh, and its deeds done.

use std::sync::Arc;
use std::time::Duration;

use shoal_mesh::{News, PeerServer};
use shoal_protocol::message::LoadRequest;
use tokio::sync::mpsc;

use crate::actors::device::DeviceMsg;
use crate::actors::service::NodeService;
use crate::clock;
use crate::core::CopyDeed;

/// Requests of members that wait until a model is read. A further one is dropped: who asked asks again.
const LOAD_REQUESTS_MAX: usize = 16;
/// Between two looks whether a window is over.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// Tells the machine what changes in the mesh and when a window is over, and does what it decides.
pub(super) async fn follow(server: Arc<PeerServer>, service: Arc<NodeService>) {
    let mut state = server.state();
    let mut looks = tokio::time::interval(LOOK_PERIOD);
    loop {
        let known = Arc::clone(&state.borrow_and_update());
        service.handle_mesh(&known);
        tokio::select! {
            changed = state.changed() => if changed.is_err() { return }, // the member has left
            _ = looks.tick() => {}
        }
        // A window is of the whole node; what is short of memory in it is the device that has least.
        if let Some(load) = service.loads().min_by_key(|load| load.free_bytes) {
            service.place().handle_window(&load, clock::now());
        }
        loop {
            let deed = service.place().poll_deed();
            match deed {
                Some(CopyDeed::Ask { to, model }) => {
                    tracing::info!(%model, node = %to.node, "it would be sooner elsewhere: a further node shall hold it");
                    server.request_load(to.node, LoadRequest { model, device: to.device }).await;
                }
                Some(CopyDeed::GiveBack { model }) => {
                    tracing::info!(%model, "memory is short and others hold it: given back");
                    // A device that is down has given back everything.
                    let _ = service.home(&model).slot.send(DeviceMsg::GiveBack(model));
                }
                Some(CopyDeed::Spare { model, is_spare }) => {
                    let home = service.home(&model);
                    let _ = home.slot.send(DeviceMsg::Spare { model, is_spare });
                }
                None => break,
            }
        }
    }
}

/// What a member's listener passes on, and where it comes out.
pub(super) fn load_requests() -> (impl FnMut(&News) + Send + 'static, mpsc::Receiver<LoadRequest>) {
    let (asked, requests) = mpsc::channel(LOAD_REQUESTS_MAX);
    let listener = move |news: &News| {
        if let News::LoadRequested { from, request } = news
            && asked.try_send(request.clone()).is_err()
        {
            tracing::debug!(node = %from, model = %request.model, "too many models are asked for at once");
        }
    };
    (listener, requests)
}

/// Loads what members ask for, one after the other, as far as the device has room.
pub(super) async fn load_asked(mut requests: mpsc::Receiver<LoadRequest>, service: Arc<NodeService>) {
    while let Some(LoadRequest { model, device }) = requests.recv().await {
        if service.device(device).is_none() || !service.reasons_not_ready().is_empty() {
            continue;
        }
        match service.fronts.make(&model).await {
            Ok(front) => {
                // A device that is down loads what it is asked for next.
                let is_further = service.place().is_held_elsewhere(&model, clock::now());
                if let Some(device) = service.device(front.device) {
                    let _ = device.slot.send(DeviceMsg::Preload { front, is_further });
                }
            }
            Err(error) => {
                tracing::warn!(%model, %error, "a member asks for a model that is not to be had here")
            }
        }
    }
}
